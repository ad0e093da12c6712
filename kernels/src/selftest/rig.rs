//! The way into a backend's buffers and out, random numbers, and the measure of error.

use std::ops::Range;

use half::{bf16, f16};

use crate::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use crate::formats::round_to_fp8;
use crate::metadata::StepInput;

/// `SplitMix64`: a seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`.
    ///
    /// # Panics
    /// Where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// Returns a value in -1..1.
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Returns values in -1..1.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Returns values that bf16 holds.
pub(super) fn rounded_values(random: &mut Random, len: usize) -> Vec<f32> {
    random.values(len).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect()
}

/// Columns of the table through which values reach a buffer: a GPU reads eight at a time.
const UPLOAD_MULTIPLE: usize = 8;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// [`Backend::buffer`].
    Buffer,
    /// [`Backend::operand`].
    Operand,
}

/// Returns an empty buffer for `len` values.
///
/// # Errors
/// Those of the backend.
pub fn empty<B: Backend>(backend: &B, len: usize, usage: Use) -> Result<B::Buffer, BackendError> {
    match usage {
        Use::Buffer => backend.buffer(len),
        Use::Operand => backend.operand(len),
    }
}

/// Brings values into a buffer, as the one row of an embedding.
///
/// # Errors
/// Those of the backend.
pub fn upload<B: Backend>(
    backend: &mut B,
    values: &[f32],
    usage: Use,
) -> Result<B::Buffer, BackendError> {
    let cols = values.len().next_multiple_of(UPLOAD_MULTIPLE);
    let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.resize(cols * size_of::<f32>(), 0);
    let part = MatrixData { rows: 1, cols, dtype: DType::F32, bytes: &bytes };
    let table = backend.matrix(&[part], WeightFormat::Stored)?;
    let step = loaded_ids(backend, &[0])?;
    let mut buffer = empty(backend, cols, usage)?;
    backend.embed(&step, &table, &mut buffer)?;
    Ok(buffer)
}

/// Returns a buffer of NaN: what an operator does not write shows.
///
/// # Errors
/// Those of the backend.
pub fn poisoned<B: Backend>(
    backend: &mut B,
    len: usize,
    usage: Use,
) -> Result<B::Buffer, BackendError> {
    upload(backend, &vec![f32::NAN; len], usage)
}

/// Brings values back.
///
/// # Errors
/// Those of the backend.
pub fn download<B: Backend>(
    backend: &mut B,
    buffer: &B::Buffer,
    len: usize,
) -> Result<Vec<f32>, BackendError> {
    let mut values = vec![f32::NAN; len];
    backend.read(buffer, &mut values)?;
    Ok(values)
}

/// Returns a step of one sequence with these tokens, and logits for each.
///
/// # Errors
/// Those of the backend.
pub fn loaded_ids<B: Backend>(backend: &mut B, token_ids: &[u32]) -> Result<B::Step, BackendError> {
    let len = token_ids.len() as u32;
    let counted: Vec<u32> = (0..len).collect();
    let input = StepInput {
        token_ids,
        positions: &counted,
        slot_mapping: &counted,
        cu_seqlens_q: &[0, len],
        context_lens: &[len],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &counted,
        adapters: &[],
    };
    let mut step = backend.step(token_ids.len(), 1, 1)?;
    backend.load_step(&input, &mut step)?;
    Ok(step)
}

/// Returns a step of so many sequences with a token each, which a device may pad.
pub(super) fn decodes<B: Backend>(
    backend: &mut B,
    num_tokens: usize,
    adapters: &[u32],
) -> Result<B::Step, BackendError> {
    let counted: Vec<u32> = (0..=num_tokens as u32).collect();
    let rows = &counted[..num_tokens];
    let input = StepInput {
        token_ids: &vec![0; num_tokens],
        positions: &vec![0; num_tokens],
        slot_mapping: rows,
        cu_seqlens_q: &counted,
        context_lens: &vec![1; num_tokens],
        block_tables: rows,
        max_blocks_per_seq: 1,
        logit_rows: rows,
        adapters,
    };
    let room = num_tokens.next_power_of_two();
    let mut step = backend.step(room, room, 1)?;
    backend.load_step(&input, &mut step)?;
    Ok(step)
}

/// What rows that a device adds hold where they must keep what they have.
pub(super) const KEPT: f32 = 7.0;

/// Returns some rows of `values`, `[_, width]`, and behind them padding up to `num_rows`.
pub(super) fn padded(
    values: &[f32],
    width: usize,
    rows: Range<usize>,
    (num_rows, padding): (usize, f32),
) -> Vec<f32> {
    let mut padded = values[rows.start * width..rows.end * width].to_vec();
    padded.resize(num_rows * width, padding);
    padded
}

