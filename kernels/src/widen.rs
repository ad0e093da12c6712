//! Elements of a weight file to f32: exactly for plain types, since every bf16 and f16 number is an f32 number; blocks of
//! integers by way of their codes, rounded as `scale * code - min` in f32.
//!
//! A file aligns nothing, so elements are assembled from bytes and no pointer is cast.

use half::{bf16, f16};

use crate::backend::{DType, MatrixData};
use crate::formats::{FP8_BLOCK_LEN, Fp8Block, for_each_run};

/// Hands the part's elements, in order, to `sink`.
///
/// Whether the byte count fits the shape is the caller's to check; trailing bytes of a broken element are dropped.
pub fn for_each_widened(part: &MatrixData<'_>, mut sink: impl FnMut(f32)) {
    match part.dtype {
        DType::F32 => {
            for &bytes in part.bytes.as_chunks::<4>().0 {
                sink(f32::from_le_bytes(bytes));
            }
        }
        DType::Bf16 => {
            for &bytes in part.bytes.as_chunks::<2>().0 {
                sink(bf16::from_le_bytes(bytes).to_f32());
            }
        }
        DType::F16 => {
            for &bytes in part.bytes.as_chunks::<2>().0 {
                sink(f16::from_le_bytes(bytes).to_f32());
            }
        }
        DType::F8 => {
            for block in part.bytes.as_chunks::<{ 4 + FP8_BLOCK_LEN }>().0 {
                for value in Fp8Block::from_bytes(block).values() {
                    sink(value);
                }
            }
        }
        DType::Q4_0
        | DType::Q4_1
        | DType::Q5_0
        | DType::Q5_1
        | DType::Q8_0
        | DType::Q2K
        | DType::Q3K
        | DType::Q4K
        | DType::Q5K
        | DType::Q6K => for_each_run(part.dtype, part.bytes, |run| {
            for value in run.values() {
                sink(value);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widens_every_dtype_from_odd_addresses() {
        let values = [1.0_f32, -0.5, 0.0, 65504.0, 2.0_f32.powi(-24)];
        let rows: [(DType, Vec<u8>); 3] = [
            (DType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            (DType::Bf16, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()),
            (DType::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
        ];
        for (dtype, bytes) in rows {
            for offset in 0..4 {
                let mut moved = vec![0xAA; offset];
                moved.extend_from_slice(&bytes);
                let part =
                    MatrixData { rows: 1, cols: values.len(), dtype, bytes: &moved[offset..] };
                let mut widened = Vec::new();
                for_each_widened(&part, |x| widened.push(x));
                let expected: Vec<f32> = match dtype {
                    DType::F32 | DType::F16 => values.to_vec(),
                    _ => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
                };
                assert_eq!(widened, expected, "{dtype:?} at offset {offset}");
            }
        }
    }
}
