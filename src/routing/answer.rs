//! From the first text on: one target's answer is handed on as it comes, and nothing is retried.

use std::{
    sync::{Arc, mpsc},
    time::Instant,
};

use futures_util::stream;
use tokio::sync::oneshot;

use crate::{
    completion::{CompletionChunk, FinishReason, Usage},
    provider::{CompletionEvent, CompletionStream, ProviderError},
    routing::attempt::{Attempt, Event},
};

/// Bytes of a choice that are kept for a comparison.
const COMPARED_BYTES_MAX: usize = 64 * 1024;

/// An answer under way.
pub(super) struct Answer {
    attempt: Option<Attempt>,
    /// When what is written is the answer.
    deadline: Instant,
    /// Whether each choice has ended.
    has_ended: Vec<bool>,
    usage: Usage,
    is_cut: bool,
    compared: Option<Compared>,
    /// Choices of which no more is wanted, and the way to tell the target.
    unwanted: Option<(mpsc::Receiver<u32>, mpsc::Sender<u32>)>,
}

/// The text of the first choice, for whoever compares it.
pub(super) struct Compared {
    text: String,
    told: oneshot::Sender<Arc<str>>,
}

impl Compared {
    pub(super) fn new(told: oneshot::Sender<Arc<str>>) -> Self {
        Self { text: String::new(), told }
    }
}

impl Answer {
    pub(super) fn new(
        attempt: Attempt,
        num_choices: u32,
        deadline: Instant,
        compared: Option<Compared>,
    ) -> Self {
        Self {
            attempt: Some(attempt),
            deadline,
            has_ended: vec![false; num_choices as usize],
            usage: Usage::default(),
            is_cut: false,
            compared,
            unwanted: None,
        }
    }

    /// Returns its events.
    pub(super) fn into_stream(mut self) -> CompletionStream {
        let of_target = self.attempt.as_ref().and_then(|attempt| attempt.ends.get().cloned());
        let ends = of_target.map(|of_target| {
            let (ends, unwanted) = mpsc::channel();
            self.unwanted = Some((unwanted, of_target));
            ends
        });
        let deadline = self.deadline;
        let by = self.attempt.as_ref().map(|attempt| attempt.ticket.target.provider.model());
        let mut events = CompletionStream::new(stream::unfold(self, |mut answer| async {
            answer.next().await.map(|event| (event, answer))
        }));
        if let Some(model) = by {
            events = events.by(model);
        }
        events = events.until(deadline);
        match ends {
            Some(ends) => events.with_ends(ends),
            None => events,
        }
    }

    async fn next(&mut self) -> Option<Event> {
        self.hear_wishes();
        if self.is_cut {
            return Some(Ok(self.cut()));
        }
        let attempt = self.attempt.as_mut()?;
        let event = if let Some(event) = attempt.held.pop_front() {
            Ok(event)
        } else {
            let next = std::future::poll_fn(|cx| attempt.poll_next(cx));
            // The target's own end at the deadline, which comes at the same moment, is seen first.
            let Ok(event) = tokio::time::timeout_at(self.deadline.into(), next).await else {
                attempt.ticket.succeeds("cut");
                self.is_cut = true;
                return Some(Ok(self.cut()));
            };
            event
        };
        match event {
            Ok(event) => Some(Ok(self.take(event))),
            Err(error) => Some(Err(self.fail(error))),
        }
    }

    /// Hands on which choices nobody wants more of.
    fn hear_wishes(&mut self) {
        let Some((unwanted, of_target)) = &self.unwanted else { return };
        for index in unwanted.try_iter() {
            if let Some(has_ended) = self.has_ended.get_mut(index as usize) {
                *has_ended = true;
            }
            let _ = of_target.send(index);
        }
    }

    /// Notes that the target has said all that was wanted.
    fn finish(&mut self) {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.ticket.succeeds("ok");
        }
        if let Some(Compared { text, told }) = self.compared.take() {
            // Nobody listens where the shadow has failed.
            let _ = told.send(text.into());
        }
    }

    fn take(&mut self, event: CompletionEvent) -> CompletionEvent {
        match &event {
            CompletionEvent::Chunk(chunk) => {
                self.usage = chunk.usage.unwrap_or(self.usage);
                let index = chunk.choice_index as usize;
                if let Some(has_ended) = self.has_ended.get_mut(index) {
                    *has_ended |= chunk.finish_reason.is_some();
                }
                if let Some(compared) = self.compared.as_mut().filter(|_| index == 0) {
                    let room = COMPARED_BYTES_MAX.saturating_sub(compared.text.len());
                    let end = chunk.text.floor_char_boundary(room);
                    compared.text.push_str(&chunk.text[..end]);
                }
            }
            CompletionEvent::Done(_) => self.finish(),
        }
        event
    }

    fn fail(&mut self, error: ProviderError) -> ProviderError {
        if let Some(mut attempt) = self.attempt.take() {
            attempt.ticket.fails(&error);
        }
        self.compared = None;
        error
    }

    /// Ends the choices that go on, as if their length had been the limit, then all.
    fn cut(&mut self) -> CompletionEvent {
        // Dropping it stops the target.
        self.attempt = None;
        self.compared = None;
        let open = self.has_ended.iter_mut().zip(0..).find(|(has_ended, _)| !**has_ended);
        let Some((has_ended, choice_index)) = open else {
            self.is_cut = false;
            return CompletionEvent::Done(self.usage);
        };
        *has_ended = true;
        CompletionEvent::Chunk(CompletionChunk {
            choice_index,
            text: String::new(),
            logprobs: Vec::new(),
            finish_reason: Some(FinishReason::Length),
            usage: Some(self.usage),
            num_choice_tokens: None,
        })
    }
}

impl Drop for Answer {
    /// Who leaves when all choices have ended has the whole answer, though the count of tokens is still to come.
    fn drop(&mut self) {
        self.hear_wishes();
        if self.has_ended.iter().all(|has_ended| *has_ended) {
            self.finish();
        }
    }
}
