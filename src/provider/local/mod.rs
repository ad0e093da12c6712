//! The engine on this machine as a provider: request to prompt, tokens to text.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::Semaphore;

use crate::{
    completion::{ChatMessage, CompletionRequest, Input, Usage},
    engine::{EngineHandle, EngineState, SequenceRequest, SubmitError},
    prompt::{
        ChatError, ChatPiece, ChatTemplate, FimTemplate, Gap, Prompt, PromptBuilder, PromptError,
        budget::{self, Shares},
        context::{self, ContextOptions, OutlineCache, Texts},
    },
    provider::{
        CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind,
        local::{choice::ChoiceText, running::Running},
        span::ProviderSpan,
    },
    tokenizer::Tokenizer,
    trace::SpanKind,
};

mod choice;
mod running;

/// Texts shorter than this are encoded where they are: handing them to another thread would take longer.
const INLINE_BYTES_MAX: usize = 4096;

/// Code has about so many bytes a token, with any vocabulary.
const BYTES_PER_TOKEN: usize = 3;

/// Rendering a message takes about as long as encoding so many bytes.
const MESSAGE_BYTES: usize = 128;

/// What a [`LocalProvider`] is made of.
#[derive(Debug)]
pub struct LocalParts {
    /// The way to the engine.
    pub engine: EngineHandle,
    /// The model's tokenizer.
    pub tokenizer: Tokenizer,
    /// How it is asked to fill a gap; `None` where it was not trained to.
    pub template: Option<FimTemplate>,
    /// How it is asked to continue a conversation; `None` where its files have no template.
    pub chat: Option<ChatTemplate>,
    /// What clients see of it.
    pub model: ModelInfo,
    /// Tokens that end a text by the model's own configuration.
    pub eos_token_ids: Vec<u32>,
    /// How a prompt is divided.
    pub shares: Shares,
    /// Where outlines of cut files are kept.
    pub outlines: Option<OutlineCache>,
    /// Whether other files are put in the order of their use.
    pub ranks_context: bool,
    /// Whether secrets are masked.
    pub masks_secrets: bool,
    /// Tokens of a choice where the request says nothing.
    pub max_tokens_default: u32,
    /// Most tokens of a choice: what a conversation's next turn gets where the request says nothing.
    pub max_tokens_limit: u32,
}

/// Completes with the engine on this machine.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    engine: EngineHandle,
    model: Arc<ModelInfo>,
    asking: Arc<Asking>,
    /// Which of the model's adapters answers; `None` is the model alone.
    adapter: Option<u32>,
    /// Places to build long prompts in.
    builders: Arc<Semaphore>,
}

/// What a request is turned into a prompt with.
#[derive(Debug)]
struct Asking {
    tokenizer: Arc<Tokenizer>,
    template: Option<FimTemplate>,
    chat: Option<ChatTemplate>,
    stop_token_ids: Arc<[u32]>,
    shares: Shares,
    outlines: Option<OutlineCache>,
    context: ContextOptions,
    context_tokens_max: usize,
    max_tokens_default: u32,
    max_tokens_limit: u32,
}

