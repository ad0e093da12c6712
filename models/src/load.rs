//! From a place to a running model: reads the configuration, opens the weights, picks the backend.

use std::{collections::BTreeSet, num::NonZero, slice::from_ref, sync::Arc, thread};

#[cfg(any(feature = "cuda", feature = "cuda-emulator"))]
use kernels::cuda::CudaBackend;
use kernels::{
    backend::{Backend, DType, MatrixData, OwnMemory, WeightFormat},
    cpu::{CpuBackend, CpuOptions, SimdTier},
    cuda::GraphMode,
    group::Member,
    metadata::{AttentionShape, KvDType},
    reference::ReferenceBackend,
};

use crate::{
    LanguageModel,
    adapter::{Adapter, Adapters},
    config::{DecoderSpec, MixtureSpec},
    decoder::{Decoder, DecoderLimits},
    error::ModelError,
    kv_cache::{self, KvCacheSize},
    parallel::{self, Shard},
    source::{Source, open_weights, read_spec},
    weights::{Progress, Role, TensorSpec, WeightReader, Weights, exact},
};

/// Orders the threads of the emulated device; any number would do.
#[cfg(feature = "cuda-emulator")]
const EMULATION_SEED: u64 = 1;

/// What the model runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The best that this build and machine have.
    Auto,
    /// The CPU.
    Cpu,
    /// The scalar reference: slow and exact, for tests.
    Reference,
    /// A CUDA device by ordinal.
    Cuda(usize),
    /// The CUDA kernels on the CPU, for tests.
    Emulated,
}

impl Device {
    /// Returns whether it is a GPU, or one that is emulated.
    pub fn is_gpu(self) -> bool {
        match self {
            Self::Auto => cfg!(feature = "cuda"),
            Self::Cpu | Self::Reference => false,
            Self::Cuda(_) | Self::Emulated => true,
        }
    }

    /// Returns whether it is a GPU, and none that is emulated.
    pub fn is_real_gpu(self) -> bool {
        self.is_gpu() && self != Self::Emulated
    }

    /// Returns the device of a rank where this is the first one's: GPUs follow each other, others are shared.
    #[must_use]
    pub fn of_rank(self, rank: usize) -> Self {
        match self {
            Self::Auto if cfg!(feature = "cuda") => Self::Cuda(rank),
            Self::Cuda(first) => Self::Cuda(first + rank),
            Self::Auto | Self::Cpu | Self::Reference | Self::Emulated => self,
        }
    }
}

/// How a model is loaded; every buffer is allocated for these limits.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What it runs on.
    pub device: Device,
    /// What the matrices become in memory; norms and biases are f32.
    pub weight_format: WeightFormat,
    /// Tokens of one cache block.
    pub block_size: usize,
    /// Size of the cache.
    pub kv_cache: KvCacheSize,
    /// Elements of the cache.
    pub kv_dtype: KvDType,
    /// Most tokens of a step.
    pub max_num_tokens: usize,
    /// Most sequences of a step.
    pub max_num_seqs: usize,
    /// Most rows of logits of a step; as a rule one a sequence, more where the logits of a prompt are asked for.
    pub max_num_logit_rows: usize,
    /// Cuts the model's own context; `None` keeps it.
    pub context_tokens_max: Option<usize>,
    /// Compute threads; `None` takes the machine's cores.
    pub num_threads: Option<usize>,
    /// Instruction set of the CPU; `None` takes the fastest of the machine.
    pub simd: Option<SimdTier>,
    /// Whether a GPU's decodes are captured as graphs.
    pub graphs: GraphMode,
    /// Adapters that tokens can have, which steps name by their places here.
    pub adapters: Arc<[Adapter]>,
    /// Devices that the model is sharded over, from the first one on; what is said of memory holds for each.
    pub tensor_parallel_size: usize,
}

