//! The composition root: weights, tokenizer, engine, provider and service become one. Nothing else names them all.
//!
//! Of several models all headers are read and all memory is planned before the first weight is loaded: what cannot be is
//! refused in seconds.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::{Context as _, anyhow, bail};
use models::{
    ADAPTER_CONFIG_FILE, Adapter, DecoderSpec, Device, DeviceOptions, GraphMode, KvDType,
    LoadOptions, Progress, SimdTier, Source, WeightFormat, chat_definition, load_weights,
    open_weights, read_spec, tokenizer_json, weights::Weights,
};
use tracing::{info, warn};

use crate::{
    cli::{
        fim,
        placement::{Placement, context_tokens},
        progress::LoadProgress,
    },
    config::{
        AdapterConfig, CompletionConfig, Config, DeviceChoice, DtypeChoice, KvDtypeChoice,
        ModelSource, QuantizeChoice, SimdChoice,
    },
    engine::{self, Engine, EngineHandle, EngineLimits, ModelRunner, memory::free_bytes},
    hub,
    prompt::{ChatTemplate, FimTemplate, budget::Shares, context::OutlineCache},
    provider::{
        ModelInfo, Provider,
        local::{LocalParts, LocalProvider},
    },
    service::CompletionService,
    tokenizer::Tokenizer,
};

/// Below this many tokens a prompt holds little but the sentinels.
const PROMPT_TOKENS_MIN: usize = 16;

/// A model's parts. The engine is drained after the listener, so that running requests can end.
#[derive(Debug)]
pub struct Composed {
    /// Owns the thread that computes.
    pub engine: Engine,
    /// The way to it.
    pub handle: EngineHandle,
    /// Completes.
    pub service: CompletionService,
    /// Complete with an adapter each, in the order of the settings.
    pub adapters: Vec<CompletionService>,
}

/// Loads the first model and puts its parts together. Takes as long as reading the weights does.
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
    let first = Config { more_models: Vec::new(), ..config.clone() };
    let mut only = None;
    compose_each(&first, free_bytes, &mut |_, composed| {
        only = Some(composed);
        false
    });
    only.context("there is no model")?
}

/// Loads all models, one after the other: each reads the disk and computes with all threads while it loads. Hands each
/// to `done` as soon as it is there, or why it will not be, with the model's name, and its place among the settings'
/// models; goes on with the others while that returns whether to.
pub fn compose_each(
    config: &Config,
    free_bytes: u64,
    done: &mut dyn FnMut(usize, anyhow::Result<Composed>) -> bool,
) {
    let configs = config.each_model();
    let is_alone = configs.len() == 1;
    let mut placement = Placement::new(free_bytes);
    let mut opened = Vec::with_capacity(configs.len());
    for (index, config) in configs.iter().enumerate() {
        let model = open(config).and_then(|model| {
            placement.add(config, &model.spec, &model.weights, &model.adapters)?;
            Ok(model)
        });
        match of_model(config, is_alone, model) {
            Ok(model) => opened.push((index, model)),
            Err(error) => {
                if !done(index, Err(error)) {
                    return;
                }
            }
        }
    }
    let mut options = vec![None; opened.len()];
    for place in placement.order() {
        let (index, _) = opened[place];
        match of_model(&configs[index], is_alone, placement.load_options(place)) {
            Ok(planned) => options[place] = Some(planned),
            Err(error) => {
                if !done(index, Err(error)) {
                    return;
                }
            }
        }
    }
    for ((index, model), options) in opened.into_iter().zip(options) {
        let Some(options) = options else { continue };
        let config = &configs[index];
        if !done(index, of_model(config, is_alone, model.start(config, &options))) {
            return;
        }
    }
}

