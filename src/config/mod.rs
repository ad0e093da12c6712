//! The settings in force: resolved, validated once, and never again downstream.
//!
//! [`raw`] is what was typed, [`layers`] puts the sources over one another, `resolve` checks each value, `print` goes
//! back, `served` knows of several models. Only `environment` reads the environment.

use std::{net::IpAddr, num::NonZeroU32, path::PathBuf, time::Duration};

mod adapters;
mod aliases;
mod auth;
mod environment;
mod error;
mod export;
mod file;
mod fim;
mod gateway;
mod hub;
pub mod layers;
mod log;
mod metrics;
mod postprocess;
mod print;
mod providers;
pub mod raw;
mod resolve;
mod routing;
pub mod scalar;
mod served;
mod telemetry;
#[cfg(test)]
mod tests;
mod units;

pub use auth::{
    API_KEY_SCOPES, ApiKeyConfig, AuthConfig, BypassConfig, KeyConfig, is_api_key_name, is_scope,
    misspelt_scope,
};
pub use environment::{Environment, variable};
pub use error::{ConfigError, Violation};
pub use export::{Dsn, RawReports, RawTraces, ReportsConfig, TracesConfig};
pub use gateway::{FlagRule, FlagScope, FlagsConfig, GatewayConfig, PromptsConfig, RawPrompts};
pub use hub::{HubConfig, HubModel, Proxies, Secret};
pub use log::{AccessLogging, ContentLogging, LogConfig, LogFormat, RawLog};
pub use metrics::{MetricsAddress, RawMetrics};
pub use postprocess::PostprocessConfig;
pub use providers::{
    FileConfig, FimForm, HeaderConfig, ProviderConfig, ProxyChoice, RawHeader, RawProvider,
    SecretConfig, SecretSource, keys as provider_keys,
};
pub use raw::RawConfig;
pub use routing::{
    BreakerConfig, RouteConfig, RouteMatch, RouteTarget, RoutingConfig, ShadowConfig, Who,
    load_routes,
};
pub use telemetry::{TelemetryConfig, TelemetryStore};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listening and HTTP.
    pub server: ServerConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// What is loaded; of several models the first, which answers where a request names none.
    pub model: ModelConfig,
    /// The table of `[[models]]` that says so; `None` where `[model]` does.
    pub table: Option<usize>,
    /// Where models are downloaded from and kept.
    pub hub: HubConfig,
    /// The continuous batch of that model.
    pub engine: EngineConfig,
    /// The models behind the first, each with its engine.
    pub more_models: Vec<ServedConfig>,
    /// Services elsewhere, each under a name of its own.
    pub providers: Vec<ProviderConfig>,
    /// Rules of a completion.
    pub completion: CompletionConfig,
    /// What is taken from a completion before it is handed on.
    pub postprocess: PostprocessConfig,
    /// How GitLab's dialect answers.
    pub gateway: GatewayConfig,
    /// Prompts beside the binary's own.
    pub prompts: PromptsConfig,
    /// Feature flags.
    pub flags: FlagsConfig,
    /// When targets of routes are asked and for how long.
    pub routing: RoutingConfig,
    /// Which requests are sent to whom; without any each model is served by itself.
    pub routes: Vec<RouteConfig>,
    /// Logging.
    pub log: LogConfig,
    /// Where metrics are handed out.
    pub metrics: MetricsAddress,
    /// Traces for a collector.
    pub traces: TracesConfig,
    /// Reports of errors.
    pub reports: ReportsConfig,
    /// What is kept of completions and of what became of them.
    pub telemetry: TelemetryConfig,
}

impl Config {
    /// Returns the settings of each model as if it were served alone, in their order; none where `model.source` is so.
    pub fn each_model(&self) -> Vec<Self> {
        if self.model.source == ModelSource::None {
            return Vec::new();
        }
        let first = Self { more_models: Vec::new(), ..self.clone() };
        let more = self.more_models.iter().zip(1..).map(|(served, table)| Self {
            table: Some(table),
            model: served.model.clone(),
            engine: served.engine.clone(),
            ..first.clone()
        });
        std::iter::once(first.clone()).chain(more).collect()
    }

