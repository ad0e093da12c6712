//! A completion's events with its text post-processed, and an end where the rest would be deleted.

use std::{
    collections::VecDeque,
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures_util::stream;

use crate::{
    completion::{
        CompletionChunk, CompletionRequest, FinishReason, Input, Language, PostProcessing, Step,
        Usage,
    },
    config::PostprocessConfig,
    postprocess::{Chain, Ending, Flow, Gap, Running},
    provider::{CompletionEvent, CompletionStream, ProviderError},
    service::account::Account,
};

/// What is to be done with the text of a completion.
pub(super) struct Plan {
    chain: Chain,
    gap: Gap,
    num_choices: usize,
    /// Most tokens of all choices, where it is known.
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
        let gap = Gap::new(prefix, suffix, request.language).with_min_score(min_score);
        let hides_logprobs = min_score.is_some() && request.logprobs.is_none();
        if hides_logprobs {
            request.logprobs = Some(0);
        }
        let num_choices = request.num_choices as usize;
        let num_tokens_max = request.max_tokens.map(|max| max.saturating_mul(request.num_choices));
        Some(Self { chain, gap, num_choices, num_tokens_max, hides_logprobs })
    }

    /// Returns the events with the text that stays; what the steps did goes to the account.
    pub(super) fn apply(
        self,
        events: CompletionStream,
        num_tokens_default: u32,
        account: Account,
    ) -> CompletionStream {
        let begin = |_| Refined {
            running: self.chain.begin(self.gap.clone(), since_start),
            logprobs_sum: 0.0,
            num_logprobs: 0,
            is_done: false,
        };
        let choices = (0..self.num_choices).map(begin).collect();
        let num_tokens_default = num_tokens_default.saturating_mul(self.num_choices as u32);
        let num_tokens_max = self.num_tokens_max.unwrap_or(num_tokens_default);
        let refining = Refining {
            events,
            choices,
            hides_logprobs: self.hides_logprobs,
            num_tokens_max,
            queue: VecDeque::new(),
            account,
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
    num_tokens_max: u32,
    /// Events that come before those of the provider.
    queue: VecDeque<CompletionEvent>,
    account: Account,
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
                    let chunk = self.take(chunk);
                    self.queue.extend(chunk.map(CompletionEvent::Chunk));
                    if let Some(usage) = usage.filter(|_| self.is_over()) {
                        self.end(usage);
                    }
                }
                other => return Some((other, self)),
            }
        }
    }

    /// Returns what stays of a piece; nothing of a choice that is over.
    fn take(&mut self, mut chunk: CompletionChunk) -> Option<CompletionChunk> {
        let Some(choice) = self.choices.get_mut(chunk.choice_index as usize) else {
            return Some(chunk);
        };
        if choice.is_done {
            return None;
        }
        choice.num_logprobs += chunk.logprobs.len() as u32;
        choice.logprobs_sum +=
            chunk.logprobs.iter().map(|token| f64::from(token.logprob)).sum::<f64>();
        if self.hides_logprobs {
            chunk.logprobs.clear();
        }
        let (text, flow) = choice.running.push(&chunk.text);
        chunk.text = text;
        if flow == Flow::Ended {
            chunk.finish_reason.get_or_insert(FinishReason::Stop);
        }
        if let Some(reason) = chunk.finish_reason {
            let is_cut = reason == FinishReason::Length;
            chunk
                .text
                .push_str(&choice.running.finish(Ending { is_cut, mean_logprob: choice.mean() }));
            choice.is_done = true;
            self.account.effects(choice.running.effects());
        }
        Some(chunk)
    }

    fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.is_done)
    }

    /// Lets go of the provider's work: all that it would still write would be deleted.
    fn end(&mut self, usage: Usage) {
        self.events = CompletionStream::new(stream::empty());
        self.queue.push_back(CompletionEvent::Done(usage));
        if self.choices.iter().any(|choice| choice.running.effects().any(|effect| effect.is_end)) {
            self.account.saved(self.num_tokens_max.saturating_sub(usage.num_completion_tokens));
        }
    }
}

