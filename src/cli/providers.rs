//! Providers elsewhere as the settings name them: each becomes a service under a name of its own.

use std::sync::Arc;

use crate::{
    config::{Config, Violation},
    prompt::registry::PromptRegistry,
    provider::hosted::{HostedParts, HostedProvider, PromptSource},
    service::{CompletionService, Prompts},
};

/// Makes the providers of the settings, in their order; asks none of them.
///
/// # Errors
/// A setting that cannot be used, by its key.
pub(super) fn hosted(
    config: &Config,
    prompts: &Arc<Prompts>,
) -> Result<Vec<HostedProvider>, Violation> {
    let prompts = Arc::clone(prompts);
    build(config, &(Arc::new(move || prompts.current()) as PromptSource))
}

/// Checks all that can be told of the providers without asking them.
///
/// # Errors
/// As [`hosted`].
pub(super) fn check(config: &Config) -> Result<(), Violation> {
    let none = Arc::new(PromptRegistry::default());
    build(config, &(Arc::new(move || Arc::clone(&none)) as PromptSource)).map(|_| ())
}

fn build(config: &Config, prompts: &PromptSource) -> Result<Vec<HostedProvider>, Violation> {
    let provider = |provider: &crate::config::ProviderConfig| {
        HostedProvider::new(HostedParts {
            config: provider.clone(),
            proxies: config.hub.proxies.clone(),
            completion: config.completion.clone(),
            prompts: Arc::clone(prompts),
        })
    };
    config.providers.iter().map(provider).collect()
}

/// Returns what answers under a provider's name.
pub(super) fn service(config: &Config, provider: HostedProvider) -> CompletionService {
    let num_calls_max = provider.num_calls_max() as usize;
    CompletionService::new(Arc::new(provider), config.completion.clone(), num_calls_max)
        .with_postprocess(config.postprocess.clone())
        .with_content_logging(config.log.content)
}
