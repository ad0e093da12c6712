//! What the build reads from the CUDA compiler's report.

#[path = "../build/ptxas.rs"]
mod ptxas;

use ptxas::{Resources, parse};

/// As printed by ptxas 13.0.88.
const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'scale' for 'sm_80'
ptxas info    : Function properties for scale
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 1024 bytes smem, 360 bytes cmem[0]
ptxas info    : Compile time = 1.794 ms
ptxas info    : Compiling entry function 'wide' for 'sm_90a'
ptxas info    : Function properties for wide
    568 bytes stack frame, 564 bytes spill stores, 572 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 568 bytes cumulative stack size
ptxas info    : Compile time = 60.773 ms
";

#[test]
fn reads_registers_shared_memory_and_spills() {
    let scale = Resources {
        kernel: "scale".to_owned(),
        architecture: "sm_80".to_owned(),
        registers: 10,
        shared_bytes: 1024,
        stack_bytes: 0,
        spill_store_bytes: 0,
        spill_load_bytes: 0,
    };
    let wide = Resources {
        kernel: "wide".to_owned(),
        architecture: "sm_90a".to_owned(),
        registers: 64,
        shared_bytes: 0,
        stack_bytes: 568,
        spill_store_bytes: 564,
        spill_load_bytes: 572,
    };
    assert!(!scale.has_spills() && wide.has_spills());
    assert_eq!(parse(LOG), [scale, wide]);
}

#[test]
fn a_report_without_kernels_has_none() {
    assert_eq!(parse("ptxas info    : 0 bytes gmem\n"), []);
}
