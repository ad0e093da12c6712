//! The text of an answer as it comes: a completion in pieces, whole code line by line.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream};

use crate::api::{Admission, gitlab::convert::Asked};
use crate::completion::PostProcessing;
use crate::provider::{CompletionEvent, CompletionStream, ProviderError, ProviderErrorKind};
use crate::service::{Account, CompletionService};

/// An answer under way, of which something has come: an error before that still gets its status.
pub(super) struct Texts {
    /// The text read ahead, until it is handed on.
    first: Option<String>,
    rest: Rest,
    /// Held to the end of the answer.
    _admission: Admission,
}

struct Rest {
    events: CompletionStream,
    /// Whether lines are handed on when they are whole.
    is_by_line: bool,
    /// What has come of a line that is not.
    line: String,
    is_over: bool,
}

impl Texts {
    /// Starts a completion and waits for its first text.
    pub(super) async fn open(
        service: &CompletionService,
        asked: Asked,
        account: &Account,
        admission: Admission,
    ) -> Result<Self, ProviderError> {
        let is_by_line = matches!(asked.request.postprocessing, PostProcessing::Generation { .. });
        let events = service.complete(asked.request, account.clone()).await?;
        let mut rest = Rest { events, is_by_line, line: String::new(), is_over: false };
        let first = rest.next().await?;
        Ok(Self { first, rest, _admission: admission })
    }

    /// Returns the next text that is not empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<String>, ProviderError> {
        let next = match self.first.take() {
            Some(first) => return Ok(Some(first)),
            None => self.rest.next().await,
        };
        if next.is_err() {
            // hyper drops what it has not yet written when a body fails; this turn lets it write.
            tokio::task::yield_now().await;
        }
        next
    }
}

impl Rest {
    async fn next(&mut self) -> Result<Option<String>, ProviderError> {
        while !self.is_over {
            let text = match self.events.next().await {
                Some(Ok(CompletionEvent::Chunk(chunk))) if chunk.choice_index == 0 => {
                    self.whole_lines(chunk.text)
                }
                Some(Ok(CompletionEvent::Chunk(_))) => continue,
                Some(Ok(CompletionEvent::Done(_))) => {
                    self.is_over = true;
                    std::mem::take(&mut self.line)
                }
                Some(Err(error)) => return Err(error),
                None => {
                    let kind = ProviderErrorKind::Internal;
                    return Err(ProviderError::new(kind, "the completion ended early"));
                }
            };
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Returns what may be handed on with a piece of text.
    fn whole_lines(&mut self, text: String) -> String {
        if !self.is_by_line {
            return text;
        }
        self.line.push_str(&text);
        let end = self.line.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = self.line.split_off(end);
        std::mem::replace(&mut self.line, rest)
    }
}

/// Answers with bare text under the content type of events, without an end mark, as the original does.
pub(super) fn bare(texts: Texts) -> Response {
    let headers: HeaderMap = event_headers().into_iter().collect();
    if texts.first.is_none() {
        return (headers, Body::empty()).into_response();
    }
    (headers, Body::from_stream(pieces(texts))).into_response()
}

/// Returns the headers of every stream.
pub(super) fn event_headers() -> [(header::HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// An error after the start cuts the connection: an orderly end would pass a part off as the whole.
fn pieces(texts: Texts) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send {
    stream::try_unfold(texts, async |mut texts| {
        let next = texts.next().await?;
        Ok(next.map(|text| (Bytes::from(text), texts)))
    })
}
