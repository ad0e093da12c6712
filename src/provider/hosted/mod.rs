//! A service elsewhere as a provider: a protocol is code, and a provider is a table of the settings.
//!
//! `prompt` makes of a request what the service is asked, `protocol` writes and reads it, `http` brings it there and
//! back within limits, `running` makes the events of a completion of it.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture, future::try_join_all};
use tokio::sync::Semaphore;

use crate::{
    completion::{CompletionRequest, Input, Usage},
    config::{CompletionConfig, FimForm, ProviderConfig, Proxies, Violation},
    prompt::{
        Fim,
        budget::{self, Shares},
        context::ContextOptions,
        family::{self, FAMILIES, control_texts},
    },
    provider::{
        CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind,
        hosted::{
            http::{AskedBy, Caller},
            prompt::{Built, PROMPT_TOKENS_MIN, Prompts},
            protocol::{Access, Ask, PROTOCOLS, Place, Protocol},
            running::{Running, Start},
        },
        span::ProviderSpan,
    },
    trace::SpanKind,
};

mod error;
mod google;
mod http;
mod prompt;
mod protocol;
mod running;

pub use prompt::PromptSource;

/// Texts shorter than this are made into prompts where they are: handing them to another thread would take longer.
const INLINE_BYTES_MAX: usize = 4096;
/// The length of a context where neither the settings nor the family say it.
const CONTEXT_TOKENS: u32 = 32_768;
/// When another try makes sense where all places are taken.
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Control texts that are HTML too, such as `</s>`, end no answer.
const TAG_BYTES_MAX: usize = 4;
/// Google's region that is none.
const GLOBAL: &str = "global";

/// Returns the names of all protocols.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.iter().map(|protocol| protocol.abilities().name)
}

/// What a [`HostedProvider`] is made of.
pub struct HostedParts {
    /// Its table in the settings.
    pub config: ProviderConfig,
    /// The proxies that the environment names.
    pub proxies: Proxies,
    /// The rules of a completion.
    pub completion: CompletionConfig,
    /// The prompts in words.
    pub prompts: PromptSource,
}

impl std::fmt::Debug for HostedParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostedParts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Completes at a service elsewhere.
#[derive(Clone, Debug)]
pub struct HostedProvider {
    model: Arc<ModelInfo>,
    name: Arc<str>,
    asking: Arc<Asking>,
    /// Places for calls.
    places: Arc<Semaphore>,
    num_calls_max: u32,
}

/// What a request is turned into calls with.
#[derive(Debug)]
struct Asking {
    caller: Caller,
    protocol: &'static dyn Protocol,
    prompts: Prompts,
    place: Place,
    max_tokens_default: u32,
    max_tokens_limit: u32,
    is_streaming: bool,
}

