//! The composition root: weights, tokenizer, engine, provider and service become one. Nothing else names them all.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use models::{
    DecoderSpec, Device, DeviceOptions, GraphMode, KvCacheSize, KvDType, LoadOptions, OwnMemory,
    Progress, SimdTier, Source, WeightFormat, activation_bytes, chat_definition, gpu_room_bytes,
    load_weights, open_weights, own_memory, rank_spec, read_spec, tokenizer_json, weight_footprint,
    weights::Weights,
};
use tracing::{info, warn};

use crate::{
    cli::{fim, progress::LoadProgress},
    config::{
        Config, DeviceChoice, DtypeChoice, KvDtypeChoice, ModelSource, QuantizeChoice, SimdChoice,
    },
    engine::{
        self, Engine, EngineHandle, EngineLimits, ModelRunner,
        memory::{CacheDemand, HOST_SHARE, free_bytes, plan_num_blocks},
    },
    hub,
    prompt::{ChatTemplate, FimTemplate, budget::Shares},
    provider::{
        ModelInfo,
        local::{LocalParts, LocalProvider},
    },
    service::CompletionService,
    tokenizer::Tokenizer,
};

/// Below this many tokens a prompt holds little but the sentinels.
const PROMPT_TOKENS_MIN: usize = 16;

/// A server's parts. The engine is drained after the listener, so that running requests can end.
#[derive(Debug)]
pub struct Composed {
    /// Owns the thread that computes.
    pub engine: Engine,
    /// The way to it.
    pub handle: EngineHandle,
    /// Completes.
    pub service: CompletionService,
}

/// Loads the model and puts the parts together. Takes as long as reading the weights does.
///
/// # Errors
/// The first part that cannot be made, with what would mend it.
pub fn compose(config: &Config) -> anyhow::Result<Composed> {
    compose_within(config, free_bytes())
}

/// As [`compose`], on a machine with this much free memory.
///
/// # Errors
/// As [`compose`].
pub fn compose_within(config: &Config, free_bytes: u64) -> anyhow::Result<Composed> {
    let path = path(config)?;
    let source = path.as_deref().map_or(Source::Demo, Source::at);
    // Headers first: what is broken in a file that holds everything is said of the part that is broken.
    let spec = read_spec(source).context("cannot read the model's configuration")?;
    let weights = open_weights(source).context("cannot load the model")?;
    let json = tokenizer_json(source).context("cannot read the tokenizer")?;
    let tokenizer = Tokenizer::from_json(&json).context("cannot use the tokenizer")?;
    let template = fim::template(config, spec.architecture, &tokenizer)?;
    let bos = template.as_ref().and_then(FimTemplate::bos_token_id);
    let tokenizer = tokenizer.or_bos(bos);
    let chat = chat(source, &tokenizer)?;
    let eos_token_ids = spec.eos_token_ids.clone();
    check_completion(config, spec.max_position_embeddings)?;
    check_token_ids(&spec, &tokenizer)?;
    let options = load_options(config, &spec, &weights, free_bytes)?;
    let (engine, handle) = start_engine(config, spec, &weights, &options, &tokenizer)?;
    let model = ModelInfo {
        name: config.model.served_name.clone(),
        engine: "lacuna".to_owned(),
        max_context_tokens: handle.limits().context_tokens_max as u32,
        has_fim: template.is_some(),
        has_chat: chat.is_some(),
        has_repo_fim: template.as_ref().is_some_and(|template| template.files().is_some()),
        vocab_size: handle.limits().vocab_size,
    };
    let provider = LocalProvider::new(LocalParts {
        engine: handle.clone(),
        tokenizer,
        template,
        chat,
        model,
        eos_token_ids,
        shares: Shares {
            suffix: config.completion.suffix_share,
            context: config.completion.context_share,
        },
        max_tokens_default: config.completion.max_tokens_default,
        max_tokens_limit: config.completion.max_tokens_limit,
    });
    let service = CompletionService::new(
        std::sync::Arc::new(provider),
        config.completion.clone(),
        config.engine.num_queued_max,
    );
    Ok(Composed { engine, handle, service })
}

