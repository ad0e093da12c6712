//! Which matrices of a model the adapters add to, and their pairs as a device is given them.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice::from_ref,
};

use kernels::{
    allocate,
    backend::{DType, MatrixData},
    lora::{LoraPair, LoraShape, RANK_MULTIPLE},
    widen::for_each_widened,
};

use crate::{
    adapter::Adapter,
    arch,
    config::DecoderSpec,
    error::{AdapterError, ModelError, WeightsError},
    shown::escape,
    weights::{FeedForwardPlan, Kept, LayerPlan, Role, TensorSpec, WeightPlan, Weights},
};

/// What the graphs of steps with adapters take on a GPU: as many as of other steps, 128 of about 1 MiB.
const GRAPH_BYTES: u64 = 128 << 20;

/// What PEFT writes before the name of a module.
const PREFIX: &str = "base_model.model.";

/// The adapters of a model, each checked against it.
#[derive(Debug)]
pub(crate) struct Adapters<'a> {
    adapters: &'a [Adapter],
    /// The module of each matrix that can be adapted, by the name that the model's own files have for it.
    modules: BTreeMap<String, String>,
}

/// What an adapter adds to a product, on the host.
#[derive(Debug)]
pub(crate) struct OwnedPair {
    rank: usize,
    rows: usize,
    cols: usize,
    down: Vec<u8>,
    up: Vec<u8>,
}

impl OwnedPair {
    /// Returns it as a backend takes it.
    pub(crate) fn as_pair(&self) -> LoraPair<'_> {
        let Self { rank, rows, cols, down, up } = self;
        let matrix = |rows, cols, bytes| MatrixData { rows, cols, dtype: DType::F32, bytes };
        LoraPair { down: matrix(*rank, *cols, down), up: matrix(*rows, *rank, up) }
    }
}

impl<'a> Adapters<'a> {
    /// Checks the adapters against a model and its plan, whole and as its files name it.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] with the name of the first that does not fit; [`ModelError::Config`].
    pub(crate) fn new(
        adapters: &'a [Adapter],
        spec: &DecoderSpec,
        plan: &WeightPlan,
    ) -> Result<Self, ModelError> {
        let mut modules = BTreeMap::new();
        if adapters.is_empty() {
            return Ok(Self { adapters, modules });
        }
        // PEFT names modules as transformers does, whatever the files of the model do.
        let named = arch::plan(spec)?;
        let mut shapes = BTreeMap::new();
        for (own, named) in adapted(plan).zip(adapted(&named)) {
            let module = named.name.strip_suffix(".weight").unwrap_or(&named.name).to_owned();
            shapes.insert(module.clone(), [named.shape[0], named.shape[1]]);
            modules.insert(own.name.clone(), module);
        }
        for adapter in adapters {
            adapter.check(&shapes).map_err(|source| adapter.error(source))?;
        }
        Ok(Self { adapters, modules })
    }

    /// Returns the sizes of the pairs of a rank's plan; `None` where there are no adapters.
    pub(crate) fn shape(&self, plan: &WeightPlan) -> Option<LoraShape> {
        let num_adapters = self.adapters.len();
        let none = LoraShape { num_adapters, max_cols: 0, max_rank: 0, max_rows: 0 };
        let products = plan.layers.iter().flat_map(LayerPlan::matrices);
        products.fold(None, |shape: Option<LoraShape>, (parts, _)| {
            let Some(rank) = self.rank(parts) else { return shape };
            let (most, (rows, cols)) = (shape.unwrap_or(none), kept_sizes(parts));
            Some(LoraShape {
                num_adapters,
                max_cols: most.max_cols.max(cols),
                max_rank: most.max_rank.max(rank),
                max_rows: most.max_rows.max(rows),
            })
        })
    }

    /// Returns the memory that the pairs of a rank's plan take.
    ///
    /// # Units
    /// bytes
    pub(crate) fn num_bytes(&self, plan: &WeightPlan, is_gpu: bool) -> u64 {
        let products = plan.layers.iter().flat_map(LayerPlan::matrices);
        let bytes = products.filter_map(|(parts, _)| {
            let (rank, (rows, cols)) = (self.rank(parts)?, kept_sizes(parts));
            let bytes = if is_gpu { kernels::cuda::pairs_bytes } else { kernels::cpu::pairs_bytes };
            Some(bytes(self.adapters.len(), rank, rows, cols))
        });
        bytes.sum()
    }