impl HostedProvider {
    /// Puts the parts together; asks nobody.
    ///
    /// # Errors
    /// A setting that cannot be used, by its key.
    pub fn new(parts: HostedParts) -> Result<Self, Violation> {
        let HostedParts { config, proxies, completion, prompts } = parts;
        let protocol = protocol(&config)?;
        let abilities = protocol.abilities();
        let base = base(&config, protocol)?;
        check_access(&config, abilities.access)?;
        let family = config.family.as_deref().or(abilities.family);
        let family = family.map(|name| family_of(&config, name)).transpose()?;
        let fim = family.and_then(family::Family::fim);
        let form = form(&config, protocol, fim)?;
        let context_tokens = context_tokens(&config, protocol, family, &completion)?;
        let host = base.split("://").nth(1).unwrap_or_default();
        let place = Place {
            model: config.model.clone(),
            context_tokens,
            host: host.split(['/', ':']).next().unwrap_or_default().to_owned(),
            project: config.project.clone().unwrap_or_default(),
            region: config.region.clone().unwrap_or_else(|| GLOBAL.to_owned()),
        };
        let prompts = Prompts {
            provider: config.name.clone(),
            model: config.model.clone(),
            abilities,
            form,
            fim,
            context_tokens_max: context_tokens as usize,
            bytes_per_token: config.bytes_per_token,
            shares: Shares { suffix: completion.suffix_share, context: completion.context_share },
            context: ContextOptions {
                is_ranked: completion.ranks_context,
                masks_secrets: completion.masks_secrets,
                bytes_max: budget::bytes_worth_encoding(context_tokens as usize),
            },
            source: prompts,
        };
        let model = ModelInfo {
            name: config.served_as.clone(),
            engine: config.name.clone(),
            max_context_tokens: context_tokens,
            has_fim: form != FimForm::None,
            has_repo_fim: false,
            has_chat: abilities.has_chat,
            // No token of another's vocabulary can be named here.
            vocab_size: 0,
        };
        let asking = Asking {
            caller: Caller::new(&config, abilities, base, &proxies)?,
            protocol,
            prompts,
            place,
            max_tokens_default: completion.max_tokens_default,
            max_tokens_limit: completion.max_tokens_limit,
            is_streaming: config.is_streaming,
        };
        Ok(Self {
            model: Arc::new(model),
            name: config.name.as_str().into(),
            asking: Arc::new(asking),
            places: Arc::new(Semaphore::new(config.num_calls_max as usize)),
            num_calls_max: config.num_calls_max,
        })
    }

    /// Returns the provider's own name, for logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the most calls at once.
    pub fn num_calls_max(&self) -> u32 {
        self.num_calls_max
    }

    async fn traced(
        &self,
        mut request: CompletionRequest,
    ) -> Result<CompletionStream, ProviderError> {
        let mut span = ProviderSpan::begin(&self.model, SpanKind::Client, &mut request);
        match self.start(request).await {
            Ok(running) => Ok(running.traced(span).into_stream()),
            Err(error) => {
                span.fail(&error);
                Err(error)
            }
        }
    }

    async fn start(&self, request: CompletionRequest) -> Result<Running, ProviderError> {
        let asking = &self.asking;
        let abilities = asking.protocol.abilities();
        let num_calls = if abilities.has_choices { 1 } else { request.num_choices };
        if num_calls > self.num_calls_max {
            let message = format!(
                "`num_choices` must be at most {} for the provider `{}`, got {num_calls}",
                self.num_calls_max, self.name
            );
            return Err(ProviderError::invalid("num_choices", message));
        }
        let places = Arc::clone(&self.places).try_acquire_many_owned(num_calls);
        let places = places.map_err(|_| self.busy())?;
        let deadline = request.deadline;
        let (request, built) = self.build(request).await?;
        let max_tokens = asking.max_tokens(&request);
        let stops = asking.stops(&request, &built.stops);
        let num_choices = if abilities.has_choices { request.num_choices } else { 1 };
        let calls = (0..num_calls).map(|index| {
            let outgoing = asking.outgoing(&request, &built, &stops, index);
            let asked_by = AskedBy {
                correlation_id: request.correlation_id.as_deref(),
                span: request.trace.context(),
            };
            asking.caller.call(outgoing, asked_by, deadline)
        });
        let bodies = try_join_all(calls).await?;
        let tokens = |num_bytes| asking.prompts.num_tokens(num_bytes);
        let start = Start {
            provider: self.name.to_string(),
            protocol: asking.protocol,
            stops: stops.into(),
            num_choices_per_call: num_choices,
            max_tokens,
            deadline,
            usage: Usage {
                num_prompt_tokens: tokens(built.num_bytes),
                num_context_tokens_sent: tokens(built.num_context_bytes_sent),
                num_context_tokens_used: tokens(built.num_context_bytes_used),
                ..Usage::default()
            },
            bytes_per_token: asking.prompts.bytes_per_token,
            is_streaming: asking.is_streaming,
            places: Some(places),
        };
        Ok(Running::new(start, bodies))
    }

