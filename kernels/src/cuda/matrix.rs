//! Weights on a device: rows as they lie in the file, or codes.

use crate::backend::{BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cuda::codes::{CodeForm, CodeRow};
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::threads::for_each_part;
use crate::widen::for_each_widened;

/// Elements of a row that a lane reads at once: a row begins at a multiple of 16 bytes.
const COLS_MULTIPLE: usize = 8;

/// Most elements of a matrix that is widened for products of many rows; larger ones, heads, stream their codes past.
const WIDENED_MAX: usize = 1 << 28;

/// Host memory in which rows are brought into another form, at a time.
const CONVERTED_BYTES: usize = 64 << 20;

/// Fewest elements that a thread looks at for broken numbers: four loads of 16 bytes, of the widest elements.
const BROKEN_PER_THREAD: u32 = 16;

/// What the rows of a [`CudaMatrix`] are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Bf16,
    F16,
    F32,
    Codes(CodeForm),
}

impl Weights {
    /// Returns the word for it in the names of kernels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Codes(form) => form.name(),
        }
    }

    /// Returns the bytes of a row's elements, and of its factors.
    fn row_bytes(self, cols: usize) -> (usize, usize) {
        match self {
            Self::Bf16 | Self::F16 => (cols.saturating_mul(2), 0),
            Self::F32 => (cols.saturating_mul(4), 0),
            Self::Codes(form) => form.row_bytes(cols),
        }
    }

    fn cols_multiple(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 | Self::F32 => COLS_MULTIPLE,
            Self::Codes(form) => form.cols_multiple(),
        }
    }

    /// Returns what holds all parts: exactly where they are plain, as the same codes where they are codes.
    pub(super) fn of(parts: &[MatrixData<'_>], format: WeightFormat) -> Self {
        let is_all = |dtype| parts.iter().all(|part| part.dtype == dtype);
        let integers = Self::Codes(CodeForm::of_integers(parts));
        let has_integers = parts.iter().any(|part| part.dtype.is_integers());
        match format {
            WeightFormat::F32 => Self::F32,
            WeightFormat::Int8 => integers,
            WeightFormat::Fp8 if has_integers => integers,
            WeightFormat::Fp8 => Self::Codes(CodeForm::Fp8),
            WeightFormat::Stored if is_all(DType::Bf16) => Self::Bf16,
            WeightFormat::Stored if is_all(DType::F16) => Self::F16,
            WeightFormat::Stored if is_all(DType::F8) => Self::Codes(CodeForm::Fp8),
            WeightFormat::Stored if parts.iter().all(|part| part.dtype.is_integers()) => integers,
            WeightFormat::Stored => Self::F32,
        }
    }
}

/// A weight matrix `[rows, cols]`.
#[derive(Debug)]
pub struct CudaMatrix<M> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) weights: Weights,
    data: M,
    /// Scales and minimums of codes.
    factors: Option<M>,
}