    /// Returns how wide gates and ups are by themselves, before they meet; 0 where no adapter adds to them.
    pub(crate) fn gate_width(&self, plan: &WeightPlan) -> usize {
        let width = |layer: &LayerPlan| {
            let FeedForwardPlan::Dense(dense) = &layer.ffn else { return 0 };
            let mut parts = dense.gate.iter().chain([&dense.up]);
            let is_adapted = parts.any(|part| self.rank(from_ref(part)).is_some());
            if is_adapted { dense.up.kept_shape()[0] } else { 0 }
        };
        plan.layers.iter().map(width).max().unwrap_or(0)
    }

    /// Returns what a step with adapters takes beside one without.
    ///
    /// # Units
    /// bytes
    pub(crate) fn room_bytes(&self, plan: &WeightPlan, is_gpu: bool, max_num_tokens: usize) -> u64 {
        let Some(shape) = self.shape(plan) else { return 0 };
        let LoraShape { max_cols, max_rank, max_rows, .. } = shape;
        let gates = 2 * self.gate_width(plan);
        let own = if is_gpu { max_rank } else { max_cols + max_rank + max_rows };
        let graphs = if is_gpu { GRAPH_BYTES } else { 0 };
        (max_num_tokens as u64) * ((gates + own) * size_of::<f32>()) as u64 + graphs
    }

    /// Returns the rank that the adapters of a product are brought to; `None` where none adds to it.
    pub(crate) fn rank(&self, parts: &[TensorSpec]) -> Option<usize> {
        let rank_of = |adapter: &Adapter| -> usize {
            parts.iter().filter_map(|part| self.module(adapter, part)).map(|(_, rank)| rank).sum()
        };
        let most = self.adapters.iter().map(rank_of).max().filter(|rank| *rank > 0)?;
        Some(most.next_multiple_of(RANK_MULTIPLE))
    }

    /// Reads what each adapter adds to a product: `A` of all parts above each other, and `B` with their scales, each part's in
    /// its own rows and columns. What an adapter has nothing for is zeros.
    ///
    /// # Errors
    /// [`ModelError::Read`]; [`ModelError::Weights`] where something is no number.
    pub(crate) fn pairs(&self, parts: &[TensorSpec]) -> Result<Option<Vec<OwnedPair>>, ModelError> {
        let Some(rank) = self.rank(parts) else { return Ok(None) };
        let pair = |adapter| {
            self.pair(adapter, parts, rank).map_err(|source| Adapter::error(adapter, source))
        };
        self.adapters.iter().map(pair).collect::<Result<_, _>>().map(Some)
    }

    fn pair(
        &self,
        adapter: &Adapter,
        parts: &[TensorSpec],
        rank: usize,
    ) -> Result<OwnedPair, ModelError> {
        let (rows, cols) = kept_sizes(parts);
        let mut down = allocate::zeroed(rank * cols, "the host")?;
        let mut up = allocate::zeroed(rows * rank, "the host")?;
        let (mut first_row, mut first_rank) = (0, 0);
        for part in parts {
            let num_rows = part.kept_shape()[0];
            if let Some((module, own_rank)) = self.module(adapter, part) {
                let [a, b] = tensors(module, own_rank, part);
                let values = read(&adapter.weights, &a)?;
                down[first_rank * cols..][..values.len()].copy_from_slice(&values);
                let scale = adapter.config.scale_of(module);
                for (row, values) in read(&adapter.weights, &b)?.chunks_exact(own_rank).enumerate()
                {
                    let to = &mut up[(first_row + row) * rank + first_rank..][..own_rank];
                    for (to, value) in to.iter_mut().zip(values) {
                        *to = (f64::from(*value) * scale) as f32;
                    }
                }
                // A scale may be too large for what it is multiplied with.
                check_finite(&b, &up)?;
                first_rank += own_rank;
            }
            first_row += num_rows;
        }
        Ok(OwnedPair { rank, rows, cols, down: bytes_of(down)?, up: bytes_of(up)? })
    }