impl LocalProvider {
    /// Puts the parts together.
    pub fn new(parts: LocalParts) -> Self {
        let of_template =
            parts.template.iter().flat_map(|template| template.stop_token_ids().iter().copied());
        let of_chat = parts.chat.iter().filter_map(|chat| chat.eos_token_id(&parts.tokenizer));
        let own = parts.eos_token_ids.iter().copied();
        let stop_token_ids = own.chain(of_template).chain(of_chat).collect();
        let asking = Asking {
            tokenizer: Arc::new(parts.tokenizer),
            template: parts.template,
            chat: parts.chat,
            stop_token_ids,
            shares: parts.shares,
            outlines: parts.outlines,
            context: ContextOptions {
                is_ranked: parts.ranks_context,
                masks_secrets: parts.masks_secrets,
                bytes_max: budget::bytes_worth_encoding(parts.model.max_context_tokens as usize),
            },
            context_tokens_max: parts.model.max_context_tokens as usize,
            max_tokens_default: parts.max_tokens_default,
            max_tokens_limit: parts.max_tokens_limit,
        };
        let num_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            engine: parts.engine,
            model: Arc::new(parts.model),
            asking: Arc::new(asking),
            adapter: None,
            builders: Arc::new(Semaphore::new(num_cores)),
        }
    }

    /// Returns what answers with one of the model's adapters: another name, and the same engine, prompts and places.
    #[must_use]
    pub fn with_adapter(&self, adapter: u32, name: &str) -> Self {
        let model = ModelInfo { name: name.to_owned(), ..(*self.model).clone() };
        Self { adapter: Some(adapter), model: Arc::new(model), ..self.clone() }
    }

    async fn start(&self, request: CompletionRequest) -> Result<Running, ProviderError> {
        let (request, prompt) = self.prompt(request).await?;
        let usage = Usage {
            num_prompt_tokens: prompt.token_ids.len() as u32,
            num_context_tokens_sent: prompt.num_context_tokens_sent as u32,
            num_context_tokens_used: prompt.num_context_tokens_used as u32,
            ..Usage::default()
        };
        let stops = self.asking.stops(&request);
        let field = prompt_field(&request.input);
        let deadline = request.deadline;
        let num_choices = request.num_choices;
        let sequence =
            SequenceRequest { adapter: self.adapter, ..self.asking.sequence(request, prompt) };
        let sequences = self
            .engine
            .submit_group(sequence, num_choices)
            .map_err(|error| from_submit(&error, field))?;
        let text =
            |index| ChoiceText::new(Arc::clone(&self.asking.tokenizer), index, Arc::clone(&stops));
        let choices = (0..).map(text).zip(sequences).collect();
        Ok(Running::new(choices, usage, deadline))
    }

    async fn traced(
        &self,
        mut request: CompletionRequest,
    ) -> Result<CompletionStream, ProviderError> {
        let mut span = ProviderSpan::begin(&self.model, SpanKind::Internal, &mut request);
        match self.start(request).await {
            Ok(running) => Ok(running.traced(span).into_stream()),
            Err(error) => {
                span.fail(&error);
                Err(error)
            }
        }
    }

    /// Builds the prompt, off the async workers where the text is long: then in as many places at once as there are
    /// cores, and not at all once the client has gone.
    async fn prompt(
        &self,
        request: CompletionRequest,
    ) -> Result<(CompletionRequest, Prompt), ProviderError> {
        if num_bytes(&request) <= INLINE_BYTES_MAX {
            return self.asking.prompt(request);
        }
        let failed =
            || ProviderError::new(ProviderErrorKind::Internal, "the prompt could not be built");
        let place = Arc::clone(&self.builders).acquire_owned().await.map_err(|_| failed())?;
        let client = Arc::new(());
        let is_client_here = Arc::downgrade(&client);
        let asking = Arc::clone(&self.asking);
        let build = move || {
            // Held to the end of the work, which outlives a future that is dropped.
            let _place = place;
            if is_client_here.strong_count() == 0 { Err(failed()) } else { asking.prompt(request) }
        };
        let built = tokio::task::spawn_blocking(build).await.unwrap_or_else(|_| Err(failed()));
        drop(client);
        built
    }
}

impl Provider for LocalProvider {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.model)
    }

    fn is_ready(&self) -> bool {
        self.engine.stats().state == EngineState::Running
    }

    /// Tokens that wait to be computed, and those of this request by its bytes, over the tokens a second of the steps that
    /// computed prompts lately. What of its own prompt the prefix cache holds is not looked up: prompts' usual share is taken.
    fn expected_first_token(&self, request: &CompletionRequest) -> Option<Duration> {
        let num_tokens = request.num_prompt_bytes() / BYTES_PER_TOKEN;
        self.engine.expected_first_token(num_tokens.min(self.asking.context_tokens_max))
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        self.traced(request).boxed()
    }
}

impl Asking {
    fn prompt(
        &self,
        mut request: CompletionRequest,
    ) -> Result<(CompletionRequest, Prompt), ProviderError> {
        let builder = PromptBuilder {
            tokenizer: &self.tokenizer,
            context_tokens_max: self.context_tokens_max,
            shares: self.shares,
            outlines: self.outlines.as_ref(),
        };
        let field = prompt_field(&request.input);
        let is_chat = matches!(request.input, Input::Chat(_));
        // A turn may take what the conversation leaves of the context, a gap has the server's default.
        let least = if is_chat { 1 } else { self.max_tokens_default };
        let max_tokens = request.max_tokens.unwrap_or(least) as usize;
        let prompt = match &mut request.input {
            Input::Text(text) => builder.text(text, max_tokens),
            Input::Tokens(ids) => builder.tokens(std::mem::take(ids), max_tokens),
            Input::Chat(messages) => builder.chat(&self.chat(messages)?, max_tokens),
            Input::Fim { prefix, suffix } => {
                let template = self.template.as_ref().ok_or_else(|| {
                    ProviderError::invalid("suffix", "the model was not trained to fill gaps")
                })?;
                let texts = Texts {
                    prefix: std::mem::take(prefix),
                    suffix: std::mem::take(suffix),
                    items: std::mem::take(&mut request.context),
                };
                let (file_name, language) = (request.file_name.as_deref(), request.language);
                let texts = context::arrange(texts, file_name, language, self.context);
                let gap = Gap {
                    prefix: &texts.prefix,
                    suffix: &texts.suffix,
                    file_name,
                    repository: request.repository.as_deref(),
                    language,
                    context: &texts.items,
                };
                builder.gap(template, gap, max_tokens)
            }
        };
        let prompt = prompt.map_err(|error| from_prompt(&error, field))?;
        let left = self.context_tokens_max.saturating_sub(prompt.token_ids.len()) as u32;
        let free = if is_chat { self.max_tokens_limit.min(left) } else { least };
        request.max_tokens.get_or_insert(free);
        Ok((request, prompt))
    }

