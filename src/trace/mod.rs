//! Traces: what a request was doing when, as spans that know their parents. Here are the values; who sends them on is
//! elsewhere.
//!
//! Spans are handed from caller to callee by name, not by a thread's or a task's state: a request is a future that
//! wanders, and its answer a stream that others poll. Where nobody traces, a span is nothing and each call on it one
//! branch. Names and attributes are of closed sets, names from the settings, lengths and times; no text of a user.

mod context;
mod current;
mod span;
#[cfg(test)]
pub(crate) mod tests;

pub use context::SpanContext;
pub use current::{current_request, in_request, with_request};
pub use span::{FinishedSpan, Parent, Span, SpanEvent, SpanKind, SpanSink, Tracer, Value};