    /// Returns all names that are served, which are what routes may send requests to.
    pub fn served_names(&self) -> Vec<String> {
        let more = self.more_models.iter().map(|served| &served.model);
        let elsewhere = self.providers.iter().map(|provider| provider.served_as.clone());
        let models = std::iter::once(&self.model).chain(more);
        models.flat_map(resolve::served_names).chain(elsewhere).collect()
    }

    /// Returns a message about the first model with its keys as whoever wrote the settings knows them.
    #[must_use]
    pub fn in_own_words(&self, message: &str) -> String {
        let in_table = |table| served::in_words_of_table(message, table);
        self.table.map_or_else(|| message.to_owned(), in_table)
    }

    /// Returns the first model's `key` as whoever wrote the settings knows it: `model.dtype`, or `models[1].dtype`.
    pub fn model_key(&self, key: &str) -> String {
        self.table.map_or_else(|| format!("model.{key}"), |table| served::key_in(table, key))
    }
}

/// One of several models.
#[derive(Clone, Debug, PartialEq)]
pub struct ServedConfig {
    /// What is loaded.
    pub model: ModelConfig,
    /// Its continuous batch.
    pub engine: EngineConfig,
}

/// Listening and HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Origins that browsers may call from; `["*"]` is any, empty is none.
    pub cors_allowed_origins: Vec<String>,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Requests in work at once, over all endpoints that complete.
    pub concurrent_requests_max: usize,
    /// Longest time from SIGTERM to the end.
    pub drain_timeout: Duration,
    /// Longest time for a client to send a request's head and body, or to take no more of an answer.
    pub read_timeout: Duration,
    /// What becomes of the process where a model fails for good.
    pub engine_failure: EngineFailure,
    /// Threads of the asynchronous runtime; those that compute are the engine's.
    pub num_worker_threads: usize,
}

/// What becomes of the process where a model does not load or its engine dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineFailure {
    /// It goes on while the routes have others who answer under the model's names, else it ends.
    Auto,
    /// It ends, for a supervisor to start another.
    Exit,
}

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// Nowhere: there is no model here, only providers elsewhere.
    None,
    /// The model embedded in this binary.
    Demo,
    /// A folder with `config.json`, `tokenizer.json` and safetensors, or with a GGUF file; or a GGUF file.
    Path(PathBuf),
    /// A name on the Hugging Face hub, looked up in the local cache first.
    Hub(HubModel),
}

/// A device to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that this build and machine have.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by ordinal.
    Cuda(usize),
    /// The CUDA kernels on the CPU, for tests.
    Emulated,
}

/// Element type of the weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtypeChoice {
    /// As in the file: bf16 as a rule, or a GGUF file's blocks.
    Bf16,
    /// Widened when loaded: twice the memory, for comparisons.
    F32,
}

/// What the weights become when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantizeChoice {
    /// What [`DtypeChoice`] says.
    None,
    /// Eight-bit integers, a scale for each 32.
    Int8,
    /// Eight-bit numbers (E4M3), a scale for each 128.
    Fp8,
}

impl QuantizeChoice {
    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
        }
    }
}

/// Element type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDtypeChoice {
    /// Half the memory.
    F16,
    /// What the layers computed, for comparisons.
    F32,
}

/// An instruction set of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdChoice {
    /// AVX-512 with dot products of bf16, which rounds activations.
    Avx512Bf16,
    /// AVX-512.
    Avx512,
    /// AVX2.
    Avx2,
    /// None in particular.
    Scalar,
}

/// A model family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FamilyChoice {
    /// Recognised.
    Auto,
    /// No gap is filled.
    None,
    /// By name.
    Named(String),
}

