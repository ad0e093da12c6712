//! A completion's events with its text post-processed, and an end where the rest would be deleted.

use std::{
    collections::VecDeque,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use futures_util::stream;
use tokio::sync::Semaphore;

use crate::{
    completion::{
        CompletionChunk, CompletionRequest, FinishReason, Input, Language, PostProcessing, Step,
        Usage,
    },
    config::PostprocessConfig,
    postprocess::{Chain, Ending, Flow, Gap, Running, Taken},
    provider::{CompletionEvent, CompletionStream, ProviderError, ProviderErrorKind},
    service::account::Account,
};

/// What is to be done with the text of a completion.
pub(super) struct Plan {
    chain: Chain,
    gap: Gap,
    num_choices: usize,
    /// Most tokens of a choice, where it is known.
    num_tokens_max: Option<u32>,
    /// Whether log-probabilities are there for the score alone.
    hides_logprobs: bool,
}

impl Plan {
    /// Makes the plan of a request, if anything is to be done. Asks for log-probabilities where the score needs them.
    pub(super) fn of(
        request: &mut CompletionRequest,
        config: &PostprocessConfig,
        model: &str,
        is_streaming: bool,
    ) -> Option<Self> {
        let (steps, without) = match &request.postprocessing {
            PostProcessing::None => return None,
            PostProcessing::Completion { without } => (&config.completion, without),
            PostProcessing::Generation { without, .. } => (&config.generation, without),
        };
        let mut chain = Chain::new(steps).without(without);
        if request.file_name.as_deref().is_some_and(Language::is_markdown) {
            chain = chain.without(&[Step::CodeFences]);
        }
        let chain = if is_streaming { chain.streaming() } else { chain };
        if chain.is_empty() {
            return None;
        }
        let (prefix, suffix) = match (&request.input, &request.postprocessing) {
            (Input::Fim { prefix, suffix }, _) => (prefix.as_str(), suffix.as_str()),
            (_, PostProcessing::Generation { before, .. }) => (before.as_str(), ""),
            (Input::Text(text), _) => (text.as_str(), ""),
            (Input::Tokens(_) | Input::Chat(_), _) => ("", ""),
        };
        let min_score = config.min_score(model).filter(|_| chain.has_score());
        let gap = Gap::new(prefix, suffix, request.language)
            .with_min_score(min_score)
            .with_talk(matches!(request.input, Input::Chat(_)));
        let hides_logprobs = min_score.is_some() && request.logprobs.is_none();
        if hides_logprobs {
            request.logprobs = Some(0);
        }
        let num_choices = request.num_choices as usize;
        let num_tokens_max = request.max_tokens;
        Some(Self { chain, gap, num_choices, num_tokens_max, hides_logprobs })
    }

    /// Returns the events with the text that stays; what the steps did goes to the account.
    pub(super) fn apply(
        self,
        events: CompletionStream,
        num_tokens_default: u32,
        account: Account,
        parsers: Arc<Semaphore>,
    ) -> CompletionStream {
        let begin = |_| Refined {
            running: self.chain.begin(self.gap.clone(), since_start),
            logprobs_sum: 0.0,
            num_logprobs: 0,
            is_done: false,
        };
        let choices = (0..self.num_choices).map(begin).collect();
        let refining = Refining {
            events,
            choices,
            hides_logprobs: self.hides_logprobs,
            num_tokens_max: self.num_tokens_max.unwrap_or(num_tokens_default),
            queue: VecDeque::new(),
            usage: Usage::default(),
            account,
            parsers,
        };
        CompletionStream::new(stream::unfold(refining, Refining::next))
    }
}

/// Tells the time since some moment in the life of the process.
fn since_start() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// A choice whose text is post-processed.
struct Refined {
    running: Running,
    logprobs_sum: f64,
    num_logprobs: u32,
    is_done: bool,
}

/// A completion on its way through the steps.
struct Refining {
    events: CompletionStream,
    choices: Vec<Refined>,
    hides_logprobs: bool,
    /// Most tokens of a choice.
    num_tokens_max: u32,
    /// Events that come before those of the provider.
    queue: VecDeque<CompletionEvent>,
    /// Tokens so far, where the provider counts along.
    usage: Usage,
    account: Account,
    /// Places to read syntax in.
    parsers: Arc<Semaphore>,
}

impl Refining {
    async fn next(mut self) -> Option<(Result<CompletionEvent, ProviderError>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((Ok(event), self));
            }
            match self.events.next().await? {
                Ok(CompletionEvent::Chunk(chunk)) => {
                    let usage = chunk.usage;
                    self.usage = usage.unwrap_or(self.usage);
                    let chunk = match self.take(chunk).await {
                        Ok(chunk) => chunk,
                        Err(error) => return Some((Err(error), self)),
                    };
                    self.queue.extend(chunk.map(CompletionEvent::Chunk));
                    if let Some(usage) = usage.filter(|_| self.is_over()) {
                        self.end(usage);
                    }
                }
                // What comes behind the last word that stays is nobody's loss.
                Err(_) if self.is_over() => self.end(self.usage),
                other => return Some((other, self)),
            }
        }
    }

    /// Returns what stays of a piece; nothing of a choice that is over.
    async fn take(
        &mut self,
        mut chunk: CompletionChunk,
    ) -> Result<Option<CompletionChunk>, ProviderError> {
        let Some(choice) = self.choices.get_mut(chunk.choice_index as usize) else {
            return Ok(Some(chunk));
        };
        if choice.is_done {
            return Ok(None);
        }
        choice.num_logprobs += chunk.logprobs.len() as u32;
        choice.logprobs_sum +=
            chunk.logprobs.iter().map(|token| f64::from(token.logprob)).sum::<f64>();
        if self.hides_logprobs {
            chunk.logprobs.clear();
        }
        let (text, flow) = match choice.running.try_push(&chunk.text) {
            Taken::Done(text, flow) => (text, flow),
            Taken::Parked(parked) => {
                let resume = |running: &mut Running| running.resume(parked);
                choice.elsewhere(&self.parsers, resume).await?
            }
        };
        chunk.text = text;
        let is_early = flow == Flow::Ended && chunk.finish_reason.is_none();
        if is_early {
            chunk.finish_reason = Some(FinishReason::Stop);
        }
        if let Some(reason) = chunk.finish_reason {
            let is_cut = reason == FinishReason::Length;
            let ending = Ending { is_cut, mean_logprob: choice.mean() };
            let rest = if choice.running.may_parse() {
                let finish = move |running: &mut Running| running.finish(ending);
                choice.elsewhere(&self.parsers, finish).await?
            } else {
                choice.running.finish(ending)
            };
            chunk.text.push_str(&rest);
            choice.is_done = true;
            self.account.effects(choice.running.effects());
        }
        if is_early {
            self.end_choice(&chunk);
        }
        Ok(Some(chunk))
    }

    /// Has the provider stop a choice of which the rest would be deleted.
    fn end_choice(&mut self, chunk: &CompletionChunk) {
        let is_stopped = self.events.end_choice(chunk.choice_index) || self.is_over();
        if let Some(num_tokens) = chunk.num_choice_tokens.filter(|_| is_stopped) {
            self.account.saved(self.num_tokens_max.saturating_sub(num_tokens));
        }
    }

    fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.is_done)
    }

    /// Lets go of the provider's work: all that it would still write would be deleted.
    fn end(&mut self, usage: Usage) {
        self.events = CompletionStream::new(stream::empty());
        self.queue.push_back(CompletionEvent::Done(usage));
    }
}

impl Refined {
    fn mean(&self) -> Option<f32> {
        (self.num_logprobs > 0).then(|| (self.logprobs_sum / f64::from(self.num_logprobs)) as f32)
    }

    /// Lets the steps work off the async workers, in as many places at once as there are. Who is gone meanwhile is not
    /// waited for: the work has a bound of its own.
    async fn elsewhere<T: Send + 'static>(
        &mut self,
        parsers: &Arc<Semaphore>,
        work: impl FnOnce(&mut Running) -> T + Send + 'static,
    ) -> Result<T, ProviderError> {
        let failed =
            || ProviderError::new(ProviderErrorKind::Internal, "post-processing has failed");
        let place = Arc::clone(parsers).acquire_owned().await.map_err(|_| failed())?;
        let mut running = std::mem::take(&mut self.running);
        let work = move || {
            // Held to the end of the work, which outlives a future that is dropped.
            let _place = place;
            let result = work(&mut running);
            (running, result)
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (running, result) = done.map_err(|_| failed())?;
        self.running = running;
        Ok(result)
    }
}

#[cfg(test)]
mod tests;
