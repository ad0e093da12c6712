//! Brings stored tensors to a backend: stacks the parts of fused matrices, counts bytes.

use kernels::{
    backend::{Backend, MatrixData, WeightFormat},
    widen::for_each_widened,
};

use crate::{
    error::{ModelError, WeightsError},
    weights::{TensorSpec, TensorView, WeightPlan, Weights},
};

/// How far loading is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Stored bytes brought to the device so far; of several devices, to the first.
    pub bytes_done: u64,
    /// Stored bytes in all; reached exactly at the end.
    pub bytes_total: u64,
}

/// Reads the tensors of a plan, reporting after each.
pub(crate) struct WeightReader<'a> {
    weights: &'a Weights,
    format: WeightFormat,
    progress: Progress,
    report: &'a mut dyn FnMut(Progress),
}

impl<'a> WeightReader<'a> {
    /// Starts reading. The weights must have passed [`Weights::check`] for this plan.
    pub(crate) fn new(
        weights: &'a Weights,
        plan: &WeightPlan,
        format: WeightFormat,
        report: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, WeightsError> {
        let mut progress = Progress::default();
        for tensor in plan.tensors() {
            progress.bytes_total += weights.kept_bytes(tensor)?;
        }
        report(progress);
        Ok(Self { weights, format, progress, report })
    }

    /// Stores `parts`, stacked by rows, as one matrix.
    pub(crate) fn matrix<B: Backend>(
        &mut self,
        backend: &mut B,
        parts: &[TensorSpec],
    ) -> Result<B::Matrix, ModelError> {
        let weights = self.weights;
        let mut views = Vec::with_capacity(parts.len());
        for part in parts {
            views.extend(weights.views(part)?);
        }
        let data: Vec<MatrixData<'_>> = views.iter().map(TensorView::as_matrix).collect();
        let matrix = backend.matrix(&data, self.format)?;
        if !backend.is_finite(&matrix)? {
            return Err(not_finite(parts));
        }
        self.advance(data.iter().map(|part| part.bytes.len()).sum());
        Ok(matrix)
    }

    /// Stores `parts`, one behind the other, as one vector.
    pub(crate) fn vector<B: Backend>(
        &mut self,
        backend: &B,
        parts: &[TensorSpec],
    ) -> Result<B::Vector, ModelError> {
        let mut values = Vec::with_capacity(parts.iter().map(TensorSpec::num_kept).sum());
        let mut num_bytes = 0;
        for part in parts {
            for view in self.weights.views(part)? {
                for_each_widened(&view.as_matrix(), |value| values.push(value));
                num_bytes += view.as_matrix().bytes.len();
            }
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(not_finite(parts));
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

fn not_finite(parts: &[TensorSpec]) -> ModelError {
    let tensors = parts.iter().map(|part| part.name.clone()).collect();
    WeightsError::NotFinite { tensors }.into()
}
