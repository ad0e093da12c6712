//! Capture and replay.

use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device, Matmul, Store};
use kernels::cuda::emulated::{EmulatedDevice, EmulatedMemory};

use crate::rig::{assert_says, capture, download, launch, pointer, reverses, upload};

fn increment(device: &mut EmulatedDevice, memory: &EmulatedMemory) -> Result<(), BackendError> {
    let arguments = [pointer(memory), pointer(memory), Argument::U32(4)];
    launch(device, "self_increment", [2, 32, 0], &arguments)
}

#[test]
fn captured_launches_run_at_each_replay_only() {
    let mut device = EmulatedDevice::new(1);
    let mut memory = upload(&device, &[0.0_f32; 4]);
    let graph = capture(&mut device, &mut |device| {
        increment(device, &memory)?;
        increment(device, &memory)
    })
    .unwrap();
    assert_eq!(download::<f32>(&device, &memory), [0.0; 4]);
    device.replay(&graph).unwrap();
    device.replay(&graph).unwrap();
    assert_eq!(download::<f32>(&device, &memory), [4.0; 4]);
    device.upload(&mut memory, 4, bytemuck::bytes_of(&10.0_f32)).unwrap();
    device.replay(&graph).unwrap();
    assert_eq!(download::<f32>(&device, &memory), [6.0, 12.0, 6.0, 6.0]);
}

#[test]
fn products_are_captured_too() {
    let mut device = EmulatedDevice::new(1);
    let ones = upload(&device, &[0x3f80_u16; 8]);
    let out = upload(&device, &[0.0_f32]);
    let [Argument::Pointer(x), Argument::Pointer(to)] = [pointer(&ones), pointer(&out)] else {
        panic!("pointers");
    };
    let product =
        Matmul { x, weights: x, out: to, num_rows: 1, cols: 8, rows: 1, store: Store::Add };
    let graph = capture(&mut device, &mut |device| device.matmul(&product)).unwrap();
    assert_eq!(download::<f32>(&device, &out), [0.0]);
    device.replay(&graph).unwrap();
    device.replay(&graph).unwrap();
    assert_eq!(download::<f32>(&device, &out), [16.0]);
}

#[test]
fn a_capture_refuses_what_a_stream_refuses() {
    let mut device = EmulatedDevice::new(1);
    let mut memory = upload(&device, &[0.0_f32; 4]);
    let mut spare = Some(upload(&device, &[0.0_f32; 4]));
    let graph = capture(&mut device, &mut |_| Ok(())).unwrap();
    let forbidden = "not permitted while a graph is captured";
    let mut refuses = |body: &mut dyn FnMut(&mut EmulatedDevice) -> Result<(), BackendError>| {
        assert_says(capture(&mut device, body).map(drop), &[forbidden]);
        assert!(reverses(&mut device, "self_reverse").unwrap(), "the device still works");
    };
    refuses(&mut |device| device.allocate(4).map(drop));
    refuses(&mut |device| device.zero(&mut memory));
    refuses(&mut |device| device.upload(&mut memory, 0, &[0]));
    refuses(&mut |device| device.download(&memory, 0, &mut [0]));
    refuses(&mut |device| device.replay(&graph));
    refuses(&mut |device| device.begin_capture());
    refuses(&mut |_| {
        drop(spare.take());
        Ok(())
    });
}

#[test]
fn a_capture_checks_launches() {
    let mut device = EmulatedDevice::new(1);
    let graph = capture(&mut device, &mut |device| launch(device, "self_none", [1, 32, 0], &[]));
    assert_says(graph.map(drop), &["no kernel is named self_none"]);
}
