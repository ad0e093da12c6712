//! Weights on a device: rows as they lie in the file, or int8 codes with a scale for each 32.

use half::f16;

use crate::backend::{BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory};
use crate::formats::{CodeRun, RUN_LEN, for_each_run, round_to_int8};
use crate::widen::for_each_widened;

/// Elements of a row that a lane reads at once: a row begins at a multiple of 16 bytes.
const COLS_MULTIPLE: usize = 8;

/// What the rows of a [`CudaMatrix`] are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Bf16,
    F16,
    F32,
    /// Codes with a scale in half precision for each 32 columns.
    Int8,
}

impl Weights {
    /// Returns the word for it in the names of kernels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }

    fn element_bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Returns what holds all parts: exactly where they are plain, as the same codes where they are codes without minimums.
    pub(super) fn of(parts: &[MatrixData<'_>], format: WeightFormat) -> Self {
        let is_all = |dtype| parts.iter().all(|part| part.dtype == dtype);
        match format {
            WeightFormat::F32 => Self::F32,
            WeightFormat::Int8 => Self::Int8,
            WeightFormat::Stored if is_all(DType::Bf16) => Self::Bf16,
            WeightFormat::Stored if is_all(DType::F16) => Self::F16,
            WeightFormat::Stored if parts.iter().all(|part| part.dtype.is_blocks()) => Self::Int8,
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
    /// `[rows, cols / 32]` f16, for int8.
    scales: Option<M>,
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
        let multiple = if weights == Weights::Int8 { RUN_LEN } else { COLS_MULTIPLE };
        if !cols.is_multiple_of(multiple) {
            let name = weights.name();
            return check.refuse(format!(
                "`cols` of {name} must be a multiple of {multiple} on a GPU, got {cols}"
            ));
        }
        if let Some(part) =
            parts.iter().find(|part| weights == Weights::Int8 && has_minimums(part.dtype))
        {
            return check.refuse(format!(
                "weights of type {} are not computed on a GPU yet; take safetensors, or a GGUF file of q8_0 or q4_0",
                part.dtype.name()
            ));
        }
        let num_bytes = rows.saturating_mul(cols).saturating_mul(weights.element_bytes());
        let data = device.allocate(num_bytes)?;
        let scales = match weights {
            Weights::Int8 => Some(device.allocate(rows * cols / RUN_LEN * size_of::<f16>())?),
            Weights::Bf16 | Weights::F16 | Weights::F32 => None,
        };
        let mut matrix = Self { rows, cols, weights, data, scales };
        matrix.fill(device, parts)?;
        Ok(matrix)
    }

    /// Returns the address of the elements.
    pub(super) fn data(&self) -> Argument {
        Argument::Pointer(self.data.address())
    }

    /// Returns the address of the scales; null where there are none.
    pub(super) fn scales(&self) -> Argument {
        Argument::Pointer(self.scales.as_ref().map_or(0, DeviceMemory::address))
    }

    fn fill<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        parts: &[MatrixData<'_>],
    ) -> Result<(), BackendError> {
        let mut row = 0;
        for part in parts {
            let bytes_per_row = self.cols * self.weights.element_bytes();
            match self.weights {
                Weights::Int8 => self.fill_codes(device, part, row)?,
                Weights::F32 if part.dtype != DType::F32 => {
                    for index in 0..part.rows {
                        let mut values = Vec::with_capacity(self.cols);
                        for_each_widened(&part.row(index), |value| values.push(value));
                        let offset = (row + index) * bytes_per_row;
                        device.upload(&mut self.data, offset, bytemuck::cast_slice(&values))?;
                    }
                }
                Weights::Bf16 | Weights::F16 | Weights::F32 => {
                    device.upload(&mut self.data, row * bytes_per_row, part.bytes)?;
                }
            }
            row += part.rows;
        }
        Ok(())
    }

    fn fill_codes<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        part: &MatrixData<'_>,
        first_row: usize,
    ) -> Result<(), BackendError> {
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        let mut push = |run: &CodeRun| {
            codes.extend_from_slice(&run.codes);
            scales.push(f16::from_f32(run.scales[0]));
        };
        if part.dtype.is_blocks() {
            for_each_run(part.dtype, part.bytes, &mut push);
        } else {
            let mut values = Vec::with_capacity(part.rows * part.cols);
            for_each_widened(part, |value| values.push(value));
            for run in values.as_chunks::<RUN_LEN>().0 {
                push(&round_to_int8(run));
            }
        }
        device.upload(&mut self.data, first_row * self.cols, bytemuck::cast_slice(&codes))?;
        let Some(memory) = &mut self.scales else { return Ok(()) };
        let offset = first_row * self.cols / RUN_LEN * size_of::<f16>();
        device.upload(memory, offset, bytemuck::cast_slice(&scales))
    }

    /// Returns what must hold numbers for the matrix to hold numbers: kernel, address, bits of the exponent, count.
    pub(super) fn numbers(&self) -> (&'static str, Argument, u32, u32) {
        // A matrix of more would not fit into a launch's 32 bits, nor into most GPUs.
        let len = u32::try_from(self.rows * self.cols).unwrap_or(u32::MAX);
        match self.weights {
            Weights::Bf16 => ("find_broken_16", self.data(), 0x7f80, len),
            Weights::F16 => ("find_broken_16", self.data(), 0x7c00, len),
            Weights::F32 => ("find_broken_32", self.data(), 0x7f80_0000, len),
            Weights::Int8 => ("find_broken_16", self.scales(), 0x7c00, len / RUN_LEN as u32),
        }
    }
}

/// Returns the memory that a matrix of these parts takes on a GPU, whatever their bytes.
///
/// # Units
/// bytes
pub fn matrix_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
    let num_elements: usize = parts.iter().map(|part| part.rows * part.cols).sum();
    let weights = Weights::of(parts, format);
    let num_bytes = num_elements * weights.element_bytes();
    let scale_bytes = num_elements / RUN_LEN * size_of::<f16>();
    (if weights == Weights::Int8 { num_bytes + scale_bytes } else { num_bytes }) as u64
}

/// Returns whether blocks of the type have more than codes with one scale for 32.
fn has_minimums(dtype: DType) -> bool {
    match dtype {
        DType::F32 | DType::Bf16 | DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => false,
        DType::Q4_1
        | DType::Q5_1
        | DType::Q2K
        | DType::Q3K
        | DType::Q4K
        | DType::Q5K
        | DType::Q6K => true,
    }
}
