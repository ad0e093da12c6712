//! The settings exactly as somebody typed them: nothing checked, nothing filled in.
//!
//! One field is one setting, declared once: its name is the key in the TOML file, its doc line the help text, its
//! option `--key-name` also the variable `LACUNA_KEY_NAME`. Defaults are in `lacuna.example.toml`, see [`super::layers`].

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    adapters,
    auth::RawAuth,
    export::{RawReports, RawTraces},
    gateway::{RawFlags, RawGateway, RawPrompts},
    log::RawLog,
    metrics::RawMetrics,
    providers::RawProvider,
    routing::{RawRoute, RawRouting},
    scalar::{Scalar, integer, number, scalar},
    telemetry::RawTelemetry,
};

/// Everything that can be typed; `None` is "not said here".
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// `[server]`
    #[command(flatten)]
    pub server: RawServer,
    /// `[auth]`
    #[command(flatten)]
    pub auth: RawAuth,
    /// `[model]`
    #[command(flatten)]
    #[serde(skip_serializing_if = "RawModel::is_empty")]
    pub model: RawModel,
    /// `[[models]]`, in place of `[model]`: only a file has room for several. Its reader takes it apart by itself.
    #[arg(skip)]
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<RawServed>>,
    /// `[[providers]]`: only a file has room for several.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<RawProvider>>,
    /// `[hub]`
    #[command(flatten)]
    pub hub: RawHub,
    /// `[engine]`
    #[command(flatten)]
    pub engine: RawEngine,
    /// `[completion]`
    #[command(flatten)]
    pub completion: RawCompletion,
    /// `[postprocess]`
    #[command(flatten)]
    pub postprocess: RawPostprocess,
    /// `[gateway]`
    #[command(flatten)]
    pub gateway: RawGateway,
    /// `[prompts]`
    #[command(flatten)]
    pub prompts: RawPrompts,
    /// `[flags]`
    #[command(flatten)]
    pub flags: RawFlags,
    /// `[routing]`
    #[command(flatten)]
    pub routing: RawRouting,
    /// `[[routes]]`: only a file has room for them.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<RawRoute>>,
    /// `[log]`
    #[command(flatten)]
    pub log: RawLog,
    /// `[metrics]`
    #[command(flatten)]
    pub metrics: RawMetrics,
    /// `[traces]`
    #[command(flatten)]
    pub traces: RawTraces,
    /// `[reports]`
    #[command(flatten)]
    pub reports: RawReports,
    /// `[telemetry]`
    #[command(flatten)]
    pub telemetry: RawTelemetry,
}

/// `[server]`: listening and HTTP.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Server")]
pub struct RawServer {
    /// IP address to listen on; 0.0.0.0 is every IPv4 address of this machine.
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on; 0 lets the system choose.
    #[arg(long, value_name = "PORT", value_parser = integer, allow_negative_numbers = true)]
    pub port: Option<i64>,
    /// Origins that web pages may call from, separated by commas; * is any.
    #[arg(long, value_name = "ORIGINS", value_delimiter = ',', hide_short_help = true)]
    pub cors_allowed_origins: Option<Vec<String>>,
    /// Largest request body.
    #[arg(long, value_name = "SIZE", value_parser = scalar(), hide_short_help = true)]
    pub max_body_size: Option<Scalar>,
    /// Requests in work at once; more are refused with 429.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_concurrent_requests: Option<i64>,
    /// Longest time for running requests to end after SIGTERM.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub drain_timeout: Option<String>,
    /// Longest time for a client to send its request, or to take no more of an answer.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    pub read_timeout: Option<String>,
    /// What becomes of the process where a model fails for good: auto goes on while the routes have others for its names.
    #[arg(long, value_name = "auto|exit", hide_short_help = true)]
    pub engine_failure: Option<String>,
    /// Threads that speak HTTP; they share the cores with those that compute.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub worker_threads: Option<i64>,
}

