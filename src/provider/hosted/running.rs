//! A completion under way at a service: the calls that it takes, their texts held back for stop texts, their counts.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, mpsc},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    client::Frames,
    completion::{CompletionChunk, FinishReason, Usage},
    provider::{
        CompletionEvent, CompletionStream, ProviderError,
        hosted::{
            error::{malformed, of_fault},
            http::Body,
            protocol::{Counted, Heard, Piece, Protocol},
        },
        shown::{Shown, ShownText},
        span::ProviderSpan,
    },
};

/// How long the count of tokens is waited for once all texts are there.
const COUNT_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of HTTP's is waited for behind that of the protocol, so that the connection can be used again: as a
/// rule both come together.
const END_PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of a token at most, and bytes for a text of few tokens.
const TEXT_BYTES: (usize, usize) = (64, 4096);
/// Bytes of a token's event at most, with log-probabilities and what a service adds, and bytes for what comes besides.
const EVENT_BYTES: (usize, usize) = (2048, 1 << 20);
/// The end of OpenAI's streams and those of its kin.
const DONE: &str = "[DONE]";

/// What is known before the first word comes.
#[derive(Debug)]
pub(super) struct Start {
    /// The provider's name.
    pub(super) provider: String,
    /// What it speaks.
    pub(super) protocol: &'static dyn Protocol,
    /// Texts that end a choice.
    pub(super) stops: Arc<[String]>,
    /// Choices of a call.
    pub(super) num_choices_per_call: u32,
    /// Most tokens of a choice.
    pub(super) max_tokens: u32,
    /// When it must be there.
    pub(super) deadline: Option<Instant>,
    /// What the prompt takes, about.
    pub(super) usage: Usage,
    /// Bytes of a token, about.
    pub(super) bytes_per_token: f64,
    /// Whether pieces were asked for.
    pub(super) is_streaming: bool,
    /// The calls' places at the provider, until they end.
    pub(super) places: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for dyn Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.abilities().name)
    }
}

/// A completion under way. Dropping it closes its connections.
pub(super) struct Running {
    start: Start,
    calls: Vec<Call>,
    choices: Vec<Choice>,
    /// Chunks that came together.
    chunks: VecDeque<CompletionChunk>,
    /// When the last choice ended, or the last call.
    ended: Option<Instant>,
    phase: Phase,
    /// Choices of which no more is wanted.
    unwanted: mpsc::Receiver<u32>,
    span: ProviderSpan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Closing,
    Ended,
}

/// A call; its connection is let go of as soon as nothing more is wanted of it.
struct Call {
    heard: Option<BoxStream<'static, Result<Heard, ProviderError>>>,
    counted: Counted,
    /// Whether the service has said anything.
    has_begun: bool,
    /// Whether the service has said all.
    is_ended: bool,
}

struct Choice {
    index: u32,
    shown: ShownText,
    num_bytes_told: usize,
    num_bytes_heard: usize,
}

type Event = Result<CompletionEvent, ProviderError>;

impl Running {
    /// Takes the answers of all calls.
    pub(super) fn new(start: Start, bodies: Vec<Body>) -> Self {
        let num_choices = start.num_choices_per_call * bodies.len() as u32;
        let choices = (0..num_choices).map(|index| Choice::new(index, &start.stops)).collect();
        let bytes_max = EVENT_BYTES.1
            + EVENT_BYTES.0 * start.max_tokens as usize * start.num_choices_per_call as usize;
        let call = |body: Body| {
            let is_whole = body.is_whole() || !start.is_streaming;
            let frames = Frames::new(start.protocol.abilities().framing);
            let protocol = start.protocol;
            let listening =
                Listening { body, protocol, frames, bytes_max, is_whole, is_ended: false };
            Call {
                heard: Some(listening.into_stream()),
                counted: Counted::default(),
                has_begun: false,
                is_ended: false,
            }
        };
        let calls = bodies.into_iter().map(call).collect();
        Self {
            start,
            calls,
            choices,
            chunks: VecDeque::new(),
            ended: None,
            phase: Phase::Running,
            unwanted: mpsc::channel().1,
            span: ProviderSpan::default(),
        }
    }

    /// Tells the span what becomes of it.
    pub(super) fn traced(self, span: ProviderSpan) -> Self {
        Self { span, ..self }
    }

    /// Returns the events of the completion.
    pub(super) fn into_stream(mut self) -> CompletionStream {
        let (ends, unwanted) = mpsc::channel();
        self.unwanted = unwanted;
        let events = stream::unfold(self, |mut running| async {
            let event = running.next().await?;
            running.span.take(&event);
            Some((event, running))
        });
        CompletionStream::new(events).with_ends(ends)
    }

    /// Ends the choices of which no more is wanted, and lets go of calls that nothing more is wanted of.
    fn hear_wishes(&mut self) {
        while let Ok(index) = self.unwanted.try_recv() {
            let choice =
                self.choices.get_mut(index as usize).filter(|choice| !choice.shown.is_finished());
            let Some(choice) = choice else { continue };
            self.chunks.push_back(choice.end(FinishReason::Stop));
            let call = index as usize / self.start.num_choices_per_call as usize;
            if self.is_call_finished(call) {
                self.calls[call].heard = None;
            }
        }
    }

