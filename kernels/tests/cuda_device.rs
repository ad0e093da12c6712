//! A real GPU does what the interface of devices promises. Needs one: built with feature `cuda` only.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test helper fails by panicking")]

use half::bf16;
use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device, DeviceMemory, Launch, Matmul, Store};
use kernels::cuda::real::{CudaDevice, CudaGraph, CudaMemory, DeviceError};

fn device() -> CudaDevice {
    CudaDevice::new(0).unwrap_or_else(|error| panic!("{error}"))
}

/// Captures what `body` asks for, and ends the capture however it went.
fn capture(
    device: &mut CudaDevice,
    body: &mut dyn FnMut(&mut CudaDevice) -> Result<(), BackendError>,
) -> Result<CudaGraph, BackendError> {
    device.begin_capture()?;
    let recorded = body(device);
    let graph = device.end_capture();
    recorded.and(graph)
}

fn upload(device: &CudaDevice, bytes: &[u8]) -> CudaMemory {
    let mut memory = device.allocate(bytes.len()).unwrap();
    device.upload(&mut memory, 0, bytes).unwrap();
    memory
}

fn download<T: bytemuck::Pod>(device: &CudaDevice, memory: &CudaMemory) -> Vec<T> {
    let mut values = vec![T::zeroed(); memory.num_bytes() / size_of::<T>()];
    device.download(memory, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// Small whole numbers, whose sums are exact in any order.
fn numbers(len: usize, seed: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32(((i * 7 + seed) % 11) as f32 - 5.0)).collect()
}

/// `[num_rows, cols]` times `[rows, cols]` transposed, onto `out`.
fn plain_product(x: &[bf16], weights: &[bf16], cols: usize, out: &mut [f32]) {
    let rows = weights.len() / cols;
    for (index, out) in out.iter_mut().enumerate() {
        let x = &x[index / rows * cols..][..cols];
        let weights = &weights[index % rows * cols..][..cols];
        *out += x.iter().zip(weights).map(|(a, b)| a.to_f32() * b.to_f32()).sum::<f32>();
    }
}

#[test]
fn says_what_it_is() {
    let device = device();
    let facts = device.facts();
    assert!(facts.name.starts_with("cuda:0 ("), "{}", facts.name);
    assert!(facts.capability >= (8, 0) && facts.num_sms > 0 && facts.driver >= Some((13, 0)));
    let free = device.free_bytes().unwrap();
    assert!(free > 0 && free < facts.total_bytes);
}

#[test]
fn a_device_that_is_not_there_is_refused_with_what_is() {
    let error = CudaDevice::new(1000).unwrap_err();
    assert!(
        matches!(error, DeviceError::NoSuchDevice { ordinal: 1000, num_devices: 1.. }),
        "{error}"
    );
}

#[test]
fn memory_holds_what_was_written_last() {
    let device = device();
    // More than both halves of the staging memory, and no multiple of anything.
    let mut bytes: Vec<u8> = (0..37_000_001_u32).map(|i| (i % 251) as u8).collect();
    let mut memory = upload(&device, &bytes);
    assert_eq!(memory.address() % 256, 0);
    for (offset, byte) in [(3, 1_u8), (36_999_999, 2), (8 << 20, 3), (0, 4)] {
        device.upload(&mut memory, offset, &[byte]).unwrap();
        bytes[offset] = byte;
    }
    assert!(download::<u8>(&device, &memory) == bytes);
    let mut part = [0; 5];
    device.download(&memory, 36_999_996, &mut part).unwrap();
    assert_eq!(part, bytes[36_999_996..]);
    device.zero(&mut memory).unwrap();
    assert!(download::<u8>(&device, &memory).iter().all(|&byte| byte == 0));
    let empty = device.allocate(0).unwrap();
    assert_eq!((empty.num_bytes(), empty.address() % 256), (0, 0));
}

#[test]
fn the_bytes_of_many_small_uploads_may_change_at_once() {
    let device = device();
    let num_words = 100_000;
    let mut memory = device.allocate(num_words * 4).unwrap();
    let mut word = [0; 4];
    for index in 0..num_words {
        word.copy_from_slice(&(index as u32).to_ne_bytes());
        device.upload(&mut memory, index * 4, &word).unwrap();
        word = [0xff; 4];
    }
    let words = download::<u32>(&device, &memory);
    assert!(words.iter().enumerate().all(|(index, &word)| word == index as u32));
}

#[test]
fn too_much_memory_is_an_error_with_the_number() {
    let error = device().allocate(1 << 50).unwrap_err();
    assert!(
        matches!(error, BackendError::OutOfMemory { num_bytes, .. } if num_bytes == 1 << 50),
        "{error}"
    );
}

#[test]
fn products_are_stored_or_added() {
    let mut device = device();
    for (num_rows, cols, rows) in
        [(1, 8, 8), (5, 64, 24), (33, 128, 40), (64, 256, 7), (40, 128, 40)]
    {
        let (x, weights) = (numbers(num_rows * cols, 1), numbers(rows * cols, 2));
        let x_memory = upload(&device, bytemuck::cast_slice(&x));
        let weights_memory = upload(&device, bytemuck::cast_slice(&weights));
        let out = upload(&device, bytemuck::cast_slice(&vec![f32::NAN; num_rows * rows]));
        let mut expected = vec![0.0; num_rows * rows];
        for store in [Store::Replace, Store::Add, Store::Add, Store::Replace] {
            let product = Matmul {
                x: x_memory.address(),
                weights: weights_memory.address(),
                out: out.address(),
                num_rows,
                cols,
                rows,
                store,
            };
            device.matmul(&product).unwrap();
            if store == Store::Replace {
                expected.fill(0.0);
            }
            plain_product(&x, &weights, cols, &mut expected);
            let found = download::<f32>(&device, &out);
            assert_eq!(found, expected, "{num_rows} x {cols} x {rows}, {store:?}");
        }
    }
}

#[test]
fn a_graph_runs_when_it_is_replayed_and_not_before() {
    let mut device = device();
    let (x, weights) = (numbers(4 * 16, 3), numbers(8 * 16, 4));
    let x = upload(&device, bytemuck::cast_slice(&x));
    let weights = upload(&device, bytemuck::cast_slice(&weights));
    let out = upload(&device, &[0; 4 * 8 * 4]);
    let product = Matmul {
        x: x.address(),
        weights: weights.address(),
        out: out.address(),
        num_rows: 4,
        cols: 16,
        rows: 8,
        store: Store::Add,
    };
    let error =
        capture(&mut device, &mut |device| device.matmul(&product)).unwrap_err().to_string();
    assert!(error.contains("compute it once before"), "{error}");
    device.matmul(&product).unwrap();
    let once = download::<f32>(&device, &out);
    let graph = capture(&mut device, &mut |device| device.matmul(&product)).unwrap();
    assert_eq!(download::<f32>(&device, &out), once);
    let error = self::device().replay(&graph).unwrap_err().to_string();
    assert!(error.contains("another device"), "{error}");
    for times in [2.0, 3.0] {
        device.replay(&graph).unwrap();
        let expected: Vec<f32> = once.iter().map(|value| value * times).collect();
        assert_eq!(download::<f32>(&device, &out), expected);
    }
}

#[test]
fn a_capture_refuses_memory_and_copies_and_leaves_the_device_usable() {
    let mut device = device();
    let mut memory = upload(&device, &[7; 64]);
    let mut bytes = [0; 64];
    let words = ["an allocation", "an upload", "a download", "free memory", "another capture"];
    for (index, word) in words.into_iter().enumerate() {
        let mut body = |device: &mut CudaDevice| match index {
            0 => device.allocate(8).map(|_| ()),
            1 => device.upload(&mut memory, 0, &[1; 8]),
            2 => device.download(&memory, 0, &mut bytes),
            3 => device.free_bytes().map(|_| ()),
            _ => device.begin_capture(),
        };
        let error = capture(&mut device, &mut body).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("captured"), "{error}");
    }
    assert_eq!(download::<u8>(&device, &memory), [7; 64]);
}

#[test]
fn a_launch_of_an_unknown_kernel_is_refused() {
    let arguments = [Argument::U32(1)];
    let launch = Launch {
        kernel: "no_such_kernel",
        grid: [1; 3],
        num_threads: 32,
        shared_bytes: 0,
        arguments: &arguments,
    };
    let error = device().launch(&launch).unwrap_err().to_string();
    assert!(error.contains("no kernel `no_such_kernel`"), "{error}");
}
