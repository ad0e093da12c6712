//! Metrics of requests: how many, how long, how they ended, and what clients tell of their suggestions.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{HistogramVec, IntCounterVec};

use crate::telemetry::metrics::{
    Declared,
    gateway::{GatewayFamilies, InFlight},
    labels::{UNKNOWN, client_type},
    recent::{Ended, Recent, RecentRequests},
};

/// Labels of our own.
const OWN: [&str; 5] = ["model_name", "provider", "task", "language", "client_type"];

/// Seconds to the first text, and between tokens: suggestions are of use for a few tenths.
const FIRST: [f64; 14] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 30.0];
const BETWEEN: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0];

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
    /// What it calls itself.
    pub client: &'static str,
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
    gateway: GatewayFamilies,
    outcomes: IntCounterVec,
    first: HistogramVec,
    between: HistogramVec,
    tokens: IntCounterVec,
    prompts: IntCounterVec,
    changes: IntCounterVec,
    clients: IntCounterVec,
    /// What the times of the last minutes are counted from.
    origin: Instant,
    recent: Mutex<Recent>,
}

impl RequestFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let gateway = GatewayFamilies::new(declared)?;
        let mut count = |name, help, labels: &[&str]| declared.counter(name, help, labels);
        let outcomes = count(
            "lacuna_requests_total",
            "Requests by how they ended.",
            &["endpoint", "outcome", "model_name"],
        )?;
        let tokens = count(
            "lacuna_tokens_total",
            "Tokens by what became of them.",
            &["model_name", "kind"],
        )?;
        let prompts = count(
            "lacuna_prompts_total",
            "Requests by the prompt that asked the model.",
            &["prompt", "outcome"],
        )?;
        let changes = count(
            "lacuna_postprocess_changes_total",
            "Choices that a step of post-processing changed.",
            &["step", "model_name"],
        )?;
        let clients = count(
            "lacuna_clients_total",
            "Requests by the editor or tool that sent them.",
            &["client", "task", "outcome"],
        )?;
        let first =
            ("lacuna_time_to_first_token_seconds", "From a request's head to its first text.");
        let between =
            ("lacuna_inter_token_latency_seconds", "Mean time between a request's tokens.");
        Ok(Self {
            gateway,
            outcomes,
            first: declared.histogram(first, &OWN, &FIRST)?,
            between: declared.histogram(between, &OWN, &BETWEEN)?,
            tokens,
            prompts,
            changes,
            clients,
            origin: Instant::now(),
            recent: Mutex::default(),
        })
    }

    /// Counts a request under way until what is returned is dropped.
    pub fn begin(&self, endpoint: &'static str) -> InFlight {
        self.gateway.begin(endpoint)
    }

    /// Counts a request that has ended.
    pub fn record(&self, inference: &Inference<'_>) {
        let (engine, model) = inference.model.unwrap_or((UNKNOWN, UNKNOWN));
        self.outcomes.with_label_values(&[inference.endpoint, inference.outcome, model]).inc();
        let client = inference.client;
        self.clients.with_label_values(&[client, inference.task, inference.outcome]).inc();
        self.note_recent(inference, model);
        if let Some(prompt) = inference.prompt {
            self.prompts.with_label_values(&[prompt, inference.outcome]).inc();
        }
        if inference.model.is_none() {
            return;
        }
        self.gateway.record(inference, engine, model);
        let client_type = client_type(inference.client_type);
        let language = inference.language.unwrap_or(UNKNOWN);
        let own = [model, engine, inference.task, language, client_type];
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
            self.tokens.with_label_values(&[model, kind]).inc_by(count.into());
        }
    }

    fn note_recent(&self, inference: &Inference<'_>, model: &str) {
        let first_text = inference.time_to_first_token;
        // As the service levels have it: a stream's answer is there when it begins.
        let answered = first_text.filter(|_| inference.is_streaming);
        let ended = Ended {
            outcome: inference.outcome,
            answer_time: answered.unwrap_or(inference.total_time),
            first_text,
            num_tokens: inference.completion_tokens,
        };
        let now = self.origin.elapsed();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.record(now, (model, inference.task), &ended);
    }

    /// Returns what became of the requests of the last minutes.
    pub fn recent(&self) -> Vec<RecentRequests> {
        let now = self.origin.elapsed();
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).view(now)
    }

    /// Counts a choice that a step of post-processing changed.
    pub fn record_change(&self, step: &'static str, model: &str) {
        self.changes.with_label_values(&[step, model]).inc();
    }

    /// Counts what a client tells of its earlier suggestions. Names are of models that are served here, the language of a
    /// closed set.
    pub fn record_telemetry(&self, told: Telemetry, model: (&str, &str), language: &str) {
        self.gateway.record_telemetry(told, model, language);
    }
}
