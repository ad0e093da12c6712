//! Everything that completes is a [`Provider`]: the engine on this machine, and services elsewhere.

use std::{
    pin::Pin,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture};

use crate::completion::{
    Choice, Completion, CompletionChunk, CompletionRequest, FinishReason, Usage,
};

mod error;
pub mod hosted;
pub mod local;
mod pending;
mod shown;
mod span;

pub use error::{ErrorSource, LOADING, ProviderError, ProviderErrorKind};
pub use pending::Pending;

/// Something that completes code.
pub trait Provider: Send + Sync + 'static {
    /// Returns what is served, for answers and for `GET /v1/models`.
    fn model(&self) -> Arc<ModelInfo>;

    /// Returns whether a request would be taken now.
    fn is_ready(&self) -> bool;

    /// Returns whether it is not there yet.
    fn is_loading(&self) -> bool {
        false
    }

    /// Returns whether what [`Provider::model`] says is known; else, but for the name, it is assumed.
    fn is_known(&self) -> bool {
        true
    }

    /// Returns whether a request may be answered, now or once what loads is there.
    fn may_answer(&self) -> bool {
        self.is_ready() || self.is_loading()
    }

    /// Returns whether a request that failed midway may be begun again, by others: see [`Asker::failed_at`].
    ///
    /// [`Asker::failed_at`]: crate::completion::Asker::failed_at
    fn begins_again(&self) -> bool {
        false
    }

    /// Returns when the first text of a request is to be expected if it were started now; `None` where that cannot be
    /// told. A guess that costs nothing: routes use it to go elsewhere before they have waited.
    fn expected_first_token(&self, _request: &CompletionRequest) -> Option<Duration> {
        None
    }

    /// Starts a completion. Dropping the future or the stream cancels the work.
    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>>;
}

/// What a provider serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name that clients use.
    pub name: String,
    /// What runs it: `lacuna` for the engine on this machine.
    pub engine: String,
    /// Most tokens of prompt and answer together.
    pub max_context_tokens: u32,
    /// Whether it fills gaps.
    pub has_fim: bool,
    /// Whether it was trained on several files in one prompt.
    pub has_repo_fim: bool,
    /// Whether it continues conversations.
    pub has_chat: bool,
    /// Number of token ids that a client may name.
    pub vocab_size: u32,
}

/// One step of a running completion.
#[derive(Clone, Debug, PartialEq)]
pub enum CompletionEvent {
    /// More of a choice.
    Chunk(CompletionChunk),
    /// All choices ended; always the last event.
    Done(Usage),
}

/// A completion under way.
pub struct CompletionStream {
    events: Pin<Box<dyn Stream<Item = Result<CompletionEvent, ProviderError>> + Send>>,
    /// The way to stop one choice, where the provider has one.
    ends: Option<Sender<u32>>,
    /// Who answers, where that need not be who was asked.
    answered_by: Option<Arc<ModelInfo>>,
    /// When it is cut, where that was decided on the way.
    deadline: Option<Instant>,
}

impl std::fmt::Debug for CompletionStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionStream").finish_non_exhaustive()
    }
}

impl CompletionStream {
    /// Wraps the events of a provider.
    pub fn new(
        events: impl Stream<Item = Result<CompletionEvent, ProviderError>> + Send + 'static,
    ) -> Self {
        Self { events: Box::pin(events), ends: None, answered_by: None, deadline: None }
    }

    /// Lets choices be stopped alone: their indices are sent, and heard before the next event.
    #[must_use]
    pub fn with_ends(self, ends: Sender<u32>) -> Self {
        Self { ends: Some(ends), ..self }
    }

    /// Returns the way to stop choices alone, where there is one.
    pub fn ends(&self) -> Option<&Sender<u32>> {
        self.ends.as_ref()
    }

    /// Says who answers, where that need not be who was asked.
    #[must_use]
    pub fn by(self, model: Arc<ModelInfo>) -> Self {
        Self { answered_by: Some(model), ..self }
    }

    /// Returns who answers, where that need not be who was asked.
    pub fn answered_by(&self) -> Option<&Arc<ModelInfo>> {
        self.answered_by.as_ref()
    }

    /// Says when it is cut, where that was decided on the way.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Returns when it is cut, where that was decided on the way.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Has the provider stop a choice, of which no more is wanted; returns whether it does. Pieces of the choice may
    /// still come, and where it cannot be stopped alone they do.
    pub fn end_choice(&mut self, choice_index: u32) -> bool {
        self.ends.as_ref().is_some_and(|ends| ends.send(choice_index).is_ok())
    }

    /// Returns the next event; `None` after [`CompletionEvent::Done`] or an error.
    pub async fn next(&mut self) -> Option<Result<CompletionEvent, ProviderError>> {
        self.events.next().await
    }

    /// Waits for the whole completion.
    ///
    /// # Errors
    /// The first error of the stream; [`ProviderErrorKind::Internal`] where it ends without `Done`.
    pub async fn collect(mut self) -> Result<Completion, ProviderError> {
        let mut choices: Vec<Choice> = Vec::new();
        while let Some(event) = self.next().await {
            match event? {
                CompletionEvent::Chunk(chunk) => append(&mut choices, chunk),
                CompletionEvent::Done(usage) => return Ok(Completion { choices, usage }),
            }
        }
        Err(ProviderError::new(ProviderErrorKind::Internal, "the completion ended early"))
    }
}

fn append(choices: &mut Vec<Choice>, chunk: CompletionChunk) {
    let index = chunk.choice_index as usize;
    while choices.len() <= index {
        choices.push(Choice {
            index: choices.len() as u32,
            text: String::new(),
            logprobs: Vec::new(),
            finish_reason: FinishReason::Aborted,
        });
    }
    let choice = &mut choices[index];
    choice.text.push_str(&chunk.text);
    choice.logprobs.extend(chunk.logprobs);
    if let Some(reason) = chunk.finish_reason {
        choice.finish_reason = reason;
    }
}