/// Loads a model. `progress` is called before the first tensor and after each.
///
/// # Errors
/// [`ModelError`]: what is wrong with the files, the options or the device.
pub fn load(
    source: Source<'_>,
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn LanguageModel>, ModelError> {
    load_weights(read_spec(source)?, &open_weights(source)?, options, progress)
}

/// Loads a model from weights that are at hand, such as [random ones](crate::random_weights).
///
/// # Errors
/// As [`load`].
pub fn load_weights(
    spec: DecoderSpec,
    weights: &Weights,
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn LanguageModel>, ModelError> {
    let num_ranks = options.tensor_parallel_size;
    if num_ranks == 1 {
        let user = Build { spec, weights, options, progress, member: None };
        return with_device(options.device, &options.device_options(), user);
    }
    // Asked before any thread is started: what breaks a rule, breaks it on all.
    Shard { rank: 0, num_ranks }.spec(&spec)?;
    let load_rank = |member: Member, progress: &mut dyn FnMut(Progress)| {
        let device = options.device.of_rank(member.rank());
        let mut device_options = options.device_options();
        device_options.num_threads = Some(threads_of_rank(options.num_threads, num_ranks));
        let (spec, member) = (spec.clone(), Some(Arc::new(member)));
        let user = Build { spec, weights, options, progress, member };
        with_device(device, &device_options, user)
    };
    let load_other = |member| load_rank(member, &mut |_| {});
    parallel::load(&spec, num_ranks, |member| load_rank(member, progress), load_other)
}

/// Returns a rank's share of the threads that compute.
fn threads_of_rank(num_threads: Option<usize>, num_ranks: usize) -> usize {
    let all = num_threads.or_else(|| thread::available_parallelism().ok().map(NonZero::get));
    (all.unwrap_or(1) / num_ranks).max(1)
}

/// What a device is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Compute threads of the CPU; `None` takes the machine's cores.
    pub num_threads: Option<usize>,
    /// Instruction set of the CPU; `None` takes the fastest of the machine.
    pub simd: Option<SimdTier>,
    /// Whether a GPU's decodes are captured as graphs.
    pub graphs: GraphMode,
}

impl LoadOptions {
    fn device_options(&self) -> DeviceOptions {
        DeviceOptions { num_threads: self.num_threads, simd: self.simd, graphs: self.graphs }
    }
}

/// Returns the memory of a device that has its own; `None` where it computes in the host's.
///
/// # Errors
/// [`ModelError`]: there is no such device, or it does not say.
pub fn own_memory(
    device: Device,
    options: &DeviceOptions,
) -> Result<Option<OwnMemory>, ModelError> {
    if !device.is_gpu() {
        // A CPU's threads would be started for the answer.
        return Ok(None);
    }
    with_device(device, options, Memory)
}

struct Memory;

impl DeviceUser for Memory {
    type Output = Option<OwnMemory>;

    fn use_backend<B: Backend>(self, backend: B) -> Result<Self::Output, ModelError> {
        Ok(backend.own_memory()?)
    }
}

/// Something to do with a backend of any type.
pub(crate) trait DeviceUser {
    type Output;

    fn use_backend<B: Backend>(self, backend: B) -> Result<Self::Output, ModelError>;
}

/// Opens a device and hands it to `user`. The one place that knows which build has which.
pub(crate) fn with_device<U: DeviceUser>(
    device: Device,
    options: &DeviceOptions,
    user: U,
) -> Result<U::Output, ModelError> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Auto => with_device(Device::Cuda(0), options, user),
        #[cfg(not(feature = "cuda"))]
        Device::Auto => with_device(Device::Cpu, options, user),
        Device::Cpu => {
            let cpu = CpuOptions { num_threads: options.num_threads, simd: options.simd };
            user.use_backend(CpuBackend::new(cpu)?)
        }
        Device::Reference => user.use_backend(ReferenceBackend),
        #[cfg(feature = "cuda")]
        Device::Cuda(index) => {
            let device = kernels::cuda::real::CudaDevice::new(index)
                .map_err(kernels::backend::BackendError::from)?;
            user.use_backend(CudaBackend::new(device, options.graphs)?)
        }
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(index) => {
            Err(ModelError::NoDevice { device: format!("cuda:{index}"), feature: "cuda" })
        }
        #[cfg(feature = "cuda-emulator")]
        Device::Emulated => {
            let device = kernels::cuda::emulated::EmulatedDevice::new(EMULATION_SEED);
            user.use_backend(CudaBackend::new(device, options.graphs)?)
        }
        #[cfg(not(feature = "cuda-emulator"))]
        Device::Emulated => {
            Err(ModelError::NoDevice { device: "emulated".to_owned(), feature: "cuda-emulator" })
        }
    }
}

/// Returns the memory that a step's rows take between the layers, and its logits, on the CPU and on the host.
///
/// # Units
/// bytes
pub fn activation_bytes(
    spec: &DecoderSpec,
    max_num_tokens: usize,
    max_num_logit_rows: usize,
) -> u64 {
    let widths = 2 * spec.hidden_size + 2 * (spec.query_width() + spec.kv_width()) + spec.ffn_size;
    let mixture = spec.mixture.as_ref().map_or(0, |mixture| mixture_values(spec, mixture));
    // Rows of the widest product once more, as codes or in pairs.
    let token_values = widths + mixture + spec.ffn_size.max(spec.hidden_size);
    // Logits are on the device and on the host.
    let logit_values = spec.hidden_size + 2 * spec.vocab_size;
    let num_values = (max_num_tokens as u64).saturating_mul(token_values as u64);
    let num_values =
        num_values.saturating_add((max_num_logit_rows as u64).saturating_mul(logit_values as u64));
    num_values.saturating_mul(size_of::<f32>() as u64)
}

