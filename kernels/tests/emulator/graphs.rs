//! Capture and replay.

use std::sync::Arc;
use std::thread;

use kernels::backend::BackendError;
use kernels::cuda::device::{Argument, Device, Matmul, Store};
use kernels::cuda::emulated::{EmulatedDevice, EmulatedMemory};
use kernels::group::{Group, Member};

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

/// Captures a sum of two values behind an increment, and replays it; returns what the memory holds after each.
fn sums_of(member: Member, seed: u64) -> Vec<Vec<f32>> {
    let mut device = EmulatedDevice::new(seed);
    let memory = upload(&device, &[member.rank() as f32, 10.0, 0.0, 0.0]);
    let Argument::Pointer(address) = pointer(&memory) else { panic!("a pointer") };
    device.join(&Arc::new(member)).unwrap();
    let graph = capture(&mut device, &mut |device| {
        increment(device, &memory)?;
        device.all_reduce(address, 2)
    });
    let mut found = vec![download::<f32>(&device, &memory)];
    for _ in 0..2 {
        device.replay(graph.as_ref().unwrap()).unwrap();
        found.push(download::<f32>(&device, &memory));
    }
    found
}

#[test]
fn sums_over_ranks_are_captured_too() {
    let (_group, members) = Group::new(2);
    let ranks: Vec<_> = (1..)
        .zip(members)
        .map(|(seed, member)| thread::spawn(move || sums_of(member, seed)))
        .collect();
    for (rank, found) in ranks.into_iter().map(|rank| rank.join().unwrap()).enumerate() {
        // A capture sums nothing, so that no rank waited in it.
        assert_eq!(found[0], [rank as f32, 10.0, 0.0, 0.0]);
        assert_eq!(found[1][..2], [3.0, 22.0], "rank {rank}");
        assert_eq!(found[2][..2], [8.0, 46.0], "rank {rank}");
        assert_eq!(found[2][2..], [2.0, 2.0], "what was not asked for is not summed");
    }
}

#[test]
fn sums_that_cannot_be_are_refused() {
    let mut device = EmulatedDevice::new(1);
    let memory = upload(&device, &[0.0_f32; 4]);
    let Argument::Pointer(address) = pointer(&memory) else { panic!("a pointer") };
    assert_says(device.all_reduce(address, 4), &["no group was joined"]);
    let (_group, mut members) = Group::new(1);
    device.join(&Arc::new(members.remove(0))).unwrap();
    device.all_reduce(address, 4).unwrap();
    assert_says(device.all_reduce(address, 5), &["5 values", "exceed a buffer"]);
    let graph = capture(&mut device, &mut |device| device.all_reduce(address, 5));
    assert_says(graph.map(drop), &["exceed a buffer"]);
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