/// Says of which of several models an error is, in the words of its table.
fn of_model<T>(config: &Config, is_alone: bool, result: anyhow::Result<T>) -> anyhow::Result<T> {
    let name = &config.model.served_name;
    let own = |error: anyhow::Error| anyhow!(config.in_own_words(&format!("{error:#}")));
    result.map_err(own).map_err(|error| {
        if is_alone { error } else { error.context(format!("the model `{name}`")) }
    })
}

/// A model whose headers were read, and no weights.
struct Opened {
    spec: DecoderSpec,
    weights: Weights,
    adapters: Arc<[Adapter]>,
    tokenizer: Tokenizer,
    template: Option<FimTemplate>,
    chat: Option<ChatTemplate>,
}

fn open(config: &Config) -> anyhow::Result<Opened> {
    let path = path(config)?;
    let source = path.as_deref().map_or(Source::Demo, Source::at);
    // Headers first: what is broken in a file that holds everything is said of the part that is broken.
    let spec = read_spec(source).context("cannot read the model's configuration")?;
    let weights = open_weights(source).context("cannot load the model")?;
    let cache_bytes = config.completion.tokenizer_cache_bytes;
    let tokenizer = tokenizer(source, &spec)?.with_cache(cache_bytes);
    if cache_bytes > 0 && !tokenizer.has_cache() {
        let model = &config.model.served_name;
        info!(model, "no tokenizer cache: lines cannot be encoded by themselves");
    }
    let template = fim::template(config, spec.architecture, &tokenizer)?;
    let bos = template.as_ref().and_then(FimTemplate::bos_token_id);
    let tokenizer = tokenizer.or_bos(bos);
    let chat = chat(config, source, &tokenizer);
    check_completion(config, context_tokens(config, &spec)?)?;
    let adapters = open_adapters(config, source)?;
    Ok(Opened { spec, weights, adapters, tokenizer, template, chat })
}

/// Reads the headers of the adapters of the model at `source`.
fn open_adapters(config: &Config, source: Source<'_>) -> anyhow::Result<Arc<[Adapter]>> {
    let own_template = chat_definition(source).ok().flatten().map(|own| own.template);
    if let Some(path) = path(config)?.filter(|path| path.join(ADAPTER_CONFIG_FILE).is_file()) {
        warn!(
            model = config.model.served_name,
            "an adapter lies beside the model in {} and is not served; to serve it, name it with model.adapters",
            path.display()
        );
    }
    let open = |adapter: &AdapterConfig| {
        let AdapterConfig { name, source } = adapter;
        let path = path_of(config, source)?.context("an adapter has a place")?;
        let opened = Adapter::open(name, &path)?;
        let template = chat_definition(Source::at(&path)).ok().flatten().map(|own| own.template);
        if template.is_some() && template != own_template {
            warn!(
                model = config.model.served_name,
                adapter = name,
                "the adapter has a chat template of its own, which is not used: chats are rendered by the model's"
            );
        }
        info!(
            model = config.model.served_name,
            adapter = name,
            trained_on = opened.base_model(),
            rank = opened.rank(),
            num_parameters = opened.num_parameters(),
            "adapter"
        );
        if let (ModelSource::Hub(model), Some(base)) = (&config.model.source, opened.base_model())
            && base != model.repository
        {
            warn!(
                model = config.model.served_name,
                adapter = name,
                trained_on = base,
                "the adapter was trained on another model, as its maker says"
            );
        }
        anyhow::Ok(opened)
    };
    let adapters = config.model.adapters.iter();
    adapters
        .map(|adapter| open(adapter).with_context(|| format!("the adapter `{}`", adapter.name)))
        .collect()
}

