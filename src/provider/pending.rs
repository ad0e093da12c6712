//! The place of a model that still loads: it has its name at once, and what completes when there are weights.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};

use crate::{
    completion::CompletionRequest,
    provider::{CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind},
};

/// Tokens of context that are assumed until the model's own are known.
const CONTEXT_TOKENS_ASSUMED: u32 = 8192;

/// Stands under a model's name from the start. Until the model is there it refuses, and looks as able as any, so that a
/// request is made in its best form for whoever else may answer it.
pub struct Pending {
    assumed: Arc<ModelInfo>,
    outcome: OnceLock<Option<Arc<dyn Provider>>>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("assumed", &self.assumed).finish_non_exhaustive()
    }
}

impl Pending {
    /// Stands under `name`, for a model of so many tokens of context where they are said already.
    pub fn new(name: &str, max_context_tokens: Option<u32>) -> Self {
        let assumed = ModelInfo {
            name: name.to_owned(),
            engine: "lacuna".to_owned(),
            max_context_tokens: max_context_tokens.unwrap_or(CONTEXT_TOKENS_ASSUMED),
            has_fim: true,
            has_repo_fim: false,
            has_chat: true,
            vocab_size: u32::MAX,
        };
        Self { assumed: Arc::new(assumed), outcome: OnceLock::new() }
    }

    /// Completes by `provider` from now on, unless the model is there or given up already.
    pub fn fill(&self, provider: Arc<dyn Provider>) {
        let _ = self.outcome.set(Some(provider));
    }

    /// Says that there will be no model, unless it is there already.
    pub fn give_up(&self) {
        let _ = self.outcome.set(None);
    }

    /// Returns whether there will be no model.
    pub fn is_given_up(&self) -> bool {
        matches!(self.outcome.get(), Some(None))
    }

    fn provider(&self) -> Option<&Arc<dyn Provider>> {
        self.outcome.get()?.as_ref()
    }
}

impl Provider for Pending {
    fn model(&self) -> Arc<ModelInfo> {
        self.provider().map_or_else(|| Arc::clone(&self.assumed), |provider| provider.model())
    }

    fn is_ready(&self) -> bool {
        self.provider().is_some_and(|provider| provider.is_ready())
    }

    fn is_loading(&self) -> bool {
        self.outcome.get().is_none()
    }

    fn is_known(&self) -> bool {
        self.provider().is_some()
    }

    fn expected_first_token(&self, request: &CompletionRequest) -> Option<Duration> {
        self.provider()?.expected_first_token(request)
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        match self.outcome.get() {
            Some(Some(provider)) => provider.complete(request),
            Some(None) => {
                let message = "the model could not be loaded";
                let error = ProviderError::new(ProviderErrorKind::Unavailable, message);
                async { Err(error) }.boxed()
            }
            None => async { Err(ProviderError::loading()) }.boxed(),
        }
    }
}
