//! The one path of every completion: check, complete within the time, account for it once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::stream;

use crate::{
    completion::{CompletionRequest, Input, Language, SamplingParams, Usage},
    config::CompletionConfig,
    provider::{
        CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind,
    },
    telemetry::{RequestRecord, record_request},
};

/// What a provider may take beyond the request's time to hand on what it has, before the service gives up on it.
const GRACE: Duration = Duration::from_secs(1);

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

impl CompletionService {
    /// Serves what `provider` completes, within `limits`.
    pub fn new(provider: Arc<dyn Provider>, limits: CompletionConfig) -> Self {
        Self { provider, limits }
    }

    /// Returns what is served.
    pub fn model(&self) -> Arc<ModelInfo> {
        self.provider.model()
    }

    /// Returns the rules of a completion.
    pub fn limits(&self) -> &CompletionConfig {
        &self.limits
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
        account.prompt(&request);
        let deadline = Instant::now() + self.limits.timeout;
        let deadline = request.deadline.map_or(deadline, |asked| asked.min(deadline));
        request.deadline = Some(deadline);
        let give_up = tokio::time::Instant::from_std(deadline + GRACE);
        let started = match check(&request, &self.limits, model.vocab_size) {
            Ok(()) => {
                let complete = self.provider.complete(request);
                tokio::time::timeout_at(give_up, complete)
                    .await
                    .unwrap_or_else(|_| Err(out_of_time()))
            }
            Err(error) => Err(error),
        };
        match started {
            Ok(events) => {
                let accounted = Accounted { events, account, give_up };
                Ok(CompletionStream::new(stream::unfold(accounted, Accounted::next)))
            }
            Err(error) => {
                account.fail(error.kind.as_label());
                Err(error)
            }
        }
    }
}

/// A completion whose events are counted on their way.
struct Accounted {
    events: CompletionStream,
    account: Account,
    give_up: tokio::time::Instant,
}

impl Accounted {
    async fn next(mut self) -> Option<(Result<CompletionEvent, ProviderError>, Self)> {
        let event = tokio::time::timeout_at(self.give_up, self.events.next()).await;
        let event = event.unwrap_or_else(|_| Some(Err(out_of_time())))?;
        self.account.take(&event);
        if event.is_err() {
            self.events = CompletionStream::new(stream::empty());
        }
        Some((event, self))
    }
}

fn out_of_time() -> ProviderError {
    let kind = ProviderErrorKind::DeadlineExceeded;
    ProviderError::new(kind, "the time allowed for the request ran out")
}

/// What is known of a request, over all its prompts. Written as one line when the last clone is dropped, whichever way
/// the request ended: who holds one until the end of the answer need do nothing else.
#[derive(Clone, Debug)]
pub struct Account(Arc<Mutex<Entries>>);

#[derive(Debug)]
struct Entries {
    request_id: String,
    endpoint: &'static str,
    model: Option<Arc<ModelInfo>>,
    is_streaming: Option<bool>,
    language: Option<&'static str>,
    num_prompts: usize,
    num_prompts_done: usize,
    prefix_chars: usize,
    suffix_chars: usize,
    num_context_items: usize,
    began: Instant,
    time_to_first_token: Option<Duration>,
    usage: Usage,
    finish_reason: Option<&'static str>,
    failure: Option<&'static str>,
}

impl Account {
    /// Opens the account of a request that has just come. `endpoint` is dialect and endpoint, such as
    /// `openai.completions`: a closed set.
    pub fn open(request_id: &str, endpoint: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Entries {
            request_id: request_id.to_owned(),
            endpoint,
            model: None,
            is_streaming: None,
            language: None,
            num_prompts: 0,
            num_prompts_done: 0,
            prefix_chars: 0,
            suffix_chars: 0,
            num_context_items: 0,
            began: Instant::now(),
            time_to_first_token: None,
            usage: Usage::default(),
            finish_reason: None,
            failure: None,
        })))
    }

    /// Notes which model is asked.
    pub fn model(&self, model: &Arc<ModelInfo>) {
        self.entries().model = Some(Arc::clone(model));
    }

    /// Notes whether pieces are handed on as they come.
    pub fn streaming(&self, is_streaming: bool) {
        self.entries().is_streaming = Some(is_streaming);
    }

    /// Notes a failure by its label; the first one stays.
    pub fn fail(&self, label: &'static str) {
        self.entries().failure.get_or_insert(label);
    }

    fn prompt(&self, request: &CompletionRequest) {
        let (prefix_chars, suffix_chars) = match &request.input {
            Input::Fim { prefix, suffix } => (prefix.chars().count(), suffix.chars().count()),
            Input::Text(text) => (text.chars().count(), 0),
            Input::Tokens(_) => (0, 0),
        };
        let mut entries = self.entries();
        entries.num_prompts += 1;
        entries.prefix_chars += prefix_chars;
        entries.suffix_chars += suffix_chars;
        entries.num_context_items += request.context.len();
        entries.language = request.language.map(Language::name);
    }

    fn take(&self, event: &Result<CompletionEvent, ProviderError>) {
        let mut entries = self.entries();
        match event {
            Ok(CompletionEvent::Chunk(chunk)) => {
                let began = entries.began;
                entries.time_to_first_token.get_or_insert_with(|| began.elapsed());
                if let Some(reason) = chunk.finish_reason {
                    entries.finish_reason.get_or_insert(reason.as_label());
                }
            }
            Ok(CompletionEvent::Done(usage)) => {
                entries.num_prompts_done += 1;
                let total = &mut entries.usage;
                total.num_prompt_tokens += usage.num_prompt_tokens;
                total.num_cached_tokens += usage.num_cached_tokens;
                total.num_completion_tokens += usage.num_completion_tokens;
            }
            Err(error) => {
                entries.failure.get_or_insert(error.kind.as_label());
            }
        }
    }

    /// A panic while the lock was held left numbers, which are as good as before.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn outcome(&self) -> &'static str {
        let is_done = self.num_prompts > 0 && self.num_prompts_done == self.num_prompts;
        self.failure.unwrap_or(if is_done { "ok" } else { "cancelled" })
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        record_request(&RequestRecord {
            request_id: &self.request_id,
            endpoint: self.endpoint,
            model: self.model.as_ref().map(|model| model.name.as_str()),
            language: self.language,
            outcome: self.outcome(),
            num_prompts: self.num_prompts,
            prefix_chars: self.prefix_chars,
            suffix_chars: self.suffix_chars,
            num_context_items: self.num_context_items,
            prompt_tokens: self.usage.num_prompt_tokens,
            cached_tokens: self.usage.num_cached_tokens,
            completion_tokens: self.usage.num_completion_tokens,
            time_to_first_token: self.time_to_first_token,
            total_time: self.began.elapsed(),
            finish_reason: self.finish_reason,
            is_streaming: self.is_streaming,
        });
    }
}