/// `[model]`: what is loaded.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Model")]
pub struct RawModel {
    /// The embedded demo model, a model's folder, a GGUF file, or `org/name[@revision][:FILE]` on the Hugging Face hub,
    /// which is downloaded where the cache has it not; none serves providers elsewhere alone.
    #[arg(long = "model", value_name = "demo|DIR|FILE.gguf|org/name")]
    pub source: Option<String>,
    /// Name that clients see; auto takes the folder's, the file's or the repository's.
    #[arg(long = "served-model-name", value_name = "NAME")]
    pub served_name: Option<String>,
    /// Further names that clients may use for it, separated by commas.
    #[arg(
        long = "served-model-aliases",
        value_name = "NAMES",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub aliases: Option<Vec<String>>,
    /// LoRA adapters of it, each a name that clients use and where it is, separated by commas.
    #[arg(long, value_name = "NAME=DIR|org/name", value_delimiter = ',', hide_short_help = true)]
    #[serde(deserialize_with = "adapters::read")]
    pub adapters: Option<Vec<String>>,
    /// Device to compute on.
    #[arg(long, value_name = "auto|cpu|cuda:N")]
    pub device: Option<String>,
    /// Element type of the weights in memory; bf16 keeps them as they are stored.
    #[arg(long, value_name = "bf16|f32")]
    pub dtype: Option<String>,
    /// Makes eight bits of each weight when they are loaded: integers, or E4M3.
    #[arg(long, value_name = "none|int8|fp8")]
    pub quantize: Option<String>,
    /// FIM family, such as qwen2.5-coder, see `lacuna models list`; auto recognises it, none fills no gaps.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub family: Option<String>,
    /// Sentinel before the text before the cursor; auto is the family's, as with those that follow.
    #[arg(long, value_name = "TOKEN", hide_short_help = true)]
    pub fim_prefix: Option<String>,
    /// Sentinel before the text after the cursor.
    #[arg(long, value_name = "TOKEN", hide_short_help = true)]
    pub fim_suffix: Option<String>,
    /// Sentinel before the answer; none where the answer goes on from the last text.
    #[arg(long, value_name = "TOKEN", hide_short_help = true)]
    pub fim_middle: Option<String>,
    /// Which comes first: psm is the text before the cursor, spm the one after it.
    #[arg(long, value_name = "auto|psm|spm", hide_short_help = true)]
    pub fim_order: Option<String>,
    /// Token before everything; none puts nothing there.
    #[arg(long, value_name = "TOKEN", hide_short_help = true)]
    pub fim_bos: Option<String>,
    /// Tokens or texts that end an answer, besides the family's, separated by commas.
    #[arg(long, value_name = "STOPS", value_delimiter = ',', hide_short_help = true)]
    pub fim_stops: Option<Vec<String>>,
    /// Cuts the model's context; auto keeps the model's own.
    #[arg(long, value_name = "N", value_parser = scalar(), allow_negative_numbers = true, hide_short_help = true)]
    pub max_context_tokens: Option<Scalar>,
}

/// A table of `[[models]]`: the keys of `[model]`, and those of `[engine]` that are otherwise for this one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RawServed {
    /// What is loaded.
    #[serde(flatten)]
    pub model: RawModel,
    /// What goes before `[engine]`.
    #[serde(flatten)]
    pub engine: RawEngine,
}

/// `[hub]`: where models are downloaded from and kept.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Hugging Face hub")]
pub struct RawHub {
    /// Folder of the Hugging Face cache; auto follows `HF_HUB_CACHE`, `HF_HOME`, then ~/.cache/huggingface/hub.
    #[arg(long = "hub-cache", value_name = "DIR", hide_short_help = true)]
    pub cache: Option<String>,
    /// Address of the hub or of a mirror; auto follows `HF_ENDPOINT`.
    #[arg(long = "hub-endpoint", value_name = "URL", hide_short_help = true)]
    pub endpoint: Option<String>,
    /// Downloads nothing; auto follows `HF_HUB_OFFLINE`.
    #[arg(long, value_name = "auto|on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub offline: Option<String>,
    /// Files that are downloaded at once.
    #[arg(long = "hub-parallel-files", value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub parallel_files: Option<i64>,
    /// Longest time for a connection to the hub, and without a byte of its answer.
    #[arg(long = "hub-idle-timeout", value_name = "TIME", hide_short_help = true)]
    pub idle_timeout: Option<String>,
    /// Tries after the first that bring no byte.
    #[arg(long = "hub-retries", value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub retries: Option<i64>,
    /// Pause before the first of them; it doubles each time.
    #[arg(long = "hub-retry-delay", value_name = "TIME", hide_short_help = true)]
    pub retry_delay: Option<String>,
}

