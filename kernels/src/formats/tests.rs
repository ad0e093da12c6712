//! Blocks by hand, every type against candle's reader, and the rounding to eight bits against its bound.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::{CodeRun, GROUP_LEN, RUN_LEN, for_each_run, round_to_int8};
use crate::backend::{DType, MatrixData};
use crate::widen::for_each_widened;

const BLOCKS: [(DType, GgmlDType); 10] = [
    (DType::Q4_0, GgmlDType::Q4_0),
    (DType::Q4_1, GgmlDType::Q4_1),
    (DType::Q5_0, GgmlDType::Q5_0),
    (DType::Q5_1, GgmlDType::Q5_1),
    (DType::Q8_0, GgmlDType::Q8_0),
    (DType::Q2K, GgmlDType::Q2K),
    (DType::Q3K, GgmlDType::Q3K),
    (DType::Q4K, GgmlDType::Q4K),
    (DType::Q5K, GgmlDType::Q5K),
    (DType::Q6K, GgmlDType::Q6K),
];

fn runs(dtype: DType, bytes: &[u8]) -> Vec<CodeRun> {
    let mut runs = Vec::new();
    for_each_run(dtype, bytes, |run| runs.push(*run));
    runs
}

/// Half-precision 0.5 and -1.5, as they lie in a file.
const HALF: [u8; 2] = [0x00, 0x38];
const MINUS_ONE_AND_A_HALF: [u8; 2] = [0x00, 0xBE];

/// A type, the fields of a block, its codes and its minimum.
type Row<'a> = (DType, Vec<&'a [u8]>, Vec<i8>, f32);

#[test]
fn a_block_of_each_simple_type_by_hand() {
    let nibbles: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    let four: Vec<i8> = (0..16).chain((0..16).rev()).collect();
    let fifth = 0x8000_0001_u32.to_le_bytes();
    let mut five = four.clone();
    five[0] += 16;
    five[31] += 16;
    let eight: Vec<u8> = (0..32).map(|i| (i * 8) as u8).collect();
    let less = |codes: &[i8], centre: i8| codes.iter().map(|code| code - centre).collect();
    let rows: [Row<'_>; 5] = [
        (DType::Q4_0, vec![&HALF, &nibbles], less(&four, 8), 0.0),
        (DType::Q4_1, vec![&HALF, &MINUS_ONE_AND_A_HALF, &nibbles], less(&four, 0), 1.5),
        (DType::Q5_0, vec![&HALF, &fifth, &nibbles], less(&five, 16), 0.0),
        (DType::Q5_1, vec![&HALF, &MINUS_ONE_AND_A_HALF, &fifth, &nibbles], five.clone(), 1.5),
        (
            DType::Q8_0,
            vec![&HALF, &eight],
            eight.iter().map(|byte| byte.cast_signed()).collect(),
            0.0,
        ),
    ];
    for (dtype, fields, codes, min) in rows {
        let block = fields.concat();
        assert_eq!(block.len(), dtype.block_bytes(), "{dtype:?}");
        let expected =
            CodeRun { codes: codes.try_into().unwrap(), scales: [0.5; 2], mins: [min; 2] };
        assert_eq!(runs(dtype, &block), [expected], "{dtype:?}");
    }
}

#[test]
fn scales_of_a_block_of_four_bits_by_hand() {
    let mut block = vec![0_u8; 144];
    block[..2].copy_from_slice(&HALF);
    block[2..4].copy_from_slice(&[0x00, 0x3C]);
    // Run 1: scale 5, minimum 9. Run 6: scale 0b10_0011, minimum 0b01_0100.
    block[4 + 1] = 5;
    block[4 + 5] = 9;
    block[4 + 10] = 0b0100_0011;
    block[4 + 2] = 0b10 << 6;
    block[4 + 6] = 0b01 << 6;
    block[16 + 3] = 0xA0;
    let runs = runs(DType::Q4K, &block);
    assert_eq!(runs.len(), 8);
    assert_eq!((runs[1].scales, runs[1].mins), ([2.5; 2], [9.0; 2]));
    assert_eq!((runs[6].scales, runs[6].mins), ([17.5; 2], [20.0; 2]));
    assert_eq!((runs[0].codes[3], runs[1].codes[3]), (0, 10));
    assert_eq!(runs[1].values()[3].to_bits(), (25.0_f32 - 9.0).to_bits());
}

