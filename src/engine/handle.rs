//! The engine as the rest of the server sees it: submit a sequence, read its stream, drop it to stop.

use std::{
    future::poll_fn,
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver},
    watch,
};

use crate::completion::FinishReason;
use crate::engine::EngineLimits;
use crate::engine::engine_loop::{Client, Command, Submission};
use crate::engine::executor::{ExecutorError, SampledToken};
use crate::engine::sequence::{Sequence, SequenceId, SequenceRequest};
use crate::engine::stats::{EngineState, EngineStats, SharedStats};

/// A sequence that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many sequences wait as may.
    #[error("the queue is full: {num_queued} sequences wait")]
    QueueFull {
        /// Sequences that wait.
        num_queued: usize,
        /// When those will have begun, as far as can be told.
        retry_after: Duration,
    },
    /// The prompt leaves no room for an answer, or does not fit into the KV cache.
    #[error("the prompt must have at most {limit} tokens, got {num_tokens}")]
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: usize,
        /// Most tokens of a prompt.
        limit: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt has no token")]
    EmptyPrompt,
    /// A token of the prompt is none of the model's.
    #[error("token ids lie below {vocab_size}, got {id}")]
    InvalidToken {
        /// The token.
        id: u32,
        /// Number of the model's tokens.
        vocab_size: u32,
    },
    /// The engine is stopping.
    #[error("the engine is stopping")]
    Draining,
    /// The engine's device failed.
    #[error("the engine is dead")]
    Dead,
}

/// Why a sequence that was taken will never end: a fault on this side, never the request's.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineFailure {
    /// The device failed; with it the engine.
    #[error("the device failed")]
    Device(#[source] Arc<ExecutorError>),
    /// The engine's thread panicked.
    #[error("the engine panicked")]
    Panicked,
    /// The engine stopped before it could begin.
    #[error("the engine stopped")]
    Stopped,
}

/// What a step brought for a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceOutput {
    /// New tokens, without the stop token; may be empty in the last output.
    pub tokens: Vec<SampledToken>,
    /// Tokens of the prompt that the prefix cache held; the same in each output of a sequence.
    pub num_cached_tokens: u32,
    /// How often the sequence has lost its blocks so far, and computed its tokens again.
    pub num_preemptions: u32,
    /// Set in the last output.
    pub finish: Option<FinishReason>,
}

/// What becomes of one sequence. Dropping it stops the sequence and frees its blocks within one step.
///
/// The stream ends after an output with [`SequenceOutput::finish`] or after a failure, and in no other way.
/// What is not yet read is kept; the request's limit of tokens bounds it.
#[derive(Debug)]
pub struct SequenceStream {
    outputs: UnboundedReceiver<Result<SequenceOutput, EngineFailure>>,
    has_ended: bool,
}

impl SequenceStream {
    /// Makes both ends of a sequence's outputs. The engine's end holds no place in the queue yet.
    pub(super) fn with_client() -> (Client, Self) {
        let (sender, outputs) = mpsc::unbounded_channel();
        (Client { outputs: sender, place: None }, Self { outputs, has_ended: false })
    }

    /// Waits for the next output; `None` after the last. May be cancelled without loss.
    pub async fn next(&mut self) -> Option<Result<SequenceOutput, EngineFailure>> {
        poll_fn(|cx| self.poll_next_unpin(cx)).await
    }
}

impl Stream for SequenceStream {
    type Item = Result<SequenceOutput, EngineFailure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        // The engine says how each sequence ends; without a word it went down before it knew of this one.
        let output = ready!(self.outputs.poll_recv(cx)).unwrap_or(Err(EngineFailure::Stopped));
        self.has_ended = output.as_ref().map_or(true, |output| output.finish.is_some());
        Poll::Ready(Some(output))
    }
}

/// A way to the engine; clones lead to the same one.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(super) commands: SyncSender<Command>,
    pub(super) stats: Arc<SharedStats>,
    pub(super) limits: EngineLimits,
    pub(super) next_id: Arc<AtomicU64>,
    /// Closed when the engine's thread has released its device.
    pub(super) ended: watch::Receiver<()>,
}

impl EngineHandle {
    /// Submits a sequence. Never blocks.
    ///
    /// # Errors
    /// The prompt breaks a limit, the queue is full, or the engine is stopping or dead.
    pub fn submit(&self, request: SequenceRequest) -> Result<SequenceStream, SubmitError> {
        let mut streams = self.submit_group(request, 1)?;
        streams.pop().ok_or(SubmitError::Dead)
    }