    async fn next(&mut self) -> Option<Event> {
        self.hear_wishes();
        loop {
            if let Some(chunk) = self.chunks.pop_front() {
                return Some(Ok(CompletionEvent::Chunk(chunk)));
            }
            match self.phase {
                Phase::Ended => return None,
                Phase::Closing => {
                    self.phase = Phase::Ended;
                    self.let_go();
                    return Some(Ok(CompletionEvent::Done(self.usage())));
                }
                Phase::Running => {
                    if let Err(error) = self.advance().await {
                        self.phase = Phase::Ended;
                        self.let_go();
                        return Some(Err(error));
                    }
                }
            }
        }
    }

    /// Closes what is open and gives the places back, whatever becomes of the stream.
    fn let_go(&mut self) {
        self.calls.iter_mut().for_each(|call| call.heard = None);
        drop(self.start.places.take());
    }

    async fn advance(&mut self) -> Result<(), ProviderError> {
        let is_finished = self.choices.iter().all(|choice| choice.shown.is_finished());
        if is_finished && self.calls.iter().all(|call| call.heard.is_none()) {
            self.phase = Phase::Closing;
            return Ok(());
        }
        let until = self.until();
        let next = poll_fn(|cx| self.poll_heard(cx));
        let heard = match until {
            None => Ok(next.await),
            Some(until) => tokio::time::timeout_at(until.into(), next).await,
        };
        match heard {
            Ok(Some((index, Some(Ok(heard))))) => self.take(index, heard),
            // What comes behind the last word is only the count.
            Ok(Some((index, None | Some(Err(_))))) if self.is_call_finished(index) => {
                self.calls[index].heard = None;
                Ok(())
            }
            Ok(Some((_, Some(Err(error))))) => Err(error),
            Ok(Some((index, None))) => {
                let has_begun = self.calls[index].has_begun;
                let what = if has_begun {
                    "it was cut off"
                } else {
                    "it has none of the protocol's pieces"
                };
                Err(malformed(&self.start.provider, what))
            }
            Ok(None) | Err(_) if is_finished => {
                self.phase = Phase::Closing;
                Ok(())
            }
            Ok(None) | Err(_) => self.run_out_of_time(),
        }
    }

    /// Returns until when the next word is waited for.
    fn until(&self) -> Option<Instant> {
        let mut open = self.calls.iter().filter(|call| call.heard.is_some());
        let patience = if open.all(|call| call.is_ended) { END_PATIENCE } else { COUNT_PATIENCE };
        let patience = self.ended.map(|ended| ended + patience);
        [self.start.deadline, patience].into_iter().flatten().min()
    }

    /// Returns the next that is heard of any call, with its index; `None` where no call is left.
    #[expect(clippy::type_complexity, reason = "a call, and what its stream gives")]
    fn poll_heard(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Option<Result<Heard, ProviderError>>)>> {
        let mut is_pending = false;
        for (index, call) in self.calls.iter_mut().enumerate() {
            let Some(heard) = &mut call.heard else { continue };
            match heard.poll_next_unpin(cx) {
                Poll::Ready(heard) => return Poll::Ready(Some((index, heard))),
                Poll::Pending => is_pending = true,
            }
        }
        if is_pending { Poll::Pending } else { Poll::Ready(None) }
    }

    fn choices_of(&mut self, call: usize) -> &mut [Choice] {
        let num = self.start.num_choices_per_call as usize;
        &mut self.choices[call * num..(call + 1) * num]
    }

    fn is_call_finished(&mut self, call: usize) -> bool {
        self.choices_of(call).iter().all(|choice| choice.shown.is_finished())
    }

    fn take(&mut self, index: usize, heard: Heard) -> Result<(), ProviderError> {
        self.calls[index].counted.update(heard.counted);
        let bytes_max = TEXT_BYTES.0 * self.start.max_tokens as usize + TEXT_BYTES.1;
        let provider = self.start.provider.clone();
        let mut chunks = Vec::new();
        let mut is_stopped = false;
        for piece in heard.pieces {
            let choice = self
                .choices_of(index)
                .get_mut(piece.choice as usize)
                .ok_or_else(|| malformed(&provider, "it has more choices than were asked for"))?;
            chunks.extend(choice.take(piece));
            if choice.num_bytes_heard > bytes_max {
                return Err(malformed(&provider, "it has more text than was asked for"));
            }
            is_stopped |= choice.shown.is_stopped();
        }
        if heard.is_end {
            // A service that ends without a word for why has ended all the same.
            let open =
                self.choices_of(index).iter_mut().filter(|choice| !choice.shown.is_finished());
            chunks.extend(open.map(|choice| choice.end(FinishReason::Stop)));
        }
        self.chunks.extend(chunks);
        self.calls[index].has_begun = true;
        self.calls[index].is_ended |= heard.is_end;
        if is_stopped && !heard.is_end && self.is_call_finished(index) {
            self.calls[index].heard = None;
        }
        if self.choices.iter().all(|choice| choice.shown.is_finished())
            && (self.ended.is_none() || heard.is_end)
        {
            self.ended = Some(tokio::time::Instant::now().into_std());
        }
        Ok(())
    }

