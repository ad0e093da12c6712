//! Numbers of eight bits, E4M3: 128 to a scale in single precision.
//!
//! A block is the scale, then the codes: 132 bytes. Checkpoints have scales for a tensor, a row or a square; in blocks of a row
//! each of these is the same to whoever computes with it. The largest code is 448; 0x7f and 0xff are no numbers.
//!
//! # Source
//! Micikevicius et al., "FP8 formats for deep learning", 2022: E4M3 as in the Open Compute Project's OFP8, without infinities.

use crate::backend::{DType, MatrixData};
use crate::widen::for_each_widened;

/// Codes of a block.
pub const FP8_BLOCK_LEN: usize = 128;

/// The largest number that a code stands for.
const CODE_MAX: f32 = 448.0;

/// 128 neighbours of a row: `value = scale * code`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fp8Block {
    /// What a code is multiplied with.
    pub scale: f32,
    /// E4M3.
    pub codes: [u8; FP8_BLOCK_LEN],
}

impl Fp8Block {
    /// Reads a block as it is stored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 4 + FP8_BLOCK_LEN]) -> Self {
        let mut block = Self { scale: 0.0, codes: [0; FP8_BLOCK_LEN] };
        block.scale = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        block.codes.copy_from_slice(&bytes[4..]);
        block
    }

    /// Returns the block as it is stored.
    pub fn to_bytes(&self) -> [u8; 4 + FP8_BLOCK_LEN] {
        let mut bytes = [0; 4 + FP8_BLOCK_LEN];
        bytes[..4].copy_from_slice(&self.scale.to_le_bytes());
        bytes[4..].copy_from_slice(&self.codes);
        bytes
    }

    /// Returns the values that the block stands for.
    pub fn values(&self) -> [f32; FP8_BLOCK_LEN] {
        self.codes.map(|code| self.scale * widen(code))
    }
}

/// Hands a row's blocks to `sink`, in order: those that are stored, else plain numbers rounded, and padded with zeros to
/// whole blocks.
pub(crate) fn for_each_fp8_block(row: &MatrixData<'_>, mut sink: impl FnMut(&Fp8Block)) {
    if row.dtype == DType::F8 {
        for block in row.bytes.as_chunks().0 {
            sink(&Fp8Block::from_bytes(block));
        }
        return;
    }
    let mut values = Vec::with_capacity(row.cols.next_multiple_of(FP8_BLOCK_LEN));
    for_each_widened(row, |value| values.push(value));
    values.resize(row.cols.next_multiple_of(FP8_BLOCK_LEN), 0.0);
    for values in values.as_chunks().0 {
        sink(&round_to_fp8(values));
    }
}

/// Rounds 128 numbers to the nearest codes, ties to even, the greatest magnitude at 448. A number that is not finite makes
/// the scale no number, never a finite value.
pub fn round_to_fp8(values: &[f32; FP8_BLOCK_LEN]) -> Fp8Block {
    let greatest = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    if !values.iter().all(|value| value.is_finite()) {
        return Fp8Block { scale: f32::NAN, codes: [0; FP8_BLOCK_LEN] };
    }
    let scale = greatest / CODE_MAX;
    // A scale that is subnormal has no inverse: its block stands for zeros.
    let inverse = if scale.is_normal() { scale.recip() } else { 0.0 };
    Fp8Block { scale, codes: values.map(|value| narrow(value * inverse)) }
}

/// Returns the number that a code stands for.
fn widen(code: u8) -> f32 {
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    // Exponent and mantissa at f32's place, and the exponent's bias moved by a product, which holds for subnormal codes too.
    let magnitude = f32::from_bits(u32::from(code & 0x7f) << 20) * 120.0_f32.exp2();
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Returns the code nearest to a number, ties to even; what passes the largest is cut to it.
fn narrow(value: f32) -> u8 {
    let magnitude = value.abs().min(CODE_MAX);
    // The step between codes: an eighth of the power of two below, of the least normal one for what is subnormal.
    let exponent = ((magnitude.to_bits() >> 23).cast_signed() - 127).max(-6);
    let step = ((exponent - 3) as f32).exp2();
    // Eight steps are the next power of two, which the sum carries into.
    let code = ((exponent + 6) << 3) as u32 + (magnitude / step).round_ties_even() as u32;
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    code as u8 | sign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_nearest_to_its_own_value() {
        for code in 0..=255_u8 {
            if code & 0x7f == 0x7f {
                assert!(widen(code).is_nan());
                continue;
            }
            assert_eq!(narrow(widen(code)), code, "{code:#x} is {}", widen(code));
        }
        let rows = [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xb9, -1.125),
        ];
        for (code, value) in rows {
            assert!((widen(code) - value).abs() <= 0.0, "{code:#x} is {}", widen(code));
        }
    }

    #[test]
    fn rounds_to_the_nearest_and_ties_to_even() {
        let codes: Vec<(u8, f32)> = (0..0x7f).map(|code| (code, widen(code))).collect();
        for pair in codes.windows(2) {
            let [(low, below), (high, above)] = [pair[0], pair[1]];
            let middle = f32::midpoint(below, above);
            assert_eq!(narrow(middle), if low % 2 == 0 { low } else { high }, "{middle}");
            assert_eq!(narrow(middle - (middle - below) / 64.0), low);
            assert_eq!(narrow(-(middle + (above - middle) / 64.0)), high | 0x80);
        }
        assert_eq!((narrow(1e9), narrow(-1e9)), (0x7e, 0xfe));
    }

    #[test]
    fn a_block_comes_back_and_errs_by_a_sixteenth_at_most() {
        let values: [f32; FP8_BLOCK_LEN] = std::array::from_fn(|i| (i as f32 - 40.5) * 0.013);
        let block = round_to_fp8(&values);
        assert_eq!(Fp8Block::from_bytes(&block.to_bytes()), block);
        let greatest = values.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        for (value, got) in values.iter().zip(block.values()) {
            // Half a step of three bits, or of the least that is not zero.
            let limit = (value.abs() / 16.0).max(greatest / 448.0 / 1024.0);
            assert!((value - got).abs() <= limit * 1.0001, "{value} became {got}");
        }
        let zeros = round_to_fp8(&[0.0; FP8_BLOCK_LEN]).values();
        assert!(zeros.iter().all(|value| value.to_bits() == 0));
        assert!(round_to_fp8(&[f32::INFINITY; FP8_BLOCK_LEN]).scale.is_nan());
    }
}
