//! Metrics of what is sent to services that watch this one.

use prometheus::IntCounterVec;

use crate::telemetry::metrics::Declared;

/// Families of exports.
#[derive(Debug)]
pub struct ExportFamilies {
    items: IntCounterVec,
}

impl ExportFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let items = declared.counter(
            "lacuna_exports_total",
            "Spans and reports of errors by what became of them.",
            &["kind", "fate"],
        )?;
        Ok(Self { items })
    }

    /// Counts what became of so many.
    pub fn record(&self, kind: &'static str, fate: &'static str, num: u64) {
        self.items.with_label_values(&[kind, fate]).inc_by(num);
    }
}
