//! Mixtures of experts on a device: the router's choice, the pairs of each expert, their products and the weighted sum.
//!
//! The host knows none of it: launches depend on the number of tokens only, so that a graph holds them.

use crate::backend::{Backend, BackendError, MatrixData, StepRows, WeightFormat};
use crate::checks::Check;
use crate::cuda::CudaBackend;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::cuda::grouped::{Grouped, GroupedProduct, TILE_ROWS, Wanted, address};
use crate::cuda::matrix::{CudaMatrix, Weights};
use crate::cuda::memory::{CudaBuffer, Elements};
use crate::cuda::products::number_of;
use crate::cuda::step::{CudaStep, StepArray};
use crate::mixture::{Experts, Mixture, MixtureShape};

/// Threads of a block of `add_experts`.
const THREADS: u32 = 256;

/// The room of mixtures on a device.
#[derive(Debug)]
pub struct CudaMixture<M> {
    shape: MixtureShape,
    max_num_tokens: usize,
    num_tokens: usize,
    /// The experts of each token: `[num_pairs]`.
    experts: M,
    /// Their weights.
    weights: CudaBuffer<M>,
    grouped: Grouped<M>,
    /// What gates and ups come to: `[num_pairs, expert_size]`.
    wide: CudaBuffer<M>,
    /// What the experts make of their tokens: `[num_pairs, hidden_size]`.
    narrow: CudaBuffer<M>,
}

impl<D: Device> Mixture<CudaBackend<D>> for CudaMixture<D::Memory> {
    /// `[num_experts * rows, cols]`
    type Experts = CudaMatrix<D::Memory>;

    fn new(
        backend: &mut CudaBackend<D>,
        shape: &MixtureShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        shape.check()?;
        let (device, num_pairs) = (&backend.device, shape.num_pairs(max_num_tokens));
        let buffer = |width: usize, elements| {
            CudaBuffer::new(device, num_pairs.saturating_mul(width), elements)
        };
        Ok(Self {
            shape: *shape,
            max_num_tokens,
            num_tokens: 0,
            experts: device.allocate(num_pairs.saturating_mul(size_of::<u32>()))?,
            weights: buffer(1, Elements::F32)?,
            grouped: Grouped::new(device, shape.num_experts, num_pairs)?,
            wide: buffer(shape.expert_size, Elements::Bf16)?,
            narrow: buffer(shape.hidden_size, Elements::F32)?,
        })
    }

