//! Launches that a GPU would refuse, and those that it would run with garbage for parameters.

use kernels::cuda::device::{Argument, Device};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{assert_says, launch, pointer};

#[test]
fn launches_are_refused_by_name() {
    let mut device = EmulatedDevice::new(1);
    let out = device.allocate(256).unwrap();
    let p = pointer(&out);
    let n = Argument::U32(1);
    let rows: [(&str, [u32; 3], &[Argument], &str); 8] = [
        ("self_none", [1, 32, 0], &[], "no kernel is named self_none"),
        ("self_poke", [1, 32, 0], &[p], "takes 2 parameters, got 1"),
        ("self_poke", [1, 32, 0], &[n, p], "parameter 0 of kernel self_poke is of kind p, got u"),
        ("self_poke", [1, 32, 0], &[p, Argument::F32(1.0)], "is of kind u, got f"),
        ("self_poke", [0, 32, 0], &[p, n], "no blocks"),
        ("self_poke", [1, 1025, 0], &[p, n], "more than 1024 threads"),
        ("self_poke", [1, 32, (227 << 10) + 1], &[p, n], "227 KiB"),
        ("self_large_array", [1, 32, 0], &[p], "at most 48 KiB"),
    ];
    for (kernel, shape, arguments, what) in rows {
        assert_says(launch(&mut device, kernel, shape, arguments), &[what]);
    }
    launch(&mut device, "self_poke", [1, 1024, 227 << 10], &[p, n]).unwrap();
}
