//! Brings stored tensors to a backend: stacks the parts of fused matrices, widens where asked, counts bytes.

use std::borrow::Cow;

use kernels::{
    backend::{Backend, DType, MatrixData},
    widen::for_each_widened,
};

use crate::{
    error::{ModelError, WeightsError},
    load::WeightDtype,
    weights::{StoredTensor, TensorSpec, WeightPlan, Weights},
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
        let bytes: Vec<Cow<'_, [u8]>> = stored
            .iter()
            .map(|tensor| match tensor.dtype {
                DType::Bf16 | DType::F16 if self.dtype == WeightDtype::F32 => {
                    widen_bytes(tensor).into()
                }
                DType::Bf16 | DType::F16 | DType::F32 => Cow::Borrowed(tensor.bytes),
            })
            .collect();
        let data: Vec<MatrixData<'_>> = (parts.iter().zip(&stored).zip(&bytes))
            .map(|((part, tensor), bytes)| MatrixData {
                rows: part.shape[0],
                cols: part.shape[1],
                dtype: match self.dtype {
                    WeightDtype::Stored => tensor.dtype,
                    WeightDtype::F32 => DType::F32,
                },
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
            for_each_widened(&stored.as_row(), |value| values.push(value));
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

fn widen_bytes(tensor: &StoredTensor<'_>) -> Vec<u8> {
    let row = tensor.as_row();
    let mut wide = Vec::with_capacity(row.cols * DType::F32.num_bytes());
    for_each_widened(&row, |value| wide.extend_from_slice(&value.to_le_bytes()));
    wide
}
