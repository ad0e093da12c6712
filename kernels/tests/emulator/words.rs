//! The words of `device.cuh` against plain loops.

use half::{bf16, f16};
use kernels::cuda::device::{Argument, Device};
use kernels::cuda::emulated::EmulatedDevice;

use crate::rig::{SEEDS, download, launch, noise, pointer, upload};

#[test]
fn shuffles_and_votes_match_plain_loops() {
    let x: Vec<u32> = noise(32, 5).iter().map(|x| (x.abs() * 1000.0) as u32).collect();
    let sum: u32 = x.iter().sum();
    let votes = (0..32).fold(0_u32, |votes, i| votes | u32::from(x[i].is_multiple_of(3)) << i);
    let max = *x.iter().max().unwrap();
    for seed in SEEDS {
        let mut device = EmulatedDevice::new(seed);
        let from = upload(&device, &x);
        let out = device.allocate(10 * 32 * 4).unwrap();
        launch(&mut device, "self_shuffles", [1, 32, 0], &[pointer(&out), pointer(&from)]).unwrap();
        let found = download::<u32>(&device, &out);
        for lane in 0..32 {
            let bits = x[lane].count_ones() * 10000
                + x[lane].leading_zeros() * 100
                + if x[lane] == 0 { 0 } else { x[lane].trailing_zeros() + 1 };
            let expected = [
                x[(lane * 7 + 3) % 32],
                x[lane ^ 5],
                x[if lane < 3 { lane } else { lane - 3 }],
                x[if lane + 9 > 31 { lane } else { lane + 9 }],
                votes,
                sum,
                x[lane ^ 1],
                (sum as f32).to_bits(),
                (max as f32).to_bits(),
                bits,
            ];
            let column: Vec<u32> = (0..10).map(|row| found[row * 32 + lane]).collect();
            assert_eq!(column, expected, "lane {lane}, seed {seed}");
        }
    }
}

#[test]
fn tensor_core_products_match_plain_loops() {
    let (a, b) = (noise(256, 1), noise(128, 2));
    for (half, narrow) in [
        (0, (|x| bf16::from_f32(x).to_bits()) as fn(f32) -> u16),
        (1, |x| f16::from_f32(x).to_bits()),
    ] {
        let widen = |bits: u16| {
            if half == 0 { bf16::from_bits(bits).to_f64() } else { f16::from_bits(bits).to_f64() }
        };
        let a: Vec<u16> = a.iter().copied().map(narrow).collect();
        let b: Vec<u16> = b.iter().copied().map(narrow).collect();
        for seed in SEEDS {
            let mut device = EmulatedDevice::new(seed);
            let (a_memory, b_memory) = (upload(&device, &a), upload(&device, &b));
            let out = device.allocate(16 * 8 * 4).unwrap();
            let arguments = [
                pointer(&out),
                pointer(&a_memory),
                pointer(&b_memory),
                Argument::U32(half),
                Argument::U32(2),
            ];
            launch(&mut device, "self_mma", [1, 32, 0], &arguments).unwrap();
            for (i, found) in download::<f32>(&device, &out).iter().enumerate() {
                let dot: f64 =
                    (0..16).map(|k| widen(a[i / 8 * 16 + k]) * widen(b[k * 8 + i % 8])).sum();
                assert!((f64::from(*found) - 2.0 * dot).abs() < 1e-5, "{found} {dot}");
            }
        }
    }
}

#[test]
fn matrix_loads_match_plain_loops() {
    let input: Vec<u16> = (0..256).collect();
    let mut device = EmulatedDevice::new(9);
    let from = upload(&device, &input);
    let out = device.allocate(4 * 32 * 4).unwrap();
    for transposed in [0, 1] {
        let arguments = [pointer(&out), pointer(&from), Argument::U32(transposed)];
        launch(&mut device, "self_ldmatrix", [1, 32, 0], &arguments).unwrap();
        for (i, found) in download::<[u16; 2]>(&device, &out).into_iter().enumerate() {
            let (matrix, lane) = (i / 32, i % 32);
            let element = |half: usize| {
                let (row, col) = (lane / 4, lane % 4 * 2 + half);
                let (row, col) = if transposed == 1 { (col, row) } else { (row, col) };
                input[matrix * 64 + row * 8 + col]
            };
            assert_eq!(found, [element(0), element(1)], "matrix {matrix}, lane {lane}");
        }
    }
}

#[test]
fn narrow_numbers_are_rounded_as_the_half_crate_does() {
    let mut values: Vec<f32> = noise(3000, 3);
    values.extend(noise(3000, 4).iter().map(|x| x * 1e-5));
    values.extend(noise(1000, 6).iter().map(|x| x * 70000.0));
    values.extend((0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()));
    values.extend([0.0, -0.0, 65519.0, 65520.0, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    let mut device = EmulatedDevice::new(2);
    let from = upload(&device, &values);
    let out = device.allocate(values.len() * 4).unwrap();
    let back = device.allocate(values.len() * 8).unwrap();
    let count = Argument::U32(values.len() as u32);
    let arguments = [pointer(&out), pointer(&back), pointer(&from), count];
    launch(&mut device, "self_narrow", [1, 128, 0], &arguments).unwrap();
    let pairs = download::<[u16; 2]>(&device, &out);
    let widened = download::<[f32; 2]>(&device, &back);
    for ((value, [brain, half]), back) in values.iter().zip(pairs).zip(widened) {
        if value.is_nan() {
            assert!(bf16::from_bits(brain).is_nan() && f16::from_bits(half).is_nan());
            assert!(back.iter().all(|back| back.is_nan()));
            continue;
        }
        let cut = f16::from_f32(value.clamp(-65504.0, 65504.0));
        assert_eq!(half, cut.to_bits(), "{value}");
        assert_eq!(brain, bf16::from_f32(*value).to_bits(), "{value}");
        let expected = [cut.to_f32(), bf16::from_f32(*value).to_f32()];
        assert_eq!(back.map(f32::to_bits), expected.map(f32::to_bits), "{value}");
    }
}