/// `[engine]`: the continuous batch.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Engine")]
pub struct RawEngine {
    /// Sequences computed together.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true)]
    pub max_num_seqs: Option<i64>,
    /// Tokens of one step; long prompts are computed in pieces of this size.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_num_batched_tokens: Option<i64>,
    /// Tokens of a cache block.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub block_size: Option<i64>,
    /// Memory for keys and values, such as 2GiB; auto sizes it for the model and the machine.
    #[arg(long, value_name = "SIZE", value_parser = scalar())]
    pub kv_cache_memory: Option<Scalar>,
    /// Element type of cached keys and values.
    #[arg(long, value_name = "f16|f32", hide_short_help = true)]
    pub kv_cache_dtype: Option<String>,
    /// Sequences that wait; more are refused with 429.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_num_queued: Option<i64>,
    /// Whether prompts that begin alike share their cache blocks.
    #[arg(long, value_name = "true|false", hide_possible_values = true, hide_short_help = true)]
    pub prefix_cache: Option<bool>,
    /// Launches a GPU's kernels one by one instead of replaying graphs: slower, for comparisons.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true, hide_short_help = true)]
    pub no_graphs: Option<bool>,
    /// Share of a GPU's memory for weights, steps and the cache.
    #[arg(long, value_name = "SHARE", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub gpu_memory_utilization: Option<f64>,
    /// Devices that each layer is cut over, from `--device` on; more than one needs GPUs to be of use.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub tensor_parallel_size: Option<i64>,
    /// Threads that compute; auto takes the machine's cores.
    #[arg(long, value_name = "N", value_parser = scalar(), allow_negative_numbers = true)]
    pub threads: Option<Scalar>,
    /// Instruction set of the CPU; auto takes the fastest of the machine.
    #[arg(long, value_name = "auto|avx512-bf16|avx512|avx2|scalar", hide_short_help = true)]
    pub cpu_simd: Option<String>,
}

/// `[completion]`: rules of a completion.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Completions")]
pub struct RawCompletion {
    /// Tokens of a choice where the request says nothing.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_tokens_default: Option<i64>,
    /// Most tokens of a choice.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_tokens_limit: Option<i64>,
    /// Most choices of a request.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_choices: Option<i64>,
    /// Most stop texts of a request.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub max_stops: Option<i64>,
    /// Share of the prompt's tokens kept for the text after the cursor.
    #[arg(long, value_name = "SHARE", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub suffix_share: Option<f64>,
    /// Largest share of the prompt's tokens given to other files.
    #[arg(long, value_name = "SHARE", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub context_share: Option<f64>,
    /// Whether other files are put in the order of their use; false keeps the client's order.
    #[arg(long, value_name = "true|false", hide_possible_values = true, hide_short_help = true)]
    pub rank_context: Option<bool>,
    /// Whether passwords, keys and tokens in source text are masked before the model reads them.
    #[arg(long, value_name = "true|false", hide_possible_values = true, hide_short_help = true)]
    pub mask_secrets: Option<bool>,
    /// Whether the typed part of the cursor's line follows the middle sentinel; auto does as the family prefers.
    #[arg(long, value_name = "auto|on|off", hide_short_help = true)]
    pub line_start_layout: Option<String>,
    /// Memory, for each model, for the tokens of lines that were encoded before; 0 keeps none.
    #[arg(long, value_name = "SIZE", value_parser = scalar(), hide_short_help = true)]
    pub tokenizer_cache: Option<Scalar>,
    /// Longest time of a request.
    #[arg(long = "request-timeout", value_name = "TIME", hide_short_help = true)]
    pub timeout: Option<String>,
}

/// `[postprocess]`: what is taken from a completion before it is handed on.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Post-processing")]
pub struct RawPostprocess {
    /// Steps for code at a cursor, in their order, separated by commas; see docs/postprocessing.md.
    #[arg(
        long = "postprocess-completion",
        value_name = "STEPS",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub completion: Option<Vec<String>>,
    /// Steps for code that was asked for in words.
    #[arg(
        long = "postprocess-generation",
        value_name = "STEPS",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub generation: Option<Vec<String>>,
    /// Whether they work on completions of the OpenAI dialect too.
    #[arg(long = "postprocess-openai", value_name = "true|false", hide_short_help = true)]
    pub openai: Option<bool>,
    /// Least mean log-probability of a completion, or MODEL=SCORE for one model, separated by commas.
    #[arg(
        long,
        value_name = "[MODEL=]SCORE",
        value_delimiter = ',',
        allow_hyphen_values = true,
        hide_short_help = true
    )]
    pub min_score: Option<Vec<String>>,
}

impl RawConfig {
    /// Returns these settings, and `lower`'s where these say nothing.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            server: self.server.or(lower.server),
            auth: self.auth.or(lower.auth),
            model: self.model.or(lower.model),
            models: self.models.or(lower.models),
            providers: self.providers.or(lower.providers),
            hub: self.hub.or(lower.hub),
            engine: self.engine.or(lower.engine),
            completion: self.completion.or(lower.completion),
            postprocess: self.postprocess.or(lower.postprocess),
            gateway: self.gateway.or(lower.gateway),
            prompts: self.prompts.or(lower.prompts),
            flags: self.flags.or(lower.flags),
            routing: self.routing.or(lower.routing),
            routes: self.routes.or(lower.routes),
            log: self.log.or(lower.log),
            metrics: self.metrics.or(lower.metrics),
            traces: self.traces.or(lower.traces),
            reports: self.reports.or(lower.reports),
            telemetry: self.telemetry.or(lower.telemetry),
        }
    }
}

