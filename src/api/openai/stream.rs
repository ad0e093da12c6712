//! A completion as server-sent events: pieces of all prompts as they come, usage if asked for, the end mark.

use axum::response::{
    IntoResponse, Response,
    sse::{Event, Sse},
};
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};

use crate::api::{
    Admission, finish_reason_name,
    openai::{
        Head, OpenAiError,
        convert::{self, StreamUsage},
        wire::{WireChoice, WireUsage, WireUsageMember},
    },
};
use crate::completion::{CompletionChunk, Usage};
use crate::provider::{CompletionEvent, CompletionStream, ProviderError, ProviderErrorKind};

/// What every event says, and what the answer is made of.
pub(super) struct Answer {
    pub(super) head: Head,
    pub(super) num_choices: u32,
    /// The prompts' texts, where they are to stand before the answers.
    pub(super) echo: Option<Vec<String>>,
    pub(super) has_logprobs: bool,
    /// Which events tell the tokens.
    pub(super) usage: StreamUsage,
    /// Held to the end of the answer.
    pub(super) _admission: Admission,
}

/// Answers with events; one stream a prompt.
///
/// # Errors
/// What fails before the first event, which still gets its status.
pub(super) async fn respond(
    answer: Answer,
    streams: Vec<CompletionStream>,
) -> Result<Response, ProviderError> {
    let num_prompts = streams.len();
    let num_choices_all = num_prompts * answer.num_choices as usize;
    let mut events = merge(streams);
    let first = match events.next().await {
        Some((_, Err(error))) => return Err(error),
        first => first,
    };
    let state = Streaming {
        choices: vec![ChoiceState::default(); num_choices_all],
        events: stream::iter(first).chain(events).boxed(),
        phase: Phase::Running,
        usages: vec![Usage::default(); num_prompts],
        answer,
    };
    Ok(Sse::new(sse_events(state)).into_response())
}

/// Makes one stream of all; the usual single one is not worth the bookkeeping of several.
fn merge(streams: Vec<CompletionStream>) -> BoxStream<'static, PromptEvent> {
    let mut all: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(prompt_index, stream)| prompt_events(prompt_index, stream))
        .collect();
    if all.len() == 1 { all.swap_remove(0) } else { stream::select_all(all).boxed() }
}

type PromptEvent = (usize, Result<CompletionEvent, ProviderError>);

/// Makes a stream of a completion's events, which ends after `Done` or the first error.
fn prompt_events(prompt_index: usize, stream: CompletionStream) -> BoxStream<'static, PromptEvent> {
    stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        let event = stream.next().await.unwrap_or_else(|| {
            let kind = ProviderErrorKind::Internal;
            Err(ProviderError::new(kind, "the completion ended early"))
        });
        let is_last = matches!(event, Ok(CompletionEvent::Done(_)) | Err(_));
        Some(((prompt_index, event), (!is_last).then_some(stream)))
    })
    .boxed()
}

/// How far a choice has come.
#[derive(Clone, Copy, Default)]
struct ChoiceState {
    has_begun: bool,
    /// In characters.
    text_offset: usize,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    Usage,
    EndMark,
    Over,
}

struct Streaming {
    answer: Answer,
    choices: Vec<ChoiceState>,
    events: BoxStream<'static, PromptEvent>,
    phase: Phase,
    /// Of each prompt, as far as it is known.
    usages: Vec<Usage>,
}

fn sse_events(state: Streaming) -> impl Stream<Item = Result<Event, axum::Error>> + Send {
    stream::unfold(state, async |mut state| {
        let event = state.next().await?;
        Some((event, state))
    })
}

impl Streaming {
    async fn next(&mut self) -> Option<Result<Event, axum::Error>> {
        loop {
            match self.phase {
                Phase::Running => match self.events.next().await {
                    Some((prompt_index, Ok(CompletionEvent::Chunk(chunk)))) => {
                        let usage = chunk.usage;
                        if let Some(usage) = usage {
                            self.usages[prompt_index] = usage;
                        }
                        if let Some(choice) = self.choice(prompt_index, chunk) {
                            return Some(self.piece(choice, usage.is_some()));
                        }
                    }
                    Some((prompt_index, Ok(CompletionEvent::Done(usage)))) => {
                        self.usages[prompt_index] = usage;
                    }
                    Some((_, Err(error))) => return Some(self.fail(error)),
                    None if self.answer.usage == StreamUsage::Absent => self.phase = Phase::EndMark,
                    None => self.phase = Phase::Usage,
                },
                Phase::Usage => {
                    self.phase = Phase::EndMark;
                    return Some(self.event(Vec::new(), self.counted()));
                }
                Phase::EndMark => {
                    self.phase = Phase::Over;
                    return Some(Ok(Event::default().data("[DONE]")));
                }
                Phase::Over => return None,
            }
        }
    }

    /// Returns the chunk as the wire has it; `None` where it says nothing, which some clients stumble over.
    fn choice(&mut self, prompt_index: usize, chunk: CompletionChunk) -> Option<WireChoice> {
        let index = prompt_index * self.answer.num_choices as usize + chunk.choice_index as usize;
        let form = self.answer.head.form;
        let mut text = chunk.text;
        let state = self.choices.get_mut(index)?;
        if let Some(echo) = &self.answer.echo
            && !state.has_begun
        {
            text.insert_str(0, &echo[prompt_index]);
        }
        let is_silent = text.is_empty() && chunk.logprobs.is_empty();
        if is_silent && chunk.finish_reason.is_none() {
            return None;
        }
        let is_first = !state.has_begun;
        state.has_begun = true;
        let logprobs = self
            .answer
            .has_logprobs
            .then(|| convert::logprobs(form, chunk.logprobs, &mut state.text_offset));
        let finish_reason = chunk.finish_reason.map(finish_reason_name);
        let said = self.answer.head.form.piece(text, is_first);
        Some(WireChoice { index: index as u32, said, logprobs, finish_reason })
    }

    fn piece(&self, choice: WireChoice, is_counted: bool) -> Result<Event, axum::Error> {
        let usage = match self.answer.usage {
            StreamUsage::Absent => WireUsageMember::Absent,
            StreamUsage::Continuous if is_counted => self.counted(),
            StreamUsage::Continuous | StreamUsage::Last => WireUsageMember::Null,
        };
        self.event(vec![choice], usage)
    }

    /// Returns the tokens of all prompts so far.
    fn counted(&self) -> WireUsageMember {
        let mut total = WireUsage::default();
        for usage in &self.usages {
            convert::add_usage(&mut total, *usage);
        }
        WireUsageMember::Counted(total)
    }

    fn event(
        &self,
        choices: Vec<WireChoice>,
        usage: WireUsageMember,
    ) -> Result<Event, axum::Error> {
        let head = &self.answer.head;
        Event::default().json_data(head.response(head.form.piece_object(), choices, usage))
    }

    /// Says what went wrong and ends without the end mark; the other prompts' work is dropped.
    fn fail(&mut self, error: ProviderError) -> Result<Event, axum::Error> {
        self.phase = Phase::Over;
        self.events = stream::empty().boxed();
        Event::default().json_data(OpenAiError::from(error).body())
    }
}