/// Returns how the model continues a conversation. A template that cannot be used takes nothing from filling gaps, so
/// that it is told of and left out.
fn chat(source: Source<'_>, tokenizer: &Tokenizer) -> anyhow::Result<Option<ChatTemplate>> {
    let definition = chat_definition(source).context("cannot read the chat template")?;
    let Some(definition) = definition else { return Ok(None) };
    match ChatTemplate::compile(&definition.template, definition.tokens, tokenizer) {
        Ok(template) => Ok(Some(template)),
        Err(error) => {
            warn!(%error, "/v1/chat/completions will not answer");
            Ok(None)
        }
    }
}

/// Refuses what no request could ever be served with.
fn check_completion(config: &Config, own_context_tokens: usize) -> anyhow::Result<()> {
    let (choices, queued) = (config.completion.num_choices_limit, config.engine.num_queued_max);
    if choices as usize > queued {
        bail!(
            "`completion.max_choices` must be at most `engine.max_num_queued`, which is {queued}, got {choices}: the queue takes all choices of a request at once"
        );
    }
    let asked = config.model.context_tokens_max.map(|tokens| tokens.get() as usize);
    let context_tokens = asked.unwrap_or(own_context_tokens).min(own_context_tokens);
    let max_tokens = config.completion.max_tokens_default as usize;
    if max_tokens + PROMPT_TOKENS_MIN > context_tokens {
        bail!(
            "`completion.max_tokens_default` must leave {PROMPT_TOKENS_MIN} tokens of the context to the prompt, which has {context_tokens}, got {max_tokens}; see also `model.max_context_tokens`"
        );
    }
    Ok(())
}

/// Returns the model's folder or file; the embedded model has none.
pub(super) fn path(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    match &config.model.source {
        ModelSource::Demo => Ok(None),
        ModelSource::Path(path) if path.is_dir() || path.is_file() => Ok(Some(path.clone())),
        ModelSource::Path(path) => {
            Err(anyhow!("there is no folder or regular file {}", path.display()))
        }
        ModelSource::Hub(model) => Ok(Some(hub::find(&config.hub, model)?)),
    }
}

fn check_token_ids(spec: &DecoderSpec, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let (ids, rows) = (tokenizer.num_ids(), spec.vocab_size);
    if ids as usize > rows {
        bail!("the tokenizer has {ids} ids, the model only {rows}: they do not belong together");
    }
    Ok(())
}

fn start_engine(
    config: &Config,
    spec: DecoderSpec,
    weights: &Weights,
    options: &LoadOptions,
    tokenizer: &Tokenizer,
) -> anyhow::Result<(Engine, EngineHandle)> {
    let architecture = spec.architecture;
    let mut progress = LoadProgress::new(&config.model.served_name);
    let mut report = |at: Progress| progress.update(at.bytes_done, at.bytes_total);
    let model =
        load_weights(spec, weights, options, &mut report).context("cannot load the model")?;
    progress.finish();
    let limits = EngineLimits {
        num_seqs_max: options.max_num_seqs,
        num_batched_tokens_max: options.max_num_tokens,
        block_size: model.block_size(),
        num_blocks: model.num_blocks(),
        context_tokens_max: model.spec().max_position_embeddings,
        num_queued_max: config.engine.num_queued_max,
        has_prefix_cache: config.engine.has_prefix_cache,
        vocab_size: tokenizer.num_ids(),
    };
    info!(
        backend = model.backend_name(),
        architecture,
        context_tokens = limits.context_tokens_max,
        kv_cache_tokens = limits.num_blocks * limits.block_size,
        kv_cache_dtype = options.kv_dtype.name(),
        "loaded"
    );
    let mut runner = ModelRunner::new(model, tokenizer.num_ids() as usize);
    runner.probe().context("the model does not compute")?;
    // On the emulated device it would take a minute, and warms nothing.
    if options.device.is_gpu() && options.device != Device::Emulated {
        runner.warm_up(&limits).context("the device cannot run the largest steps")?;
    }
    engine::start(Box::new(runner), limits).context("cannot start the engine's thread")
}

