//! From what was typed to what is in force: every rule of every setting, once.

use std::{
    fmt::Display,
    num::NonZeroU32,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::{
    AdapterConfig, CompletionConfig, Config, DeviceChoice, DtypeChoice, EngineConfig,
    EngineFailure, Environment, HubModel, KvDtypeChoice, ModelConfig, ModelSource, QuantizeChoice,
    ServerConfig, SimdChoice, Violation, auth, export, fim, gateway, hub, log, metrics,
    postprocess, providers,
    raw::{RawCompletion, RawConfig, RawEngine, RawModel, RawServer},
    routing,
    scalar::Scalar,
    served, telemetry,
    units::{format_size, format_time, parse_size, parse_time},
};

/// The word that leaves a choice to the program.
pub(super) const AUTO: &str = "auto";

/// How the name of a GGUF file ends.
const GGUF: &str = "gguf";

/// Longest name of a model.
const NAME_BYTES_MAX: usize = 256;

/// Most adapters of a model: each takes memory of its own.
const ADAPTERS_MAX: usize = 256;

const TENTH: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_hours(1);

/// Checks and completes the settings.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn resolve(raw: RawConfig, environment: &Environment) -> Result<Config, Violation> {
    let table = raw.models.is_some().then_some(0);
    let (first, more_models) = served::resolve(raw.models, raw.model, raw.engine, environment)?;
    let models = std::iter::once(&first).chain(&more_models);
    let providers = providers::resolve(raw.providers, models, environment)?;
    if first.model.source == ModelSource::None && providers.is_empty() {
        let rule = "a model where there is no table of `[[providers]]`";
        return Err(broken("model.source", rule, "none"));
    }
    let routing = routing::resolve(raw.routing)?;
    let all_models = || std::iter::once(&first).chain(&more_models).map(|served| &served.model);
    let elsewhere = providers.iter().map(|provider| provider.served_as.clone());
    let names: Vec<String> = all_models().flat_map(served_names).chain(elsewhere).collect();
    let routes = routing::resolve_routes(raw.routes.unwrap_or_default(), &names)?;
    // Answers name a model or an adapter, never an alias.
    let of_answers =
        |name: &&str| !all_models().any(|model| model.aliases.iter().any(|a| a == name));
    let names: Vec<&str> = names.iter().map(String::as_str).filter(of_answers).collect();
    let postprocess = postprocess::resolve(raw.postprocess, &names)?;
    Ok(Config {
        server: server(raw.server)?,
        auth: auth::resolve(raw.auth, environment)?,
        model: first.model,
        table,
        hub: hub::resolve(raw.hub, environment)?,
        engine: first.engine,
        more_models,
        providers,
        completion: completion(raw.completion)?,
        postprocess,
        gateway: gateway::gateway(raw.gateway)?,
        prompts: gateway::prompts(raw.prompts, environment)?,
        flags: gateway::flags(raw.flags)?,
        routing,
        routes,
        log: log::resolve(raw.log)?,
        metrics: metrics::resolve(raw.metrics)?,
        traces: export::traces(raw.traces, environment)?,
        reports: export::reports(raw.reports, environment)?,
        telemetry: telemetry::resolve(raw.telemetry, environment)?,
    })
}

/// Returns all names of a model, which are what routes may send requests to.
pub(super) fn served_names(model: &ModelConfig) -> impl Iterator<Item = String> {
    let is_there = model.source != ModelSource::None;
    let adapters = model.adapters.iter().map(|adapter| &adapter.name);
    let names = std::iter::once(&model.served_name).chain(&model.aliases).chain(adapters);
    names.filter(move |_| is_there).cloned()
}