    /// Makes the prompt, off the async workers where the text is long.
    async fn build(
        &self,
        mut request: CompletionRequest,
    ) -> Result<(CompletionRequest, Built), ProviderError> {
        let asking = Arc::clone(&self.asking);
        let is_short = request.num_prompt_bytes() <= INLINE_BYTES_MAX;
        let build = move || {
            let max_tokens = asking.max_tokens(&request);
            asking.prompts.build(&mut request, max_tokens).map(|built| (request, built))
        };
        if is_short {
            return build();
        }
        let failed =
            || ProviderError::new(ProviderErrorKind::Internal, "the prompt could not be built");
        tokio::task::spawn_blocking(build).await.unwrap_or_else(|_| Err(failed()))
    }

    fn busy(&self) -> ProviderError {
        let message = format!("the provider `{}` has no place for another call", self.name);
        ProviderError {
            retry_after: Some(BUSY_PAUSE),
            ..ProviderError::new(ProviderErrorKind::Overloaded, message)
        }
    }
}

impl Provider for HostedProvider {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.model)
    }

    /// Nothing is loaded here, so that it always would. Whether the service answers is for who routes to find out: a
    /// server is not to be replaced for another's failure.
    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        self.traced(request).boxed()
    }
}

impl Asking {
    fn max_tokens(&self, request: &CompletionRequest) -> u32 {
        request.max_tokens.unwrap_or(match request.input {
            // A turn may take what the conversation leaves of the context, which is not known here.
            Input::Chat(_) => self.max_tokens_limit.min(self.place.context_tokens / 2),
            Input::Fim { .. } | Input::Text(_) | Input::Tokens(_) => self.max_tokens_default,
        })
    }

    /// Returns the texts that end a choice, the most telling first: the request's, the prompt's, the family's.
    fn stops(&self, request: &CompletionRequest, of_prompt: &[String]) -> Vec<String> {
        let mut stops = request.stop.clone().unwrap_or_default();
        stops.extend_from_slice(of_prompt);
        let is_gap = matches!(request.input, Input::Fim { .. });
        if let Some(fim) = self.prompts.fim.filter(|_| is_gap && !request.ignores_eos) {
            if request.stop.is_none() {
                stops.extend(fim.stop_texts.iter().map(|&text| text.to_owned()));
            }
            // A service that writes control tokens as texts would have them in the answer.
            let texts = control_texts(fim).into_iter().filter(|text| text.len() > TAG_BYTES_MAX);
            stops.extend(texts.map(str::to_owned));
        }
        let mut known = std::collections::HashSet::new();
        stops.retain(|stop| !stop.is_empty() && known.insert(stop.clone()));
        stops
    }

    fn outgoing(
        &self,
        request: &CompletionRequest,
        built: &Built,
        stops: &[String],
        call: u32,
    ) -> protocol::Outgoing {
        let abilities = self.protocol.abilities();
        let mut sampling = request.sampling.clone();
        // One seed for all would give the same text each time.
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(u64::from(call)));
        self.protocol.request(&Ask {
            place: &self.place,
            prompt: &built.prompt,
            max_tokens: self.max_tokens(request),
            sampling: &sampling,
            stops: &stops[..stops.len().min(abilities.num_stops_max)],
            num_choices: if abilities.has_choices { request.num_choices } else { 1 },
            logprobs: request.logprobs.filter(|_| abilities.has_logprobs),
            ignores_eos: request.ignores_eos,
            is_streaming: self.is_streaming,
        })
    }
}

fn broken(config: &ProviderConfig, leaf: &str, rule: String, got: String) -> Violation {
    Violation { key: config.key(leaf), rule, got }
}

fn protocol(config: &ProviderConfig) -> Result<&'static dyn Protocol, Violation> {
    protocol::by_name(&config.protocol).ok_or_else(|| {
        let names: Vec<&str> = protocol_names().collect();
        let rule = format!("one of {}", names.join(", "));
        broken(config, "protocol", rule, config.protocol.clone())
    })
}