/// Returns how a model is loaded by the settings in force.
pub(super) fn load_options(
    config: &Config,
    spec: &DecoderSpec,
    weights: &Weights,
    free_bytes: u64,
) -> anyhow::Result<LoadOptions> {
    let weight_format = weight_format(config)?;
    let kv_dtype = kv_dtype(config);
    let own = spec.max_position_embeddings;
    let context_tokens_max = config.model.context_tokens_max.map(|tokens| tokens.get() as usize);
    let num_ranks = config.engine.tensor_parallel_size;
    let footprint = weight_footprint(spec, weights, weight_format, device(config), num_ranks)
        .context("cannot load the model")?;
    // From here on a rank's: each has memory of its own, and a cache of its heads.
    let spec = &rank_spec(spec, num_ranks)?;
    let quantize = config.model.quantize;
    if quantize != QuantizeChoice::None && !footprint.types.contains(quantize.name()) {
        warn!(
            weights = footprint.type_names(),
            "`model.quantize` changes nothing: the file's matrices are integers already"
        );
    }
    let max_num_tokens = config.engine.num_batched_tokens_max;
    let max_num_seqs = config.engine.num_seqs_max;
    let context_tokens = context_tokens_max.unwrap_or(own).min(own);
    let room = room(config, spec, context_tokens, free_bytes)?;
    let demand = CacheDemand {
        kv_cache_bytes: config.engine.kv_cache_bytes,
        block_size: config.engine.block_size,
        kv_dtype,
        context_tokens,
        num_seqs_max: max_num_seqs,
        weight_bytes: footprint.num_bytes,
        activation_bytes: room.step_bytes + footprint.widened_bytes,
        share: room.share,
    };
    Ok(LoadOptions {
        device: device(config),
        weight_format,
        block_size: config.engine.block_size,
        kv_dtype,
        kv_cache: KvCacheSize::Blocks(plan_num_blocks(spec, &demand, room.free_bytes)?),
        max_num_tokens,
        max_num_seqs,
        max_num_logit_rows: max_num_seqs,
        context_tokens_max,
        num_threads: config.engine.num_threads,
        simd: Some(simd_tier(config)?),
        graphs: graphs(config),
        tensor_parallel_size: num_ranks,
    })
}

/// Returns what the weights become by the settings in force.
pub(super) fn weight_format(config: &Config) -> anyhow::Result<WeightFormat> {
    match (config.model.quantize, config.model.dtype) {
        (QuantizeChoice::Int8, _) => Ok(WeightFormat::Int8),
        (QuantizeChoice::Fp8, _) if device(config).is_gpu() => Ok(WeightFormat::Fp8),
        (QuantizeChoice::Fp8, _) => {
            bail!("`model.quantize` is fp8, which a CPU does not compute with; take int8")
        }
        (QuantizeChoice::None, DtypeChoice::Bf16) => Ok(WeightFormat::Stored),
        (QuantizeChoice::None, DtypeChoice::F32) => Ok(WeightFormat::F32),
    }
}

/// What the cache is cut from.
struct Room {
    free_bytes: u64,
    /// What a step takes of it.
    step_bytes: u64,
    /// Of what is left, the cache's.
    share: f64,
}

/// Returns the memory of a rank's device, or its share of the host's where it computes there.
fn room(
    config: &Config,
    spec: &DecoderSpec,
    context_tokens: usize,
    host_free_bytes: u64,
) -> anyhow::Result<Room> {
    let (num_tokens, num_seqs) = (config.engine.num_batched_tokens_max, config.engine.num_seqs_max);
    let step_bytes = activation_bytes(spec, num_tokens, num_seqs);
    let Some(memory) = rank_memory(config)? else {
        let free_bytes = host_free_bytes / config.engine.tensor_parallel_size as u64;
        return Ok(Room { free_bytes, step_bytes, share: HOST_SHARE });
    };
    // What NCCL takes for itself, which it does not say before; a guess that never met it.
    let ranks = if config.engine.tensor_parallel_size > 1 { 512 << 20 } else { 0 };
    let kept = memory.total_bytes as f64 * (1.0 - config.engine.gpu_memory_share);
    let room = Room {
        free_bytes: memory.free_bytes.saturating_sub(kept as u64),
        step_bytes: step_bytes + gpu_room_bytes(spec, num_tokens, num_seqs, context_tokens) + ranks,
        share: 1.0,
    };
    let (total_bytes, usable_bytes) = (memory.total_bytes, room.free_bytes);
    info!(total_bytes, usable_bytes, step_bytes = room.step_bytes, "device memory");
    Ok(room)
}