impl<M: DeviceMemory> CudaMatrix<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self, BackendError> {
        let check = Check("matrix");
        let (rows, cols) = check.matrix_parts(parts)?;
        let weights = Weights::of(parts, format);
        let multiple = weights.cols_multiple();
        if !cols.is_multiple_of(multiple) {
            let name = weights.name();
            return check.refuse(format!(
                "`cols` of {name} must be a multiple of {multiple} on a GPU, got {cols}"
            ));
        }
        let (row_bytes, factor_bytes) = weights.row_bytes(cols);
        let data = device.allocate(rows.saturating_mul(row_bytes))?;
        let factors = match weights {
            Weights::Codes(_) => Some(device.allocate(rows.saturating_mul(factor_bytes))?),
            Weights::Bf16 | Weights::F16 | Weights::F32 => None,
        };
        let mut matrix = Self { rows, cols, weights, data, factors };
        matrix.fill(device, parts)?;
        Ok(matrix)
    }

    /// Returns the address of the elements.
    pub(super) fn data(&self) -> Argument {
        Argument::Pointer(self.data.address())
    }

    /// Returns the address of the factors; null where there are none.
    pub(super) fn factors(&self) -> Argument {
        Argument::Pointer(self.factors.as_ref().map_or(0, DeviceMemory::address))
    }

    /// Returns the elements that products of many rows read as bf16; `None` where they read them as they are.
    pub(super) fn num_widened(&self) -> Option<usize> {
        num_widened(self.weights, self.rows, self.cols)
    }

    fn fill<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        parts: &[MatrixData<'_>],
    ) -> Result<(), BackendError> {
        let mut row = 0;
        for part in parts {
            let (row_bytes, _) = self.weights.row_bytes(self.cols);
            match (self.weights, part.dtype) {
                (Weights::Bf16 | Weights::F16, _) | (Weights::F32, DType::F32) => {
                    device.upload(&mut self.data, row * row_bytes, part.bytes)?;
                }
                (Weights::F32 | Weights::Codes(_), _) => self.convert(device, part, row)?,
            }
            row += part.rows;
        }
        Ok(())
    }

    /// Brings a part into the matrix's form, some rows at a time, by all threads.
    fn convert<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        part: &MatrixData<'_>,
        first_row: usize,
    ) -> Result<(), BackendError> {
        let (weights, (row_bytes, factor_bytes)) =
            (self.weights, self.weights.row_bytes(self.cols));
        let rows_at_once = (CONVERTED_BYTES / (row_bytes + factor_bytes).max(1)).max(1);
        for begin in (0..part.rows).step_by(rows_at_once) {
            let num_rows = rows_at_once.min(part.rows - begin);
            let mut data = vec![0; num_rows * row_bytes];
            let mut factors = vec![0; num_rows * factor_bytes];
            let mut rest = factors.as_mut_slice();
            let rows: Vec<CodeRow<'_>> = data
                .chunks_exact_mut(row_bytes.max(1))
                .map(|codes| {
                    let (factors, behind) = std::mem::take(&mut rest).split_at_mut(factor_bytes);
                    rest = behind;
                    CodeRow { codes, factors }
                })
                .collect();
            for_each_part(rows, &|index, mut row| {
                let stored = part.row(begin + index);
                match weights {
                    Weights::Codes(form) => form.write_row(&stored, &mut row),
                    Weights::Bf16 | Weights::F16 | Weights::F32 => write_f32(&stored, row.codes),
                }
            });
            device.upload(&mut self.data, (first_row + begin) * row_bytes, &data)?;
            if let Some(memory) = &mut self.factors {
                device.upload(memory, (first_row + begin) * factor_bytes, &factors)?;
            }
        }
        Ok(())
    }

    /// Returns how many threads found what is no number; `counter` has room for one `u32`.
    pub(super) fn count_broken<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        counter: &mut M,
    ) -> Result<u32, BackendError> {
        device.zero(counter)?;
        for Numbers { kernel, address, exponent, len } in self.numbers() {
            device.launch(&Launch {
                kernel,
                grid: [len.div_ceil(256 * BROKEN_PER_THREAD).clamp(1, 1024), 1, 1],
                num_threads: 256,
                shared_bytes: 0,
                arguments: &[
                    Argument::Pointer(counter.address()),
                    address,
                    Argument::U32(exponent),
                    Argument::U32(len),
                ],
            })?;
        }
        let mut count = [0];
        device.download(counter, 0, bytemuck::cast_slice_mut(&mut count))?;
        Ok(count[0])
    }

    /// Returns what must hold numbers for the matrix to hold numbers.
    fn numbers(&self) -> Vec<Numbers> {
        let len = |row_bytes: usize, size: usize| self.rows * row_bytes / size;
        let (row_bytes, factor_bytes) = self.weights.row_bytes(self.cols);
        let of = |kernel, address, exponent, len: usize| {
            // A matrix of more would not fit into a launch's 32 bits, nor into most GPUs.
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            Numbers { kernel, address, exponent, len }
        };
        let (data, factors) = (self.data(), self.factors());
        match self.weights {
            Weights::Bf16 => vec![of("find_broken_16", data, 0x7f80, len(row_bytes, 2))],
            Weights::F16 => vec![of("find_broken_16", data, 0x7c00, len(row_bytes, 2))],
            Weights::F32 => vec![of("find_broken_32", data, 0x7f80_0000, len(row_bytes, 4))],
            Weights::Codes(CodeForm::Fp8) => vec![
                of("find_broken_8", data, 0x7f, len(row_bytes, 1)),
                of("find_broken_32", factors, 0x7f80_0000, len(factor_bytes, 4)),
            ],
            Weights::Codes(_) => vec![of("find_broken_16", factors, 0x7c00, len(factor_bytes, 2))],
        }
    }
}

/// Floats to be looked at: by which kernel, where, which bits are all set in what is no number, and how many.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    kernel: &'static str,
    address: Argument,
    exponent: u32,
    len: u32,
}

fn write_f32(row: &MatrixData<'_>, to: &mut [u8]) {
    let mut places = to.as_chunks_mut().0.iter_mut();
    for_each_widened(row, |value| {
        if let Some(place) = places.next() {
            *place = value.to_le_bytes();
        }
    });
}

/// Returns the memory that a matrix of these parts takes on a GPU, whatever their bytes.
///
/// # Units
/// bytes
pub fn matrix_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
    let (rows, cols) = shape_of(parts);
    let (row_bytes, factor_bytes) = Weights::of(parts, format).row_bytes(cols);
    rows as u64 * (row_bytes + factor_bytes) as u64
}

/// Returns the room in which a matrix of these parts is widened for steps of so many rows.
///
/// # Units
/// bytes
pub fn widened_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
    let (rows, cols) = shape_of(parts);
    let num_widened = num_widened(Weights::of(parts, format), rows, cols).unwrap_or(0);
    (num_widened * size_of::<half::bf16>()) as u64
}

fn num_widened(weights: Weights, rows: usize, cols: usize) -> Option<usize> {
    match weights {
        Weights::Codes(_) => Some(rows.saturating_mul(cols)).filter(|&len| len <= WIDENED_MAX),
        Weights::Bf16 | Weights::F16 | Weights::F32 => None,
    }
}

fn shape_of(parts: &[MatrixData<'_>]) -> (usize, usize) {
    let rows = parts.iter().map(|part| part.rows).sum();
    (rows, parts.first().map_or(0, |part| part.cols))
}