/// Returns what a token takes in mixtures: its logits, its row in each of its experts, before and behind them, and the widest
/// of those once more.
fn mixture_values(spec: &DecoderSpec, mixture: &MixtureSpec) -> usize {
    let (hidden, wide) = (spec.hidden_size, mixture.expert_size);
    mixture.num_experts + mixture.experts_per_token * (hidden + wide + hidden.max(wide))
}

/// Returns the memory that a GPU takes beside weights, cache and rows: results of gated products, parts of attention's
/// results, and what libraries and graphs hold.
///
/// # Units
/// bytes
pub fn gpu_room_bytes(
    spec: &DecoderSpec,
    max_num_tokens: usize,
    max_num_seqs: usize,
    context_tokens: usize,
) -> u64 {
    // The library's workspace is 32 MiB, a graph about 1 MiB, of which there are 128 at most without
    // adapters.
    const LIBRARIES: u64 = 192 << 20;
    let shape = AttentionShape {
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        block_size: 1,
        kv_dtype: KvDType::F16,
        scale: 1.0,
        window: None,
    };
    let attention = kernels::cuda::attention_bytes(&shape, max_num_seqs, context_tokens);
    let gates = 2 * (max_num_tokens as u64).saturating_mul(spec.ffn_size as u64);
    let rotations = context_tokens as u64 * spec.head_dim as u64;
    let num_values = gates.saturating_add(rotations);
    num_values.saturating_mul(size_of::<f32>() as u64).saturating_add(attention) + LIBRARIES
}

/// What the weights of a model are once they are loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightFootprint {
    /// Memory that they take, in bytes.
    pub num_bytes: u64,
    /// What every step reads of it, in bytes: all but experts, and an embedding that is not the head too.
    pub step_bytes: u64,
    /// What all experts take of it, in bytes; a step reads those that its tokens are routed to.
    pub expert_bytes: u64,
    /// Room on a GPU in which the largest matrix of codes is widened for prefill, in bytes.
    pub widened_bytes: u64,
    /// Types of the matrices, each once, by name: those stored, or what the format makes of them.
    pub types: BTreeSet<&'static str>,
}

impl WeightFootprint {
    /// Returns the memory that is taken for good once they are loaded, the room to widen them included.
    ///
    /// # Units
    /// bytes
    pub fn loaded_bytes(&self) -> u64 {
        self.num_bytes + self.widened_bytes
    }

    /// Returns the types in one word, such as `q4_k+q6_k`.
    pub fn type_names(&self) -> String {
        self.types.iter().copied().collect::<Vec<_>>().join("+")
    }
}

/// Returns what the weights will be on each of so many ranks, from the headers of their files.
///
/// # Errors
/// [`ModelError::Config`] where the spec breaks a rule; [`ModelError::Weights`] where they are not those of the spec;
/// [`ModelError::Option`] where they cannot be cut so; [`ModelError::PlainExperts`] and [`ModelError::UnlikeExperts`].
pub fn weight_footprint(
    spec: &DecoderSpec,
    weights: &Weights,
    format: WeightFormat,
    device: Device,
    num_ranks: usize,
) -> Result<WeightFootprint, ModelError> {
    let mut plan = weights.plan(spec)?;
    weights.check(&plan)?;
    let shard = Shard { rank: 0, num_ranks };
    shard.spec(spec)?;
    if num_ranks > 1 {
        plan = shard.plan(spec, plan, weights, format)?;
    }
    if device.is_gpu() {
        let found = |tensor: &TensorSpec| Ok(type_name(weights.find(tensor)?.1, format));
        for mixture in plan.layers.iter().filter_map(|layer| layer.ffn.mixture()) {
            mixture.check_on_gpu(found)?;
        }
    }
    let (mut num_bytes, mut unread_bytes, mut widened_bytes) = (0, 0, 0);
    let (mut expert_bytes, mut types) = (0, BTreeSet::new());
    for (matrix, role) in plan.matrices() {
        let format = if role == Role::Router { exact(format) } else { format };
        let mut parts = Vec::with_capacity(matrix.len());
        for part in matrix {
            let kept = part.kept_shape();
            let (rows, cols) = (kept[0], kept[1]);
            let (_, dtype) = weights.find(part)?;
            let found = type_name(dtype, format);
            types.insert(found);
            parts.push(MatrixData { rows, cols, dtype, bytes: &[] });
        }
        let matrix_bytes = if device.is_gpu() {
            // The head is multiplied with a few rows, and the embedding with none.
            if matrix != from_ref(&plan.embedding)
                && plan.head.as_ref().map(from_ref) != Some(matrix)
            {
                widened_bytes = kernels::cuda::widened_bytes(&parts, format).max(widened_bytes);
            }
            kernels::cuda::matrix_bytes(&parts, format)
        } else {
            CpuBackend::matrix_bytes(&parts, format)
        };
        num_bytes += matrix_bytes;
        if role == Role::Expert {
            expert_bytes += matrix_bytes;
        }
        if plan.head.is_some() && matrix == from_ref(&plan.embedding) {
            unread_bytes = matrix_bytes;
        }
    }
    // Norms and biases are f32 whatever they were.
    let vectors = plan.tensors().filter(|tensor| tensor.shape.len() == 1);
    let num_in_vectors: usize = vectors.map(TensorSpec::num_kept).sum();
    num_bytes += (num_in_vectors * size_of::<f32>()) as u64;
    let step_bytes = num_bytes - expert_bytes - unread_bytes;
    Ok(WeightFootprint { num_bytes, step_bytes, expert_bytes, widened_bytes, types })
}