fn server(raw: RawServer) -> Result<ServerConfig, Violation> {
    let host = said("server.host", raw.host)?;
    let origins = said("server.cors_allowed_origins", raw.cors_allowed_origins)?;
    if let Some(origin) = origins.iter().find(|origin| !is_origin(origin)) {
        let rule = "a list of origins such as https://gitlab.example.com, or *";
        return Err(broken("server.cors_allowed_origins", rule, origin));
    }
    let body_sizes = (1 << 10)..=(1 << 30);
    Ok(ServerConfig {
        host: host.parse().map_err(|_| {
            broken("server.host", "an IP address such as 127.0.0.1 or 0.0.0.0", &host)
        })?,
        port: integer("server.port", raw.port, 0..=65_535)?,
        cors_allowed_origins: origins,
        body_bytes_max: size(
            "server.max_body_size",
            &said("server.max_body_size", raw.max_body_size)?,
            body_sizes,
        )? as usize,
        concurrent_requests_max: integer(
            "server.max_concurrent_requests",
            raw.max_concurrent_requests,
            1..=65_536,
        )?,
        drain_timeout: time("server.drain_timeout", raw.drain_timeout, Duration::ZERO..=HOUR)?,
        read_timeout: time("server.read_timeout", raw.read_timeout, TENTH..=HOUR)?,
        engine_failure: word("server.engine_failure", raw.engine_failure, &ENGINE_FAILURES)?,
        num_worker_threads: integer("server.worker_threads", raw.worker_threads, 1..=256)?,
    })
}

/// What may become of the process where a model fails for good.
pub(super) const ENGINE_FAILURES: [(&str, EngineFailure); 2] =
    [("auto", EngineFailure::Auto), ("exit", EngineFailure::Exit)];

pub(super) fn model(raw: RawModel, environment: &Environment) -> Result<ModelConfig, Violation> {
    let fim = fim::resolve(&raw)?;
    let source = said("model.source", raw.source)?;
    let source = model_source(&source, environment)?;
    let served_name = said("model.served_name", raw.served_name)?;
    let served_name = if served_name == AUTO { name_of(&source) } else { served_name };
    let aliases = said("model.aliases", raw.aliases)?;
    check_name("model.served_name", &served_name)?;
    for alias in &aliases {
        check_name("model.aliases", alias)?;
    }
    let adapters = said("model.adapters", raw.adapters)?;
    let adapters = adapters.iter().map(|text| adapter(text, environment));
    let adapters = adapters.collect::<Result<Vec<_>, _>>()?;
    if adapters.len() > ADAPTERS_MAX {
        let rule = format!("at most {ADAPTERS_MAX}");
        return Err(broken("model.adapters", &rule, adapters.len()));
    }
    let family = fim::family(said("model.family", raw.family)?);
    let context =
        auto_integer("model.max_context_tokens", raw.max_context_tokens, 64..=16_777_216)?;
    let dtypes = [("bf16", DtypeChoice::Bf16), ("f32", DtypeChoice::F32)];
    let dtype = word("model.dtype", raw.dtype, &dtypes)?;
    let formats = [QuantizeChoice::None, QuantizeChoice::Int8, QuantizeChoice::Fp8];
    let formats = formats.map(|choice| (choice.name(), choice));
    let quantize = word("model.quantize", raw.quantize, &formats)?;
    if dtype == DtypeChoice::F32 && quantize != QuantizeChoice::None {
        return Err(broken("model.quantize", "none where `model.dtype` is f32", quantize.name()));
    }
    Ok(ModelConfig {
        served_name,
        aliases,
        adapters,
        device: device(&said("model.device", raw.device)?)?,
        dtype,
        quantize,
        family,
        fim,
        context_tokens_max: context.and_then(NonZeroU32::new),
        source,
    })
}

