//! One choice: from sampled tokens to text that can be shown.

use std::sync::Arc;

use crate::{
    completion::{CompletionChunk, FinishReason, TokenLogprob},
    engine::{SampledToken, SequenceOutput, TokenLogprobs},
    provider::shown::{Shown, ShownText},
    tokenizer::{Detokenizer, Tokenizer},
};

/// The text of one choice as it grows: bytes to characters, stop texts cut off, log-probabilities in step with both.
#[derive(Debug)]
pub(super) struct ChoiceText {
    tokenizer: Arc<Tokenizer>,
    index: u32,
    detokenizer: Detokenizer,
    shown: ShownText,
    num_bytes_decoded: usize,
    num_tokens: u32,
}

impl ChoiceText {
    /// Begins an empty choice that ends before any of `stops`.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, index: u32, stops: Arc<[String]>) -> Self {
        Self {
            tokenizer,
            index,
            detokenizer: Detokenizer::default(),
            shown: ShownText::new(stops),
            num_bytes_decoded: 0,
            num_tokens: 0,
        }
    }

    /// Returns whether the last chunk was given.
    pub(super) fn is_finished(&self) -> bool {
        self.shown.is_finished()
    }

    /// Takes what a step brought; `None` where there is nothing to show yet.
    pub(super) fn push(&mut self, output: SequenceOutput) -> Option<CompletionChunk> {
        let mut decoded = String::new();
        self.num_tokens += output.tokens.len() as u32;
        for token in output.tokens {
            self.decode(token, &mut decoded);
        }
        if output.finish.is_some() {
            self.detokenizer.finish(&mut decoded);
        }
        self.shown.push(&decoded, output.finish).map(|shown| self.chunk(shown))
    }

    /// Ends the choice where it is.
    pub(super) fn finish(&mut self, reason: FinishReason) -> CompletionChunk {
        let shown = self.shown.end(reason);
        self.chunk(shown)
    }

    fn decode(&mut self, token: SampledToken, decoded: &mut String) {
        let bytes = self.tokenizer.token_bytes(token.id);
        self.num_bytes_decoded += bytes.len();
        self.detokenizer.push(bytes, decoded);
        if let Some(logprob) = token.logprob {
            let logprob = self.name(token.id, logprob);
            self.shown.hold(self.num_bytes_decoded, logprob);
        }
    }

    fn name(&self, id: u32, logprobs: TokenLogprobs) -> TokenLogprob {
        let named = |(id, logprob)| (self.tokenizer.token_text(id), logprob);
        TokenLogprob {
            token: self.tokenizer.token_text(id),
            logprob: logprobs.logprob,
            top: logprobs.top.into_iter().map(named).collect(),
        }
    }

    /// Makes a chunk. Tokens are counted over all choices, which is not known here.
    fn chunk(&self, (text, logprobs, finish_reason): Shown) -> CompletionChunk {
        let (choice_index, num_choice_tokens) = (self.index, Some(self.num_tokens));
        CompletionChunk {
            choice_index,
            text,
            logprobs,
            finish_reason,
            usage: None,
            num_choice_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Arc<Tokenizer> {
        let json = include_bytes!("../../../models/demo/tokenizer.json");
        Arc::new(Tokenizer::from_json(json).unwrap())
    }

    /// Feeds the tokens of `text` one by one and returns what was shown and how it ended.
    fn play(
        text: &str,
        stops: &[&str],
        finish: FinishReason,
    ) -> (String, Option<FinishReason>, Vec<TokenLogprob>) {
        let tokenizer = tokenizer();
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        let mut choice = ChoiceText::new(Arc::clone(&tokenizer), 0, stops);
        let ids = tokenizer.encode(text).unwrap();
        let last = ids.len() - 1;
        let (mut shown, mut logprobs) = (String::new(), Vec::new());
        for (index, id) in ids.into_iter().enumerate() {
            let logprob = Some(TokenLogprobs { logprob: -1.0, top: vec![(id, -1.0)] });
            let tokens = vec![SampledToken { id, logprob }];
            let finish = (index == last).then_some(finish);
            let Some(chunk) = choice.push(SequenceOutput {
                tokens,
                num_cached_tokens: 0,
                num_preemptions: 0,
                finish,
            }) else {
                continue;
            };
            shown.push_str(&chunk.text);
            logprobs.extend(chunk.logprobs);
            if chunk.finish_reason.is_some() {
                assert!(choice.is_finished());
                return (shown, chunk.finish_reason, logprobs);
            }
        }
        (shown, None, logprobs)
    }

    #[test]
    fn shows_all_and_tells_each_token_once() {
        let text = "let x = \"🦀 ∑\";\n";
        let (shown, reason, logprobs) = play(text, &["never"], FinishReason::Length);
        assert_eq!((shown.as_str(), reason), (text, Some(FinishReason::Length)));
        assert_eq!(logprobs.len(), tokenizer().encode(text).unwrap().len());
    }

    #[test]
    fn a_stop_text_ends_it_and_takes_its_tokens_along() {
        let (shown, reason, logprobs) =
            play("return a;\n}\n\nfn next() {}", &["\n\n"], FinishReason::Length);
        assert_eq!((shown.as_str(), reason), ("return a;\n}", Some(FinishReason::Stop)));
        let told: String = logprobs.iter().map(|logprob| logprob.token.as_str()).collect();
        assert!("return a;\n}".starts_with(&told), "{told:?}");
    }

    #[test]
    fn a_beginning_of_a_stop_is_shown_when_the_text_ends() {
        let (shown, reason, _) = play("a = 1;\n", &["\n\n"], FinishReason::Stop);
        assert_eq!((shown.as_str(), reason), ("a = 1;\n", Some(FinishReason::Stop)));
    }

    #[test]
    fn a_last_half_character_is_shown_as_broken() {
        let tokenizer = tokenizer();
        // Four bytes, and more than one token: the first of them alone is no character.
        let first = tokenizer.encode("\u{1F980}").unwrap()[0];
        let mut choice = ChoiceText::new(Arc::clone(&tokenizer), 0, Arc::from([]));
        let tokens = vec![SampledToken { id: first, logprob: None }];
        let finish = Some(FinishReason::Length);
        let chunk = choice
            .push(SequenceOutput { tokens, num_cached_tokens: 0, num_preemptions: 0, finish })
            .unwrap();
        assert_eq!(chunk.text, "\u{FFFD}");
    }
}
