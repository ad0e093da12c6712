//! Guard pages, poison, misaligned accesses, and what is left of the memory.

use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device, DeviceMemory};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{assert_says, download, launch, pointer, reverses, upload};

#[test]
fn memory_starts_as_nan_and_is_counted() {
    let device = EmulatedDevice::new(1);
    let all = device.free_bytes().unwrap();
    assert_eq!(all, 8 << 30);
    let memory = device.allocate(1000).unwrap();
    assert_eq!(memory.address() % 16, 0);
    assert_eq!(device.free_bytes().unwrap(), all - 1024);
    assert!(download::<u8>(&device, &memory).iter().all(|&byte| byte == 0xff));
    drop(memory);
    assert_eq!(device.free_bytes().unwrap(), all);
    let too_large = device.allocate((8 << 30) + 1).map(drop);
    assert!(matches!(too_large, Err(BackendError::OutOfMemory { .. })), "{too_large:?}");
    assert_eq!(device.free_bytes().unwrap(), all);
}

#[test]
fn accesses_outside_a_buffer_are_errors_that_name_it() {
    let mut device = EmulatedDevice::new(1);
    let page = device.allocate(4096).unwrap();
    let small = device.allocate(64).unwrap();
    let thread = "thread (5,0,0) of block (0,0,0)";
    let rows = [
        (&page, 1024_i32, "0 bytes behind the nearest buffer, of 4096 bytes"),
        (&page, -1, "4 bytes before the nearest buffer, of 4096 bytes"),
        (&small, 16, "0 bytes behind the nearest buffer, of 64 bytes"),
    ];
    let out = device.allocate(4).unwrap();
    for (memory, offset, what) in rows {
        let offset = Argument::U32(offset.cast_unsigned());
        let poked = launch(&mut device, "self_poke", [1, 32, 0], &[pointer(memory), offset]);
        assert_says(poked, &["kernel self_poke", thread, "touched memory outside a buffer", what]);
        let arguments = [pointer(&out), pointer(memory), offset];
        let peeked = launch(&mut device, "self_peek", [1, 32, 0], &arguments);
        assert_says(peeked, &["kernel self_peek", thread, what]);
        assert!(reverses(&mut device, "self_reverse").unwrap(), "the device still works");
    }
}

#[test]
fn writes_between_a_buffer_and_its_guard_page_are_found() {
    for offset in [-1_i32, 3] {
        let mut device = EmulatedDevice::new(1);
        let memory = device.allocate(12).unwrap();
        let arguments = [pointer(&memory), Argument::U32(offset.cast_unsigned())];
        let poked = launch(&mut device, "self_poke", [1, 32, 0], &arguments);
        assert_says(poked, &["kernel self_poke", "beside the buffer of parameter 0"]);
    }
}

#[test]
fn freed_memory_is_gone() {
    let mut device = EmulatedDevice::new(1);
    let memory = device.allocate(4096).unwrap();
    let address = pointer(&memory);
    drop(memory);
    let poked = launch(&mut device, "self_poke", [1, 32, 0], &[address, Argument::U32(0)]);
    assert_says(poked, &["touched memory outside a buffer"]);
}

#[test]
fn broken_rules_are_named() {
    let rows: [(u32, &[&str]); 8] = [
        (0, &["misaligned access of 16 bytes"]),
        (1, &["misaligned access", "multiple of 16", "selftest.cu"]),
        (2, &["index 32 outside an array", "selftest.cu"]),
        (3, &["touched memory outside a buffer", "of a shared array of 128 bytes"]),
        (4, &["of the dynamic shared memory of 128 bytes"]),
        (5, &["not shared memory of this block"]),
        (6, &["divides an integer by zero", "selftest.cu"]),
        (8, &[]),
    ];
    let mut device = EmulatedDevice::new(7);
    let zeros = upload(&device, &[0.0_f32; 64]);
    let out = device.allocate(256).unwrap();
    for (how, words) in rows {
        let arguments = [pointer(&out), pointer(&zeros), Argument::U32(how)];
        let ended = launch(&mut device, "self_break", [1, 32, 128], &arguments);
        if words.is_empty() {
            ended.unwrap();
        } else {
            assert_says(ended, words);
        }
    }
    assert!(reverses(&mut device, "self_reverse").unwrap(), "the device still works");
}

#[test]
fn shared_memory_reads_as_nan_before_it_is_written() {
    let mut device = EmulatedDevice::new(7);
    let zeros = upload(&device, &[0.0_f32; 64]);
    let out = device.allocate(128).unwrap();
    for _ in 0..2 {
        assert!(reverses(&mut device, "self_reverse_async").unwrap(), "leaves data behind");
        let arguments = [pointer(&out), pointer(&zeros), Argument::U32(7)];
        launch(&mut device, "self_break", [1, 32, 128], &arguments).unwrap();
        assert!(download::<f32>(&device, &out).iter().all(|value| value.is_nan()));
    }
}

#[test]
fn an_overflowing_stack_is_named() {
    let mut device = EmulatedDevice::new(1);
    let zero = upload(&device, &[0.0_f32]);
    let out = device.allocate(256).unwrap();
    let arguments = |depth| [pointer(&out), pointer(&zero), Argument::U32(depth)];
    launch(&mut device, "self_overflow", [1, 64, 0], &arguments(5)).unwrap();
    let ended = launch(&mut device, "self_overflow", [1, 64, 0], &arguments(100));
    assert_says(ended, &["kernel self_overflow", "overflowed its stack"]);
    assert!(reverses(&mut device, "self_reverse").unwrap(), "the device still works");
}