/// Reads `NAME=DIR|org/name`.
fn adapter(text: &str, environment: &Environment) -> Result<AdapterConfig, Violation> {
    const KEY: &str = "model.adapters";
    let rule =
        "names and where the adapters are, such as `review=./adapters/review` or `review=org/name`";
    // A blank behind a comma is no part of a name.
    let Some((name, source)) = text.trim().split_once('=') else {
        return Err(broken(KEY, rule, format!("{text:?}")));
    };
    check_name(KEY, name).map_err(|violation| Violation {
        rule: format!("names of {}, and where the adapters are", violation.rule),
        ..violation
    })?;
    match model_source(source, environment) {
        Ok(
            ModelSource::None
            | ModelSource::Demo
            | ModelSource::Hub(HubModel { file: Some(_), .. }),
        )
        | Err(_) => Err(broken(KEY, rule, format!("{text:?}"))),
        Ok(source) => Ok(AdapterConfig { name: name.to_owned(), source }),
    }
}

pub(super) fn engine(raw: RawEngine) -> Result<EngineConfig, Violation> {
    let num_seqs_max: usize = integer("engine.max_num_seqs", raw.max_num_seqs, 1..=1024)?;
    let num_batched_tokens_max: usize =
        integer("engine.max_num_batched_tokens", raw.max_num_batched_tokens, 16..=131_072)?;
    if num_batched_tokens_max < num_seqs_max {
        // Else some sequences would never get their next token in the step of the others.
        return Err(broken(
            "engine.max_num_batched_tokens",
            &format!("at least `engine.max_num_seqs`, which is {num_seqs_max}"),
            num_batched_tokens_max,
        ));
    }
    let kv_cache = said("engine.kv_cache_memory", raw.kv_cache_memory)?;
    let kv_cache_bytes = match kv_cache {
        Scalar::Text(text) if text == AUTO => None,
        kv_cache => Some(size("engine.kv_cache_memory", &kv_cache, (1 << 20)..=(1 << 44))?),
    };
    let kv_dtypes = [("f16", KvDtypeChoice::F16), ("f32", KvDtypeChoice::F32)];
    Ok(EngineConfig {
        num_seqs_max,
        num_batched_tokens_max,
        block_size: integer("engine.block_size", raw.block_size, 8..=256)?,
        kv_cache_bytes,
        kv_cache_dtype: word("engine.kv_cache_dtype", raw.kv_cache_dtype, &kv_dtypes)?,
        num_queued_max: integer("engine.max_num_queued", raw.max_num_queued, 1..=65_536)?,
        has_prefix_cache: said("engine.prefix_cache", raw.prefix_cache)?,
        has_graphs: !said("engine.no_graphs", raw.no_graphs)?,
        gpu_memory_share: gpu_memory_share(raw.gpu_memory_utilization)?,
        tensor_parallel_size: integer(
            "engine.tensor_parallel_size",
            raw.tensor_parallel_size,
            1..=64,
        )?,
        num_threads: auto_integer("engine.threads", raw.threads, 1..=1024)?,
        cpu_simd: word(
            "engine.cpu_simd",
            raw.cpu_simd,
            &[
                (AUTO, None),
                ("avx512-bf16", Some(SimdChoice::Avx512Bf16)),
                ("avx512", Some(SimdChoice::Avx512)),
                ("avx2", Some(SimdChoice::Avx2)),
                ("scalar", Some(SimdChoice::Scalar)),
            ],
        )?,
    })
}

fn completion(raw: RawCompletion) -> Result<CompletionConfig, Violation> {
    let max_tokens_limit: u32 =
        integer("completion.max_tokens_limit", raw.max_tokens_limit, 1..=1_048_576)?;
    let suffix_share = share("completion.suffix_share", raw.suffix_share)?;
    let context_share = share("completion.context_share", raw.context_share)?;
    if suffix_share + context_share >= 1.0 {
        let rule =
            format!("below 1 together with `completion.suffix_share`, which is {suffix_share}");
        return Err(broken("completion.context_share", &rule, context_share));
    }
    Ok(CompletionConfig {
        max_tokens_default: integer(
            "completion.max_tokens_default",
            raw.max_tokens_default,
            1..=i64::from(max_tokens_limit),
        )?,
        max_tokens_limit,
        num_choices_limit: integer("completion.max_choices", raw.max_choices, 1..=128)?,
        num_stops_limit: integer("completion.max_stops", raw.max_stops, 1..=1024)?,
        suffix_share,
        context_share,
        ranks_context: said("completion.rank_context", raw.rank_context)?,
        masks_secrets: said("completion.mask_secrets", raw.mask_secrets)?,
        line_start_layout: word(
            "completion.line_start_layout",
            raw.line_start_layout,
            &[(AUTO, None), ("on", Some(true)), ("off", Some(false))],
        )?,
        tokenizer_cache_bytes: size(
            "completion.tokenizer_cache",
            &said("completion.tokenizer_cache", raw.tokenizer_cache)?,
            0..=1 << 40,
        )? as usize,
        timeout: time("completion.timeout", raw.timeout, TENTH..=24 * HOUR)?,
    })
}