impl Opened {
    fn start(self, config: &Config, options: &LoadOptions) -> anyhow::Result<Composed> {
        let Self { spec, weights, adapters: _, tokenizer, template, chat } = self;
        let eos_token_ids = spec.eos_token_ids.clone();
        let (engine, handle) = start_engine(config, spec, &weights, options, &tokenizer)?;
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
            outlines: outline_cache(&config.completion),
            ranks_context: config.completion.ranks_context,
            masks_secrets: config.completion.masks_secrets,
            max_tokens_default: config.completion.max_tokens_default,
            max_tokens_limit: config.completion.max_tokens_limit,
        });
        let service = |provider| service(config, Arc::new(provider));
        let adapters = (0..).zip(&config.model.adapters);
        let adapters =
            adapters.map(|(index, adapter)| service(provider.with_adapter(index, &adapter.name)));
        let adapters = adapters.collect();
        Ok(Composed { engine, handle, service: service(provider), adapters })
    }
}

/// Outlines take an eighth of the room of lines: a file has three parts that they are made of, and hundreds of lines.
fn outline_cache(config: &CompletionConfig) -> Option<OutlineCache> {
    let num_bytes = config.tokenizer_cache_bytes / 8;
    (num_bytes > 0).then(|| OutlineCache::new(num_bytes))
}

/// Returns what answers where `provider` completes, by the rules of the first model of `config`.
pub(super) fn service(config: &Config, provider: Arc<dyn Provider>) -> CompletionService {
    let limits = config.completion.clone();
    CompletionService::new(provider, limits, config.engine.num_queued_max)
        .with_postprocess(config.postprocess.clone())
        .with_content_logging(config.log.content)
}

/// Returns the model's tokenizer.
///
/// # Errors
/// It cannot be read or used, or is another model's.
pub(super) fn tokenizer(source: Source<'_>, spec: &DecoderSpec) -> anyhow::Result<Tokenizer> {
    let json = tokenizer_json(source).context("cannot read the tokenizer")?;
    let tokenizer = Tokenizer::from_json(&json).context("cannot use the tokenizer")?;
    let (ids, rows) = (tokenizer.num_ids(), spec.vocab_size);
    if ids as usize > rows {
        bail!("the tokenizer has {ids} ids, the model only {rows}: they do not belong together");
    }
    Ok(tokenizer)
}

/// Returns the model's chat template, or why it cannot be used; `None` where there is none.
pub(super) fn chat_template(
    source: Source<'_>,
    tokenizer: &Tokenizer,
) -> Option<anyhow::Result<ChatTemplate>> {
    let definition = chat_definition(source).context("cannot read the chat template");
    let definition = definition.transpose()?;
    Some(definition.and_then(|definition| {
        let template = ChatTemplate::compile(&definition.template, definition.tokens, tokenizer)?;
        template.check(tokenizer, SystemTime::now())?;
        Ok(template)
    }))
}

/// Returns how the model continues a conversation. A template that cannot be used takes nothing from filling gaps, so
/// that it is told of and left out.
fn chat(config: &Config, source: Source<'_>, tokenizer: &Tokenizer) -> Option<ChatTemplate> {
    let model = &config.model.served_name;
    let told = |error: &anyhow::Error| {
        warn!(model, error = format!("{error:#}"), "/v1/chat/completions will not answer");
    };
    chat_template(source, tokenizer)?.inspect_err(told).ok()
}

/// Refuses what no request could ever be served with.
fn check_completion(config: &Config, context_tokens: usize) -> anyhow::Result<()> {
    let (choices, queued) = (config.completion.num_choices_limit, config.engine.num_queued_max);
    if choices as usize > queued {
        bail!(
            "`completion.max_choices` must be at most `engine.max_num_queued`, which is {queued}, got {choices}: the queue takes all choices of a request at once"
        );
    }
    let max_tokens = config.completion.max_tokens_default as usize;
    if max_tokens + PROMPT_TOKENS_MIN > context_tokens {
        bail!(
            "`completion.max_tokens_default` must leave {PROMPT_TOKENS_MIN} tokens of the context to the prompt, which has {context_tokens}, got {max_tokens}; see also `{}`",
            config.model_key("max_context_tokens")
        );
    }
    Ok(())
}

/// Returns the model's folder or file; the embedded model has none.
pub(super) fn path(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    path_of(config, &config.model.source)
}