    /// Returns a conversation in the model's own form.
    fn chat(&self, messages: &[ChatMessage]) -> Result<Vec<ChatPiece>, ProviderError> {
        let template = self
            .chat
            .as_ref()
            .ok_or_else(|| ProviderError::invalid("messages", "the model has no chat template"))?;
        template
            .render(messages, &self.tokenizer, SystemTime::now())
            .map_err(|error| from_chat(&error))
    }

    /// Returns the texts that end a choice: the request's, else the family's, which know gaps only.
    fn stops(&self, request: &CompletionRequest) -> Arc<[String]> {
        let of_family = || match (&request.input, &self.template) {
            (Input::Fim { .. }, Some(template)) if !request.ignores_eos => {
                template.stop_texts().to_vec()
            }
            _ => Vec::new(),
        };
        let mut stops = request.stop.clone().unwrap_or_else(of_family);
        stops.retain(|stop| !stop.is_empty());
        stops.into()
    }

    fn sequence(&self, request: CompletionRequest, prompt: Prompt) -> SequenceRequest {
        let stop_token_ids = if request.ignores_eos {
            request.stop_token_ids.into()
        } else if request.stop_token_ids.is_empty() {
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
            adapter: None,
        }
    }
}

fn num_bytes(request: &CompletionRequest) -> usize {
    let input = match &request.input {
        Input::Fim { prefix, suffix } => prefix.len() + suffix.len(),
        Input::Text(text) => text.len(),
        Input::Tokens(_) => 0,
        Input::Chat(messages) => {
            messages.iter().map(|message| message.content.len() + MESSAGE_BYTES).sum()
        }
    };
    input + request.context.iter().map(|item| item.content.len()).sum::<usize>()
}

/// Returns the field of the request that a prompt is made of.
fn prompt_field(input: &Input) -> &'static str {
    match input {
        Input::Chat(_) => "messages",
        Input::Fim { .. } | Input::Text(_) | Input::Tokens(_) => "prompt",
    }
}

fn from_prompt(error: &PromptError, field: &'static str) -> ProviderError {
    match error {
        PromptError::NoRoom { .. } => ProviderError::invalid("max_tokens", error.to_string()),
        PromptError::TooLong { .. } => ProviderError {
            field: Some(field),
            ..ProviderError::new(ProviderErrorKind::PromptTooLong, error.to_string())
        },
        PromptError::Tokenizer(_) => {
            ProviderError::new(ProviderErrorKind::Internal, error.to_string())
        }
    }
}

/// What a template refuses is the client's to mend; a template that fails is not.
fn from_chat(error: &ChatError) -> ProviderError {
    let message = error.to_string();
    match error {
        ChatError::Refused(_) => ProviderError::invalid("messages", message),
        ChatError::Template { .. } | ChatError::Failed { .. } | ChatError::TooMuch => {
            ProviderError::new(ProviderErrorKind::Internal, message)
        }
    }
}

fn from_submit(error: &SubmitError, field: &'static str) -> ProviderError {
    let message = error.to_string();
    match error {
        SubmitError::QueueFull { retry_after, .. } => ProviderError {
            retry_after: Some(*retry_after),
            ..ProviderError::new(ProviderErrorKind::Overloaded, message)
        },
        SubmitError::PromptTooLong { .. } => ProviderError {
            field: Some(field),
            ..ProviderError::new(ProviderErrorKind::PromptTooLong, message)
        },
        SubmitError::EmptyPrompt | SubmitError::InvalidToken { .. } => {
            ProviderError::invalid(field, message)
        }
        SubmitError::Draining | SubmitError::Dead => {
            ProviderError::new(ProviderErrorKind::Unavailable, message)
        }
    }
}

#[cfg(test)]
mod tests;