/// Returns the memory of the device with the least that is free; `None` where they compute in the host's.
fn rank_memory(config: &Config) -> anyhow::Result<Option<OwnMemory>> {
    let options = device_options(config)?;
    let num_ranks = config.engine.tensor_parallel_size;
    let mut least: Option<OwnMemory> = None;
    for rank in 0..num_ranks {
        let memory = own_memory(device(config).of_rank(rank), &options).with_context(|| {
            let ranks = format!("`engine.tensor_parallel_size` asks for {num_ranks} devices");
            if num_ranks > 1 { ranks } else { "cannot use the device".to_owned() }
        })?;
        least = least.into_iter().chain(memory).min_by_key(|memory| memory.free_bytes);
    }
    Ok(least)
}

/// Returns the device that was asked for.
pub(super) fn device(config: &Config) -> Device {
    match config.model.device {
        DeviceChoice::Auto => Device::Auto,
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Cuda(ordinal) => Device::Cuda(ordinal),
        DeviceChoice::Emulated => Device::Emulated,
    }
}

/// Returns what the device is opened with.
pub(super) fn device_options(config: &Config) -> anyhow::Result<DeviceOptions> {
    Ok(DeviceOptions {
        num_threads: config.engine.num_threads,
        simd: Some(simd_tier(config)?),
        graphs: graphs(config),
    })
}

/// Returns whether a GPU's decodes are captured.
pub(super) fn graphs(config: &Config) -> GraphMode {
    if config.engine.has_graphs { GraphMode::Captured } else { GraphMode::Eager }
}

/// Returns the element type of cached keys and values.
pub(super) fn kv_dtype(config: &Config) -> KvDType {
    match config.engine.kv_cache_dtype {
        KvDtypeChoice::F16 => KvDType::F16,
        KvDtypeChoice::F32 => KvDType::F32,
    }
}

/// Returns the threads that compute where nobody says otherwise.
pub(super) fn num_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the instruction set that was asked for, if the machine has it, else the fastest of the machine.
pub(super) fn simd_tier(config: &Config) -> anyhow::Result<SimdTier> {
    let tier = match config.engine.cpu_simd {
        None => SimdTier::fastest(),
        Some(SimdChoice::Avx512Bf16) => SimdTier::Avx512Bf16,
        Some(SimdChoice::Avx512) => SimdTier::Avx512,
        Some(SimdChoice::Avx2) => SimdTier::Avx2,
        Some(SimdChoice::Scalar) => SimdTier::Scalar,
    };
    if !tier.is_available() {
        let fastest = SimdTier::fastest();
        bail!("`engine.cpu_simd` must be one that this machine has, {fastest} at most, got {tier}");
    }
    Ok(tier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_with_more_ids_than_the_embedding_is_refused_with_both_numbers() {
        let tokenizer = Tokenizer::from_json(&tokenizer_json(Source::Demo).unwrap()).unwrap();
        let spec = read_spec(Source::Demo).unwrap();
        assert!(check_token_ids(&spec, &tokenizer).is_ok());
        let ids = tokenizer.num_ids();
        let spec = DecoderSpec { vocab_size: ids as usize - 1, ..spec };
        let error = check_token_ids(&spec, &tokenizer).unwrap_err().to_string();
        assert!(error.contains(&format!("{ids} ids, the model only {}", ids - 1)), "{error}");
    }
}