fn check_name(key: &'static str, name: &str) -> Result<(), Violation> {
    let is_printable = !name.contains(char::is_control) && name.trim() == name;
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && is_printable {
        return Ok(());
    }
    let rule = format!("1 to {NAME_BYTES_MAX} printable bytes, no blank first or last");
    Err(broken(key, &rule, format!("{name:?}")))
}

/// Tells the embedded model, a folder or file, and a name on the hub apart.
fn model_source(text: &str, environment: &Environment) -> Result<ModelSource, Violation> {
    match text {
        "demo" => return Ok(ModelSource::Demo),
        "none" => return Ok(ModelSource::None),
        _ => {}
    }
    let path = Path::new(text);
    // `org/name:folder/file.gguf` names a file of a repository.
    let is_gguf =
        path.extension().is_some_and(|extension| extension == GGUF) && !text.contains(':');
    if text.starts_with(['/', '.', '~']) || is_gguf || path.is_dir() {
        return Ok(ModelSource::Path(expand_home(text, environment)));
    }
    // Neither a repository nor a revision has a colon; a file's name may have an `@`.
    let (name, file) = text.split_once(':').map_or((text, None), |(name, file)| (name, Some(file)));
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    let is_repository = repository.split_once('/').is_some_and(|(organisation, name)| {
        is_repository_part(organisation) && is_repository_part(name)
    });
    let is_revision = revision.split('/').all(is_repository_part);
    let is_file = file.is_none_or(|file| !file.is_empty() && !file.contains(char::is_control));
    if !is_repository || !is_revision || !is_file {
        let rule = "demo, an existing folder, a GGUF file, or org/name with an optional @revision and :FILE";
        return Err(broken("model.source", rule, text));
    }
    Ok(ModelSource::Hub(HubModel {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
        file: file.map(ToOwned::to_owned),
    }))
}

/// Names become parts of paths in the cache, so nothing that climbs out of a folder may pass.
fn is_repository_part(part: &str) -> bool {
    !part.is_empty()
        && !part.starts_with('.')
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn name_of(source: &ModelSource) -> String {
    match source {
        ModelSource::None => "none".to_owned(),
        ModelSource::Demo => "demo".to_owned(),
        ModelSource::Hub(model) => model.repository.clone(),
        ModelSource::Path(path) => {
            let stem = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == GGUF));
            if let Some(stem) = stem {
                return stem.to_string_lossy().into_owned();
            }
            // `.` and `..` have a name only once they are followed.
            let followed = || path.canonicalize().ok()?.file_name().map(ToOwned::to_owned);
            let name = path.file_name().map(ToOwned::to_owned).or_else(followed);
            name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
        }
    }
}

pub(super) fn expand_home(text: &str, environment: &Environment) -> PathBuf {
    let rest = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    match (rest, environment.home()) {
        (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text.strip_prefix("./").filter(|rest| !rest.is_empty()).unwrap_or(text)),
    }
}

