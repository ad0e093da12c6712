//! A weight matrix as the CPU likes it: rows on cache lines, in the element type of the file; or integers in panels.

use bytemuck::Zeroable;
use half::{bf16, f16};

use crate::backend::{BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::pool::Pool;
use crate::cpu::quantized::{CodePanels, PANEL};
use crate::cpu::simd::{Simd, TILE};
use crate::widen::for_each_widened;

/// Rows are padded with zeros to a multiple of this many elements: 64 bytes of bf16, 128 of f32. The dimensions of
/// real models are such multiples already; odd ones must not make a loop with a remainder on the weights' side.
const ROW_MULTIPLE: usize = 2 * TILE;

/// A matrix `[rows, cols]`, row-major.
#[derive(Debug)]
pub struct CpuMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) weights: Weights,
}

/// The elements, by type.
#[derive(Debug)]
pub(crate) enum Weights {
    F32(WeightRows<f32>),
    Bf16(WeightRows<bf16>),
    F16(WeightRows<f16>),
    Codes(CodePanels),
}

/// Padded rows of one element type.
#[derive(Debug)]
pub(crate) struct WeightRows<E> {
    values: AlignedSlice<E>,
    stride: usize,
}

impl CpuMatrix {
    /// Copies the parts into one matrix. Plain parts of different types, or beside parts in blocks, become f32, which
    /// holds them all; blocks of different types become integers that hold them all, as do all parts of int8.
    pub(crate) fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self, BackendError> {
        let (rows, cols) = Check("matrix").matrix_parts(parts)?;
        if is_in_codes(parts, format) {
            let weights = Weights::Codes(CodePanels::new(pool, parts, rows, cols)?);
            return Ok(Self { rows, cols, weights });
        }
        let weights = match plain_dtype(parts, format) {
            DType::Bf16 => Weights::Bf16(WeightRows::new(parts, rows, cols)?),
            DType::F16 => Weights::F16(WeightRows::new(parts, rows, cols)?),
            _ => Weights::F32(WeightRows::new(parts, rows, cols)?),
        };
        Ok(Self { rows, cols, weights })
    }

    /// Returns the memory that a matrix of these parts takes, whatever their bytes.
    pub(crate) fn num_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
        let rows = parts.iter().map(|part| part.rows).sum();
        let cols = parts.first().map_or(0, |part| part.cols);
        if is_in_codes(parts, format) {
            return CodePanels::num_bytes(parts, rows, cols);
        }
        (rows * stride(cols) * plain_dtype(parts, format).block_bytes()) as u64
    }

    /// Returns the weights where they are integers.
    pub(crate) fn codes(&self) -> Option<&CodePanels> {
        match &self.weights {
            Weights::Codes(panels) => Some(panels),
            Weights::F32(_) | Weights::Bf16(_) | Weights::F16(_) => None,
        }
    }

    /// Returns the size of a row with its padding.
    pub(crate) fn bytes_per_row(&self) -> usize {
        match &self.weights {
            Weights::F32(rows) => rows.stride * size_of::<f32>(),
            Weights::Bf16(rows) => rows.stride * size_of::<bf16>(),
            Weights::F16(rows) => rows.stride * size_of::<f16>(),
            Weights::Codes(panels) => panels.bytes_per_panel() / PANEL,
        }
    }

    /// Writes a row as f32.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::F32(rows) => rows.widen(row, out),
            Weights::Bf16(rows) => rows.widen(row, out),
            Weights::F16(rows) => rows.widen(row, out),
            Weights::Codes(panels) => panels.widen_row(row, out),
        }
    }
}

