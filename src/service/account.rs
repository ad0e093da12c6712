//! What is known of a request, gathered while it runs and written once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    completion::{CompletionRequest, Input, Language, Task, Usage},
    postprocess::Effect,
    provider::{CompletionEvent, ModelInfo, ProviderError, ProviderErrorKind},
    telemetry::{
        Caller, Exchange, RequestRecord,
        client::UNKNOWN,
        metrics::{InFlight, Inference, Metrics, client_type, realm},
        record_internal_error, record_postprocessing,
        store::{CompletionRow, Store, bare_id},
    },
    trace::Parent,
};

/// Where a completion is kept, and who asked for it.
#[derive(Debug)]
struct Keeping {
    store: Store,
    user: Option<String>,
}

/// What is known of a request, over all its prompts. Told to its exchange when the last clone is dropped, whichever way
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
    effects: Vec<Effect>,
    num_tokens_saved: u32,
    failure: Option<&'static str>,
    prompt: Option<String>,
    caller: Caller,
    /// Their editor or program, a word of a closed set.
    client: &'static str,
    wants_content: bool,
    task: Task,
    /// Where it is counted, and its place among those under way.
    metrics: Option<(Metrics, InFlight)>,
    /// The request and its answer, whose line and span it is part of.
    exchange: Option<Exchange>,
    /// When the first and the last step of post-processing were done with a choice.
    refined: Option<(Instant, Instant)>,
    keeping: Option<Keeping>,
    /// Whether it is a try's, of which nothing is told by itself.
    is_try: bool,
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
            effects: Vec::new(),
            num_tokens_saved: 0,
            failure: None,
            prompt: None,
            caller: Caller::default(),
            client: UNKNOWN,
            wants_content: false,
            task: Task::default(),
            metrics: None,
            exchange: None,
            refined: None,
            keeping: None,
            is_try: false,
        })))
    }

    /// Makes it part of a request's line and span.
    pub fn part_of(&self, exchange: Option<&Exchange>) {
        self.entries().exchange = exchange.cloned();
    }

    /// Returns the span that the completion is part of.
    pub(super) fn trace(&self) -> Parent {
        self.entries().exchange.as_ref().map(|it| it.parent().clone()).unwrap_or_default()
    }

    /// Counts the request among those under way, and when it has ended.
    pub fn count_in(&self, metrics: &Metrics) {
        let mut entries = self.entries();
        let in_flight = metrics.requests().begin(entries.endpoint);
        entries.metrics = Some((metrics.clone(), in_flight));
    }

    /// Has the completion kept when it has ended, with the pseudonym of who asked.
    pub fn keep_in(&self, store: Store, user: Option<String>) {
        self.entries().keeping = Some(Keeping { store, user });
    }

    /// Notes which model is asked.
    pub fn model(&self, model: &Arc<ModelInfo>) {
        self.entries().model = Some(Arc::clone(model));
    }

    /// Notes whether pieces are handed on as they come.
    pub fn streaming(&self, is_streaming: bool) {
        self.entries().is_streaming = Some(is_streaming);
    }

    /// Returns whether pieces are handed on as they come.
    pub(super) fn is_streaming(&self) -> bool {
        self.entries().is_streaming.unwrap_or(false)
    }

    /// Notes what the steps of post-processing did to a choice.
    pub(super) fn effects(&self, effects: impl Iterator<Item = Effect>) {
        let mut entries = self.entries();
        let num_before = entries.effects.len();
        entries.effects.extend(effects);
        let now = Instant::now();
        let took: Duration = entries.effects[num_before..].iter().map(|effect| effect.took).sum();
        let began = now.checked_sub(took).unwrap_or(now);
        let first = entries.refined.map_or(began, |(first, _)| first);
        entries.refined = Some((first, now));
    }

    /// Notes how many tokens were not written because they would have been deleted.
    pub(super) fn saved(&self, num_tokens: u32) {
        self.entries().num_tokens_saved += num_tokens;
    }

    #[cfg(test)]
    pub(super) fn num_tokens_saved(&self) -> u32 {
        self.entries().num_tokens_saved
    }

    /// Notes who calls, where the request tells.
    pub fn caller(&self, caller: Caller) {
        self.entries().caller = caller;
    }

    /// Notes which editor or program they use, a word of a closed set, and whose GitLab it is where a token says that.
    pub fn client(&self, client: &'static str, realm: Option<String>) {
        let mut entries = self.entries();
        entries.client = client;
        entries.caller.realm = realm;
    }

    /// Notes that whoever may say so wants the request's source text in the log.
    pub fn want_content(&self) {
        self.entries().wants_content = true;
    }

    /// Returns whether its source text is wanted in the log.
    pub(super) fn wants_content(&self) -> bool {
        self.entries().wants_content
    }

    /// Returns the request's name in the logs.
    pub fn request_id(&self) -> String {
        self.entries().request_id.clone()
    }

    /// Notes which prompt of the registry asks the model.
    pub fn prompt_made_by(&self, place: String) {
        self.entries().prompt = Some(place);
    }

    /// Notes that nobody answered, and who failed where that is not who was asked.
    pub(super) fn failed(&self, error: &ProviderError) {
        if let Some(model) = &error.failed {
            self.model(model);
        }
        self.fail(error.kind.as_label());
    }

    /// Notes a failure by its label; the first one stays.
    pub fn fail(&self, label: &'static str) {
        self.entries().failure.get_or_insert(label);
    }

    pub(super) fn prompt(&self, request: &CompletionRequest) {
        let (prefix_chars, suffix_chars) = match &request.input {
            Input::Fim { prefix, suffix } => (prefix.chars().count(), suffix.chars().count()),
            Input::Text(text) => (text.chars().count(), 0),
            Input::Tokens(_) => (0, 0),
            Input::Chat(messages) => {
                (messages.iter().map(|message| message.content.chars().count()).sum(), 0)
            }
        };
        let mut entries = self.entries();
        entries.num_prompts += 1;
        entries.prefix_chars += prefix_chars;
        entries.suffix_chars += suffix_chars;
        entries.num_context_items += request.context.len();
        entries.language = request.language.map(Language::name);
        entries.task = request.asker.task;
    }

    /// Notes that there is text, which is not handed on yet.
    pub(super) fn first_text(&self) {
        let mut entries = self.entries();
        let began = entries.began;
        entries.time_to_first_token.get_or_insert_with(|| began.elapsed());
    }

    /// Opens the account of a try whose answer nobody has seen. It is told to nobody but by [`Account::absorb`].
    pub(super) fn of_try(&self) -> Self {
        let tried = Self::open("", "");
        let mut entries = tried.entries();
        entries.is_try = true;
        entries.began = self.entries().began;
        drop(entries);
        tried
    }

    /// Takes what a try has noted, which was the one that answered.
    pub(super) fn absorb(&self, tried: &Self) {
        let mut tried = tried.entries();
        let mut entries = self.entries();
        entries.model = tried.model.take().or_else(|| entries.model.take());
        entries.effects.append(&mut tried.effects);
        entries.num_tokens_saved += tried.num_tokens_saved;
        entries.time_to_first_token = entries.time_to_first_token.or(tried.time_to_first_token);
        entries.refined = match (entries.refined, tried.refined) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (own, of_try) => own.or(of_try),
        };
    }

    pub(super) fn take(&self, event: &Result<CompletionEvent, ProviderError>) {
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
    /// Returns which steps changed something, and how many choices each.
    fn changes(&self) -> Vec<(&'static str, u32)> {
        let mut changes: Vec<(&'static str, u32)> = Vec::new();
        for effect in self.effects.iter().filter(|effect| effect.is_change) {
            let name = effect.step.name();
            match changes.iter_mut().find(|(other, _)| *other == name) {
                Some((_, count)) => *count += 1,
                None => changes.push((name, 1)),
            }
        }
        changes
    }

    fn outcome(&self) -> &'static str {
        let is_done = self.num_prompts > 0 && self.num_prompts_done == self.num_prompts;
        self.failure.unwrap_or(if is_done { "ok" } else { "cancelled" })
    }

    fn count(&self, metrics: &Metrics) {
        let model = self.model.as_ref().map(|model| (model.engine.as_str(), model.name.as_str()));
        let requests = metrics.requests();
        requests.record(&Inference {
            endpoint: self.endpoint,
            model,
            task: self.task.as_label(),
            outcome: self.outcome(),
            finish_reason: self.finish_reason,
            is_streaming: self.is_streaming.unwrap_or(false),
            language: self.language,
            prompt: self.prompt.as_deref(),
            client_type: self.caller.client_type.as_deref(),
            client: self.client,
            language_server: self.caller.language_server.as_deref(),
            gitlab_version: self.caller.gitlab_version.as_deref(),
            realm: self.caller.realm.as_deref(),
            prompt_tokens: self.usage.num_prompt_tokens,
            cached_tokens: self.usage.num_cached_tokens,
            completion_tokens: self.usage.num_completion_tokens,
            saved_tokens: self.num_tokens_saved,
            time_to_first_token: self.time_to_first_token,
            total_time: self.began.elapsed(),
            postprocessing: self.postprocessing(),
        });
        let name = model.map_or("", |(_, name)| name);
        for effect in self.effects.iter().filter(|effect| effect.is_change) {
            requests.record_change(effect.step.name(), name);
        }
    }

    /// Returns what is kept of a completion that a model was asked for.
    fn row(&mut self) -> Option<(Store, CompletionRow)> {
        let model = Arc::clone(self.model.as_ref().filter(|_| self.num_prompts > 0)?);
        let Keeping { store, user } = self.keeping.take()?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let row = CompletionRow {
            id: bare_id(&self.request_id).to_owned(),
            at_ms: store.now_ms(),
            endpoint: self.endpoint,
            task: self.task.as_label(),
            model: model.name.clone(),
            provider: model.engine.clone(),
            language: self.language,
            client_type: client_type(self.caller.client_type.as_deref()),
            client: self.client,
            prompt: self.prompt.clone(),
            user,
            realm: realm(self.caller.realm.as_deref()),
            latency_ms: milliseconds(self.began.elapsed()),
            ttft_ms: self.time_to_first_token.map(milliseconds),
            prompt_tokens: self.usage.num_prompt_tokens,
            completion_tokens: self.usage.num_completion_tokens,
            outcome: self.outcome(),
        };
        Some((store, row))
    }

    fn tell_exchange(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        self.tell_span(exchange.parent());
        let model = self.model.as_ref();
        exchange.complete(RequestRecord {
            endpoint: self.endpoint,
            outcome: self.outcome(),
            model_name: model.map(|model| model.name.clone()),
            model_engine: model.map(|model| model.engine.clone()),
            language: self.language,
            num_prompts: self.num_prompts,
            prefix_chars: self.prefix_chars,
            suffix_chars: self.suffix_chars,
            num_context_items: self.num_context_items,
            prompt_tokens: self.usage.num_prompt_tokens,
            cached_tokens: self.usage.num_cached_tokens,
            completion_tokens: self.usage.num_completion_tokens,
            time_to_first_token: self.time_to_first_token,
            postprocessing: self.refined.map(|_| self.postprocessing()),
            finish_reason: self.finish_reason,
            is_streaming: self.is_streaming,
            prompt: self.prompt.take(),
        });
    }

    /// Tells of post-processing as a span from its first step to its last: pieces of a stream go through it one by one.
    fn tell_span(&self, parent: &Parent) {
        let Some((first, last)) = self.refined.filter(|_| parent.is_recorded()) else { return };
        let mut span = parent.past("post-process", first, last);
        let changes = self.changes();
        let changes = changes.iter().map(|(step, count)| format!("{step}={count}"));
        let changes = changes.collect::<Vec<_>>().join(" ");
        span.set_known("lacuna.changes", (!changes.is_empty()).then_some(changes));
        span.set("lacuna.post_processing_duration", self.postprocessing());
        span.set("lacuna.tokens_saved", self.num_tokens_saved);
    }

    fn postprocessing(&self) -> Duration {
        self.effects.iter().map(|effect| effect.took).sum()
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        if self.is_try {
            return;
        }
        if !self.effects.is_empty() {
            let (changes, took) = (self.changes(), self.postprocessing());
            record_postprocessing(&self.request_id, &changes, took, self.num_tokens_saved);
        }
        if let Some((metrics, _)) = &self.metrics {
            self.count(metrics);
        }
        if let Some((store, row)) = self.row() {
            store.record(row);
        }
        if self.failure == Some(ProviderErrorKind::Internal.as_label()) {
            let model = self.model.as_ref().map(|model| model.name.as_str());
            record_internal_error(&self.request_id, self.endpoint, model);
        }
        self.tell_exchange();
    }
}
