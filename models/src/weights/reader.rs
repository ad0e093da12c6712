//! Brings stored tensors to a backend: stacks the parts of fused matrices, counts bytes.

use std::slice::from_ref;

use kernels::{
    allocate,
    backend::{Backend, BackendError, MatrixData, WeightFormat},
    lora::{Lora, LoraShape},
    mixture::Mixture,
    widen::for_each_widened,
};

use crate::{
    adapter::{Adapters, OwnedPair},
    error::{ModelError, WeightsError},
    weights::{Stored, TensorSpec, TensorView, WeightPlan, Weights},
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
    adapters: &'a Adapters<'a>,
    progress: Progress,
    report: &'a mut dyn FnMut(Progress),
}

impl<'a> WeightReader<'a> {
    /// Starts reading. The weights must have passed [`Weights::check`] for this plan.
    pub(crate) fn new(
        weights: &'a Weights,
        plan: &WeightPlan,
        format: WeightFormat,
        adapters: &'a Adapters<'a>,
        report: &'a mut dyn FnMut(Progress),
    ) -> Result<Self, WeightsError> {
        let mut progress = Progress::default();
        for tensor in plan.tensors() {
            progress.bytes_total += weights.kept_bytes(tensor)?;
        }
        report(progress);
        Ok(Self { weights, format, adapters, progress, report })
    }

    /// Stores `parts`, stacked by rows, as one matrix.
    pub(crate) fn matrix<B: Backend>(
        &mut self,
        backend: &mut B,
        parts: &[TensorSpec],
    ) -> Result<B::Matrix, ModelError> {
        self.matrix_as(backend, parts, self.format)
    }

    /// The same in no format that rounds.
    pub(crate) fn exact_matrix<B: Backend>(
        &mut self,
        backend: &mut B,
        parts: &[TensorSpec],
    ) -> Result<B::Matrix, ModelError> {
        self.matrix_as(backend, parts, exact(self.format))
    }

    fn matrix_as<B: Backend>(
        &mut self,
        backend: &mut B,
        parts: &[TensorSpec],
        format: WeightFormat,
    ) -> Result<B::Matrix, ModelError> {
        let loaded = self.read(parts)?;
        let matrix = backend.matrix(&loaded.data(), format)?;
        if !backend.is_finite(&matrix)? {
            return Err(not_finite(parts));
        }
        self.advance(loaded.num_bytes());
        Ok(matrix)
    }

    /// Returns the sizes of what adapters add to a rank's plan, and the width of gates and ups that they take apart; `None`
    /// where there are no adapters.
    pub(crate) fn lora_sizes(&self, plan: &WeightPlan) -> Option<(LoraShape, usize)> {
        Some((self.adapters.shape(plan)?, self.adapters.gate_width(plan)))
    }

    /// Stores what adapters add to a product; `None` where they add nothing.
    pub(crate) fn pairs<B: Backend>(
        &self,
        backend: &mut B,
        lora: &B::Lora,
        parts: &[TensorSpec],
    ) -> Result<Option<<B::Lora as Lora<B>>::Pairs>, ModelError> {
        let Some(pairs) = self.adapters.pairs(parts)? else { return Ok(None) };
        let pairs: Vec<_> = pairs.iter().map(OwnedPair::as_pair).collect();
        Ok(Some(lora.pairs(backend, &pairs)?))
    }

    /// Stores a matrix of each expert.
    pub(crate) fn experts<B: Backend>(
        &mut self,
        backend: &mut B,
        mixture: &B::Mixture,
        matrices: &[TensorSpec],
    ) -> Result<<B::Mixture as Mixture<B>>::Experts, ModelError> {
        let loaded = self.read(matrices)?;
        let data = loaded.data();
        let experts = mixture.experts(backend, &data, self.format)?;
        if !B::Mixture::are_finite(backend, &experts)? {
            let broken = data.iter().zip(matrices).find(|(data, _)| !is_finite(data));
            // Int8 makes no number of what is too large for the scales of a block.
            return Err(not_finite(broken.map_or(matrices, |(_, tensor)| from_ref(tensor))));
        }
        self.advance(loaded.num_bytes());
        Ok(experts)
    }