impl Refined {
    fn mean(&self) -> Option<f32> {
        (self.num_logprobs > 0).then(|| (self.logprobs_sum / f64::from(self.num_logprobs)) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        completion::{SamplingParams, TokenLogprob},
        postprocess::MARKERS,
        prompt::family::{FAMILIES, Family},
    };

    const USAGE: Usage = Usage {
        num_prompt_tokens: 9,
        num_cached_tokens: 0,
        num_context_tokens_sent: 0,
        num_context_tokens_used: 0,
        num_completion_tokens: 3,
    };

    fn config(steps: &[Step]) -> PostprocessConfig {
        let min_scores = vec![(None, -1.0)];
        PostprocessConfig { completion: steps.to_vec(), min_scores, ..PostprocessConfig::none() }
    }

    fn request(num_choices: u32) -> CompletionRequest {
        CompletionRequest {
            input: Input::Fim { prefix: "func f() {\n\t".to_owned(), suffix: String::new() },
            file_name: None,
            repository: None,
            language: Language::detect("a.go", None),
            context: Vec::new(),
            sampling: SamplingParams::greedy(),
            max_tokens: Some(64),
            stop: None,
            stop_token_ids: Vec::new(),
            ignores_eos: false,
            num_choices,
            logprobs: None,
            deadline: None,
            postprocessing: PostProcessing::Completion { without: Vec::new() },
            model: None,
            correlation_id: None,
        }
    }

    fn chunk(
        choice_index: u32,
        text: &str,
        finish_reason: Option<FinishReason>,
    ) -> CompletionChunk {
        let logprob = TokenLogprob { token: text.to_owned(), logprob: -2.0, top: Vec::new() };
        let (text, logprobs) = (text.to_owned(), vec![logprob]);
        CompletionChunk { choice_index, text, logprobs, finish_reason, usage: Some(USAGE) }
    }

    /// Returns the texts and finish reasons of the choices, and the usage.
    async fn refine(
        mut request: CompletionRequest,
        steps: &[Step],
        chunks: Vec<CompletionChunk>,
    ) -> (Vec<(String, FinishReason)>, Usage) {
        let account = Account::open("id", "test");
        let plan = Plan::of(&mut request, &config(steps), "model", false).unwrap();
        let events = chunks.into_iter().map(|chunk| Ok(CompletionEvent::Chunk(chunk)));
        // What comes behind them fails: who has had enough does not get there.
        let error = Err(ProviderError::out_of_time());
        let events = CompletionStream::new(stream::iter(events.chain([error])));
        let completion = plan.apply(events, 64, account).collect().await.unwrap();
        let choices = completion.choices.into_iter();
        (choices.map(|choice| (choice.text, choice.finish_reason)).collect(), completion.usage)
    }

    #[tokio::test]
    async fn a_closed_scope_ends_the_providers_work() {
        let chunks =
            vec![chunk(0, "a()\n", None), chunk(0, "}\n\n", None), chunk(0, "func g() {\n", None)];
        let (choices, usage) = refine(request(1), &[Step::Scope], chunks).await;
        assert_eq!(choices, [("a()\n}".to_owned(), FinishReason::Stop)]);
        assert_eq!(usage, USAGE);
    }

    #[tokio::test]
    async fn a_choice_that_becomes_empty_stays_one() {
        let chunks = vec![
            chunk(0, " \n", Some(FinishReason::Length)),
            chunk(1, "a", None),
            chunk(1, " ", Some(FinishReason::Stop)),
        ];
        let (choices, _) = refine(request(2), &[Step::Whitespace], chunks).await;
        let expected =
            [(String::new(), FinishReason::Length), ("a ".to_owned(), FinishReason::Stop)];
        assert_eq!(choices, expected);
    }

    #[tokio::test]
    async fn the_score_is_the_mean_of_log_probabilities_that_nobody_sees() {
        let mut asked = request(1);
        let plan = Plan::of(&mut asked, &config(&[Step::MinScore]), "model", false).unwrap();
        assert_eq!((asked.logprobs, plan.hides_logprobs), (Some(0), true));
        let chunks = vec![chunk(0, "a", Some(FinishReason::Stop))];
        let (choices, _) = refine(request(1), &[Step::MinScore], chunks).await;
        assert_eq!(choices, [(String::new(), FinishReason::Stop)]);
    }

    #[test]
    fn fences_stay_in_markdown() {
        let mut asked = request(1);
        asked.file_name = Some("README.md".to_owned());
        assert!(Plan::of(&mut asked, &config(&[Step::CodeFences]), "model", false).is_none());
        asked.file_name = Some("a.go".to_owned());
        assert!(Plan::of(&mut asked, &config(&[Step::CodeFences]), "model", false).is_some());
    }

    #[test]
    fn nothing_is_planned_where_nothing_is_asked_or_left() {
        let mut none = request(1);
        none.postprocessing = PostProcessing::None;
        assert!(Plan::of(&mut none, &config(&[Step::Scope]), "model", false).is_none());
        let mut without = request(1);
        without.postprocessing = PostProcessing::Completion { without: vec![Step::Scope] };
        assert!(Plan::of(&mut without, &config(&[Step::Scope]), "model", false).is_none());
        // It must see the whole.
        let steps = config(&[Step::CommentOnly]);
        assert!(Plan::of(&mut request(1), &steps, "model", true).is_none());
    }

    #[test]
    fn every_sentinel_of_a_family_is_taken_out() {
        for fim in FAMILIES.iter().filter_map(Family::fim) {
            for token in [Some(fim.prefix), Some(fim.suffix), fim.middle].into_iter().flatten() {
                let text = token.trim_start_matches('▁');
                // An index and a type's parameter are code.
                let is_word = |c: char| c.is_ascii_uppercase() || "<>[]".contains(c);
                assert_ne!(MARKERS.contains(&text), text.chars().all(is_word), "{token}");
            }
        }
    }
}
