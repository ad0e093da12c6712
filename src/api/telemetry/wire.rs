//! Bodies of the endpoints of telemetry.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::json::{Integer, Number, Object};

/// What became of completions: a list, or one event alone.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = telemetry::Events)]
pub(super) struct WireEvents {
    /// Several events; those of one request are taken together or not at all.
    #[schema(value_type = Option<Vec<WireEvent>>, max_items = 100)]
    pub(super) events: Option<Vec<Object<WireEvent>>>,
    /// Of one event alone, as all that follows.
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) completion_id: Option<String>,
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1023)]
    pub(super) choice_index: Option<Integer>,
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) elapsed_ms: Option<Number>,
    #[schema(value_type = Option<f64>)]
    pub(super) timestamp: Option<Number>,
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) accepted_chars: Option<Number>,
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) accepted_lines: Option<Number>,
}

/// What became of a completion.
#[derive(Debug, Default, Deserialize, PartialEq, ToSchema)]
#[schema(as = telemetry::Event)]
pub(super) struct WireEvent {
    /// `shown`, `accepted` or `rejected`.
    #[serde(rename = "type")]
    #[schema(value_type = String, required = true)]
    pub(super) kind: Option<String>,
    /// The `id` of the completion, or the `X-Request-Id` of the answer, which is the same without `cmpl-`.
    #[schema(value_type = String, required = true, max_length = 160)]
    pub(super) completion_id: Option<String>,
    /// Which of its choices; the first where it is not said.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1023)]
    pub(super) choice_index: Option<Integer>,
    /// Milliseconds since it was shown.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) elapsed_ms: Option<Number>,
    /// When, in seconds or milliseconds since 1970; now where it is not said.
    #[schema(value_type = Option<f64>)]
    pub(super) timestamp: Option<Number>,
    /// Characters that were taken.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) accepted_chars: Option<Number>,
    /// Lines that were taken.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(super) accepted_lines: Option<Number>,
}

impl WireEvents {
    /// Returns the event that stands alone.
    pub(super) fn alone(self) -> WireEvent {
        WireEvent {
            kind: self.kind,
            completion_id: self.completion_id,
            choice_index: self.choice_index,
            elapsed_ms: self.elapsed_ms,
            timestamp: self.timestamp,
            accepted_chars: self.accepted_chars,
            accepted_lines: self.accepted_lines,
        }
    }
}

/// How many events were kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = telemetry::Stored)]
pub(super) struct WireStored {
    /// Whether this server keeps any.
    pub(super) enabled: bool,
    /// Kept now, and on the disk.
    pub(super) stored: usize,
    /// Told before, and counted once.
    pub(super) duplicates: usize,
}

/// An event as Tabby's clients tell it.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = tabby::Event)]
pub(super) struct WireTabbyEvent {
    /// `view`, `select` or `dismiss`; others are passed over.
    #[serde(rename = "type")]
    #[schema(value_type = String, required = true)]
    pub(super) kind: Option<String>,
    /// Required of the three, at most 160 bytes; what is passed over may have anything.
    pub(super) completion_id: Option<String>,
    /// Of the three at most 1023.
    #[schema(schema_with = crate::api::openapi::optional_integer)]
    pub(super) choice_index: Option<Integer>,
    /// Milliseconds since it was shown.
    #[schema(value_type = Option<f64>)]
    pub(super) elapsed: Option<Number>,
}
