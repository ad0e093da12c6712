//! The settings in force, written as somebody would have typed them.

use std::path::Path;

use crate::config::{
    AdapterConfig, Config, DeviceChoice, DtypeChoice, EngineConfig, HubConfig, KvDtypeChoice,
    ModelConfig, ModelSource, SimdChoice, auth, fim, postprocess, providers,
    raw::{RawCompletion, RawConfig, RawEngine, RawHub, RawModel, RawServed, RawServer},
    resolve::{AUTO, ENGINE_FAILURES},
    routing,
    scalar::Scalar,
    units::{format_size, format_time},
};

impl Config {
    /// Returns the settings as TOML that reads back to the same settings.
    ///
    /// # Errors
    /// Never for settings that were resolved; the serialiser's type has the case.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&RawConfig::from(self))
    }
}

impl From<&Config> for RawConfig {
    fn from(config: &Config) -> Self {
        let Config { server, completion, log, table, .. } = config;
        let mut failures = ENGINE_FAILURES.iter();
        let engine_failure = failures.find(|(_, failure)| *failure == server.engine_failure);
        Self {
            server: RawServer {
                host: Some(server.host.to_string()),
                port: Some(server.port.into()),
                cors_allowed_origins: Some(server.cors_allowed_origins.clone()),
                max_body_size: Some(Scalar::Text(format_size(server.body_bytes_max as u64))),
                max_concurrent_requests: integer(server.concurrent_requests_max),
                drain_timeout: Some(format_time(server.drain_timeout)),
                read_timeout: Some(format_time(server.read_timeout)),
                engine_failure: engine_failure.map(|(name, _)| (*name).to_owned()),
                worker_threads: integer(server.num_worker_threads),
            },
            auth: auth::print(&config.auth),
            model: table.map_or_else(|| raw_model(&config.model), |_| RawModel::default()),
            models: table.map(|_| config.each_model().iter().map(raw_served).collect()),
            providers: (!config.providers.is_empty())
                .then(|| config.providers.iter().map(providers::print).collect()),
            hub: raw_hub(&config.hub),
            engine: raw_engine(&config.engine),
            completion: RawCompletion {
                max_tokens_default: Some(completion.max_tokens_default.into()),
                max_tokens_limit: Some(completion.max_tokens_limit.into()),
                max_choices: Some(completion.num_choices_limit.into()),
                max_stops: integer(completion.num_stops_limit),
                suffix_share: Some(completion.suffix_share),
                context_share: Some(completion.context_share),
                rank_context: Some(completion.ranks_context),
                mask_secrets: Some(completion.masks_secrets),
                line_start_layout: Some(
                    completion
                        .line_start_layout
                        .map_or(AUTO, |on| if on { "on" } else { "off" })
                        .to_owned(),
                ),
                tokenizer_cache: Some(Scalar::Text(format_size(
                    completion.tokenizer_cache_bytes as u64,
                ))),
                timeout: Some(format_time(completion.timeout)),
            },
            postprocess: postprocess::raw(&config.postprocess),
            gateway: (&config.gateway).into(),
            prompts: (&config.prompts).into(),
            flags: (&config.flags).into(),
            routing: (&config.routing).into(),
            routes: (!config.routes.is_empty()).then(|| routing::raw_routes(&config.routes)),
            log: log.into(),
            metrics: config.metrics.into(),
            traces: (&config.traces).into(),
            reports: (&config.reports).into(),
            telemetry: (&config.telemetry).into(),
        }
    }
}

/// A table says all that is in force for its model: nobody need look up what `[engine]` says.
fn raw_served(alone: &Config) -> RawServed {
    RawServed { model: raw_model(&alone.model), engine: raw_engine(&alone.engine) }
}

fn source(source: &ModelSource) -> String {
    match source {
        ModelSource::None => "none".to_owned(),
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Path(path) => directory(path),
        ModelSource::Hub(model) => model.to_string(),
    }
}

fn adapter(AdapterConfig { name, source: from }: &AdapterConfig) -> String {
    format!("{name}={}", source(from))
}

fn raw_model(model: &ModelConfig) -> RawModel {
    let mut raw = RawModel {
        source: Some(source(&model.source)),
        served_name: Some(model.served_name.clone()),
        aliases: Some(model.aliases.clone()),
        adapters: Some(model.adapters.iter().map(adapter).collect()),
        device: Some(match model.device {
            DeviceChoice::Auto => AUTO.to_owned(),
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Cuda(ordinal) => format!("cuda:{ordinal}"),
            DeviceChoice::Emulated => "emulated".to_owned(),
        }),
        dtype: Some(
            match model.dtype {
                DtypeChoice::Bf16 => "bf16",
                DtypeChoice::F32 => "f32",
            }
            .to_owned(),
        ),
        quantize: Some(model.quantize.name().to_owned()),
        family: Some(fim::family_text(&model.family)),
        max_context_tokens: Some(scalar(
            model.context_tokens_max.map(|tokens| tokens.get() as usize),
        )),
        ..RawModel::default()
    };
    fim::print(&model.fim, &mut raw);
    raw
}

fn raw_hub(hub: &HubConfig) -> RawHub {
    RawHub {
        cache: Some(
            hub.cache
                .as_ref()
                .map_or_else(|| AUTO.to_owned(), |cache| cache.to_string_lossy().into_owned()),
        ),
        endpoint: Some(hub.endpoint.clone()),
        offline: Some(if hub.is_offline { "on" } else { "off" }.to_owned()),
        parallel_files: integer(hub.num_parallel_files),
        idle_timeout: Some(format_time(hub.idle_timeout)),
        retries: Some(hub.num_retries.into()),
        retry_delay: Some(format_time(hub.retry_delay)),
    }
}

fn raw_engine(engine: &EngineConfig) -> RawEngine {
    RawEngine {
        max_num_seqs: integer(engine.num_seqs_max),
        max_num_batched_tokens: integer(engine.num_batched_tokens_max),
        block_size: integer(engine.block_size),
        kv_cache_memory: Some(Scalar::Text(
            engine.kv_cache_bytes.map_or_else(|| AUTO.to_owned(), format_size),
        )),
        kv_cache_dtype: Some(
            match engine.kv_cache_dtype {
                KvDtypeChoice::F16 => "f16",
                KvDtypeChoice::F32 => "f32",
            }
            .to_owned(),
        ),
        max_num_queued: integer(engine.num_queued_max),
        prefix_cache: Some(engine.has_prefix_cache),
        no_graphs: Some(!engine.has_graphs),
        gpu_memory_utilization: Some(engine.gpu_memory_share),
        tensor_parallel_size: integer(engine.tensor_parallel_size),
        threads: Some(scalar(engine.num_threads)),
        cpu_simd: Some(
            match engine.cpu_simd {
                None => AUTO,
                Some(SimdChoice::Avx512Bf16) => "avx512-bf16",
                Some(SimdChoice::Avx512) => "avx512",
                Some(SimdChoice::Avx2) => "avx2",
                Some(SimdChoice::Scalar) => "scalar",
            }
            .to_owned(),
        ),
    }
}

/// A path reads back as a path only where it cannot be taken for `org/name` or `demo`.
fn directory(path: &Path) -> String {
    let path = path.to_string_lossy();
    if path.starts_with(['/', '.', '~']) { path.into_owned() } else { format!("./{path}") }
}

fn integer(value: usize) -> Option<i64> {
    i64::try_from(value).ok()
}

fn scalar(value: Option<usize>) -> Scalar {
    value.and_then(integer).map_or_else(|| Scalar::Text(AUTO.to_owned()), Scalar::Integer)
}
