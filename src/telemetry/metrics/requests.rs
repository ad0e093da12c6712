//! Metrics of requests: how many, how long, how they ended, and what clients tell of their suggestions.

use std::{cell::RefCell, time::Duration};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::{
    Declared,
    http::BUCKETS,
    labels::{Bounded, UNKNOWN, client_type, realm},
};

/// Labels of the AI Gateway's families of inferences.
const INFERENCE: [&str; 13] = [
    "model_engine",
    "model_name",
    "lsp_version",
    "gitlab_version",
    "client_type",
    "gitlab_realm",
    "is_gitlab_team_member",
    "error",
    "error_type",
    "streaming",
    "feature_category",
    "unit_primitive",
    "finish_reason",
];
/// Labels of our own.
const OWN: [&str; 5] = ["model_name", "provider", "task", "language", "client_type"];

/// Seconds to the first text, and between tokens: suggestions are of use for a few tenths.
const FIRST: [f64; 14] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 30.0];
const BETWEEN: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0];
/// Seconds of a chain of steps.
const STEPS: [f64; 8] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1];

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Inference<'a> {
    /// Dialect and endpoint; a closed set.
    pub endpoint: &'static str,
    /// What ran the model, and the model; `None` where none was asked.
    pub model: Option<(&'a str, &'a str)>,
    /// `completion` or `generation`.
    pub task: &'static str,
    /// `ok`, `cancelled`, or the label of an error.
    pub outcome: &'static str,
    /// Why the first choice ended.
    pub finish_reason: Option<&'static str>,
    /// Whether pieces were handed on as they came.
    pub is_streaming: bool,
    /// Language of the file.
    pub language: Option<&'static str>,
    /// Task, family and version of the registry's prompt, where one asked.
    pub prompt: Option<&'a str>,
    /// What the client says of itself.
    pub client_type: Option<&'a str>,
    /// Version of its language server.
    pub language_server: Option<&'a str>,
    /// Version of its GitLab.
    pub gitlab_version: Option<&'a str>,
    /// Its realm.
    pub realm: Option<&'a str>,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Of these, tokens that a cache held.
    pub cached_tokens: u32,
    /// Tokens written.
    pub completion_tokens: u32,
    /// Tokens that were not written, because a step would have deleted them.
    pub saved_tokens: u32,
    /// From the head of the request to the first text.
    pub time_to_first_token: Option<Duration>,
    /// From the head of the request to its end.
    pub total_time: Duration,
    /// What the steps took.
    pub postprocessing: Duration,
}

/// What a client tells of its earlier suggestions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Suggestions asked for.
    pub requests: u64,
    /// Suggestions taken.
    pub accepts: u64,
    /// Suggestions that failed.
    pub errors: u64,
}

/// Families of requests.
#[derive(Debug)]
pub struct RequestFamilies {
    inferences: IntCounterVec,
    duration: HistogramVec,
    tokens: [IntCounterVec; 3],
    in_flight: IntGaugeVec,
    languages: IntCounterVec,
    postprocessing: HistogramVec,
    telemetry: [IntCounterVec; 3],
    outcomes: IntCounterVec,
    first: HistogramVec,
    between: HistogramVec,
    own_tokens: IntCounterVec,
    prompts: IntCounterVec,
    changes: IntCounterVec,
    language_servers: Bounded,
    instances: Bounded,
}

