//! Orders of threads, barriers, and errors that end a launch.

use std::thread;

use kernels::cuda::device::{Argument, Device};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{SEEDS, assert_says, counting, download, launch, pointer, reverses, upload};

#[test]
fn right_kernels_give_the_same_in_every_order() {
    for seed in SEEDS {
        let mut device = EmulatedDevice::new(seed);
        assert!(reverses(&mut device, "self_reverse").unwrap());
        assert!(reverses(&mut device, "self_reverse_async").unwrap());
    }
}

#[test]
fn block_sum_is_right_over_many_rounds() {
    for seed in SEEDS {
        let mut device = EmulatedDevice::new(seed);
        let from = upload(&device, &counting(1024));
        let out = device.allocate(4096).unwrap();
        let arguments = [pointer(&out), pointer(&from), Argument::U32(20)];
        launch(&mut device, "self_block_sum", [1, 1024, 0], &arguments).unwrap();
        assert_eq!(download::<f32>(&device, &out), [523_776.0 + 1023.0; 1024]);
    }
}

#[test]
fn a_missing_barrier_shows_as_poison_that_depends_on_the_order() {
    let results: Vec<Vec<u32>> = SEEDS
        .iter()
        .map(|&seed| {
            let mut device = EmulatedDevice::new(seed);
            let out = device.allocate(256).unwrap();
            launch(&mut device, "self_no_barrier", [1, 64, 0], &[pointer(&out)]).unwrap();
            download(&device, &out)
        })
        .collect();
    assert!(results.iter().all(|bits| bits.iter().any(|&bits| f32::from_bits(bits).is_nan())));
    assert!(results.iter().any(|other| *other != results[0]));
}

#[test]
fn each_launch_draws_another_order() {
    let mut device = EmulatedDevice::new(1);
    let out = device.allocate(256).unwrap();
    let mut run = || {
        launch(&mut device, "self_no_barrier", [1, 64, 0], &[pointer(&out)]).unwrap();
        download::<u32>(&device, &out)
    };
    assert_ne!(run(), run());
}

#[test]
fn threads_that_meet_at_different_places_are_named() {
    let rows: [(u32, &[&str]); 6] = [
        (0, &["kernel self_diverge", "deadlock", "__syncthreads", "__syncwarp", "block 0"]),
        (1, &["__syncthreads of", "while others are at that of line"]),
        (2, &["mma_16816", "__shfl_xor_sync", "thread (", "block (0,0,0)", "selftest.cu"]),
        (3, &["__syncwarp", "lanes of its warp"]),
        (4, &["mask 0xffff", "full warps"]),
        (6, &[]),
    ];
    for seed in SEEDS {
        let mut device = EmulatedDevice::new(seed);
        let out = device.allocate(256).unwrap();
        for (how, words) in rows {
            let ended = launch(
                &mut device,
                "self_diverge",
                [1, 64, 0],
                &[pointer(&out), Argument::U32(how)],
            );
            if words.is_empty() {
                ended.unwrap();
            } else {
                assert_says(ended, words);
            }
            assert!(reverses(&mut device, "self_reverse").unwrap(), "the device still works");
        }
    }
}

#[test]
fn threads_that_have_exited_do_not_hold_a_barrier() {
    let mut device = EmulatedDevice::new(1);
    let out = device.allocate(256).unwrap();
    launch(&mut device, "self_diverge", [1, 64, 0], &[pointer(&out), Argument::U32(5)]).unwrap();
}

#[test]
fn a_warp_that_is_not_full_has_no_warp_operations() {
    let mut device = EmulatedDevice::new(1);
    let ended = launch(&mut device, "self_sync", [1, 40, 0], &[Argument::U32(1)]);
    assert_says(ended, &["24 lanes of its warp have exited or never were"]);
}

#[test]
fn cooperative_blocks_wait_for_each_other() {
    let mut device = EmulatedDevice::new(3);
    let mut counter = device.allocate(4).unwrap();
    device.zero(&mut counter).unwrap();
    let out = device.allocate(4 * 6 * 32).unwrap();
    let arguments = [pointer(&out), pointer(&counter), Argument::U32(6)];
    launch(&mut device, "self_grid_barrier", [6, 32, 0], &arguments).unwrap();
    assert_eq!(download::<f32>(&device, &out), [6.0; 192]);
    let ended = launch(
        &mut device,
        "self_grid_barrier",
        [6, 32, 0],
        &[arguments[0], arguments[1], Argument::U32(99)],
    );
    assert_says(ended, &["waits in a loop"]);
}

#[test]
fn devices_on_two_threads_run_at_once() {
    let workers: Vec<_> = (0..2)
        .map(|seed| {
            thread::spawn(move || {
                let mut device = EmulatedDevice::new(seed);
                for _ in 0..20 {
                    assert!(reverses(&mut device, "self_reverse").unwrap());
                    let out = device.allocate(16).unwrap();
                    let poke = [pointer(&out), Argument::U32(4)];
                    assert_says(launch(&mut device, "self_poke", [1, 32, 0], &poke), &["outside"]);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}