    /// Reads what is loaded of each part, rows of several ranges one view each.
    fn read(&self, parts: &[TensorSpec]) -> Result<Loaded<'a>, ModelError> {
        let mut loaded = Loaded { views: Vec::new(), turned: Vec::new() };
        for part in parts {
            for view in self.weights.views(part)? {
                loaded.turned.push(put_right(part, &view)?);
                loaded.views.push(view);
            }
        }
        Ok(loaded)
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
            let missing = if part.stored == Stored::LessOne { 1.0 } else { 0.0 };
            for view in self.weights.views(part)? {
                let turned = put_right(part, &view)?;
                for_each_widened(&data_of((&view, &turned)), |value| values.push(value + missing));
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

/// Tensors while they are brought to the device.
struct Loaded<'a> {
    views: Vec<TensorView<'a>>,
    turned: Vec<Option<Vec<u8>>>,
}

impl Loaded<'_> {
    fn data(&self) -> Vec<MatrixData<'_>> {
        self.views.iter().zip(&self.turned).map(data_of).collect()
    }

    fn num_bytes(&self) -> usize {
        self.data().iter().map(|part| part.bytes.len()).sum()
    }
}

/// Returns the format of what must not be rounded.
pub(crate) fn exact(format: WeightFormat) -> WeightFormat {
    match format {
        WeightFormat::Stored | WeightFormat::Int8 | WeightFormat::Fp8 => WeightFormat::Stored,
        WeightFormat::F32 => WeightFormat::F32,
    }
}

fn is_finite(data: &MatrixData<'_>) -> bool {
    let mut is_finite = true;
    for_each_widened(data, |value| is_finite &= value.is_finite());
    is_finite
}

/// Returns a tensor's bytes in the order that we compute with, where the file has another.
fn put_right(part: &TensorSpec, view: &TensorView<'_>) -> Result<Option<Vec<u8>>, BackendError> {
    match part.stored {
        Stored::AsIs | Stored::LessOne => Ok(None),
        Stored::NeighbouringPairs { head_dim } => {
            let MatrixData { rows, cols, bytes, .. } = view.as_matrix();
            // An element of a bias is what a row is to its matrix.
            let num_rows = if part.shape.len() == 1 { cols } else { rows };
            with_halves(bytes, num_rows, head_dim).map(Some)
        }
    }
}

/// Returns a tensor as a matrix, its bytes as they were put right where they were.
fn data_of<'d>((view, turned): (&'d TensorView<'_>, &'d Option<Vec<u8>>)) -> MatrixData<'d> {
    let stored = view.as_matrix();
    MatrixData { bytes: turned.as_deref().unwrap_or(stored.bytes), ..stored }
}

/// Brings rows of heads, or elements of their bias, whose pairs are neighbours into the order of halves. Whole rows move, so that blocks stay whole.
///
/// # Panics
/// Where a head is not whole: ranks have whole ones.
fn with_halves(bytes: &[u8], num_rows: usize, head_dim: usize) -> Result<Vec<u8>, BackendError> {
    assert!(num_rows.is_multiple_of(head_dim), "a part has whole heads");
    let mut turned = allocate::zeroed(bytes.len(), "the host")?;
    let (row_bytes, half) = (bytes.len() / num_rows.max(1), head_dim / 2);
    for (row, to) in turned.chunks_exact_mut(row_bytes.max(1)).enumerate() {
        let (head, element) = (row / head_dim, row % head_dim);
        let from = head * head_dim + 2 * (element % half) + element / half;
        to.copy_from_slice(&bytes[from * row_bytes..][..row_bytes]);
    }
    Ok(turned)
}

fn not_finite(parts: &[TensorSpec]) -> ModelError {
    let tensors = parts.iter().map(|part| part.name.clone()).collect();
    WeightsError::NotFinite { tensors }.into()
}