    /// Submits a sequence `num` times, with the seeds `seed`, `seed + 1`, …; all or none. Never blocks.
    ///
    /// The sequences stand behind each other in the queue and share the blocks of their prompt, so it is computed once.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`]; always a full queue where `num` passes the queue's limit.
    pub fn submit_group(
        &self,
        mut request: SequenceRequest,
        num: u32,
    ) -> Result<Vec<SequenceStream>, SubmitError> {
        self.check(&request.prompt_token_ids)?;
        if num == 0 {
            return Ok(Vec::new());
        }
        let num_output_max = self.limits.output_tokens_max(request.prompt_token_ids.len());
        request.max_tokens = request.max_tokens.clamp(1, num_output_max as u32);
        let num_tokens = request.prompt_token_ids.len();
        let places = self.stats.take_places(num as usize, num_tokens);
        let places = places.ok_or_else(|| self.queue_full())?;
        let first_id = self.next_id.fetch_add(u64::from(num), Ordering::Relaxed);
        let first_seed = request.sampling.seed.unwrap_or_else(draw_seed);
        let mut submissions = Vec::with_capacity(places.len());
        let mut streams = Vec::with_capacity(places.len());
        for (index, place) in (0..).zip(places) {
            let (mut client, stream) = SequenceStream::with_client();
            client.place = Some(place);
            let id = SequenceId(first_id + index);
            request.sampling.seed = Some(first_seed.wrapping_add(index));
            submissions.push(Submission { sequence: Sequence::new(id, request.clone()), client });
            streams.push(stream);
        }
        match self.commands.try_send(Command::Submit(submissions)) {
            Ok(()) => Ok(streams),
            Err(TrySendError::Full(_)) => Err(self.queue_full()),
            Err(TrySendError::Disconnected(_)) => Err(self.refusal().unwrap_or(SubmitError::Dead)),
        }
    }

    /// Returns what the engine is doing and has done. Never blocks.
    pub fn stats(&self) -> EngineStats {
        self.stats.snapshot()
    }

    /// Estimates when a prompt of so many tokens would have its first token, from the prompts that wait and how fast
    /// prompts and sequences went lately; `None` while nothing went. Never blocks.
    pub fn expected_first_token(&self, num_prompt_tokens: usize) -> Option<Duration> {
        self.stats.expected_first_token(num_prompt_tokens)
    }

    /// Waits until the engine has ended, and returns how: [`EngineState::Draining`] where its owner wanted it,
    /// [`EngineState::Dead`] where it failed. May be cancelled and asked again.
    pub async fn ended(&self) -> EngineState {
        // Nothing is ever sent: the drop of the sender is the message.
        let _ = self.ended.clone().changed().await;
        self.stats.state()
    }

    /// Returns what bounds the engine.
    pub fn limits(&self) -> &EngineLimits {
        &self.limits
    }

    fn check(&self, prompt: &[u32]) -> Result<(), SubmitError> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let limit = self.limits.prompt_tokens_max();
        let vocab_size = self.limits.vocab_size;
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if prompt.len() > limit {
            return Err(SubmitError::PromptTooLong { num_tokens: prompt.len(), limit });
        }
        match prompt.iter().find(|id| **id >= vocab_size) {
            Some(id) => Err(SubmitError::InvalidToken { id: *id, vocab_size }),
            None => Ok(()),
        }
    }

    fn refusal(&self) -> Option<SubmitError> {
        match self.stats.state() {
            EngineState::Running => None,
            EngineState::Draining => Some(SubmitError::Draining),
            EngineState::Dead => Some(SubmitError::Dead),
        }
    }

    fn queue_full(&self) -> SubmitError {
        SubmitError::QueueFull {
            num_queued: self.stats.num_queued(),
            retry_after: self.stats.retry_after(),
        }
    }
}

/// Draws a seed. The keys of the standard library's hash maps come from the system's entropy and differ each time, so
/// their hash of anything is as good as a random number, without another dependency.
fn draw_seed() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_stream_that_nobody_ended_has_failed() {
        let (client, mut stream) = SequenceStream::with_client();
        let output = SequenceOutput {
            tokens: Vec::new(),
            num_cached_tokens: 0,
            num_preemptions: 0,
            finish: None,
        };
        client.outputs.send(Ok(output)).unwrap();
        drop(client);
        let mut next = || stream.next().now_or_never().unwrap();
        assert!(matches!(next(), Some(Ok(_))));
        assert!(matches!(next(), Some(Err(EngineFailure::Stopped))));
        assert!(next().is_none());
    }
}