    fn experts(
        &self,
        backend: &mut CudaBackend<D>,
        matrices: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<CudaMatrix<D::Memory>, BackendError> {
        self.shape.check_matrices(matrices)?;
        match Weights::of(matrices, format) {
            Weights::Bf16 | Weights::Codes(_) => CudaMatrix::new(&backend.device, matrices, format),
            plain @ (Weights::F16 | Weights::F32) => Check("experts").refuse(format!(
                "weights of experts must be bf16 or codes on a GPU, got {}; int8 makes codes of them",
                plain.name()
            )),
        }
    }

    fn are_finite(
        backend: &mut CudaBackend<D>,
        experts: &CudaMatrix<D::Memory>,
    ) -> Result<bool, BackendError> {
        backend.is_finite(experts)
    }

    fn route(
        &mut self,
        backend: &mut CudaBackend<D>,
        step: &CudaStep<D::Memory>,
        logits: &CudaBuffer<D::Memory>,
    ) -> Result<(), BackendError> {
        let (check, StepRows { num_tokens, .. }) = (Check("route"), step.rows());
        let MixtureShape { num_experts, experts_per_token, has_normed_weights, .. } = self.shape;
        check.at_most("tokens of the step", num_tokens, self.max_num_tokens)?;
        check.holds("logits", logits.len(), num_tokens, num_experts)?;
        self.num_tokens = num_tokens;
        if num_tokens == 0 {
            return Ok(());
        }
        let count = |value: usize| Argument::U32(value as u32);
        backend.device.launch(&Launch {
            kernel: "route_tokens",
            grid: [num_tokens as u32, 1, 1],
            num_threads: 32,
            shared_bytes: 0,
            arguments: &[
                address(&self.experts),
                self.weights.address(),
                logits.argument(check, "logits", Elements::F32)?,
                step.array(StepArray::Slots),
                count(num_experts),
                count(experts_per_token),
                count(usize::from(has_normed_weights)),
            ],
        })?;
        self.grouped.group(&mut backend.device, self.wanted())
    }

    fn add(
        &mut self,
        backend: &mut CudaBackend<D>,
        x: &CudaBuffer<D::Memory>,
        experts: &Experts<'_, CudaMatrix<D::Memory>>,
        residual: &mut CudaBuffer<D::Memory>,
    ) -> Result<(), BackendError> {
        let (check, num_tokens) = (Check("experts"), self.num_tokens);
        let MixtureShape { num_experts, experts_per_token, hidden_size, expert_size, .. } =
            self.shape;
        check.holds("x", x.len(), num_tokens, hidden_size)?;
        check.holds("residual", residual.len(), num_tokens, hidden_size)?;
        for (matrix, rows, cols) in [
            (experts.gate, expert_size, hidden_size),
            (experts.up, expert_size, hidden_size),
            (experts.down, hidden_size, expert_size),
        ] {
            check.same_shape((num_experts * rows, cols), (matrix.rows, matrix.cols))?;
        }
        let [gate, up] = [experts.gate, experts.up].map(|matrix| matrix.weights);
        if gate != up {
            let (gate, up) = (gate.name(), up.name());
            return check.refuse(format!("elements of all ups must be {gate}, got {up}"));
        }
        let x = x.argument(check, "x", Elements::Bf16)?;
        let residual = residual.argument(check, "residual", Elements::F32)?;
        if num_tokens == 0 {
            return Ok(());
        }
        self.gate(&mut backend.device, x, experts)?;
        self.way_back(&mut backend.device, experts.down)?;
        backend.device.launch(&Launch {
            kernel: "add_experts",
            grid: [num_tokens as u32, hidden_size.div_ceil(THREADS as usize) as u32, 1],
            num_threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                residual,
                self.narrow.address(),
                address(&self.experts),
                self.weights.address(),
                Argument::U32(experts_per_token as u32),
                Argument::U32(hidden_size as u32),
            ],
        })
    }
}

impl<M: DeviceMemory> CudaMixture<M> {
    /// Returns the pairs of the step that was routed last.
    fn wanted(&self) -> Wanted {
        let num_tokens = self.num_tokens;
        let num_pairs = self.shape.num_pairs(num_tokens);
        Wanted { matrices: address(&self.experts), num_tokens, num_pairs }
    }

    /// `wide = activation(x Gᵀ) * (x Uᵀ)`, a row a pair.
    fn gate<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        x: Argument,
        experts: &Experts<'_, CudaMatrix<M>>,
    ) -> Result<(), BackendError> {
        let MixtureShape { experts_per_token, hidden_size, expert_size, .. } = self.shape;
        let [per_token, rows, cols] =
            [experts_per_token, expert_size, hidden_size].map(|size| size as u32);
        let matrices = [addresses(experts.gate), addresses(experts.up)].concat();
        let product = GroupedProduct {
            what: "gate",
            weights: experts.gate.weights,
            operands: &[&[self.wide.address(), x], &matrices[..]].concat(),
            numbers: &[per_token, rows, cols, number_of(experts.activation)],
            rows: expert_size,
            tile_rows: TILE_ROWS / 2,
        };
        self.grouped.run(device, self.wanted(), &product)
    }

    /// `narrow = wide Dᵀ`, a row a pair.
    fn way_back<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        down: &CudaMatrix<M>,
    ) -> Result<(), BackendError> {
        let MixtureShape { hidden_size, expert_size, .. } = self.shape;
        let product = GroupedProduct {
            what: "store",
            weights: down.weights,
            operands: &[&[self.narrow.address(), self.wide.address()], &addresses(down)[..]]
                .concat(),
            numbers: &[hidden_size as u32, expert_size as u32],
            rows: hidden_size,
            tile_rows: TILE_ROWS,
        };
        self.grouped.run(device, self.wanted(), &product)
    }
}

/// Returns where a kernel finds a matrix; of codes, their factors too.
fn addresses<M: DeviceMemory>(matrix: &CudaMatrix<M>) -> Vec<Argument> {
    match matrix.weights {
        Weights::Codes(_) => vec![matrix.data(), matrix.factors()],
        Weights::Bf16 | Weights::F16 | Weights::F32 => vec![matrix.data()],
    }
}
