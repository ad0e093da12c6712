//! The text of a choice up to a stop text, and the log-probabilities of its tokens in step with it.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    completion::{FinishReason, TokenLogprob},
    tokenizer::StopMatcher,
};

/// What can be shown of a choice as it grows. What may be the beginning of a stop text is held back, and so are the
/// log-probabilities of tokens that are not shown whole.
#[derive(Debug)]
pub(super) struct ShownText {
    stop: StopMatcher,
    /// Log-probabilities that are held back, each with where its token's bytes end.
    held: VecDeque<(usize, TokenLogprob)>,
    num_bytes_shown: usize,
    is_finished: bool,
}

/// More of a choice: its text, the log-probabilities that go with it, and why it ended if it did.
pub(super) type Shown = (String, Vec<TokenLogprob>, Option<FinishReason>);

impl ShownText {
    /// Begins an empty text that ends before any of `stops`.
    pub(super) fn new(stops: Arc<[String]>) -> Self {
        Self {
            stop: StopMatcher::new(stops),
            held: VecDeque::new(),
            num_bytes_shown: 0,
            is_finished: false,
        }
    }

    /// Returns whether the last of it was given.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns whether a stop text ended it.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// Takes the log-probabilities of a token whose bytes end at `end`, counted from the beginning.
    pub(super) fn hold(&mut self, end: usize, logprob: TokenLogprob) {
        self.held.push_back((end, logprob));
    }

    /// Takes more text, and why it ended if it did; `None` where there is nothing to show yet.
    pub(super) fn push(&mut self, text: &str, finish: Option<FinishReason>) -> Option<Shown> {
        let text = self.stop.push(text);
        let finish = if self.stop.is_stopped() { Some(FinishReason::Stop) } else { finish };
        match finish {
            Some(reason) => Some(self.end_with(text, reason)),
            None if text.is_empty() => None,
            None => {
                self.num_bytes_shown += text.len();
                let logprobs = self.logprobs();
                Some((text, logprobs, None))
            }
        }
    }

    /// Ends it where it is.
    pub(super) fn end(&mut self, reason: FinishReason) -> Shown {
        self.end_with(String::new(), reason)
    }

    fn end_with(&mut self, mut text: String, reason: FinishReason) -> Shown {
        self.is_finished = true;
        let logprobs = if self.stop.is_stopped() {
            self.num_bytes_shown += text.len();
            self.logprobs()
        } else {
            text.push_str(&self.stop.finish());
            self.held.drain(..).map(|(_, logprob)| logprob).collect()
        };
        (text, logprobs, Some(reason))
    }

    /// Returns those of the tokens that are shown whole. A broken character is longer as U+FFFD than its bytes were, so
    /// that after one a token may be told a little early; each is told once, in order.
    fn logprobs(&mut self) -> Vec<TokenLogprob> {
        let is_shown = |(end, _): &&(usize, TokenLogprob)| *end <= self.num_bytes_shown;
        let num_shown = self.held.iter().take_while(is_shown).count();
        self.held.drain(..num_shown).map(|(_, logprob)| logprob).collect()
    }
}
