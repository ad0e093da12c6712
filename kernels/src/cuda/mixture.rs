//! Mixtures of experts on a device: the router's choice, the pairs of each expert, their products and the weighted sum.
//!
//! The host knows none of it: launches depend on the number of tokens only, so that a graph holds them.

use crate::backend::{Backend, BackendError, MatrixData, StepRows, WeightFormat};
use crate::checks::Check;
use crate::cuda::CudaBackend;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::cuda::matrix::{CudaMatrix, Weights};
use crate::cuda::memory::{CudaBuffer, Elements};
use crate::cuda::products::number_of;
use crate::cuda::step::{CudaStep, StepArray};
use crate::mixture::{Experts, Mixture, MixtureShape};

/// Most tokens whose experts' weights stream past; above it tiles of tokens read them.
const STREAMED_TOKENS_MAX: usize = 64;

/// Rows of weights that a block of `experts_stream.cu` takes.
const STREAM_ROWS: usize = 16;

/// Pairs that a block of `experts_tiles.cu` takes.
const TILE_PAIRS: usize = 64;

/// Rows of weights that a block of `experts_tiles.cu` takes; of gates and ups half of each.
const TILE_ROWS: usize = 128;

/// Threads of a block of either.
const THREADS: u32 = 256;

/// Experts of a block of `group_pairs`, a warp each.
const EXPERTS_PER_BLOCK: usize = 8;

/// The room of mixtures on a device; `route.cu` says what the arrays hold.
#[derive(Debug)]
pub struct CudaMixture<M> {
    shape: MixtureShape,
    max_num_tokens: usize,
    num_tokens: usize,
    experts: M,
    weights: CudaBuffer<M>,
    pairs: M,
    offsets: M,
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
        let words = |len: usize| device.allocate(len.saturating_mul(size_of::<u32>()));
        let buffer = |width: usize, elements| {
            CudaBuffer::new(device, num_pairs.saturating_mul(width), elements)
        };
        Ok(Self {
            shape: *shape,
            max_num_tokens,
            num_tokens: 0,
            experts: words(num_pairs)?,
            weights: buffer(1, Elements::F32)?,
            pairs: words(num_pairs)?,
            offsets: words(shape.num_experts + 1)?,
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
        backend.device.launch(&Launch {
            kernel: "group_pairs",
            grid: [num_experts.div_ceil(EXPERTS_PER_BLOCK) as u32, 1, 1],
            num_threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                address(&self.offsets),
                address(&self.pairs),
                address(&self.experts),
                count(num_experts),
                count(self.shape.num_pairs(num_tokens)),
            ],
        })
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
    /// `wide = activation(x Gᵀ) * (x Uᵀ)`, a row a pair.
    fn gate<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        x: Argument,
        experts: &Experts<'_, CudaMatrix<M>>,
    ) -> Result<(), BackendError> {
        let MixtureShape { experts_per_token, hidden_size, expert_size, .. } = self.shape;
        let matrices = [addresses(experts.gate), addresses(experts.up)].concat();
        let sizes = [experts_per_token, expert_size, hidden_size].map(|size| size as u32);
        let activation = Argument::U32(number_of(experts.activation));
        let arguments = self.arguments(&self.wide, &[&[x], &matrices[..]].concat(), &sizes);
        let what = ("gate", experts.gate.weights);
        let launch = self.launch(what, (expert_size, TILE_ROWS / 2));
        launch(device, &[&arguments[..], &[activation]].concat())
    }

    /// `narrow = wide Dᵀ`, a row a pair.
    fn way_back<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        down: &CudaMatrix<M>,
    ) -> Result<(), BackendError> {
        let MixtureShape { hidden_size, expert_size, .. } = self.shape;
        let matrices = [vec![self.wide.address()], addresses(down)].concat();
        let sizes = [hidden_size, expert_size].map(|size| size as u32);
        let arguments = self.arguments(&self.narrow, &matrices, &sizes);
        self.launch(("store", down.weights), (hidden_size, TILE_ROWS))(device, &arguments)
    }

    /// Returns what kernels of products are given: what they write and read, the pairs, the sizes.
    fn arguments(
        &self,
        out: &CudaBuffer<M>,
        matrices: &[Argument],
        sizes: &[u32],
    ) -> Vec<Argument> {
        let mut arguments = vec![out.address()];
        arguments.extend(matrices);
        arguments.extend([address(&self.pairs), address(&self.offsets)]);
        if self.is_streamed() {
            arguments.push(address(&self.experts));
        }
        arguments.push(Argument::U32(self.shape.num_experts as u32));
        arguments.extend(sizes.iter().map(|&size| Argument::U32(size)));
        arguments
    }

    fn is_streamed(&self) -> bool {
        self.num_tokens <= STREAMED_TOKENS_MAX
    }

    /// Returns the launch of a kernel of products with weights of a type, over matrices of so many rows, of which a tile has so
    /// many.
    fn launch<D: Device<Memory = M>>(
        &self,
        (what, weights): (&str, Weights),
        (rows, tile_rows): (usize, usize),
    ) -> impl Fn(&mut D, &[Argument]) -> Result<(), BackendError> {
        let num_pairs = self.shape.num_pairs(self.num_tokens);
        let num_groups = num_pairs.min(self.shape.num_experts);
        let (kernel, rows, groups) = if self.is_streamed() {
            let suffix = match weights {
                // No expert has more pairs than there are tokens.
                Weights::Bf16 if self.num_tokens <= 8 => "8",
                Weights::Bf16 => "16",
                Weights::Codes(_) | Weights::F16 | Weights::F32 => weights.name(),
            };
            (format!("stream_expert_{what}_{suffix}"), rows.div_ceil(STREAM_ROWS), num_groups)
        } else {
            let kernel = match weights {
                Weights::Bf16 => format!("tile_expert_{what}"),
                _ => format!("tile_expert_{what}_{}", weights.name()),
            };
            (kernel, rows.div_ceil(tile_rows), num_pairs / TILE_PAIRS + num_groups)
        };
        let grid = [rows as u32, groups as u32, 1];
        move |device, arguments| {
            let (kernel, num_threads) = (&kernel, THREADS);
            device.launch(&Launch { kernel, grid, num_threads, shared_bytes: 0, arguments })
        }
    }
}

/// Returns where a kernel finds a matrix; of codes, their factors too.
fn addresses<M: DeviceMemory>(matrix: &CudaMatrix<M>) -> Vec<Argument> {
    match matrix.weights {
        Weights::Codes(_) => vec![matrix.data(), matrix.factors()],
        Weights::Bf16 | Weights::F16 | Weights::F32 => vec![matrix.data()],
    }
}

fn address<M: DeviceMemory>(memory: &M) -> Argument {
    Argument::Pointer(memory.address())
}