impl RequestFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let declared = RefCell::new(declared);
        let count = |name, help, labels: &[&str]| {
            declared.borrow_mut().add(IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let time = |name, help, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            declared.borrow_mut().add(HistogramVec::new(opts, labels)?)
        };
        let model = ["model_engine", "model_name"];
        let told = ["model_engine", "model_name", "lang"];
        let in_flight = Opts::new("model_inferences_in_flight", "Requests under way.");
        let in_flight = declared.borrow_mut().add(IntGaugeVec::new(in_flight, &["endpoint"])?)?;
        Ok(Self {
            inferences: count(
                "model_inferences_total",
                "Requests that a model was asked.",
                &INFERENCE,
            )?,
            duration: time(
                "inference_request_duration_seconds",
                "Time from a request's head to its end.",
                &INFERENCE,
                &BUCKETS,
            )?,
            tokens: [
                count("inference_input_tokens_total", "Tokens read.", &INFERENCE)?,
                count("inference_output_tokens_total", "Tokens written.", &INFERENCE)?,
                count("inference_total_tokens_total", "Tokens read and written.", &INFERENCE)?,
            ],
            in_flight,
            languages: count(
                "code_suggestions_prompt_language_total",
                "Requests by the language of their file.",
                &["lang"],
            )?,
            postprocessing: time(
                "code_suggestions_post_processing_duration_seconds",
                "What a request's steps of post-processing took.",
                &model,
                &STEPS,
            )?,
            telemetry: [
                count(
                    "code_suggestions_requests_total",
                    "Suggestions asked for, as clients tell.",
                    &told,
                )?,
                count(
                    "code_suggestions_accepts_total",
                    "Suggestions taken, as clients tell.",
                    &told,
                )?,
                count(
                    "code_suggestions_errors_total",
                    "Suggestions that failed, as clients tell.",
                    &told,
                )?,
            ],
            outcomes: count(
                "lacuna_requests_total",
                "Requests by how they ended.",
                &["endpoint", "outcome", "model_name"],
            )?,
            first: time(
                "lacuna_time_to_first_token_seconds",
                "Time from a request's head to its first text.",
                &OWN,
                &FIRST,
            )?,
            between: time(
                "lacuna_inter_token_latency_seconds",
                "Mean time between a request's tokens.",
                &OWN,
                &BETWEEN,
            )?,
            own_tokens: count(
                "lacuna_tokens_total",
                "Tokens by what became of them.",
                &["model_name", "kind"],
            )?,
            prompts: count(
                "lacuna_prompts_total",
                "Requests by the prompt that asked the model.",
                &["prompt", "outcome"],
            )?,
            changes: count(
                "lacuna_postprocess_changes_total",
                "Choices that a step of post-processing changed.",
                &["step", "model_name"],
            )?,
            language_servers: Bounded::default(),
            instances: Bounded::default(),
        })
    }

    /// Counts a request under way until what is returned is dropped.
    pub fn begin(&self, endpoint: &'static str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[endpoint]);
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts a request that has ended.
    pub fn record(&self, inference: &Inference<'_>) {
        let (engine, model) = inference.model.unwrap_or((UNKNOWN, UNKNOWN));
        self.outcomes.with_label_values(&[inference.endpoint, inference.outcome, model]).inc();
        if let Some(prompt) = inference.prompt {
            self.prompts.with_label_values(&[prompt, inference.outcome]).inc();
        }
        if inference.model.is_none() {
            return;
        }
        self.record_gateway(inference, engine, model);
        self.languages.with_label_values(&[inference.language.unwrap_or("")]).inc();
        let client = client_type(inference.client_type);
        let language = inference.language.unwrap_or(UNKNOWN);
        let own = [model, engine, inference.task, language, client];
        if let Some(first) = inference.time_to_first_token {
            self.first.with_label_values(&own).observe(first.as_secs_f64());
            if inference.completion_tokens > 1 {
                let rest = inference.total_time.saturating_sub(first).as_secs_f64();
                let between = rest / f64::from(inference.completion_tokens - 1);
                self.between.with_label_values(&own).observe(between);
            }
        }
        let kinds = [
            ("prompt", inference.prompt_tokens),
            ("cached", inference.cached_tokens),
            ("completion", inference.completion_tokens),
            ("saved", inference.saved_tokens),
        ];
        for (kind, count) in kinds {
            self.own_tokens.with_label_values(&[model, kind]).inc_by(count.into());
        }
        if !inference.postprocessing.is_zero() {
            let took = inference.postprocessing.as_secs_f64();
            self.postprocessing.with_label_values(&[engine, model]).observe(took);
        }
    }

    /// Counts a request as the AI Gateway does.
    fn record_gateway(&self, inference: &Inference<'_>, engine: &str, model: &str) {
        let language_server = self.language_servers.version(inference.language_server);
        let gitlab = self.instances.version(inference.gitlab_version);
        let is_failed = !matches!(inference.outcome, "ok" | "cancelled");
        let unit_primitive = match inference.task {
            "generation" => "generate_code",
            _ => "complete_code",
        };
        let labels = [
            engine,
            model,
            &language_server,
            &gitlab,
            client_type(inference.client_type),
            realm(inference.realm),
            UNKNOWN,
            if is_failed { "yes" } else { "no" },
            error_type(inference.outcome),
            if inference.is_streaming { "yes" } else { "no" },
            "code_suggestions",
            unit_primitive,
            inference.finish_reason.unwrap_or(UNKNOWN),
        ];
        self.inferences.with_label_values(&labels).inc();
        self.duration.with_label_values(&labels).observe(inference.total_time.as_secs_f64());
        let (read, written) = (inference.prompt_tokens.into(), inference.completion_tokens.into());
        for (family, count) in self.tokens.iter().zip([read, written, read + written]) {
            family.with_label_values(&labels).inc_by(count);
        }
    }

    /// Counts a choice that a step of post-processing changed.
    pub fn record_change(&self, step: &'static str, model: &str) {
        self.changes.with_label_values(&[step, model]).inc();
    }

    /// Counts what a client tells of its earlier suggestions. Names are of models that are served here, the language of a
    /// closed set.
    pub fn record_telemetry(&self, told: Telemetry, (engine, model): (&str, &str), language: &str) {
        let counts = [told.requests, told.accepts, told.errors];
        for (family, count) in self.telemetry.iter().zip(counts) {
            family.with_label_values(&[engine, model, language]).inc_by(count);
        }
    }
}

/// The AI Gateway's word for an outcome.
fn error_type(outcome: &'static str) -> &'static str {
    match outcome {
        "ok" | "cancelled" => "none",
        "prompt_too_long" => "prompt_too_long",
        "overloaded" | "rate_limited" | "upstream_exhausted" => "overloaded",
        "invalid_request" => "http_400",
        "unauthorised" | "upstream_refused" => "permission_error",
        "unavailable" | "upstream_failed" => "service_unavailable",
        "upstream_unreachable" => "connection_error",
        _ => "other",
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight(prometheus::IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
