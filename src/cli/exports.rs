//! What this server tells of itself to others: spans to a collector, reports of errors, as the settings name them.

use std::sync::Arc;

use crate::{
    api::Observed,
    config::{Config, Violation},
    export::{
        Count, Exporter,
        reports::{self, PendingReports},
        traces,
    },
    telemetry::metrics::Metrics,
};

/// The tasks that send.
#[derive(Debug)]
pub(super) struct Exports(Vec<Exporter>);

impl Exports {
    /// Sends what is left, as far as there is time.
    pub(super) async fn finish(self) {
        futures_util::future::join_all(self.0.into_iter().map(Exporter::finish)).await;
    }
}

/// Starts what the settings ask for, and says which requests are told of.
///
/// # Errors
/// A setting that cannot be used, by its key.
pub(super) fn start(
    config: &Config,
    pending: Option<PendingReports>,
    metrics: &Metrics,
) -> Result<(Exports, Observed), Violation> {
    let proxies = &config.hub.proxies;
    let count = |kind| counted(metrics, kind);
    let traces = traces::start(&config.traces, proxies, count("span"))?;
    let reports = match pending {
        None => None,
        Some(pending) => {
            let started = reports::start(&config.reports, proxies, pending, count("report"));
            started?
        }
    };
    let (tracer, exporter) = traces.unzip();
    let observed = Observed {
        access: config.log.access,
        has_client_addresses: config.log.has_client_addresses,
        tracer: tracer.unwrap_or_default(),
    };
    Ok((Exports(exporter.into_iter().chain(reports).collect()), observed))
}

fn counted(metrics: &Metrics, kind: &'static str) -> Count {
    let metrics = metrics.clone();
    Arc::new(move |fate, num| metrics.exports().record(kind, fate.as_label(), num))
}
