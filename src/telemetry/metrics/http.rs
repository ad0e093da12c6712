//! Metrics of HTTP: how long endpoints take to begin an answer.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec};

use crate::telemetry::metrics::Declared;

/// Seconds: the AI Gateway's, of `inference_request_duration_seconds` too.
pub(super) const BUCKETS: [f64; 7] = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Families of HTTP.
#[derive(Debug)]
pub struct HttpFamilies {
    duration: HistogramVec,
}

impl HttpFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let opts = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from a request's head to its answer's head, a stream's body left out.",
        );
        // Completions are a matter of tenths: finer below the gateway's first border.
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25].into_iter().chain(BUCKETS).collect();
        let labels = ["handler", "method", "status"];
        let duration = declared.add(HistogramVec::new(opts.buckets(buckets), &labels)?)?;
        Ok(Self { duration })
    }

    /// Counts a request. `handler` is the path of its endpoint as it is described, `method` one of the known, `status` its
    /// number.
    pub fn record(&self, handler: &str, method: &'static str, status: u16, took: Duration) {
        let status = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.duration.with_label_values(&[handler, method, status]).observe(took.as_secs_f64());
    }
}
