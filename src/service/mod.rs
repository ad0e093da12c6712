//! The one path of every completion: check, complete within the time, account for it once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream;
use tokio::sync::Semaphore;

use crate::{
    completion::{CompletionRequest, Input, Language},
    config::{CompletionConfig, ContentLogging, PostprocessConfig},
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
    service::{content::ContentLog, refine::Plan, rules::check},
};

mod account;
mod content;
mod models;
mod prompts;
mod refine;
mod rules;
#[cfg(test)]
mod tests;
mod whole;

pub use account::Account;
pub use models::{NameKind, ServedModel, ServedModels, ServedName};
pub use prompts::{Prompts, PromptsError};

/// What a provider may take beyond the request's time to hand on what it has, before the service gives up on it.
const GRACE: Duration = Duration::from_secs(1);

/// Serves completions of every dialect.
#[derive(Clone)]
pub struct CompletionService {
    provider: Arc<dyn Provider>,
    limits: CompletionConfig,
    num_sequences_max: usize,
    postprocess: Arc<PostprocessConfig>,
    content: ContentLogging,
    /// Places to read the syntax of answers in.
    parsers: Arc<Semaphore>,
}

impl std::fmt::Debug for CompletionService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionService").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl CompletionService {
    /// Serves what `provider` completes, within `limits`. It can take `num_sequences_max` choices at once, over all
    /// prompts of a request: more would be refused for ever, however often they are asked for.
    pub fn new(
        provider: Arc<dyn Provider>,
        limits: CompletionConfig,
        num_sequences_max: usize,
    ) -> Self {
        let postprocess = Arc::new(PostprocessConfig::none());
        let num_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parsers = Arc::new(Semaphore::new(num_cores));
        let content = ContentLogging::Never;
        Self { provider, limits, num_sequences_max, postprocess, content, parsers }
    }

    /// Takes from completions what these settings name.
    #[must_use]
    pub fn with_postprocess(self, postprocess: PostprocessConfig) -> Self {
        Self { postprocess: Arc::new(postprocess), ..self }
    }

    /// Logs the source text of whom this says.
    #[must_use]
    pub fn with_content_logging(self, content: ContentLogging) -> Self {
        Self { content, ..self }
    }

    /// Returns what completes.
    pub fn provider(&self) -> &Arc<dyn Provider> {
        &self.provider
    }

    /// Lets another complete, by the same rules.
    #[must_use]
    pub fn with_provider(self, provider: Arc<dyn Provider>) -> Self {
        Self { provider, ..self }
    }

    /// Returns what is taken from completions.
    pub fn postprocess(&self) -> &PostprocessConfig {
        &self.postprocess
    }

    /// Returns the most choices of a request, over all its prompts.
    pub fn num_sequences_max(&self) -> usize {
        self.num_sequences_max
    }

    /// Returns what is served.
    pub fn model(&self) -> Arc<ModelInfo> {
        self.provider.model()
    }

    /// Returns the rules of a completion.
    pub fn limits(&self) -> &CompletionConfig {
        &self.limits
    }

    /// Returns whether what [`CompletionService::model`] says is known; else, but for the name, it is assumed.
    pub fn is_known(&self) -> bool {
        self.provider.is_known()
    }

    /// Returns whether a request may be answered, now or once what loads is there.
    pub fn may_answer(&self) -> bool {
        self.provider.may_answer()
    }

    /// Returns whether a request would be taken now.
    pub fn is_ready(&self) -> bool {
        self.provider.is_ready()
    }

    /// Starts a completion, which is one prompt of the request that `account` is of.
    ///
    /// # Errors
    /// A broken rule of the request, a full queue, the time's end, or the provider's failure.
    pub async fn complete(
        &self,
        mut request: CompletionRequest,
        account: Account,
    ) -> Result<CompletionStream, ProviderError> {
        let model = self.model();
        account.model(&model);
        if let Input::Fim { prefix, .. } = &request.input {
            request.language = request.language.or_else(|| Language::of_script(prefix));
        }
        account.prompt(&request);
        request.correlation_id = Some(account.request_id());
        request.trace = account.trace();
        let deadline = Instant::now() + self.limits.timeout;
        let deadline = request.deadline.map_or(deadline, |asked| asked.min(deadline));
        request.deadline = Some(deadline);
        let give_up = tokio::time::Instant::from_std(deadline + GRACE);
        let content = self.logs_content(&account);
        let content = content.then(|| ContentLog::open(account.request_id(), &request));
        let is_whole = !account.is_streaming() && self.provider.begins_again();
        let started = if is_whole {
            self.whole(request, &account, give_up).await
        } else {
            self.start(request, &account, give_up).await
        };
        match started {
            Ok(events) => {
                let accounted = Accounted { events, account, content, give_up };
                Ok(CompletionStream::new(stream::unfold(accounted, Accounted::next)))
            }
            Err(error) => {
                account.failed(&error);
                Err(error)
            }
        }
    }

    /// Starts a completion whose text is post-processed.
    async fn start(
        &self,
        mut request: CompletionRequest,
        account: &Account,
        give_up: tokio::time::Instant,
    ) -> Result<CompletionStream, ProviderError> {
        let model = self.model();
        let plan = Plan::of(&mut request, &self.postprocess, &model.name, account.is_streaming());
        check(&request, &self.limits, model.vocab_size)?;
        let complete = self.provider.complete(request);
        let events = tokio::time::timeout_at(give_up, complete)
            .await
            .unwrap_or_else(|_| Err(ProviderError::out_of_time()))?;
        let (answered_by, deadline) = (events.answered_by().cloned(), events.deadline());
        if let Some(model) = &answered_by {
            account.model(model);
        }
        let Some(plan) = plan else { return Ok(events) };
        let (max_tokens, parsers) = (self.limits.max_tokens_default, Arc::clone(&self.parsers));
        let refined = plan.apply(events, max_tokens, account.clone(), parsers);
        let refined = answered_by.into_iter().fold(refined, CompletionStream::by);
        Ok(deadline.into_iter().fold(refined, CompletionStream::until))
    }

    fn logs_content(&self, account: &Account) -> bool {
        match self.content {
            ContentLogging::Never => false,
            ContentLogging::Asked => account.wants_content(),
            ContentLogging::Always => true,
        }
    }
}

/// A completion whose events are counted on their way.
struct Accounted {
    events: CompletionStream,
    account: Account,
    content: Option<ContentLog>,
    give_up: tokio::time::Instant,
}

impl Accounted {
    async fn next(mut self) -> Option<(Result<CompletionEvent, ProviderError>, Self)> {
        let event = tokio::time::timeout_at(self.give_up, self.events.next()).await;
        let event = event.unwrap_or_else(|_| Some(Err(ProviderError::out_of_time())))?;
        self.account.take(&event);
        if let Some(content) = &mut self.content {
            content.take(&event);
        }
        if event.is_err() {
            self.events = CompletionStream::new(stream::empty());
        }
        Some((event, self))
    }
}
