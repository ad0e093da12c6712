//! From a place to a running model: reads the configuration, opens the weights, picks the backend.

use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

use kernels::{
    backend::{Backend, DType, WeightFormat},
    cpu::{CpuBackend, CpuOptions},
    reference::ReferenceBackend,
};

use crate::{
    LanguageModel, arch,
    config::{self, CONFIG_FILE, DecoderSpec, GENERATION_FILE},
    decoder::{Decoder, DecoderLimits},
    demo,
    error::ModelError,
    kv_cache::{self, KvCacheSize},
    weights::{Progress, WeightReader, Weights},
};

const TOKENIZER_FILE: &str = "tokenizer.json";

/// Where a model's files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// Embedded in this binary.
    Demo,
    /// A folder as Hugging Face keeps one: `config.json`, `tokenizer.json`, safetensors.
    Directory(&'a Path),
}

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
}

/// How a model is loaded; every buffer is allocated for these limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// What it runs on.
    pub device: Device,
    /// What the matrices become in memory; norms and biases are f32.
    pub weight_format: WeightFormat,
    /// Tokens of one cache block.
    pub block_size: usize,
    /// Size of the cache.
    pub kv_cache: KvCacheSize,
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
    let spec = read_spec(source)?;
    let weights = match source {
        Source::Demo => Weights::from_static("the demo model", demo::model_safetensors())?,
        Source::Directory(directory) => Weights::open_directory(directory)?,
    };
    load_weights(spec, &weights, options, progress)
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
    match options.device {
        Device::Auto | Device::Cpu => {
            let cpu = CpuOptions { num_threads: options.num_threads, simd: None };
            build(CpuBackend::new(cpu)?, spec, weights, options, progress)
        }
        Device::Reference => build(ReferenceBackend, spec, weights, options, progress),
        Device::Cuda(index) => Err(ModelError::NoCuda { index }),
    }
}

/// Reads what a model is, without its weights, so that memory can be planned.
///
/// # Errors
/// [`ModelError::Read`] or [`ModelError::Config`].
pub fn read_spec(source: Source<'_>) -> Result<DecoderSpec, ModelError> {
    let (config, generation) = match source {
        Source::Demo => {
            (Cow::Borrowed(demo::CONFIG_JSON), Some(Cow::Borrowed(demo::GENERATION_CONFIG_JSON)))
        }
        Source::Directory(directory) => {
            let generation = match fs::read(directory.join(GENERATION_FILE)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                generation => Some(generation.map_err(read_error(directory, GENERATION_FILE))?),
            };
            (read(directory, CONFIG_FILE)?.into(), generation.map(Cow::Owned))
        }
    };
    Ok(config::from_json(&config, generation.as_deref())?)
}

/// Returns the text of the model's `tokenizer.json`.
///
/// # Errors
/// [`ModelError::Read`].
pub fn tokenizer_json(source: Source<'_>) -> Result<Cow<'static, [u8]>, ModelError> {
    match source {
        Source::Demo => Ok(Cow::Borrowed(demo::TOKENIZER_JSON)),
        Source::Directory(directory) => read(directory, TOKENIZER_FILE).map(Cow::Owned),
    }
}

/// Returns the memory that the weights take once loaded, going by the element type that the configuration names.
///
/// # Errors
/// [`ModelError::Config`] where the spec breaks a rule.
///
/// # Units
/// bytes
pub fn weight_bytes(spec: &DecoderSpec, format: WeightFormat) -> Result<u64, ModelError> {
    let num_parameters = arch::plan(spec)?.num_parameters();
    Ok(match format {
        WeightFormat::Stored => {
            num_parameters * spec.dtype.block_bytes() as u64 / spec.dtype.block_len() as u64
        }
        WeightFormat::F32 => num_parameters * DType::F32.block_bytes() as u64,
        // An eight-bit integer each, and a half-precision scale for each 32.
        WeightFormat::Int8 => num_parameters * 17 / 16,
    })
}

fn build<B: Backend>(
    backend: B,
    mut spec: DecoderSpec,
    weights: &Weights,
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn LanguageModel>, ModelError> {
    // The plan comes first: it checks the spec, and everything below computes with its sizes.
    let plan = arch::plan(&spec)?;
    weights.check(&plan)?;
    spec.max_position_embeddings = context_tokens(&spec, options)?;
    let limits = DecoderLimits {
        block_size: options.block_size,
        num_blocks: kv_cache::num_blocks::<B>(&spec, options.block_size, options.kv_cache)?,
        max_num_tokens: options.max_num_tokens,
        max_num_seqs: options.max_num_seqs,
        max_num_logit_rows: options.max_num_logit_rows,
    };
    let mut reader = WeightReader::new(weights, &plan, options.weight_format, progress)?;
    Ok(Box::new(Decoder::new(backend, spec, &plan, &mut reader, limits)?))
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

fn read(directory: &Path, file: &str) -> Result<Vec<u8>, ModelError> {
    fs::read(directory.join(file)).map_err(read_error(directory, file))
}

fn read_error(directory: &Path, file: &str) -> impl FnOnce(io::Error) -> ModelError {
    let path: PathBuf = directory.join(file);
    |source| ModelError::Read { path, source }
}
