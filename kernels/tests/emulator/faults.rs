//! Planted faults are compiled, launched and noticed.

use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{SEEDS, counting, download, launch, pointer, reverses, upload};

fn increments(device: &mut EmulatedDevice) -> Result<bool, BackendError> {
    let from = upload(device, &counting(100));
    let out = device.allocate(400)?;
    let arguments = [pointer(&out), pointer(&from), Argument::U32(100)];
    launch(device, "self_increment", [1, 128, 0], &arguments)?;
    Ok(download::<f32>(device, &out) == counting(101)[1..])
}

/// Whether all kernels of the self-test give the right results under some orders.
fn is_right(mut device: impl FnMut(u64) -> EmulatedDevice) -> bool {
    SEEDS.iter().all(|&seed| {
        let mut device = device(seed);
        increments(&mut device).unwrap_or(false)
            && reverses(&mut device, "self_reverse").unwrap_or(false)
            && reverses(&mut device, "self_reverse_async").unwrap_or(false)
    })
}

#[test]
fn each_planted_fault_of_the_self_test_is_noticed() {
    assert!(is_right(EmulatedDevice::new));
    let ids = EmulatedDevice::fault_ids();
    let ours: Vec<&String> = ids.iter().filter(|id| id.starts_with("self-")).collect();
    assert_eq!(ours, ["self-barrier-dropped", "self-index-off-by-one", "self-wait-dropped"]);
    for id in ours {
        assert!(!is_right(|seed| EmulatedDevice::with_fault(seed, id)), "{id}");
    }
}

#[test]
#[should_panic(expected = "no kernel was compiled with the fault `unknown`")]
fn an_unknown_fault_is_refused() {
    EmulatedDevice::with_fault(1, "unknown");
}