/// Takes off what is behind the first `len` values, which must be [`KEPT`]: whatever touched it makes all of them no numbers.
pub(super) fn without_padding(mut values: Vec<f32>, len: usize) -> Vec<f32> {
    let padding = values.split_off(len);
    if padding.iter().any(|value| value.to_bits() != KEPT.to_bits()) {
        values.fill(f32::NAN);
    }
    values
}

/// Elements of a plain type, one byte off any alignment.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Their type.
    pub dtype: DType,
    bytes: Vec<u8>,
}

impl Stored {
    /// Stores values.
    ///
    /// # Panics
    /// Where `dtype` is no plain type.
    pub fn new(values: &[f32], dtype: DType) -> Self {
        let mut bytes = vec![0xAA];
        for &value in values {
            match dtype {
                DType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                _ => {
                    assert!(dtype == DType::F32, "{dtype:?} is no plain type");
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
        Self { dtype, bytes }
    }

    /// Stores random values of any type; those of integers have random codes and scales about as large as -1..1 asks for.
    ///
    /// # Panics
    /// Where `len` is not a multiple of the type's block.
    pub fn random(random: &mut Random, dtype: DType, len: usize) -> Self {
        if !dtype.is_integers() {
            let values = random.values(len);
            return if dtype == DType::F8 { Self::fp8(&values) } else { Self::new(&values, dtype) };
        }
        assert!(len.is_multiple_of(dtype.block_len()), "{len} of {dtype:?} are no whole blocks");
        let num_bytes = len / dtype.block_len() * dtype.block_bytes();
        let mut bytes: Vec<u8> = (0..=num_bytes).map(|_| random.bits() as u8).collect();
        for block in bytes[1..].chunks_exact_mut(dtype.block_bytes()) {
            for (offset, factor) in factors(dtype) {
                // A power of two times this: products of factors are then exact in half precision.
                let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
                let factor = sign * factor / (1 << random.below(3)) as f32;
                block[*offset..offset + 2].copy_from_slice(&f16::from_f32(factor).to_le_bytes());
            }
        }
        Self { dtype, bytes }
    }

    /// Rounds values to E4M3.
    fn fp8(values: &[f32]) -> Self {
        let mut bytes = vec![0xAA];
        for block in values.as_chunks().0 {
            bytes.extend(round_to_fp8(block).to_bytes());
        }
        Self { dtype: DType::F8, bytes }
    }

    /// Returns them as rows of a matrix.
    pub fn data(&self, rows: usize, cols: usize) -> MatrixData<'_> {
        MatrixData { rows, cols, dtype: self.dtype, bytes: &self.bytes[1..] }
    }
}

/// Where the factors of a block of integers lie, and how large they are where values lie in -1..1.
fn factors(dtype: DType) -> &'static [(usize, f32)] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 => &[(0, 1.0 / 16.0)],
        DType::Q4_1 | DType::Q5_1 => &[(0, 1.0 / 16.0), (2, 1.0)],
        DType::Q8_0 => &[(0, 1.0 / 128.0)],
        DType::Q2K => &[(80, 1.0 / 32.0), (82, 1.0 / 16.0)],
        DType::Q3K => &[(108, 1.0 / 128.0)],
        DType::Q4K | DType::Q5K => &[(0, 1.0 / 512.0), (2, 1.0 / 64.0)],
        DType::Q6K => &[(208, 1.0 / 4096.0)],
        DType::F32 | DType::Bf16 | DType::F16 | DType::F8 => &[],
    }
}

/// Returns `‖got - expected‖ / ‖expected‖`; infinite where any value is not finite, so NaN never passes, and where the
/// lengths differ.
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    let is_finite = got.iter().chain(expected).all(|value| value.is_finite());
    if got.len() != expected.len() || !is_finite {
        return f64::INFINITY;
    }
    let square = |value: f64| value * value;
    let distance: f64 =
        got.iter().zip(expected).map(|(&g, &e)| square(f64::from(g) - f64::from(e))).sum();
    let norm: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    if distance == 0.0 { 0.0 } else { (distance / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_not_close_to_anything() {
        assert!(relative_error(&[1.0, f32::NAN], &[1.0, 2.0]).is_infinite());
        assert!(relative_error(&[1.0, 2.0], &[1.0, f32::NAN]).is_infinite());
        assert!(relative_error(&[f32::NAN], &[f32::NAN]).is_infinite());
        assert!(relative_error(&[1.0], &[0.0]).is_infinite());
        assert!(relative_error(&[1.0], &[]).is_infinite());
        assert!(relative_error(&[1.0, 2.0], &[1.0, 2.0]) <= 0.0);
    }
}
