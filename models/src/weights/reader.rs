//! Brings stored tensors to a backend: stacks the parts of fused matrices, widens where asked, counts bytes.

use std::borrow::Cow;

use half::{bf16, f16};
use kernels::backend::{Backend, DType, MatrixData};

use crate::{
    error::{ModelError, WeightsError},
    load::WeightDtype,
    weights::{TensorSpec, WeightPlan, Weights},
};

/// How far loading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Stored bytes brought to the device so far.
    pub bytes_done: u64,
    /// Stored bytes in all; reached exactly at the end.
    pub bytes_total: u64,
}

/// Reads the tensors of a plan, reporting after each.
pub(crate) struct WeightReader<'a> {
    weights: &'a Weights,
    dtype: WeightDtype,
    progress: Progress,
    report: &'a mut dyn FnMut(Progress),
}

impl<'a> WeightReader<'a> {
    /// Starts reading. The weights must have passed [`Weights::check`] for this plan.
    pub(crate) fn new(
        weights: &'a Weights,
        plan: &WeightPlan,
        dtype: WeightDtype,
        report: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, WeightsError> {
        let mut progress = Progress::default();
        for tensor in plan.tensors() {
            progress.bytes_total += weights.tensor(tensor)?.bytes.len() as u64;
        }
        report(progress);
        Ok(Self { weights, dtype, progress, report })
    }

    /// Stores `parts`, stacked by rows, as one matrix.
    pub(crate) fn matrix<B: Backend>(
        &mut self,
        backend: &B,
        parts: &[TensorSpec],
    ) -> Result<B::Matrix, ModelError> {
        let weights = self.weights;
        let mut stored = Vec::with_capacity(parts.len());
        for part in parts {
            stored.push(weights.tensor(part)?);
        }
        // A matrix has one element type; files that mix them within a fused one are rare, and f32 holds all.
        let is_mixed = stored.iter().any(|tensor| tensor.dtype != stored[0].dtype);
        let widens = is_mixed || self.dtype == WeightDtype::F32;
        let bytes: Vec<Cow<'_, [u8]>> = stored
            .iter()
            .map(|tensor| match tensor.dtype {
                DType::Bf16 | DType::F16 if widens => {
                    widen_bytes(tensor.dtype, tensor.bytes).into()
                }
                DType::Bf16 | DType::F16 | DType::F32 => Cow::Borrowed(tensor.bytes),
            })
            .collect();
        let data: Vec<MatrixData<'_>> = (parts.iter().zip(&stored).zip(&bytes))
            .map(|((part, tensor), bytes)| MatrixData {
                rows: part.shape[0],
                cols: part.shape[1],
                dtype: if widens { DType::F32 } else { tensor.dtype },
                bytes,
            })
            .collect();
        let matrix = backend.matrix(&data)?;
        self.advance(stored.iter().map(|tensor| tensor.bytes.len()).sum());
        Ok(matrix)
    }

    /// Stores `parts`, one behind the other, as one vector.
    pub(crate) fn vector<B: Backend>(
        &mut self,
        backend: &B,
        parts: &[TensorSpec],
    ) -> Result<B::Vector, ModelError> {
        let mut values = Vec::with_capacity(parts.iter().map(TensorSpec::num_elements).sum());
        let mut num_bytes = 0;
        for part in parts {
            let stored = self.weights.tensor(part)?;
            widen(stored.dtype, stored.bytes, |value| values.push(value));
            num_bytes += stored.bytes.len();
        }
        let vector = backend.vector(&values)?;
        self.advance(num_bytes);
        Ok(vector)
    }

    fn advance(&mut self, num_bytes: usize) {
        self.progress.bytes_done += num_bytes as u64;
        (self.report)(self.progress);
    }
}

fn widen_bytes(dtype: DType, bytes: &[u8]) -> Vec<u8> {
    let mut wide = Vec::with_capacity(bytes.len() / dtype.num_bytes() * DType::F32.num_bytes());
    widen(dtype, bytes, |value| wide.extend_from_slice(&value.to_le_bytes()));
    wide
}

fn widen(dtype: DType, bytes: &[u8], mut take: impl FnMut(f32)) {
    // Each arm has its own loop, so that the element type is decided once.
    match dtype {
        DType::F32 => {
            for chunk in bytes.as_chunks().0 {
                take(f32::from_le_bytes(*chunk));
            }
        }
        DType::Bf16 => {
            for chunk in bytes.as_chunks().0 {
                take(bf16::from_le_bytes(*chunk).to_f32());
            }
        }
        DType::F16 => {
            for chunk in bytes.as_chunks().0 {
                take(f16::from_le_bytes(*chunk).to_f32());
            }
        }
    }
}