/// Returns where the service is.
fn base(config: &ProviderConfig, protocol: &dyn Protocol) -> Result<String, Violation> {
    let abilities = protocol.abilities();
    if abilities.access == Access::Google && config.project.is_none() {
        let rule = format!("the project in Google's cloud for {}", abilities.name);
        return Err(broken(config, "project", rule, "nothing".to_owned()));
    }
    if let Some(url) = config.url.as_deref().or(abilities.url) {
        return Ok(url.to_owned());
    }
    if abilities.access == Access::Google {
        return Ok(match config.region.as_deref() {
            None | Some(GLOBAL) => "https://aiplatform.googleapis.com".to_owned(),
            Some(region) => format!("https://{region}-aiplatform.googleapis.com"),
        });
    }
    let rule = format!("the address of the service for {}", abilities.name);
    Err(broken(config, "url", rule, "nothing".to_owned()))
}

fn check_access(config: &ProviderConfig, access: Access) -> Result<(), Violation> {
    let has_key = config.api_key.is_some()
        || ["authorization", "x-api-key"].iter().any(|name| config.headers.contains_key(*name));
    match access {
        Access::NeedsKey | Access::NeedsXApiKey if !has_key => {
            let rule = format!("said, or `api_key_env`, for {}", config.protocol);
            Err(broken(config, "api_key_file", rule, "nothing".to_owned()))
        }
        Access::Google if has_key => {
            let rule = format!(
                "left out for {}, which has `credentials_file` or the metadata server",
                config.protocol
            );
            Err(broken(config, "api_key_file", rule, "a key".to_owned()))
        }
        Access::Key | Access::NeedsKey | Access::NeedsXApiKey | Access::Google => Ok(()),
    }
}

fn family_of(config: &ProviderConfig, name: &str) -> Result<&'static family::Family, Violation> {
    family::by_name(name).or_else(|| family::by_alias(name)).ok_or_else(|| {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        let rule = format!("one of {}", names.join(", "));
        broken(config, "family", rule, format!("{name:?}"))
    })
}

/// Returns the length of the context, which leaves a prompt room beside an answer.
fn context_tokens(
    config: &ProviderConfig,
    protocol: &dyn Protocol,
    family: Option<&family::Family>,
    completion: &CompletionConfig,
) -> Result<u32, Violation> {
    let said = config.context_tokens_max.map(std::num::NonZeroU32::get);
    let of_family = || family.map(|family| family.context_tokens);
    let known = said.or(protocol.abilities().context_tokens).or_else(of_family);
    let context_tokens = known.unwrap_or(CONTEXT_TOKENS);
    let least = completion.max_tokens_default.saturating_add(PROMPT_TOKENS_MIN);
    if context_tokens >= least {
        return Ok(context_tokens);
    }
    let rule = format!(
        "at least {least}, for `completion.max_tokens_default` and {PROMPT_TOKENS_MIN} tokens of a prompt"
    );
    Err(broken(config, "max_context_tokens", rule, context_tokens.to_string()))
}

/// Returns how gaps are asked for. What was left out is not guessed where it makes a difference.
fn form(
    config: &ProviderConfig,
    protocol: &dyn Protocol,
    fim: Option<&Fim<'_>>,
) -> Result<FimForm, Violation> {
    let forms = protocol.abilities().forms;
    let form = config.fim.or(forms.first().copied()).unwrap_or(FimForm::None);
    if !forms.contains(&form) {
        let names: Vec<&str> = forms.iter().map(|form| form.name()).collect();
        let rule = format!("one of {} for {}", names.join(", "), config.protocol);
        return Err(broken(config, "fim", rule, form.name().to_owned()));
    }
    if form == FimForm::Template && fim.is_none() {
        let rule = "the model's family, which fills gaps, where `fim` is template; suffix and none need none";
        let got = config.family.clone().unwrap_or_else(|| "nothing".to_owned());
        return Err(broken(config, "family", rule.to_owned(), got));
    }
    Ok(form)
}
