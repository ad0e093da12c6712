//! Stored weights as integers: a block of a GGUF file, or 32 plain numbers, to codes with scales and minimums.
//!
//! Every type that is stored in blocks means `value = scale * code - min`, with a scale, and for some a minimum, for a group
//! of 16 or 32 codes. The common denominator is a [`CodeRun`] of 32 codes with both halves' scales and minimums; the
//! types differ in how their bits are packed and how scales are made, which is all that the files here know.
//!
//! | file | types | block |
//! |---|---|---|
//! | `blocks_of_32` | `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0` | 32 codes, one scale in half precision |
//! | `blocks_of_256` | `Q2K` to `Q6K` | 256 codes, scales of 4 to 8 bits under one in half precision |
//! | `int8` | plain numbers, rounded | 32 codes, one scale in half precision |
//! | `fp8` | numbers of eight bits | 128 codes, one scale in single precision |
//! | `layout` | | what the codes of a matrix have in common |
//!
//! # Source
//! The layouts are those of the GGUF specification's tensor types; candle's reader is the oracle of the tests.

mod blocks_of_256;
mod blocks_of_32;
mod fp8;
mod int8;
mod layout;
#[cfg(test)]
mod tests;

use half::f16;

use crate::backend::{DType, MatrixData};
use crate::widen::for_each_widened;

pub(crate) use crate::formats::fp8::for_each_fp8_block;
pub use crate::formats::fp8::{FP8_BLOCK_LEN, Fp8Block, round_to_fp8};
pub use crate::formats::int8::round_to_int8;
pub(crate) use crate::formats::layout::{CodeKind, CodeLayout, NIBBLE_CENTRE};

/// Codes of a run: the smallest block of every type.
pub const RUN_LEN: usize = 32;

/// Codes of half a run: the smallest group of any type.
pub const GROUP_LEN: usize = 16;

/// 32 neighbours of a row: `value = scale * code - min`, a scale and a minimum for each half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeRun {
    /// The integers.
    pub codes: [i8; RUN_LEN],
    /// The scale of each half.
    pub scales: [f32; 2],
    /// What is taken off each half's products; zero where the type has no minimum.
    pub mins: [f32; 2],
}

impl CodeRun {
    /// A run with one scale and one minimum.
    fn uniform(codes: [i8; RUN_LEN], scale: f32, min: f32) -> Self {
        Self { codes, scales: [scale; 2], mins: [min; 2] }
    }

    /// Returns the values that the run stands for.
    pub fn values(&self) -> [f32; RUN_LEN] {
        std::array::from_fn(|i| {
            let half = i / GROUP_LEN;
            self.scales[half] * f32::from(self.codes[i]) - self.mins[half]
        })
    }
}

/// Hands a row's runs to `sink`, in order; plain numbers are rounded, and padded with zeros to whole runs.
pub(crate) fn for_each_code_run(row: &MatrixData<'_>, mut sink: impl FnMut(&CodeRun)) {
    if row.dtype.is_integers() {
        return for_each_run(row.dtype, row.bytes, sink);
    }
    let (mut values, mut len) = ([0.0; RUN_LEN], 0);
    for_each_widened(row, |value| {
        values[len] = value;
        len += 1;
        if len == RUN_LEN {
            sink(&round_to_int8(&values));
            (values, len) = ([0.0; RUN_LEN], 0);
        }
    });
    if len > 0 {
        sink(&round_to_int8(&values));
    }
}

/// Hands the runs of whole blocks to `sink`, in order. Trailing bytes of a broken block are dropped.
///
/// # Panics
/// Where `dtype` is a plain type, which has no codes.
pub fn for_each_run(dtype: DType, bytes: &[u8], sink: impl FnMut(&CodeRun)) {
    match dtype {
        DType::Q4_0 => each(bytes, blocks_of_32::q4_0, sink),
        DType::Q4_1 => each(bytes, blocks_of_32::q4_1, sink),
        DType::Q5_0 => each(bytes, blocks_of_32::q5_0, sink),
        DType::Q5_1 => each(bytes, blocks_of_32::q5_1, sink),
        DType::Q8_0 => each(bytes, blocks_of_32::q8_0, sink),
        DType::Q2K => each(bytes, blocks_of_256::q2k, sink),
        DType::Q3K => each(bytes, blocks_of_256::q3k, sink),
        DType::Q4K => each(bytes, blocks_of_256::q4k, sink),
        DType::Q5K => each(bytes, blocks_of_256::q5k, sink),
        DType::Q6K => each(bytes, blocks_of_256::q6k, sink),
        DType::F32 | DType::Bf16 | DType::F16 | DType::F8 => {
            assert!(bytes.is_empty(), "{dtype:?} has no integers");
        }
    }
}

/// Decodes blocks of `BYTES`, which hold `RUNS` runs each.
fn each<const BYTES: usize, const RUNS: usize>(
    bytes: &[u8],
    decode: impl Fn(&[u8; BYTES]) -> [CodeRun; RUNS],
    mut sink: impl FnMut(&CodeRun),
) {
    for block in bytes.as_chunks::<BYTES>().0 {
        for run in &decode(block) {
            sink(run);
        }
    }
}

/// Reads a half-precision number.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}
