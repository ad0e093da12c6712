//! What the page of the server's state is made of, as JSON.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::routing::{TargetView, circuit_breaker::Standing};
use crate::telemetry::metrics::{
    EngineSample,
    recent::{RecentRequests, Thresholds, WINDOW},
};

/// How the server does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = status::Status)]
pub(super) struct WireStatus {
    /// Version of the program.
    pub(super) version: &'static str,
    /// Where it stands, where the settings say.
    pub(super) region: Option<String>,
    /// Seconds since its start.
    pub(super) uptime_seconds: u64,
    /// Whether a request would be taken.
    pub(super) is_ready: bool,
    /// Seconds that `requests` look back on; of a server that is younger, those of its life.
    pub(super) window_seconds: u64,
    /// Requests of the window, by model and task.
    pub(super) requests: Vec<WireRequests>,
    /// Engines of this machine; none while they load.
    pub(super) engines: Vec<WireEngine>,
    /// Targets of routes; none where there are no routes.
    pub(super) targets: Vec<WireTarget>,
}

/// Requests of a model and a task.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = status::Requests)]
pub(super) struct WireRequests {
    /// Name of the model; `unknown` where none was asked.
    model: String,
    /// `completion` or `generation`.
    task: &'static str,
    /// Requests that ended in the window.
    num_requests: u64,
    /// The same a second.
    per_second: f64,
    /// How they ended: `ok`, `cancelled`, or the kind of the error.
    outcomes: BTreeMap<&'static str, u64>,
    /// Share of those answered that were in time, late ones that are of some use counting a half.
    apdex: Option<f64>,
    /// Milliseconds that are in time.
    satisfied_ms: u64,
    /// Milliseconds that are of some use.
    tolerated_ms: u64,
    /// Milliseconds to the answer's head: of a stream to its first text, else to the end.
    answer_ms: Option<WireQuantiles>,
    /// Milliseconds to the first text.
    first_text_ms: Option<WireQuantiles>,
    /// Tokens written a second.
    tokens_per_second: f64,
}

/// Times that a share of the requests did not pass.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = status::Quantiles)]
struct WireQuantiles {
    /// A half.
    p50: f64,
    /// Nineteen of twenty.
    p95: f64,
    /// Ninety-nine of a hundred.
    p99: f64,
}

/// An engine of this machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = status::Engine)]
pub(super) struct WireEngine {
    /// Name of its model.
    model: String,
    /// Whether it takes requests.
    is_ready: bool,
    /// Sequences that wait for a place in the batch.
    num_waiting: usize,
    /// Most that may.
    num_waiting_max: usize,
    /// Sequences of the batch.
    num_running: usize,
    /// Most sequences of a batch.
    num_running_max: usize,
    /// Share of the KV cache that sequences hold, 1 is all.
    kv_cache_usage: f64,
    /// Tokens of prompts that were begun, since the start.
    num_prompt_tokens: u64,
    /// Of these, tokens that the prefix cache held.
    num_cache_hit_tokens: u64,
    /// Tokens written, since the start.
    num_generated_tokens: u64,
    /// Times that a sequence lost its blocks, since the start.
    num_preemptions: u64,
}

/// A target of routes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = status::Target)]
pub(in crate::api) struct WireTarget {
    /// Its name.
    name: String,
    /// Whether it would take a request.
    is_ready: bool,
    /// State of its breaker: `closed`, `open` or `half_open`.
    breaker: &'static str,
    /// What somebody decided about it: `auto`, `closed`, `open` or `drained`.
    #[serde(rename = "override")]
    manual: &'static str,
    /// Why the breaker is open.
    cause: Option<&'static str>,
    /// Seconds that it stays so.
    open_seconds: Option<f64>,
    /// Calls of the breaker's window.
    calls: u32,
    /// Of these, failures.
    failures: u32,
    /// Of these, slow ones.
    slow_calls: u32,
    /// Milliseconds to the first text of a half of the calls, once there were enough.
    first_text_p50_ms: Option<f64>,
    /// The same of nineteen of twenty.
    first_text_p95_ms: Option<f64>,
}

/// Returns the seconds that requests of the window were counted in.
pub(super) fn window(uptime: Duration) -> Duration {
    uptime.clamp(Duration::from_secs(1), WINDOW)
}

impl WireRequests {
    pub(super) fn of(recent: RecentRequests, window: Duration) -> Self {
        let num_requests: u64 = recent.outcomes.values().sum();
        let a_second = |number: u64| number as f64 / window.as_secs_f64();
        let Thresholds { satisfied, tolerated } = Thresholds::of(recent.task);
        Self {
            num_requests,
            per_second: a_second(num_requests),
            tokens_per_second: a_second(recent.num_tokens),
            apdex: recent.apdex,
            satisfied_ms: satisfied.as_millis() as u64,
            tolerated_ms: tolerated.as_millis() as u64,
            answer_ms: recent.answer_time.map(WireQuantiles::of),
            first_text_ms: recent.first_text.map(WireQuantiles::of),
            model: recent.model,
            task: recent.task,
            outcomes: recent.outcomes,
        }
    }
}

impl WireQuantiles {
    fn of(times: [Duration; 3]) -> Self {
        let [p50, p95, p99] = times.map(milliseconds);
        Self { p50, p95, p99 }
    }
}

impl From<EngineSample> for WireEngine {
    fn from(sample: EngineSample) -> Self {
        Self {
            kv_cache_usage: sample.num_blocks_used as f64 / sample.num_blocks.max(1) as f64,
            model: sample.model,
            is_ready: sample.is_ready,
            num_waiting: sample.num_waiting,
            num_waiting_max: sample.num_queued_max,
            num_running: sample.num_running,
            num_running_max: sample.num_running_max,
            num_prompt_tokens: sample.num_prompt_tokens,
            num_cache_hit_tokens: sample.num_cache_hit_tokens,
            num_generated_tokens: sample.num_generated_tokens,
            num_preemptions: sample.num_preemptions,
        }
    }
}

impl WireTarget {
    pub(in crate::api) fn of(view: &TargetView, now: Instant) -> Self {
        let [calls, failures, slow_calls] = view.counts;
        let (cause, open_seconds) = match view.standing {
            Standing::Closed => (None, None),
            // Open until somebody asks: whoever looks wants to know why.
            Standing::Probe { cause } => (Some(cause.as_label()), None),
            Standing::Open { until, cause } => {
                let left = until.map(|until| until.saturating_duration_since(now).as_secs_f64());
                (Some(cause.as_label()), left)
            }
        };
        Self {
            name: view.name.clone(),
            is_ready: view.is_ready,
            breaker: view.state.as_label(),
            manual: view.manual.as_label(),
            cause,
            open_seconds,
            calls,
            failures,
            slow_calls,
            first_text_p50_ms: view.p50.map(milliseconds),
            first_text_p95_ms: view.p95.map(milliseconds),
        }
    }
}

/// Returns milliseconds to the tenth: they are known to a fifth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
