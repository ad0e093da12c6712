//! Metrics under the names of GitLab's AI Gateway, so that its dashboards and alerts go on.
//!
//! # Source
//! The gateway's published metrics, August 2026, and those that it had until March 2026.

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::{
    Declared,
    http::BUCKETS,
    labels::{Bounded, UNKNOWN, client_type, realm},
    requests::{Inference, Telemetry},
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
/// Seconds of a chain of steps.
const STEPS: [f64; 8] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.025, 0.1];

/// Families under the gateway's names.
#[derive(Debug)]
pub(super) struct GatewayFamilies {
    inferences: IntCounterVec,
    duration: HistogramVec,
    tokens: [IntCounterVec; 3],
    in_flight: IntGaugeVec,
    languages: IntCounterVec,
    postprocessing: HistogramVec,
    telemetry: [IntCounterVec; 3],
    versions: Bounded,
}

impl GatewayFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let in_flight = Opts::new("model_inferences_in_flight", "Requests under way.");
        let in_flight = declared.add(IntGaugeVec::new(in_flight, &["endpoint"])?)?;
        let took = ("inference_request_duration_seconds", "From a request's head to its end.");
        let duration = declared.histogram(took, &INFERENCE, &BUCKETS)?;
        let took = (
            "code_suggestions_post_processing_duration_seconds",
            "What a request's steps of post-processing took.",
        );
        let postprocessing = declared.histogram(took, &["model_engine", "model_name"], &STEPS)?;
        let mut count = |name, help, labels: &[&str]| declared.counter(name, help, labels);
        let told = ["model_engine", "model_name", "lang"];
        Ok(Self {
            inferences: count(
                "model_inferences_total",
                "Requests that a model was asked.",
                &INFERENCE,
            )?,
            tokens: [
                count("inference_input_tokens_total", "Tokens read.", &INFERENCE)?,
                count("inference_output_tokens_total", "Tokens written.", &INFERENCE)?,
                count("inference_total_tokens_total", "Tokens read and written.", &INFERENCE)?,
            ],
            languages: count(
                "code_suggestions_prompt_language_total",
                "Requests by the language of their file.",
                &["lang"],
            )?,
            telemetry: [
                count("code_suggestions_requests_total", "Suggestions, as clients tell.", &told)?,
                count("code_suggestions_accepts_total", "Of these, taken.", &told)?,
                count("code_suggestions_errors_total", "Of these, failed.", &told)?,
            ],
            duration,
            in_flight,
            postprocessing,
            versions: Bounded::default(),
        })
    }

    /// Counts a request under way until what is returned is dropped.
    pub(super) fn begin(&self, endpoint: &'static str) -> InFlight {
        let gauge = self.in_flight.with_label_values(&[endpoint]);
        gauge.inc();
        InFlight(gauge)
    }

    /// Counts a request as the AI Gateway does.
    pub(super) fn record(&self, inference: &Inference<'_>, engine: &str, model: &str) {
        self.languages.with_label_values(&[inference.language.unwrap_or("")]).inc();
        if !inference.postprocessing.is_zero() {
            let took = inference.postprocessing.as_secs_f64();
            self.postprocessing.with_label_values(&[engine, model]).observe(took);
        }
        let [language_server, gitlab] =
            self.versions.pair([inference.language_server, inference.gitlab_version]);
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

    pub(super) fn record_telemetry(
        &self,
        told: Telemetry,
        (engine, model): (&str, &str),
        language: &str,
    ) {
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
        "invalid_request" | "upstream_declined" => "http_400",
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
