//! `lacuna selftest`, and devices that are not there.

use crate::{Run, TempFile, lacuna};

#[track_caller]
fn passes(device: &str) -> Run {
    let file = TempFile::new(&format!("selftest-{device}.json"), b"");
    let path = file.0.to_str().unwrap();
    let arguments =
        ["selftest", "--device", device, "--grid", "quick", "--prompts", "3", "--json", path];
    let run = lacuna(&arguments, &[]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file.0).unwrap()).unwrap();
    assert_eq!(report["num_failed"], 0);
    let outcomes = report["outcomes"].as_array().unwrap();
    assert!(outcomes.len() > 100 && report["num_checks"] == outcomes.len(), "{}", outcomes.len());
    let norms = ["rms_norm", "layer_norm", "head_norm"];
    let rest =
        ["embed", "scale", "linear", "feed_forward", "attention", "model", "sample", "shards"];
    for check in norms.into_iter().chain(rest) {
        assert!(outcomes.iter().any(|outcome| outcome["check"] == check), "{check}");
    }
    run
}

#[test]
fn the_cpu_computes_what_it_must() {
    let run = passes("cpu");
    assert!(run.stdout.contains("checks passed on cpu ("), "{run:?}");
}

#[cfg(feature = "cuda-emulator")]
#[test]
fn the_emulated_gpu_computes_what_it_must() {
    let run = passes("emulated");
    assert!(run.stdout.contains("checks passed on emulated"), "{run:?}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_is_refused_by_a_build_without_cuda() {
    let run = lacuna(&["selftest", "--device", "cuda:1"], &[]);
    let message = "cuda:1 was asked for, but this build has no such device: build with `--features cuda`, or say `auto` or `cpu`";
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(run.stderr.contains(message), "{run:?}");
}

#[cfg(not(feature = "cuda-emulator"))]
#[test]
fn the_emulated_gpu_is_refused_by_a_build_without_it() {
    let run = lacuna(&["selftest", "--device", "emulated"], &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("build with `--features cuda-emulator`"), "{run:?}");
}