    /// At the deadline what was written is the answer, as if its length had been the limit; nothing is no answer.
    fn run_out_of_time(&mut self) -> Result<(), ProviderError> {
        if self.choices.iter().all(|choice| choice.num_bytes_heard == 0) {
            return Err(ProviderError::out_of_time());
        }
        let open = self.choices.iter_mut().filter(|choice| !choice.shown.is_finished());
        self.chunks.extend(open.map(|choice| choice.end(FinishReason::Length)));
        self.phase = Phase::Closing;
        Ok(())
    }

    /// Returns what the service counted, and an estimate of what it did not.
    fn usage(&self) -> Usage {
        let first = self.calls.first().map(|call| call.counted).unwrap_or_default();
        let mut num_completion_tokens = 0;
        let num = self.start.num_choices_per_call as usize;
        for (call, choices) in self.calls.iter().zip(self.choices.chunks(num)) {
            let num_bytes: usize = choices.iter().map(|choice| choice.num_bytes_heard).sum();
            let estimate = (num_bytes as f64 / self.start.bytes_per_token).ceil() as u32;
            num_completion_tokens += call.counted.completion.unwrap_or(estimate);
        }
        Usage {
            num_prompt_tokens: first.prompt.unwrap_or(self.start.usage.num_prompt_tokens),
            num_cached_tokens: first.cached.unwrap_or(0),
            num_completion_tokens,
            ..self.start.usage
        }
    }
}

impl Choice {
    fn new(index: u32, stops: &Arc<[String]>) -> Self {
        Self {
            index,
            shown: ShownText::new(Arc::clone(stops)),
            num_bytes_told: 0,
            num_bytes_heard: 0,
        }
    }

    /// Takes more of it; `None` where there is nothing to show yet.
    fn take(&mut self, piece: Piece) -> Option<CompletionChunk> {
        if self.shown.is_finished() {
            return None;
        }
        self.num_bytes_heard += piece.text.len();
        for logprob in piece.logprobs {
            self.num_bytes_told += logprob.token.len();
            self.shown.hold(self.num_bytes_told, logprob);
        }
        let shown = self.shown.push(&piece.text, piece.finish);
        shown.map(|shown| self.chunk(shown))
    }

    /// Ends it where it is.
    fn end(&mut self, reason: FinishReason) -> CompletionChunk {
        let shown = self.shown.end(reason);
        self.chunk(shown)
    }

    fn chunk(&self, (text, logprobs, finish_reason): Shown) -> CompletionChunk {
        CompletionChunk {
            choice_index: self.index,
            text,
            logprobs,
            finish_reason,
            usage: None,
            num_choice_tokens: None,
        }
    }
}

/// A call whose answer is read.
struct Listening {
    body: Body,
    protocol: &'static dyn Protocol,
    frames: Frames,
    bytes_max: usize,
    is_whole: bool,
    is_ended: bool,
}

impl Listening {
    fn into_stream(self) -> BoxStream<'static, Result<Heard, ProviderError>> {
        let next = |mut listening: Self| async {
            let heard = listening.next().await.transpose()?;
            listening.is_ended |= heard.is_err();
            Some((heard, listening))
        };
        stream::unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Result<Option<Heard>, ProviderError> {
        if self.is_ended {
            while self.body.chunk(self.bytes_max).await?.is_some() {}
            return Ok(None);
        }
        if self.is_whole {
            self.is_ended = true;
            let answer = self.body.json().await?;
            let heard = self.protocol.read_answer(&answer);
            return heard.map(Some).map_err(|fault| of_fault(self.body.provider(), &fault));
        }
        loop {
            while let Some(event) = self.frame()? {
                if !event.trim().is_empty() {
                    return self.read(&event).map(Some);
                }
            }
            let Some(bytes) = self.body.chunk(self.bytes_max).await? else {
                self.is_ended = true;
                let rest = self.frames.finish().map_err(|error| self.broken(&error.to_string()))?;
                let rest = rest.filter(|rest| !rest.trim().is_empty());
                return rest.map(|rest| self.read(&rest)).transpose();
            };
            self.frames.push(&bytes);
        }
    }

    fn frame(&mut self) -> Result<Option<String>, ProviderError> {
        self.frames
            .next_frame()
            .map_err(|error| malformed(self.body.provider(), &error.to_string()))
    }

    fn read(&mut self, event: &str) -> Result<Heard, ProviderError> {
        if event.trim() == DONE {
            self.is_ended = true;
            return Ok(Heard { is_end: true, ..Heard::default() });
        }
        let event: Value =
            serde_json::from_str(event).map_err(|_| self.broken("an event is no JSON"))?;
        let heard = self.protocol.read_event(&event);
        let heard = heard.map_err(|fault| of_fault(self.body.provider(), &fault))?;
        self.is_ended |= heard.is_end;
        Ok(heard)
    }

    fn broken(&self, what: &str) -> ProviderError {
        malformed(self.body.provider(), what)
    }
}