/// Returns the type of parts that do not become integers: their own, or f32, which holds them all.
fn plain_dtype(parts: &[MatrixData<'_>], format: WeightFormat) -> DType {
    let Some(first) = parts.first().map(|part| part.dtype) else { return DType::F32 };
    let is_uniform = parts.iter().all(|part| part.dtype == first);
    match format {
        WeightFormat::Stored if is_uniform && !first.is_blocks() => first,
        WeightFormat::Stored | WeightFormat::F32 | WeightFormat::Int8 => DType::F32,
    }
}

/// Returns the elements of a row with its padding.
fn stride(cols: usize) -> usize {
    cols.next_multiple_of(ROW_MULTIPLE).max(ROW_MULTIPLE)
}

/// Returns whether the parts become integers.
fn is_in_codes(parts: &[MatrixData<'_>], format: WeightFormat) -> bool {
    match format {
        WeightFormat::Stored => parts.iter().all(|part| part.dtype.is_blocks()),
        WeightFormat::F32 => false,
        WeightFormat::Int8 => true,
    }
}

impl<E: Element> WeightRows<E> {
    fn new(parts: &[MatrixData<'_>], rows: usize, cols: usize) -> Result<Self, BackendError> {
        let stride = stride(cols);
        let mut values = AlignedSlice::zeroed(rows.saturating_mul(stride), DEVICE)?;
        let (mut row, mut col) = (0, 0);
        let slice = values.as_mut_slice();
        for part in parts {
            for_each_widened(part, |value| {
                slice[row * stride + col] = E::narrow(value);
                col += 1;
                if col == cols {
                    (row, col) = (row + 1, 0);
                }
            });
        }
        Ok(Self { values, stride })
    }

    /// Returns a row with its padding.
    pub(crate) fn row(&self, index: usize) -> &[E] {
        &self.values.as_slice()[index * self.stride..(index + 1) * self.stride]
    }

    fn widen(&self, row: usize, out: &mut [f32]) {
        for (out, &weight) in out.iter_mut().zip(self.row(row)) {
            *out = weight.widen();
        }
    }
}

/// A type that weights are stored in.
pub(crate) trait Element: Zeroable + Copy + Send + Sync + 'static {
    /// As many elements as a vector has lanes.
    type Chunk<S: Simd>: Copy;

    /// Returns the element nearest to `value`; exact for what was widened from this type.
    fn narrow(value: f32) -> Self;
    /// Returns the element's value.
    fn widen(self) -> f32;
    /// Views the elements in chunks.
    fn chunks<S: Simd>(values: &[Self]) -> &[Self::Chunk<S>];
    /// Loads and widens a chunk.
    fn load<S: Simd>(simd: S, chunk: &Self::Chunk<S>) -> S::F32;
}

impl Element for f32 {
    type Chunk<S: Simd> = S::F32s;

    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn chunks<S: Simd>(values: &[Self]) -> &[S::F32s] {
        S::chunks(values)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &S::F32s) -> S::F32 {
        simd.load(chunk)
    }
}

impl Element for bf16 {
    type Chunk<S: Simd> = S::Bf16s;

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn chunks<S: Simd>(values: &[Self]) -> &[S::Bf16s] {
        S::bf16_chunks(values)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &S::Bf16s) -> S::F32 {
        simd.load_bf16(chunk)
    }
}

impl Element for f16 {
    type Chunk<S: Simd> = S::F16s;

    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn chunks<S: Simd>(values: &[Self]) -> &[S::F16s] {
        S::f16_chunks(values)
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, chunk: &S::F16s) -> S::F32 {
        simd.load_f16(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_told_is_what_is_taken() {
        let mut pool = Pool::new(1).unwrap();
        let rows: [&[(usize, DType)]; 7] = [
            &[(5, DType::F32)],
            &[(5, DType::Bf16), (3, DType::Bf16)],
            &[(5, DType::F16), (3, DType::Bf16)],
            &[(17, DType::Q8_0)],
            &[(16, DType::Q4K), (1, DType::Q6K)],
            &[(33, DType::Q4_0)],
            &[(2, DType::Bf16), (3, DType::Q5_1)],
        ];
        for parts in rows {
            let bytes = vec![0; 33 * 256 * 4];
            let data: Vec<MatrixData<'_>> = parts
                .iter()
                .map(|&(rows, dtype)| {
                    let num_bytes = dtype.num_bytes(rows * 256).unwrap();
                    MatrixData { rows, cols: 256, dtype, bytes: &bytes[..num_bytes] }
                })
                .collect();
            for format in [WeightFormat::Stored, WeightFormat::F32, WeightFormat::Int8] {
                let matrix = CpuMatrix::new(&mut pool, &data, format).unwrap();
                let taken = match &matrix.weights {
                    Weights::F32(rows) => rows.values.len() * 4,
                    Weights::Bf16(rows) => rows.values.len() * 2,
                    Weights::F16(rows) => rows.values.len() * 2,
                    Weights::Codes(panels) => {
                        matrix.rows.div_ceil(PANEL) * panels.bytes_per_panel()
                    }
                };
                assert_eq!(
                    CpuMatrix::num_bytes(&data, format),
                    taken as u64,
                    "{parts:?} {format:?}"
                );
            }
        }
    }
}