fn device(text: &str) -> Result<DeviceChoice, Violation> {
    match text.split_once(':') {
        None if text == AUTO => Ok(DeviceChoice::Auto),
        None if text == "cpu" => Ok(DeviceChoice::Cpu),
        None if text == "emulated" => Ok(DeviceChoice::Emulated),
        Some(("cuda", ordinal)) if ordinal.parse::<u16>().is_ok() => {
            Ok(DeviceChoice::Cuda(ordinal.parse().unwrap_or_default()))
        }
        _ => Err(broken("model.device", "auto, cpu, cuda:N or emulated", text)),
    }
}

fn gpu_memory_share(value: Option<f64>) -> Result<f64, Violation> {
    let key = "engine.gpu_memory_utilization";
    let value = said(key, value)?;
    if !(0.1..=0.99).contains(&value) {
        return Err(broken(key, "between 0.1 and 0.99", value));
    }
    Ok(value)
}

fn is_origin(origin: &str) -> bool {
    let is_host = |rest: &str| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic() && !"/?#@*,".contains(c))
    };
    origin == "*"
        || origin.split_once("://").is_some_and(|(scheme, rest)| {
            scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
                && !scheme.is_empty()
                && is_host(rest)
        })
}

pub(super) fn broken(key: &'static str, rule: &str, got: impl Display) -> Violation {
    Violation { key: key.to_owned(), rule: rule.to_owned(), got: got.to_string() }
}

pub(super) fn said<T>(key: &'static str, value: Option<T>) -> Result<T, Violation> {
    value.ok_or_else(|| broken(key, "set", "nothing"))
}

pub(super) fn integer<T: TryFrom<i64>>(
    key: &'static str,
    value: Option<i64>,
    range: RangeInclusive<i64>,
) -> Result<T, Violation> {
    let value = said(key, value)?;
    let inside = range.contains(&value).then(|| T::try_from(value).ok()).flatten();
    let rule = || format!("between {} and {}", range.start(), range.end());
    inside.ok_or_else(|| broken(key, &rule(), value))
}

fn auto_integer<T: TryFrom<i64>>(
    key: &'static str,
    value: Option<Scalar>,
    range: RangeInclusive<i64>,
) -> Result<Option<T>, Violation> {
    let value = said(key, value)?;
    let inside = match &value {
        Scalar::Text(text) if text == AUTO => return Ok(None),
        Scalar::Integer(number) if range.contains(number) => T::try_from(*number).ok(),
        Scalar::Integer(_) | Scalar::Text(_) => None,
    };
    let rule = || format!("auto, or between {} and {}", range.start(), range.end());
    inside.map(Some).ok_or_else(|| broken(key, &rule(), value))
}

pub(super) fn size(
    key: &'static str,
    value: &Scalar,
    range: RangeInclusive<u64>,
) -> Result<u64, Violation> {
    let bytes = match value {
        Scalar::Integer(bytes) => u64::try_from(*bytes).ok(),
        Scalar::Text(text) => parse_size(text),
    };
    bytes.filter(|bytes| range.contains(bytes)).ok_or_else(|| {
        let (low, high) = (format_size(*range.start()), format_size(*range.end()));
        broken(key, &format!("a size between {low} and {high}"), value)
    })
}

pub(super) fn time(
    key: &'static str,
    value: Option<String>,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Violation> {
    let text = said(key, value)?;
    parse_time(&text).filter(|time| range.contains(time)).ok_or_else(|| {
        let (low, high) = (format_time(*range.start()), format_time(*range.end()));
        broken(key, &format!("a time between {low} and {high}"), &text)
    })
}

fn share(key: &'static str, value: Option<f64>) -> Result<f64, Violation> {
    let share = said(key, value)?;
    if (0.0..1.0).contains(&share) {
        Ok(share)
    } else {
        Err(broken(key, "at least 0 and below 1", share))
    }
}

pub(super) fn word<T: Copy>(
    key: &'static str,
    value: Option<String>,
    words: &[(&str, T)],
) -> Result<T, Violation> {
    let text = said(key, value)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    found.ok_or_else(|| broken(key, &format!("one of {}", names.join(", ")), &text))
}