/// Checks what can be told of the models before anything is read: that their families exist, and they and their adapters
/// are where the settings say. What the hub has is not asked.
///
/// # Errors
/// The first of them, with the model's name where there are several.
pub(super) fn check_models(config: &Config) -> anyhow::Result<()> {
    let configs = config.each_model();
    for config in &configs {
        let check = || {
            fim::check_family(config)?;
            let own = std::iter::once(&config.model.source);
            let sources = own.chain(config.model.adapters.iter().map(|adapter| &adapter.source));
            let mut paths = sources.filter(|source| matches!(source, ModelSource::Path(_)));
            paths.try_for_each(|source| path_of(config, source).map(|_| ()))
        };
        of_model(config, configs.len() == 1, check())?;
    }
    Ok(())
}

/// Returns where a model or an adapter is; the embedded model is nowhere.
fn path_of(config: &Config, source: &ModelSource) -> anyhow::Result<Option<PathBuf>> {
    match source {
        ModelSource::Demo => Ok(None),
        ModelSource::None => Err(anyhow!("`model.source` is none: there is no model to load")),
        ModelSource::Path(path) if path.is_dir() || path.is_file() => Ok(Some(path.clone())),
        ModelSource::Path(path) => {
            Err(anyhow!("there is no folder or regular file {}", path.display()))
        }
        ModelSource::Hub(model) => Ok(Some(hub::find(&config.hub, model)?)),
    }
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
        model = config.model.served_name,
        backend = model.backend_name(),
        architecture,
        context_tokens = limits.context_tokens_max,
        kv_cache_tokens = limits.num_blocks * limits.block_size,
        kv_cache_dtype = options.kv_dtype.name(),
        "loaded"
    );
    let mut runner = ModelRunner::new(model, tokenizer.num_ids() as usize);
    make_ready(&mut runner, &limits, options.device)?;
    engine::start(Box::new(runner), limits).context("cannot start the engine's thread")
}

/// Computes once what must not wait until a request comes.
pub(super) fn make_ready(
    runner: &mut ModelRunner,
    limits: &EngineLimits,
    device: Device,
) -> anyhow::Result<()> {
    runner.probe().context("the model does not compute")?;
    // On the emulated device it would take a minute, and warms nothing.
    if device.is_real_gpu() {
        runner.warm_up(limits).context("the device cannot run the largest steps")?;
    }
    Ok(())
}

/// Returns what the weights become by the settings in force.
pub(super) fn weight_format(config: &Config) -> WeightFormat {
    match (config.model.quantize, config.model.dtype) {
        (QuantizeChoice::Int8, _) => WeightFormat::Int8,
        (QuantizeChoice::Fp8, _) => WeightFormat::Fp8,
        (QuantizeChoice::None, DtypeChoice::Bf16) => WeightFormat::Stored,
        (QuantizeChoice::None, DtypeChoice::F32) => WeightFormat::F32,
    }
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
    use crate::config::{Environment, RawConfig};

    #[test]
    fn lines_and_outlines_are_kept_unless_that_is_switched_off() {
        let mut config =
            Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
        assert!(open(&config).unwrap().tokenizer.has_cache());
        assert!(outline_cache(&config.completion).is_some());
        config.completion.tokenizer_cache_bytes = 0;
        assert!(!open(&config).unwrap().tokenizer.has_cache());
        assert!(outline_cache(&config.completion).is_none());
    }

    #[test]
    fn a_tokenizer_with_more_ids_than_the_embedding_is_refused_with_both_numbers() {
        let spec = read_spec(Source::Demo).unwrap();
        let ids = tokenizer(Source::Demo, &spec).unwrap().num_ids();
        let spec = DecoderSpec { vocab_size: ids as usize - 1, ..spec };
        let error = tokenizer(Source::Demo, &spec).unwrap_err().to_string();
        assert!(error.contains(&format!("{ids} ids, the model only {}", ids - 1)), "{error}");
    }
}