/// What the adapters of a model take on each rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdapterFootprint {
    /// They themselves, in bytes.
    pub num_bytes: u64,
    /// What a step with them takes beside one without, in bytes.
    pub room_bytes: u64,
}

/// Returns what the adapters of these options will take, from the headers of their files.
///
/// # Errors
/// [`ModelError::Adapter`] where one does not fit the model; as [`weight_footprint`].
pub fn adapter_footprint(
    spec: &DecoderSpec,
    weights: &Weights,
    options: &LoadOptions,
) -> Result<AdapterFootprint, ModelError> {
    let mut plan = weights.plan(spec)?;
    weights.check(&plan)?;
    let adapters = Adapters::new(&options.adapters, spec, &plan)?;
    let (num_ranks, is_gpu) = (options.tensor_parallel_size, options.device.is_gpu());
    if num_ranks > 1 {
        plan = Shard { rank: 0, num_ranks }.plan(spec, plan, weights, options.weight_format)?;
    }
    Ok(AdapterFootprint {
        num_bytes: adapters.num_bytes(&plan, is_gpu),
        room_bytes: adapters.room_bytes(&plan, is_gpu, options.max_num_tokens),
    })
}

fn type_name(stored: DType, format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 => DType::F32.name(),
        WeightFormat::Int8 if !stored.is_integers() => "int8",
        WeightFormat::Fp8 if !stored.is_integers() => "fp8",
        // What is in blocks has its codes already.
        WeightFormat::Stored | WeightFormat::Int8 | WeightFormat::Fp8 => stored.name(),
    }
}

/// Builds a decoder on whichever backend it is given.
struct Build<'a> {
    spec: DecoderSpec,
    weights: &'a Weights,
    options: &'a LoadOptions,
    progress: &'a mut dyn FnMut(Progress),
    /// The rank whose shard is built; `None` builds the whole model.
    member: Option<Arc<Member>>,
}

impl DeviceUser for Build<'_> {
    type Output = Box<dyn LanguageModel>;

    fn use_backend<B: Backend>(self, mut backend: B) -> Result<Self::Output, ModelError> {
        let Self { mut spec, weights, options, progress, member } = self;
        // The plan comes first: it checks the spec, and everything below computes with its sizes.
        let mut plan = weights.plan(&spec)?;
        weights.check(&plan)?;
        let adapters = Adapters::new(&options.adapters, &spec, &plan)?;
        if let Some(member) = &member {
            let shard = Shard { rank: member.rank(), num_ranks: member.num_ranks() };
            plan = shard.plan(&spec, plan, weights, options.weight_format)?;
            spec = shard.spec(&spec)?;
            backend.join(member)?;
        }
        spec.max_position_embeddings = context_tokens(&spec, options)?;
        let limits = DecoderLimits {
            block_size: options.block_size,
            kv_dtype: options.kv_dtype,
            num_blocks: kv_cache::num_blocks::<B>(
                &spec,
                options.block_size,
                options.kv_dtype,
                options.kv_cache,
            )?,
            max_num_tokens: options.max_num_tokens,
            max_num_seqs: options.max_num_seqs,
            max_num_logit_rows: options.max_num_logit_rows,
        };
        let mut reader =
            WeightReader::new(weights, &plan, options.weight_format, &adapters, progress)?;
        Ok(Box::new(Decoder::new(backend, spec, &plan, &mut reader, limits, member)?))
    }
}

fn context_tokens(spec: &DecoderSpec, options: &LoadOptions) -> Result<usize, ModelError> {
    let own = spec.max_position_embeddings;
    match options.context_tokens_max {
        Some(tokens) if !(1..=own).contains(&tokens) => Err(ModelError::Option {
            option: "context_tokens_max",
            rule: format!("from 1 to the model's own context ({own})"),
            value: tokens as u64,
        }),
        tokens => Ok(tokens.unwrap_or(own)),
    }
}
