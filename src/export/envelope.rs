//! A report as Sentry's envelope: a line for the envelope, one for its item, and an event as JSON.
//!
//! # Source
//! <https://develop.sentry.dev/sdk/data-model/envelopes/> and <https://develop.sentry.dev/sdk/data-model/event-payloads/>.
//! No user, no request, no name of the machine: what a report has is what `telemetry::reports` lets through.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use crate::telemetry::ErrorReport;

/// What the release is called.
const RELEASE: &str = concat!("lacuna@", env!("CARGO_PKG_VERSION"));
/// The message of a panic's line in the log.
const PANIC: &str = "panic";

/// Returns the envelope of a report.
pub(super) fn of(report: &ErrorReport, environment: &str) -> Vec<u8> {
    let id = event_id();
    let event = event(report, environment, &id).to_string();
    let head = json!({ "event_id": id });
    let item =
        json!({ "type": "event", "content_type": "application/json", "length": event.len() });
    format!("{head}\n{item}\n{event}\n").into_bytes()
}

fn event(report: &ErrorReport, environment: &str, id: &str) -> Value {
    let field = |name: &str| {
        report.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    };
    let tags: Map<String, Value> = report
        .fields
        .iter()
        .filter(|(name, _)| !["place", "what", "error"].contains(name))
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    let mut event = json!({
        "event_id": id,
        "timestamp": seconds(report.at),
        "platform": "native",
        "level": "error",
        "logger": report.target,
        "release": RELEASE,
        "environment": environment,
        "tags": tags,
        "sdk": { "name": "lacuna", "version": env!("CARGO_PKG_VERSION") },
    });
    if report.message == PANIC {
        event["level"] = "fatal".into();
        event["exception"] = json!({ "values": [{
            "type": PANIC,
            "value": field("what"),
            "mechanism": { "type": PANIC, "handled": false },
            "stacktrace": { "frames": field("place").and_then(frame).into_iter().collect::<Vec<_>>() },
        }]});
    } else {
        event["logentry"] = json!({ "formatted": report.message });
        event["extra"] = json!({ "error": field("error") });
    }
    event
}

/// Returns a place such as `src/a.rs:12:5` as a frame.
fn frame(place: &str) -> Option<Value> {
    let mut parts = place.rsplitn(3, ':');
    let (column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |text: &str| text.parse::<u32>().ok();
    // Paths of a build tell of the machine that it was made on; what follows the sources' folder does not.
    let file = file.rfind("/src/").map_or(file, |at| &file[at + 1..]);
    Some(
        json!({ "filename": file, "lineno": number(line)?, "colno": number(column)?, "in_app": true }),
    )
}

fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Draws an id. The keys of the standard library's hash maps come from the system's randomness and differ each time.
fn event_id() -> String {
    let half = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", half(), half())
}