impl RawServer {
    fn or(self, lower: Self) -> Self {
        Self {
            host: self.host.or(lower.host),
            port: self.port.or(lower.port),
            cors_allowed_origins: self.cors_allowed_origins.or(lower.cors_allowed_origins),
            max_body_size: self.max_body_size.or(lower.max_body_size),
            max_concurrent_requests: self.max_concurrent_requests.or(lower.max_concurrent_requests),
            drain_timeout: self.drain_timeout.or(lower.drain_timeout),
            read_timeout: self.read_timeout.or(lower.read_timeout),
            engine_failure: self.engine_failure.or(lower.engine_failure),
            worker_threads: self.worker_threads.or(lower.worker_threads),
        }
    }
}

impl RawModel {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            source: self.source.or(lower.source),
            served_name: self.served_name.or(lower.served_name),
            aliases: self.aliases.or(lower.aliases),
            adapters: self.adapters.or(lower.adapters),
            device: self.device.or(lower.device),
            dtype: self.dtype.or(lower.dtype),
            quantize: self.quantize.or(lower.quantize),
            family: self.family.or(lower.family),
            fim_prefix: self.fim_prefix.or(lower.fim_prefix),
            fim_suffix: self.fim_suffix.or(lower.fim_suffix),
            fim_middle: self.fim_middle.or(lower.fim_middle),
            fim_order: self.fim_order.or(lower.fim_order),
            fim_bos: self.fim_bos.or(lower.fim_bos),
            fim_stops: self.fim_stops.or(lower.fim_stops),
            max_context_tokens: self.max_context_tokens.or(lower.max_context_tokens),
        }
    }
}

impl RawHub {
    fn or(self, lower: Self) -> Self {
        Self {
            cache: self.cache.or(lower.cache),
            endpoint: self.endpoint.or(lower.endpoint),
            offline: self.offline.or(lower.offline),
            parallel_files: self.parallel_files.or(lower.parallel_files),
            idle_timeout: self.idle_timeout.or(lower.idle_timeout),
            retries: self.retries.or(lower.retries),
            retry_delay: self.retry_delay.or(lower.retry_delay),
        }
    }
}

impl RawEngine {
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            max_num_seqs: self.max_num_seqs.or(lower.max_num_seqs),
            max_num_batched_tokens: self.max_num_batched_tokens.or(lower.max_num_batched_tokens),
            block_size: self.block_size.or(lower.block_size),
            kv_cache_memory: self.kv_cache_memory.or(lower.kv_cache_memory),
            kv_cache_dtype: self.kv_cache_dtype.or(lower.kv_cache_dtype),
            max_num_queued: self.max_num_queued.or(lower.max_num_queued),
            prefix_cache: self.prefix_cache.or(lower.prefix_cache),
            no_graphs: self.no_graphs.or(lower.no_graphs),
            gpu_memory_utilization: self.gpu_memory_utilization.or(lower.gpu_memory_utilization),
            tensor_parallel_size: self.tensor_parallel_size.or(lower.tensor_parallel_size),
            threads: self.threads.or(lower.threads),
            cpu_simd: self.cpu_simd.or(lower.cpu_simd),
        }
    }
}

impl RawPostprocess {
    fn or(self, lower: Self) -> Self {
        Self {
            completion: self.completion.or(lower.completion),
            generation: self.generation.or(lower.generation),
            openai: self.openai.or(lower.openai),
            min_score: self.min_score.or(lower.min_score),
        }
    }
}

impl RawCompletion {
    fn or(self, lower: Self) -> Self {
        Self {
            max_tokens_default: self.max_tokens_default.or(lower.max_tokens_default),
            max_tokens_limit: self.max_tokens_limit.or(lower.max_tokens_limit),
            max_choices: self.max_choices.or(lower.max_choices),
            max_stops: self.max_stops.or(lower.max_stops),
            suffix_share: self.suffix_share.or(lower.suffix_share),
            context_share: self.context_share.or(lower.context_share),
            rank_context: self.rank_context.or(lower.rank_context),
            mask_secrets: self.mask_secrets.or(lower.mask_secrets),
            line_start_layout: self.line_start_layout.or(lower.line_start_layout),
            tokenizer_cache: self.tokenizer_cache.or(lower.tokenizer_cache),
            timeout: self.timeout.or(lower.timeout),
        }
    }
}
