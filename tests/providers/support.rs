//! Providers made of the text of settings, requests, and what comes of them.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lacuna::{
    completion::{
        ChatMessage, ChatRole, Completion, CompletionRequest, FinishReason, Input, SamplingParams,
    },
    config::{Config, ConfigError, Environment, RawConfig},
    prompt::registry::{PromptRegistry, builtin},
    provider::{
        CompletionEvent, CompletionStream, Provider as _, ProviderError,
        hosted::{HostedParts, HostedProvider},
    },
};

use crate::{rows::Row, stub::Stub};

/// Far longer than anything here takes, far shorter than a person waits.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for what must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

/// Reads settings out of a file with this text.
pub(crate) fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("lacuna-providers-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, text).unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let environment = Environment::from_variables(variables);
    let config = Config::load(&RawConfig::default(), &environment, Some(&path));
    fs::remove_file(&path).unwrap();
    config
}

/// Makes the first provider of the settings.
pub(crate) fn provider_of(config: &Config) -> Result<HostedProvider, String> {
    let registry = Arc::new(PromptRegistry::new(builtin().unwrap()));
    let parts = HostedParts {
        config: config.providers[0].clone(),
        proxies: config.hub.proxies.clone(),
        completion: config.completion.clone(),
        prompts: Arc::new(move || Arc::clone(&registry)),
    };
    HostedProvider::new(parts).map_err(|violation| violation.to_string())
}

/// Makes a provider of a protocol's row at the stub; `more` are further keys.
pub(crate) fn provider(row: &Row, stub: &Stub, more: &str) -> HostedProvider {
    let (url, protocol, own) = (stub.url(), row.protocol, row.settings);
    let text = format!(
        "[[providers]]\nname = \"far\"\nprotocol = {protocol:?}\nmodel = \"m\"\nurl = \"{url}{}\"\n{own}\n{more}\n",
        row.base
    );
    let variables = [("FAR_KEY", "s3cret"), ("GCE_METADATA_HOST", &*stub.address.to_string())];
    provider_of(&load(&text, &variables).unwrap()).unwrap()
}

/// Returns a request for a gap.
pub(crate) fn gap(prefix: &str, suffix: &str) -> CompletionRequest {
    let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
    request(Input::Fim { prefix, suffix })
}

/// Returns a request for a turn of a conversation.
pub(crate) fn chat() -> CompletionRequest {
    let message = |role, content: &str| ChatMessage { role, content: content.to_owned() };
    request(Input::Chat(vec![
        message(ChatRole::System, "Be short."),
        message(ChatRole::User, "Add."),
        message(ChatRole::Assistant, "What?"),
        message(ChatRole::User, "a and b."),
    ]))
}

pub(crate) fn request(input: Input) -> CompletionRequest {
    CompletionRequest {
        file_name: Some("sum.py".to_owned()),
        sampling: SamplingParams { temperature: 0.2, seed: Some(7), ..SamplingParams::greedy() },
        max_tokens: Some(16),
        stop: Some(vec!["\n\n".to_owned()]),
        ..CompletionRequest::of(input)
    }
}

/// Completes, and returns all of it.
pub(crate) async fn complete(
    provider: &HostedProvider,
    request: CompletionRequest,
) -> Result<Completion, ProviderError> {
    within("a completion", async { provider.complete(request).await?.collect().await }).await
}

/// Begins a completion.
pub(crate) async fn begin(
    provider: &HostedProvider,
    request: CompletionRequest,
) -> CompletionStream {
    within("a beginning", provider.complete(request)).await.unwrap()
}

/// Returns the text of the next chunk, or how it ended.
pub(crate) async fn next(stream: &mut CompletionStream) -> Result<String, Option<ProviderError>> {
    match within("an event", stream.next()).await {
        Some(Ok(CompletionEvent::Chunk(chunk))) => Ok(chunk.text),
        Some(Ok(CompletionEvent::Done(_))) | None => Err(None),
        Some(Err(error)) => Err(Some(error)),
    }
}

/// Returns the texts of the choices and why they ended.
pub(crate) fn texts(completion: &Completion) -> Vec<(&str, FinishReason)> {
    completion.choices.iter().map(|choice| (choice.text.as_str(), choice.finish_reason)).collect()
}
