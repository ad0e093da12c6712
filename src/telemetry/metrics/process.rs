//! Metrics of the process: which version it is, and since when.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{IntGaugeVec, Opts};

use crate::telemetry::metrics::Declared;

pub(super) fn declare(declared: &mut Declared) -> Result<(), prometheus::Error> {
    let build = Opts::new("lacuna_build_info", "Always 1; says which version runs.");
    let build = declared.add(IntGaugeVec::new(build, &["version"])?)?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    // The name that Prometheus's own libraries give it.
    let start = Opts::new("process_start_time_seconds", "When the process started, since 1970.");
    let start = declared.add(IntGaugeVec::new(start, &[])?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    start.with_label_values::<&str>(&[]).set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    Ok(())
}
