//! A v4 stream: `stream_start`, a `content_chunk` a piece, `stream_end`.
//!
//! # Source
//! The bytes on the wire of the original: `event:` before `data:`, lines that end in CRLF.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream};
use serde::Serialize;

use crate::api::gitlab::{
    texts::{Texts, event_headers},
    wire::answer::{WireContentChunk, WireDelta, WireDeltaChoice, WireStreamStart},
};
use crate::provider::ProviderError;

/// Says to GitLab's clients that the body is events and no bare text.
const X_STREAMING_FORMAT: HeaderName = HeaderName::from_static("x-streaming-format");

/// Answers with events.
pub(super) fn respond(start: &WireStreamStart<'_>, texts: Texts) -> Response {
    let mut headers: HeaderMap = event_headers().into_iter().collect();
    headers.insert(X_STREAMING_FORMAT, HeaderValue::from_static("sse"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    let state = State { texts, phase: Phase::Start(event("stream_start", start)) };
    (headers, Body::from_stream(events(state))).into_response()
}

struct State {
    texts: Texts,
    phase: Phase,
}

enum Phase {
    Start(Bytes),
    Running,
    Ended,
}

/// A failure in the middle cuts the connection, without `stream_end`.
fn events(state: State) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send {
    stream::try_unfold(state, async |mut state| {
        let event = match std::mem::replace(&mut state.phase, Phase::Running) {
            Phase::Start(start) => start,
            Phase::Ended => return Ok(None),
            Phase::Running => {
                if let Some(content) = state.texts.next().await? {
                    content_chunk(&content)
                } else {
                    state.phase = Phase::Ended;
                    event("stream_end", &())
                }
            }
        };
        Ok(Some((event, state)))
    })
}

fn content_chunk(content: &str) -> Bytes {
    let choice = WireDeltaChoice { delta: WireDelta { content }, index: 0 };
    event("content_chunk", &WireContentChunk { choices: [choice] })
}

/// Writes an event; JSON has no line end of its own.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Texts and numbers always serialise.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\r\ndata: {data}\r\n\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_these_bytes() {
        let chunk = concat!(
            "event: content_chunk\r\n",
            r#"data: {"choices":[{"delta":{"content":"a\r\n\"b"},"index":0}]}"#,
            "\r\n\r\n",
        );
        assert_eq!(content_chunk("a\r\n\"b"), chunk);
        assert_eq!(event("stream_end", &()), "event: stream_end\r\ndata: null\r\n\r\n");
    }
}