/// A token that may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenChoice {
    /// The family's.
    Auto,
    /// Nothing.
    None,
    /// This one.
    Token(String),
}

/// Which side of a gap comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderChoice {
    /// As the family has it.
    Auto,
    /// The text before the cursor.
    Psm,
    /// The text after it.
    Spm,
}

/// What is said otherwise than the family has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FimConfig {
    /// Sentinel before the prefix.
    pub prefix: Option<String>,
    /// Sentinel before the suffix.
    pub suffix: Option<String>,
    /// Sentinel before the answer.
    pub middle: TokenChoice,
    /// Which side comes first.
    pub order: OrderChoice,
    /// Before everything.
    pub bos: TokenChoice,
    /// Tokens or texts that end an answer, besides the family's.
    pub stops: Vec<String>,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Where the weights come from.
    pub source: ModelSource,
    /// Name that clients see; by default `demo`, the folder's, the file's or the repository's name.
    pub served_name: String,
    /// Further names that clients may use for it.
    pub aliases: Vec<String>,
    /// What was trained on top of it.
    pub adapters: Vec<AdapterConfig>,
    /// Where it runs.
    pub device: DeviceChoice,
    /// Element type of the weights in memory.
    pub dtype: DtypeChoice,
    /// Whether integers are made of them.
    pub quantize: QuantizeChoice,
    /// The FIM family.
    pub family: FamilyChoice,
    /// What is otherwise than the family has it.
    pub fim: FimConfig,
    /// Cuts the model's own context; `None` keeps it.
    pub context_tokens_max: Option<NonZeroU32>,
}

/// An adapter of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Name that clients use for the model with it.
    pub name: String,
    /// A folder, or a repository on the hub.
    pub source: ModelSource,
}

/// The continuous batch.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Sequences computed together.
    pub num_seqs_max: usize,
    /// Tokens of one step.
    pub num_batched_tokens_max: usize,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Memory for keys and values; `None` sizes it for the model and the machine.
    pub kv_cache_bytes: Option<u64>,
    /// Element type of cached keys and values.
    pub kv_cache_dtype: KvDtypeChoice,
    /// Sequences that wait; one more is refused with 429.
    pub num_queued_max: usize,
    /// Whether blocks are shared between prompts that begin alike.
    pub has_prefix_cache: bool,
    /// Whether a GPU's decodes are captured as graphs.
    pub has_graphs: bool,
    /// Share of a GPU's memory that is used.
    pub gpu_memory_share: f64,
    /// Devices that each layer is cut over.
    pub tensor_parallel_size: usize,
    /// Compute threads; `None` takes the machine's cores.
    pub num_threads: Option<usize>,
    /// Instruction set of the CPU; `None` takes the fastest of the machine.
    pub cpu_simd: Option<SimdChoice>,
}

/// Rules of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionConfig {
    /// Tokens of a choice where the request says nothing.
    pub max_tokens_default: u32,
    /// Most tokens of a choice.
    pub max_tokens_limit: u32,
    /// Most choices of a request.
    pub num_choices_limit: u32,
    /// Most stop texts of a request.
    pub num_stops_limit: usize,
    /// Share of the prompt's tokens kept for the text after the cursor, in [0, 1).
    pub suffix_share: f64,
    /// Largest share of the prompt's tokens given to other files, in [0, 1).
    pub context_share: f64,
    /// Whether other files are put in the order of their use; else the client's counts.
    pub ranks_context: bool,
    /// Whether secrets are masked before the model reads them.
    pub masks_secrets: bool,
    /// Whether the typed part of the cursor's line follows the middle sentinel; `None` as the family prefers.
    pub line_start_layout: Option<bool>,
    /// Memory for the tokens of lines that were encoded before, in bytes, for each model; 0 keeps none.
    pub tokenizer_cache_bytes: usize,
    /// Longest time of a request.
    pub timeout: Duration,
}
