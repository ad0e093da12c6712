//! Spans as OTLP has them: `ExportTraceServiceRequest` of version 1.
//!
//! # Source
//! <https://github.com/open-telemetry/opentelemetry-proto>, `collector/trace/v1/trace_service.proto` and what it includes;
//! the numbers of fields are the format. A test compares with bytes that its own library wrote.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{
    export::protobuf::Message,
    trace::{FinishedSpan, SpanEvent, SpanKind, Value},
};

/// How a span that failed is marked.
const STATUS_ERROR: u64 = 2;
/// The flag of a trace that is recorded.
const SAMPLED: u32 = 1;

/// Returns the request that tells a collector of these spans.
pub(super) fn request(service_name: &str, version: &str, spans: &[FinishedSpan]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |resource| {
            attribute(resource, 1, "service.name", &Value::from(service_name.to_owned()));
            attribute(resource, 1, "service.version", &Value::from(version.to_owned()));
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| {
                scope.bytes(1, b"lacuna");
                scope.bytes(2, version.as_bytes());
            });
            for span in spans {
                scope_spans.message(2, |message| write(message, span));
            }
        });
    });
    request.into_bytes()
}

fn write(message: &mut Message, span: &FinishedSpan) {
    message.bytes(1, &span.context.trace_id.to_be_bytes());
    message.bytes(2, &span.context.span_id.to_be_bytes());
    if let Some(parent_id) = span.parent_id {
        message.bytes(4, &parent_id.to_be_bytes());
    }
    message.bytes(5, span.name.as_bytes());
    message.integer(
        6,
        match span.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
    );
    message.fixed64(7, nanoseconds(span.began));
    message.fixed64(8, nanoseconds(span.ended));
    for (key, value) in &span.attributes {
        attribute(message, 9, key, value);
    }
    for event in &span.events {
        message.message(11, |message| write_event(message, event));
    }
    if span.is_error {
        message.message(15, |status| status.integer(3, STATUS_ERROR));
    }
    message.fixed32(16, if span.context.is_sampled { SAMPLED } else { 0 });
}

fn write_event(message: &mut Message, event: &SpanEvent) {
    message.fixed64(1, nanoseconds(event.at));
    message.bytes(2, event.name.as_bytes());
    for (key, value) in &event.attributes {
        attribute(message, 3, key, value);
    }
}

fn attribute(message: &mut Message, field: u64, key: &str, value: &Value) {
    message.message(field, |pair| {
        pair.bytes(1, key.as_bytes());
        pair.message(2, |any| match value {
            Value::Text(text) => any.always_bytes(1, text.as_bytes()),
            Value::Bool(is_so) => any.always_integer(2, u64::from(*is_so)),
            Value::Integer(number) => any.always_integer(3, number.cast_unsigned()),
            Value::Float(number) => any.fixed64(4, number.to_bits()),
        });
    });
}

fn nanoseconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
