//! A request in the engine: the sequences of its choices, merged into one stream of events.

use std::{
    future::poll_fn,
    sync::mpsc::{self, Receiver},
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{StreamExt as _, stream};

use crate::{
    completion::{CompletionChunk, FinishReason, Usage},
    engine::{EngineFailure, SequenceOutput, SequenceStream},
    provider::{
        CompletionEvent, CompletionStream, ProviderError, ProviderErrorKind,
        local::choice::ChoiceText, span::ProviderSpan,
    },
};

/// One choice; its sequence is let go of, and thereby stopped, as soon as its text has ended.
#[derive(Debug)]
struct Choice {
    text: ChoiceText,
    sequence: Option<SequenceStream>,
}

/// A request in the engine. Dropping it stops its sequences.
#[derive(Debug)]
pub(super) struct Running {
    choices: Vec<Choice>,
    usage: Usage,
    deadline: Option<Instant>,
    phase: Phase,
    /// Choices of which no more is wanted.
    ended: Receiver<u32>,
    span: ProviderSpan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    OutOfTime,
    Ended,
}

type Event = Result<CompletionEvent, ProviderError>;
type Output = Result<SequenceOutput, EngineFailure>;

impl Running {
    /// Takes the choices in the order of their index, and the usage as far as it is known.
    pub(super) fn new(
        choices: Vec<(ChoiceText, SequenceStream)>,
        usage: Usage,
        deadline: Option<Instant>,
    ) -> Self {
        let choice = |(text, sequence)| Choice { text, sequence: Some(sequence) };
        let choices = choices.into_iter().map(choice).collect();
        let (_, ended) = mpsc::channel();
        Self {
            choices,
            usage,
            deadline,
            phase: Phase::Running,
            ended,
            span: ProviderSpan::default(),
        }
    }

    /// Tells the span what becomes of it.
    pub(super) fn traced(self, span: ProviderSpan) -> Self {
        Self { span, ..self }
    }

    /// Returns the events of the request.
    pub(super) fn into_stream(mut self) -> CompletionStream {
        let (ends, ended) = mpsc::channel();
        self.ended = ended;
        let events = stream::unfold(self, |mut running| async {
            let event = running.next().await?;
            running.span.take(&event);
            Some((event, running))
        });
        CompletionStream::new(events).with_ends(ends)
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            self.end_choices();
            let event = match self.phase {
                Phase::Ended => return None,
                Phase::OutOfTime => Ok(Some(self.cut())),
                Phase::Running => self.advance().await,
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => {
                    self.end();
                    return Some(Err(error));
                }
            }
        }
    }

    /// Stops the choices of which no more is wanted.
    fn end_choices(&mut self) {
        while let Ok(index) = self.ended.try_recv() {
            let Some(choice) = self.choices.get_mut(index as usize) else { continue };
            choice.sequence = None;
            if !choice.text.is_finished() {
                choice.text.finish(FinishReason::Stop);
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<CompletionEvent>, ProviderError> {
        if self.choices.iter().all(|choice| choice.text.is_finished()) {
            return Ok(Some(self.done()));
        }
        let deadline = self.deadline;
        let next = poll_fn(|cx| self.poll_output(cx));
        let output = match deadline {
            None => next.await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), next).await {
                Ok(output) => output,
                Err(_) => return self.run_out_of_time(),
            },
        };
        let Some((index, output)) = output else {
            let kind = ProviderErrorKind::Internal;
            return Err(ProviderError::new(kind, "the engine ended a request too early"));
        };
        let kind = ProviderErrorKind::Unavailable;
        let output = output.map_err(|_| ProviderError::new(kind, "the engine failed"))?;
        Ok(self.take(index, output).map(CompletionEvent::Chunk))
    }

    /// Returns the next output of any choice with its index; `None` where no sequence is left.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Output)>> {
        let mut is_pending = false;
        for (index, choice) in self.choices.iter_mut().enumerate() {
            let Some(sequence) = &mut choice.sequence else { continue };
            match sequence.poll_next_unpin(cx) {
                Poll::Ready(Some(output)) => return Poll::Ready(Some((index, output))),
                Poll::Ready(None) => choice.sequence = None,
                Poll::Pending => is_pending = true,
            }
        }
        if is_pending { Poll::Pending } else { Poll::Ready(None) }
    }

    fn take(&mut self, index: usize, output: SequenceOutput) -> Option<CompletionChunk> {
        if index == 0 {
            // Further choices find the blocks that the first one computes, which is no hit of the request's.
            self.usage.num_cached_tokens = output.num_cached_tokens;
        }
        self.usage.num_completion_tokens += output.tokens.len() as u32;
        self.span.preempted(output.num_preemptions);
        let choice = &mut self.choices[index];
        let chunk = choice.text.push(output);
        if choice.text.is_finished() {
            choice.sequence = None;
        }
        chunk.map(|chunk| CompletionChunk { usage: Some(self.usage), ..chunk })
    }

    /// At the deadline what was written is the answer, as if its length had been the limit; nothing is no answer.
    fn run_out_of_time(&mut self) -> Result<Option<CompletionEvent>, ProviderError> {
        if self.usage.num_completion_tokens == 0 {
            return Err(ProviderError::out_of_time());
        }
        self.phase = Phase::OutOfTime;
        self.choices.iter_mut().for_each(|choice| choice.sequence = None);
        Ok(None)
    }

    fn cut(&mut self) -> CompletionEvent {
        let open = self.choices.iter_mut().find(|choice| !choice.text.is_finished());
        match open {
            Some(choice) => {
                let chunk = choice.text.finish(FinishReason::Length);
                CompletionEvent::Chunk(CompletionChunk { usage: Some(self.usage), ..chunk })
            }
            None => self.done(),
        }
    }

    fn done(&mut self) -> CompletionEvent {
        self.end();
        CompletionEvent::Done(self.usage)
    }

    /// Lets go of the sequences at once, whatever becomes of the stream.
    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.choices.clear();
    }
}