/// Widens `bytes` and compares with candle's values, to the bit.
fn check_against_candle(dtype: DType, tensor: &QTensor, cols: usize) {
    let bytes = tensor.data().unwrap();
    assert_eq!(Some(bytes.len()), dtype.num_bytes(cols), "{dtype:?}");
    let dense = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
    let expected = dense.to_vec1::<f32>().unwrap();
    // A byte off any alignment, as in a file.
    let moved = [&[0xAA], &bytes[..]].concat();
    let part = MatrixData { rows: 1, cols, dtype, bytes: &moved[1..] };
    let mut got = Vec::new();
    for_each_widened(&part, |value| got.push(value));
    assert_eq!(got.len(), expected.len(), "{dtype:?}");
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let is_same = got.to_bits() == expected.to_bits() || *got == 0.0 && *expected == 0.0;
        assert!(is_same, "{dtype:?} element {index}: {got} is not {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_type_reads_as_candle_reads_it(
        values in prop::collection::vec(-4.0_f32..4.0, 768),
        shift in -2.0_f32..2.0,
    ) {
        let values: Vec<f32> = values.iter().map(|value| value + shift).collect();
        let tensor = Tensor::from_vec(values, (1, 768), &Device::Cpu).unwrap();
        for (dtype, ggml) in BLOCKS {
            let quantized = QTensor::quantize(&tensor, ggml).unwrap();
            check_against_candle(dtype, &quantized, 768);
        }
    }

    #[test]
    fn rounding_is_off_by_half_a_step_at_most(
        values in prop::array::uniform32(-1.0_f32..1.0),
        exponent in -12_i32..16,
    ) {
        let values = values.map(|value| value * (exponent as f32).exp2());
        let run = round_to_int8(&values);
        prop_assert!(run.codes.iter().all(|&code| code > -128));
        prop_assert!(run.mins.map(f32::to_bits) == [0; 2] && run.scales[0].to_bits() == run.scales[1].to_bits());
        // Half a step, and what the greatest value loses where the stored scale came out below its own: 127 steps
        // of half a unit in the last of eleven places, or of the least subnormal.
        let (scale, mut bound) = (run.scales[0], 0.5 * run.scales[0] * (1.0 + 1e-6));
        bound = bound.max(127.0 * (scale / 2048.0).max(2.0_f32.powi(-25)));
        for (got, value) in run.values().iter().zip(values) {
            prop_assert!((got - value).abs() <= bound, "{got} for {value}, scale {scale}");
        }
    }
}

#[test]
fn rounding_keeps_what_it_can_say_exactly() {
    let values: [f32; RUN_LEN] = std::array::from_fn(|i| (i as f32 * 8.0 - 121.0) * 0.25);
    let mut exact = values;
    exact[7] = -127.0 * 0.25;
    let run = round_to_int8(&exact);
    assert_eq!(run.values().map(f32::to_bits), exact.map(f32::to_bits));
    assert_eq!(round_to_int8(&[0.0; RUN_LEN]).codes, [0; RUN_LEN]);
}

#[test]
fn what_cannot_be_rounded_is_nan() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut values = [1.0; RUN_LEN];
        values[GROUP_LEN] = bad;
        let values = round_to_int8(&values).values();
        assert!(values.iter().all(|value| !value.is_finite()), "{bad}");
    }
}

#[test]
fn sizes_follow_the_blocks() {
    for (dtype, ggml) in BLOCKS {
        assert_eq!(dtype.block_len(), ggml.block_size());
        assert_eq!(dtype.block_bytes(), ggml.type_size());
        assert!(dtype.is_integers());
        let len = dtype.block_len();
        assert_eq!(dtype.num_bytes(3 * len), Some(3 * dtype.block_bytes()));
        assert_eq!(dtype.num_bytes(0), Some(0));
        assert_eq!(dtype.num_bytes(len - 1), None);
        assert_eq!(dtype.num_bytes(len + 16), None);
    }
    assert_eq!(DType::ALL.iter().filter(|dtype| dtype.is_integers()).count(), BLOCKS.len());
    assert_eq!(DType::F32.num_bytes(7), Some(28));
    assert_eq!(DType::Bf16.num_bytes(7), Some(14));
    assert_eq!(DType::F32.num_bytes(usize::MAX / 2), None);
}

#[test]
#[should_panic(expected = "has no integers")]
fn plain_types_have_no_runs() {
    for_each_run(DType::F16, &[0; 2], |_| {});
}
