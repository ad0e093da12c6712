//! Buffers and launches in a line each.

use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device, DeviceMemory, Launch};
use kernels::cuda::emulated::{EmulatedDevice, EmulatedGraph, EmulatedMemory};

/// Seeds that tests run under: some orders of threads.
pub(crate) const SEEDS: [u64; 4] = [1, 2, 3, 40];

/// Returns a buffer that holds the values.
pub(crate) fn upload<T: bytemuck::NoUninit>(
    device: &EmulatedDevice,
    values: &[T],
) -> EmulatedMemory {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let mut memory = device.allocate(bytes.len()).unwrap();
    device.upload(&mut memory, 0, bytes).unwrap();
    memory
}

/// Returns all that a buffer holds.
pub(crate) fn download<T: bytemuck::Pod>(
    device: &EmulatedDevice,
    memory: &EmulatedMemory,
) -> Vec<T> {
    let mut bytes = vec![0; memory.num_bytes()];
    device.download(memory, 0, &mut bytes).unwrap();
    bytemuck::pod_collect_to_vec(&bytes)
}

/// Runs a kernel and says how that ended.
pub(crate) fn launch(
    device: &mut EmulatedDevice,
    kernel: &str,
    [num_blocks, num_threads, shared_bytes]: [u32; 3],
    arguments: &[Argument],
) -> Result<(), BackendError> {
    device.launch(&Launch {
        kernel,
        grid: [num_blocks, 1, 1],
        num_threads,
        shared_bytes,
        arguments,
    })
}

/// Returns a pointer parameter.
pub(crate) fn pointer(memory: &EmulatedMemory) -> Argument {
    Argument::Pointer(memory.address())
}

/// Asserts that a device's error says all of this.
#[track_caller]
pub(crate) fn assert_says(result: Result<(), BackendError>, words: &[&str]) {
    let Err(BackendError::Device { what, .. }) = result else {
        panic!("expected an error that says {words:?}, got {result:?}");
    };
    for word in words {
        assert!(what.contains(word), "`{what}` must say `{word}`");
    }
}

/// Returns `0, 1, 2, …`.
pub(crate) fn counting(count: usize) -> Vec<f32> {
    (0..count).map(|i| i as f32).collect()
}

/// Returns small numbers without a pattern, the same each time.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.push((state >> 40) as f32 / 8_388_608.0 - 1.0);
    }
    values
}

/// Returns whether a reversal over blocks of shared memory gave the right result.
pub(crate) fn reverses(device: &mut EmulatedDevice, kernel: &str) -> Result<bool, BackendError> {
    let input = counting(512);
    let from = upload(device, &input);
    let out = device.allocate(2048)?;
    let is_async = kernel.ends_with("async");
    let shape = if is_async { [2, 64, 1024] } else { [2, 256, 0] };
    launch(device, kernel, shape, &[pointer(&out), pointer(&from)])?;
    let expected: Vec<f32> =
        input.chunks(256).flat_map(|block| block.iter().rev().copied()).collect();
    Ok(download::<f32>(device, &out) == expected)
}

/// Captures what `body` asks for, and ends the capture however it went.
pub(crate) fn capture(
    device: &mut EmulatedDevice,
    body: &mut dyn FnMut(&mut EmulatedDevice) -> Result<(), BackendError>,
) -> Result<EmulatedGraph, BackendError> {
    device.begin_capture()?;
    let recorded = body(device);
    let graph = device.end_capture();
    recorded.and(graph)
}
