//! Errors of this program on their way to whoever mends it: what is logged at `error`, and nothing else.
//!
//! The fields that go along are a list, so that a field somebody adds to a log line does not leave the machine with it.

use std::{fmt, sync::Arc, time::SystemTime};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

/// Fields that go along: names of the settings, closed sets, ids, and literal messages.
const FIELDS: [&str; 8] =
    ["correlation_id", "endpoint", "error", "model", "place", "provider", "thread", "what"];
/// Bytes of a value.
const VALUE_BYTES_MAX: usize = 512;

/// Something that went wrong here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReport {
    /// When.
    pub at: SystemTime,
    /// The module that said so.
    pub target: String,
    /// What happened: a literal.
    pub message: String,
    /// What is known of it.
    pub fields: Vec<(&'static str, String)>,
}

/// Who takes reports. Called wherever something is logged, so it must not wait.
pub type ReportSink = Arc<dyn Fn(ErrorReport) + Send + Sync>;

/// Makes reports of what is logged at `error`.
#[derive(Clone)]
pub struct ReportLayer(ReportSink);

impl ReportLayer {
    /// Hands reports to `sink`.
    pub fn new(sink: ReportSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for ReportLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportLayer").finish_non_exhaustive()
    }
}

impl<S: Subscriber> Layer<S> for ReportLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // What other crates say may hold anything.
        let is_ours = metadata.target().split("::").next() == Some("lacuna");
        if *metadata.level() != Level::ERROR || !is_ours {
            return;
        }
        let mut report = ErrorReport {
            at: SystemTime::now(),
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut report);
        (self.0)(report);
    }
}

impl Visit for ErrorReport {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = value[..value.floor_char_boundary(VALUE_BYTES_MAX)].to_owned();
        if field.name() == "message" {
            self.message = value;
        } else if let Some(name) = FIELDS.into_iter().find(|name| *name == field.name()) {
            self.fields.push((name, value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }
}
