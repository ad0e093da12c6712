//! The text of an answer as it comes, cleaned on its way.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream};

use crate::api::{
    Admission,
    gitlab::{
        convert::{Asked, Cleaning, answer::on_its_own_line},
        lines::Lines,
    },
};
use crate::completion::CompletionChunk;
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
    account: Account,
    /// What takes Markdown out; `None` where there is none, and at the end.
    lines: Option<Lines>,
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
        let events = service.complete(asked.request, account.clone()).await?;
        let (lines, needs_line) = match asked.cleaning {
            Cleaning::Nothing => (None, false),
            Cleaning::Talk { needs_line } => (Some(Lines::default()), needs_line),
        };
        let mut rest = Rest { events, account: account.clone(), lines, is_over: false };
        let first = rest.next().await?.map(|text| on_its_own_line(text, needs_line));
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
                    self.clean(chunk)
                }
                Some(Ok(CompletionEvent::Chunk(_))) => continue,
                Some(Ok(CompletionEvent::Done(_))) => {
                    self.is_over = true;
                    self.lines.take().map(|mut lines| lines.finish()).unwrap_or_default()
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

    fn clean(&mut self, chunk: CompletionChunk) -> String {
        let Some(lines) = &mut self.lines else { return chunk.text };
        let clean = lines.push(&chunk.text);
        if lines.is_over() {
            // What follows would be thrown away, so nobody need compute it.
            self.account.suffice(chunk.usage);
            self.events = CompletionStream::new(stream::empty());
            self.is_over = true;
        }
        clean
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
