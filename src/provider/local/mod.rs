//! The engine on this machine as a provider: request to prompt, tokens to text.

use std::{sync::Arc, time::Instant};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, SelectAll},
};

use crate::{
    completion::{CompletionChunk, CompletionRequest, FinishReason, Input, Usage},
    engine::{
        EngineHandle, EngineState, SequenceOutput, SequenceRequest, SequenceStream, SubmitError,
    },
    prompt::{FimTemplate, Gap, Prompt, PromptBuilder, PromptError, budget::Shares},
    provider::{
        CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind,
        local::choice::ChoiceText,
    },
    tokenizer::Tokenizer,
};

mod choice;

/// Texts shorter than this are encoded where they are: handing them to another thread would take longer.
const INLINE_BYTES_MAX: usize = 4096;

/// What a [`LocalProvider`] is made of.
#[derive(Debug)]
pub struct LocalParts {
    /// The way to the engine.
    pub engine: EngineHandle,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// How it is asked to fill a gap; `None` where it was not trained to.
    pub template: Option<FimTemplate>,
    /// What clients see of it.
    pub model: ModelInfo,
    /// Tokens that end a text by the model's own configuration.
    pub eos_token_ids: Vec<u32>,
    /// How a prompt is divided.
    pub shares: Shares,
    /// Tokens of a choice where the request says nothing.
    pub max_tokens_default: u32,
}

/// Completes with the engine on this machine.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    engine: EngineHandle,
    model: Arc<ModelInfo>,
    asking: Arc<Asking>,
}

/// What a request is turned into a prompt with.
#[derive(Debug)]
struct Asking {
    tokenizer: Arc<Tokenizer>,
    template: Option<FimTemplate>,
    stop_token_ids: Arc<[u32]>,
    shares: Shares,
    context_tokens_max: usize,
    max_tokens_default: u32,
}

impl LocalProvider {
    /// Puts the parts together.
    pub fn new(parts: LocalParts) -> Self {
        let of_template =
            parts.template.iter().flat_map(|template| template.stop_token_ids().iter().copied());
        let stop_token_ids = parts.eos_token_ids.iter().copied().chain(of_template).collect();
        let asking = Asking {
            tokenizer: Arc::new(parts.tokenizer),
            template: parts.template,
            stop_token_ids,
            shares: parts.shares,
            context_tokens_max: parts.model.max_context_tokens as usize,
            max_tokens_default: parts.max_tokens_default,
        };
        Self { engine: parts.engine, model: Arc::new(parts.model), asking: Arc::new(asking) }
    }

    async fn start(&self, request: CompletionRequest) -> Result<CompletionStream, ProviderError> {
        let (request, prompt) = self.prompt(request).await?;
        let usage = Usage {
            num_prompt_tokens: prompt.token_ids.len() as u32,
            num_context_tokens_sent: prompt.num_context_tokens_sent as u32,
            num_context_tokens_used: prompt.num_context_tokens_used as u32,
            ..Usage::default()
        };
        let stops = self.asking.stops(&request);
        let deadline = request.deadline;
        let num_choices = request.num_choices;
        let sequence = self.asking.sequence(request, prompt);
        let streams =
            self.engine.submit_group(sequence, num_choices).map_err(|error| from_submit(&error))?;
        let choice_text =
            |index| ChoiceText::new(Arc::clone(&self.asking.tokenizer), index, &stops);
        let choices = (0..num_choices).map(choice_text).collect();
        let running =
            Running { outputs: select(streams), choices, usage, deadline, phase: Phase::Running };
        Ok(CompletionStream::new(stream::unfold(running, Running::next)))
    }

    /// Builds the prompt, off the async workers where the text is long.
    async fn prompt(
        &self,
        request: CompletionRequest,
    ) -> Result<(CompletionRequest, Prompt), ProviderError> {
        if num_bytes(&request) <= INLINE_BYTES_MAX {
            let prompt = self.asking.prompt(&request)?;
            return Ok((request, prompt));
        }
        let asking = Arc::clone(&self.asking);
        let build = move || asking.prompt(&request).map(|prompt| (request, prompt));
        let failed =
            |_| ProviderError::new(ProviderErrorKind::Internal, "the prompt could not be built");
        tokio::task::spawn_blocking(build).await.map_err(failed)?
    }
}

impl Provider for LocalProvider {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.model)
    }

    fn is_ready(&self) -> bool {
        self.engine.stats().state == EngineState::Running
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        self.start(request).boxed()
    }
}

impl Asking {
    fn prompt(&self, request: &CompletionRequest) -> Result<Prompt, ProviderError> {
        let builder = PromptBuilder {
            tokenizer: &self.tokenizer,
            context_tokens_max: self.context_tokens_max,
            shares: self.shares,
        };
        let max_tokens = request.max_tokens.unwrap_or(self.max_tokens_default) as usize;
        let prompt = match &request.input {
            Input::Text(text) => builder.text(text, max_tokens),
            Input::Tokens(ids) => builder.tokens(ids.clone(), max_tokens),
            Input::Fim { prefix, suffix } => {
                let template = self.template.as_ref().ok_or_else(|| {
                    ProviderError::invalid("suffix", "the model was not trained to fill gaps")
                })?;
                let gap = Gap {
                    prefix,
                    suffix,
                    file_name: request.file_name.as_deref(),
                    repository: request.repository.as_deref(),
                    context: &request.context,
                };
                builder.gap(template, gap, max_tokens)
            }
        };
        prompt.map_err(|error| from_prompt(&error))
    }