/// Checks what holds for every dialect; messages name the field and the rule.
fn check(
    request: &CompletionRequest,
    limits: &CompletionConfig,
    vocab_size: u32,
) -> Result<(), ProviderError> {
    from_one_to("max_tokens", limits.max_tokens_limit, request.max_tokens.unwrap_or(1))?;
    from_one_to("num_choices", limits.num_choices_limit, request.num_choices)?;
    let (num_stops, limit) = (request.stop.as_ref().map_or(0, Vec::len), limits.num_stops_limit);
    if num_stops > limit {
        let message = format!("`stop` must have at most {limit} texts, got {num_stops}");
        return Err(ProviderError::invalid("stop", message));
    }
    check_sampling(&request.sampling)?;
    for (id, bias) in &request.sampling.logit_bias {
        if *id >= vocab_size || bias.is_nan() || bias.abs() > 100.0 {
            let message = format!(
                "`logit_bias` takes token ids below {vocab_size} and values from -100 to 100, got {id}: {bias}"
            );
            return Err(ProviderError::invalid("logit_bias", message));
        }
    }
    Ok(())
}

fn from_one_to(field: &'static str, limit: u32, value: u32) -> Result<(), ProviderError> {
    if (1..=limit).contains(&value) {
        return Ok(());
    }
    let message = format!("`{field}` must be from 1 to {limit}, got {value}");
    Err(ProviderError::invalid(field, message))
}

fn check_sampling(sampling: &SamplingParams) -> Result<(), ProviderError> {
    const UP_TO_ONE: Rule = Rule { least: Bound::Above(0.0), most: 1.0 };
    const PENALTY: Rule = Rule { least: Bound::From(-2.0), most: 2.0 };
    let rules = [
        ("temperature", sampling.temperature, Rule { least: Bound::From(0.0), most: 100.0 }),
        ("top_p", sampling.top_p, UP_TO_ONE),
        ("min_p", sampling.min_p, Rule { least: Bound::From(0.0), most: 1.0 }),
        ("repetition_penalty", sampling.repetition_penalty, Rule { most: 10.0, ..UP_TO_ONE }),
        ("presence_penalty", sampling.presence_penalty, PENALTY),
        ("frequency_penalty", sampling.frequency_penalty, PENALTY),
    ];
    for (field, value, rule) in rules {
        if !rule.holds(value) {
            let message = format!("`{field}` must be {rule}, got {value}");
            return Err(ProviderError::invalid(field, message));
        }
    }
    Ok(())
}

/// A range of numbers.
struct Rule {
    least: Bound,
    most: f32,
}

/// Where a range begins.
enum Bound {
    From(f32),
    Above(f32),
}

impl Rule {
    /// Returns whether `value` lies in the range; NaN lies in none.
    fn holds(&self, value: f32) -> bool {
        let is_enough = match self.least {
            Bound::From(least) => value >= least,
            Bound::Above(least) => value > least,
        };
        is_enough && value <= self.most
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least {
            Bound::From(least) => write!(f, "from {least} to {}", self.most),
            Bound::Above(least) => write!(f, "above {least} and at most {}", self.most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_ends_and_no_nan() {
        let rows = [
            (Rule { least: Bound::From(0.0), most: 1.0 }, [true, true, true]),
            (Rule { least: Bound::Above(0.0), most: 1.0 }, [false, true, true]),
        ];
        for (rule, expected) in rows {
            assert_eq!([0.0, 0.5, 1.0].map(|value| rule.holds(value)), expected, "{rule}");
            for value in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
                assert!(!rule.holds(value), "{rule}: {value}");
            }
        }
    }

    #[test]
    fn every_sampling_rule_names_its_field() {
        let greedy = SamplingParams::greedy();
        let rows = [
            ("temperature", SamplingParams { temperature: -1.0, ..greedy.clone() }),
            ("top_p", SamplingParams { top_p: 0.0, ..greedy.clone() }),
            ("min_p", SamplingParams { min_p: f32::NAN, ..greedy.clone() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..greedy.clone() }),
            ("presence_penalty", SamplingParams { presence_penalty: 2.1, ..greedy.clone() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: -2.1, ..greedy.clone() }),
        ];
        assert_eq!(check_sampling(&greedy), Ok(()));
        for (field, sampling) in rows {
            let error = check_sampling(&sampling).unwrap_err();
            assert_eq!(error.field, Some(field));
            assert!(error.message.contains(field), "{error}");
        }
    }
}