    /// Returns the module of a part and its rank, where an adapter adds to it.
    fn module(&self, adapter: &Adapter, part: &TensorSpec) -> Option<(&str, usize)> {
        let module = self.modules.get(&part.name)?;
        adapter.weights.shape_of(&tensor_name(module, "A"))?;
        Some((module, adapter.config.rank_of(module)))
    }
}

impl Adapter {
    /// Says of which adapter an error is.
    fn error(&self, source: ModelError) -> ModelError {
        ModelError::Adapter { name: self.name.clone(), source: Box::new(source) }
    }

    /// Compares what is stored with the matrices of a model, `[rows, cols]` by module.
    fn check(&self, shapes: &BTreeMap<String, [usize; 2]>) -> Result<(), ModelError> {
        let mut used = BTreeSet::new();
        for (module, [rows, cols]) in shapes {
            let [a, b] = ["A", "B"].map(|which| tensor_name(module, which));
            if self.weights.shape_of(&a).or(self.weights.shape_of(&b)).is_none() {
                continue;
            }
            self.config.check(module)?;
            let matrix = TensorSpec::matrix(module, *rows, *cols);
            for tensor in tensors(module, self.config.rank_of(module), &matrix) {
                self.weights.find(&tensor)?;
            }
            used.extend([a, b]);
        }
        let mut unused = self.weights.names().filter(|name| !used.contains(*name));
        match unused.next() {
            Some(tensor) => {
                let (tensor, num_unused) = (escape(tensor), 1 + unused.count());
                Err(AdapterError::NoPlace { tensor, num_unused }.into())
            }
            None if used.is_empty() => Err(AdapterError::Empty.into()),
            None => Ok(()),
        }
    }
}

/// Returns the matrices that can be adapted: those that every token meets, but for the routers.
fn adapted(plan: &WeightPlan) -> impl Iterator<Item = &TensorSpec> {
    let matrices = plan.layers.iter().flat_map(LayerPlan::matrices);
    matrices.filter(|(_, role)| *role == Role::Plain).flat_map(|(parts, _)| parts)
}

fn tensor_name(module: &str, which: &str) -> String {
    format!("{PREFIX}{module}.lora_{which}.weight")
}

/// Returns `A` and `B` of a matrix, cut as it is: a rank that has some of its rows has those of `B`, and one that has some of
/// its columns has those of `A`, whose part of the sum `B` then makes its part of the product.
fn tensors(module: &str, rank: usize, part: &TensorSpec) -> [TensorSpec; 2] {
    let (rows, cols) = (part.shape[0], part.shape[1]);
    let (of_a, of_b) = match &part.kept {
        Kept::All => (Kept::All, Kept::All),
        Kept::Rows(ranges) => (Kept::All, Kept::Rows(ranges.clone())),
        Kept::Cols(range) => (Kept::Cols(range.clone()), Kept::All),
    };
    let a = TensorSpec::matrix(tensor_name(module, "A"), rank, cols);
    let b = TensorSpec::matrix(tensor_name(module, "B"), rows, rank);
    [TensorSpec { kept: of_a, ..a }, TensorSpec { kept: of_b, ..b }]
}

/// Returns the rows of all parts together, and their columns.
fn kept_sizes(parts: &[TensorSpec]) -> (usize, usize) {
    (parts.iter().map(|part| part.kept_shape()[0]).sum(), parts[0].kept_shape()[1])
}

fn read(weights: &Weights, tensor: &TensorSpec) -> Result<Vec<f32>, ModelError> {
    let mut values = Vec::with_capacity(tensor.num_kept());
    for view in weights.views(tensor)? {
        for_each_widened(&view.as_matrix(), |value| values.push(value));
    }
    check_finite(tensor, &values)?;
    Ok(values)
}

fn bytes_of(values: Vec<f32>) -> Result<Vec<u8>, ModelError> {
    let mut bytes = allocate::reserved(size_of_val(&values[..]), "the host")?;
    bytes.extend(values.into_iter().flat_map(f32::to_le_bytes));
    Ok(bytes)
}

fn check_finite(tensor: &TensorSpec, values: &[f32]) -> Result<(), WeightsError> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(WeightsError::NotFinite { tensors: vec![tensor.name.clone()] })
}