    /// Returns the texts that end a choice: the request's, else the family's, which know gaps only.
    fn stops(&self, request: &CompletionRequest) -> Vec<String> {
        let of_family = || match (&request.input, &self.template) {
            (Input::Fim { .. }, Some(template)) => template.stop_texts().to_vec(),
            _ => Vec::new(),
        };
        request.stop.clone().unwrap_or_else(of_family)
    }

    fn sequence(&self, request: CompletionRequest, prompt: Prompt) -> SequenceRequest {
        let stop_token_ids = if request.stop_token_ids.is_empty() {
            Arc::clone(&self.stop_token_ids)
        } else {
            self.stop_token_ids.iter().copied().chain(request.stop_token_ids).collect()
        };
        SequenceRequest {
            prompt_token_ids: prompt.token_ids,
            max_tokens: request.max_tokens.unwrap_or(self.max_tokens_default),
            sampling: request.sampling,
            stop_token_ids,
            logprobs: request.logprobs,
            priority: 0,
        }
    }
}

type Output = Result<SequenceOutput, ProviderError>;

/// Merges the sequences of a request; each output bears the index of its choice.
fn select(streams: Vec<SequenceStream>) -> SelectAll<stream::BoxStream<'static, (usize, Output)>> {
    let numbered = |(index, stream): (usize, SequenceStream)| {
        let failed = |_| ProviderError::new(ProviderErrorKind::Unavailable, "the engine failed");
        stream.map(move |output| (index, output.map_err(failed))).boxed()
    };
    stream::select_all(streams.into_iter().enumerate().map(numbered))
}

/// A request in the engine. Dropping it stops its sequences.
struct Running {
    outputs: SelectAll<stream::BoxStream<'static, (usize, Output)>>,
    choices: Vec<ChoiceText>,
    usage: Usage,
    deadline: Option<Instant>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    OutOfTime,
    Ended,
}

impl Running {
    async fn next(mut self) -> Option<(Result<CompletionEvent, ProviderError>, Self)> {
        loop {
            let event = match self.phase {
                Phase::Ended => return None,
                Phase::OutOfTime => Ok(Some(self.cut())),
                Phase::Running => self.advance().await,
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => return Some((Ok(event), self)),
                Err(error) => {
                    self.end();
                    return Some((Err(error), self));
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<CompletionEvent>, ProviderError> {
        if self.choices.iter().all(ChoiceText::is_finished) {
            return Ok(Some(self.done()));
        }
        let output = match self.deadline {
            None => self.outputs.next().await,
            Some(deadline) => {
                let Ok(output) =
                    tokio::time::timeout_at(deadline.into(), self.outputs.next()).await
                else {
                    return self.run_out_of_time();
                };
                output
            }
        };
        let Some((index, output)) = output else {
            let kind = ProviderErrorKind::Internal;
            return Err(ProviderError::new(kind, "the engine ended a request too early"));
        };
        Ok(self.take(index, output?).map(CompletionEvent::Chunk))
    }

    fn take(&mut self, index: usize, output: SequenceOutput) -> Option<CompletionChunk> {
        let choice = &mut self.choices[index];
        // A stop text may have ended it while the engine was a step ahead.
        if choice.is_finished() {
            return None;
        }
        self.usage.num_cached_tokens = self.usage.num_cached_tokens.max(output.num_cached_tokens);
        self.usage.num_completion_tokens += output.tokens.len() as u32;
        choice.push(output)
    }

    /// At the deadline what was written is the answer, as if its length had been the limit; nothing is no answer.
    fn run_out_of_time(&mut self) -> Result<Option<CompletionEvent>, ProviderError> {
        if self.usage.num_completion_tokens == 0 {
            let kind = ProviderErrorKind::DeadlineExceeded;
            return Err(ProviderError::new(kind, "the time allowed for the request ran out"));
        }
        self.phase = Phase::OutOfTime;
        self.outputs.clear();
        Ok(None)
    }

    fn cut(&mut self) -> CompletionEvent {
        let open = self.choices.iter_mut().find(|choice| !choice.is_finished());
        match open {
            Some(choice) => CompletionEvent::Chunk(choice.finish(FinishReason::Length)),
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
        self.outputs.clear();
    }
}

fn num_bytes(request: &CompletionRequest) -> usize {
    let input = match &request.input {
        Input::Fim { prefix, suffix } => prefix.len() + suffix.len(),
        Input::Text(text) => text.len(),
        Input::Tokens(_) => 0,
    };
    input + request.context.iter().map(|item| item.content.len()).sum::<usize>()
}

fn from_prompt(error: &PromptError) -> ProviderError {
    match error {
        PromptError::NoRoom { .. } => ProviderError::invalid("max_tokens", error.to_string()),
        PromptError::TooLong { .. } => ProviderError {
            field: Some("prompt"),
            ..ProviderError::new(ProviderErrorKind::PromptTooLong, error.to_string())
        },
        PromptError::Tokenizer(_) => {
            ProviderError::new(ProviderErrorKind::Internal, error.to_string())
        }
    }
}

fn from_submit(error: &SubmitError) -> ProviderError {
    let message = error.to_string();
    match error {
        SubmitError::QueueFull { retry_after, .. } => ProviderError {
            retry_after: Some(*retry_after),
            ..ProviderError::new(ProviderErrorKind::Overloaded, message)
        },
        SubmitError::PromptTooLong { .. } => ProviderError {
            field: Some("prompt"),
            ..ProviderError::new(ProviderErrorKind::PromptTooLong, message)
        },
        SubmitError::EmptyPrompt | SubmitError::InvalidToken { .. } => {
            ProviderError::invalid("prompt", message)
        }
        SubmitError::Draining | SubmitError::Dead => {
            ProviderError::new(ProviderErrorKind::Unavailable, message)
        }
    }
}
