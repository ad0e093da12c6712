//! One prompt and what was generated for it: tokens, counters, blocks. No text, no stream.
//!
//! A sequence is Waiting → Running ⇄ Preempted → Finished. There is no phase of prefill or decode: a sequence has
//! computed some of its tokens, and each step lets it catch up. Only when it has caught up is a token sampled.

use std::sync::Arc;

use crate::completion::{FinishReason, SamplingParams};
use crate::engine::batch::LAST_SAMPLED;
use crate::engine::block_table::BlockTable;
use crate::engine::executor::SampledToken;
use crate::engine::prefix_cache::{BlockHash, PrefixCache};

/// What the engine is asked to do.
#[derive(Clone, Debug)]
pub struct SequenceRequest {
    /// The prompt, not empty.
    pub prompt_token_ids: Vec<u32>,
    /// Most tokens to generate, at least 1; cut to what the context allows.
    pub max_tokens: u32,
    /// How tokens are chosen; without a seed one is drawn.
    pub sampling: SamplingParams,
    /// Tokens that end the sequence and are not part of it.
    pub stop_token_ids: Arc<[u32]>,
    /// Number of alternatives to report at each token; `Some(0)` reports the chosen token alone.
    pub logprobs: Option<u32>,
    /// Lower runs first; equals run in the order of their arrival.
    pub priority: i32,
    /// Which of the model's adapters computes it; `None` is the model alone.
    pub adapter: Option<u32>,
}

/// A sequence's number, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A sequence's place in the order of service: by priority, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// Lower runs first.
    pub priority: i32,
    /// Earlier runs first.
    pub id: SequenceId,
}

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceStatus {
    /// Not yet begun.
    Waiting,
    /// Part of the batch.
    Running,
    /// Lost its blocks to a sequence before it, and waits to compute its tokens again.
    Preempted,
    /// Ended.
    Finished(FinishReason),
}

/// What a step did to a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceUpdate {
    /// Which sequence.
    pub id: SequenceId,
    /// The new token; `None` where it was a stop token, or there was none.
    pub token: Option<SampledToken>,
    /// Tokens of the prompt that the prefix cache held when the sequence was first admitted.
    pub num_cached_tokens: u32,
    /// How often it has lost its blocks so far.
    pub num_preemptions: u32,
    /// Set where this was the last.
    pub finish: Option<FinishReason>,
}

/// One prompt and what was generated for it.
#[derive(Debug)]
pub struct Sequence {
    id: SequenceId,
    priority: i32,
    max_tokens: usize,
    sampling: Arc<SamplingParams>,
    stop_token_ids: Arc<[u32]>,
    logprobs: Option<u32>,
    adapter: Option<u32>,
    /// Prompt, then output; the last may be known to the device only.
    tokens: Vec<u32>,
    /// Last tokens that are being sampled: the rows that they will be sampled from stand in their places. One of a step that
    /// is waited for; two while the next one has been started too.
    num_pending: usize,
    num_prompt_tokens: usize,
    pub(super) status: SequenceStatus,
    /// Leading tokens whose keys and values are in the blocks.
    pub(super) num_computed_tokens: usize,
    pub(super) num_cached_tokens: u32,
    pub(super) num_preemptions: u32,
    pub(super) block_table: BlockTable,
    block_hashes: Vec<BlockHash>,
    /// Leading full blocks that the prefix cache was told of.
    pub(super) num_published_blocks: usize,
}

impl Sequence {
    /// Makes a sequence that waits.
    ///
    /// # Panics
    /// Where the prompt is empty or no token may be generated.
    pub fn new(id: SequenceId, request: SequenceRequest) -> Self {
        assert!(!request.prompt_token_ids.is_empty(), "a prompt has at least one token");
        assert!(request.max_tokens > 0, "a sequence generates at least one token");
        Self {
            id,
            priority: request.priority,
            max_tokens: request.max_tokens as usize,
            sampling: Arc::new(request.sampling),
            stop_token_ids: request.stop_token_ids,
            logprobs: request.logprobs,
            adapter: request.adapter,
            num_prompt_tokens: request.prompt_token_ids.len(),
            tokens: request.prompt_token_ids,
            num_pending: 0,
            status: SequenceStatus::Waiting,
            num_computed_tokens: 0,
            num_cached_tokens: 0,
            num_preemptions: 0,
            block_table: BlockTable::default(),
            block_hashes: Vec::new(),
            num_published_blocks: 0,
        }
    }

    /// Returns the sequence's number.
    pub fn id(&self) -> SequenceId {
        self.id
    }

    /// Returns the place in the order of service.
    pub fn queue_key(&self) -> QueueKey {
        QueueKey { priority: self.priority, id: self.id }
    }

    /// Returns where the sequence stands.
    pub fn status(&self) -> SequenceStatus {
        self.status
    }

    /// Returns the prompt and the output so far; where the last are being sampled, [`LAST_SAMPLED`] and
    /// their rows stand for them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the length of prompt and output so far.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the length of prompt and output as far as they are known: all but those that are being sampled.
    pub fn num_known_tokens(&self) -> usize {
        self.tokens.len() - self.num_pending
    }

    /// Returns the length of the prompt.
    pub fn num_prompt_tokens(&self) -> usize {
        self.num_prompt_tokens
    }

    /// Returns the length of the output so far, with what is being sampled.
    pub fn num_generated_tokens(&self) -> usize {
        self.tokens.len() - self.num_prompt_tokens
    }

    /// Returns the most tokens that must ever be computed: all but the last, from which nothing follows.
    pub fn num_computed_tokens_max(&self) -> usize {
        self.num_prompt_tokens + self.max_tokens - 1
    }

    /// Returns the number of leading tokens whose keys and values are in the blocks.
    pub fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    /// Returns the number of tokens to catch up with; at least 1 between steps.
    pub fn num_uncomputed_tokens(&self) -> usize {
        self.tokens.len() - self.num_computed_tokens
    }

    /// Returns the sequence's blocks.
    pub fn block_table(&self) -> &BlockTable {
        &self.block_table
    }

    /// Returns the names of the leading full blocks, as far as they were given.
    pub fn block_hashes(&self) -> &[BlockHash] {
        &self.block_hashes
    }

    /// Returns how tokens are chosen.
    pub fn sampling(&self) -> &Arc<SamplingParams> {
        &self.sampling
    }

    /// Returns the number of alternatives to report at each token.
    pub fn logprobs(&self) -> Option<u32> {
        self.logprobs
    }

    /// Returns which of the model's adapters computes it.
    pub fn adapter(&self) -> Option<u32> {
        self.adapter
    }

    /// Names the full blocks of the first `num_tokens` tokens, where that has not been done.
    pub(super) fn name_blocks(&mut self, cache: &PrefixCache, num_tokens: usize) {
        cache.extend_hashes(&mut self.block_hashes, &self.tokens[..num_tokens], self.adapter);
    }

    /// Goes on as if the token was known that a step under way will sample, for this row of its logits. Returns whether
    /// another may follow it.
    ///
    /// # Panics
    /// Where two are expected already.
    pub(super) fn expect(&mut self, row: u32) -> bool {
        assert!(self.num_pending < 2, "a step is started while one is under way, no more");
        self.tokens.push(LAST_SAMPLED | row);
        self.num_pending += 1;
        self.num_generated_tokens() < self.max_tokens
    }

    /// Takes the first of the tokens that are expected.
    ///
    /// # Panics
    /// Where none was.
    pub(super) fn receive(&mut self, token: SampledToken) -> SequenceUpdate {
        let is_stop = self.stop_token_ids.contains(&token.id);
        assert!(self.num_pending > 0, "a token is expected");
        let place = self.num_known_tokens();
        self.tokens[place] = token.id;
        self.num_pending -= 1;
        let finish = if is_stop {
            Some(FinishReason::Stop)
        } else if self.num_known_tokens() - self.num_prompt_tokens >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        self.end_step((!is_stop).then_some(token), finish)
    }

    /// Ends without another token.
    pub(super) fn finish(&mut self, reason: FinishReason) -> SequenceUpdate {
        self.end_step(None, Some(reason))
    }

    fn end_step(
        &mut self,
        token: Option<SampledToken>,
        finish: Option<FinishReason>,
    ) -> SequenceUpdate {
        if let Some(reason) = finish {
            self.status = SequenceStatus::Finished(reason);
        }
        SequenceUpdate {
            id: self.id,
            token,
            num_cached_tokens: self.num_cached_tokens,
            num_preemptions: self.num_preemptions,
            finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sequence {
        /// A greedy sequence for the tests of the engine's files; token 0 ends it.
        pub(in crate::engine) fn sample(id: u64, prompt: Vec<u32>, max_tokens: u32) -> Self {
            let request = SequenceRequest {
                prompt_token_ids: prompt,
                max_tokens,
                sampling: SamplingParams::greedy(),
                stop_token_ids: Arc::new([0]),
                logprobs: None,
                priority: 0,
                adapter: None,
            };
            Self::new(SequenceId(id), request)
        }

        /// The same as an adapter computes it.
        pub(in crate::engine) fn with_adapter(self, adapter: u32) -> Self {
            Self { adapter: Some(adapter), ..self }
        }
    }

    #[test]
    fn ends_by_stop_token_or_length_and_hides_the_stop_token() {
        let length = Some(FinishReason::Length);
        let stop = Some(FinishReason::Stop);
        // (most tokens, sampled, delivered, reason)
        let rows = [
            (2, vec![7], vec![7], None),
            (2, vec![7, 8], vec![7, 8], length),
            (2, vec![7, 0], vec![7], stop),
            (1, vec![0], vec![], stop),
        ];
        for (max_tokens, sampled, delivered, reason) in rows {
            let mut sequence = Sequence::sample(1, vec![5, 6], max_tokens);
            let mut updates = Vec::new();
            for id in sampled {
                let num_known = sequence.num_known_tokens();
                let goes_on = sequence.expect(0);
                assert_eq!(sequence.num_known_tokens(), num_known);
                updates.push(sequence.receive(SampledToken { id, logprob: None }));
                assert_eq!(sequence.num_known_tokens(), num_known + 1);
                let is_longest = updates.len() == max_tokens as usize;
                assert_eq!(goes_on, !is_longest, "the length is known before the token");
            }
            let ids: Vec<u32> =
                updates.iter().filter_map(|update| Some(update.token.as_ref()?.id)).collect();
            assert_eq!(ids, delivered);
            assert_eq!(updates.last().unwrap().finish, reason);
        }
    }

    #[test]
    fn two_tokens_may_be_expected_and_come_in_their_order() {
        let mut sequence = Sequence::sample(1, vec![5, 6], 3);
        assert!(sequence.expect(4) && sequence.expect(2));
        assert_eq!(sequence.tokens(), [5, 6, LAST_SAMPLED | 4, LAST_SAMPLED | 2]);
        assert_eq!((sequence.num_known_tokens(), sequence.num_generated_tokens()), (2, 2));
        let token = |id| SampledToken { id, logprob: None };
        assert_eq!(sequence.receive(token(7)).finish, None);
        assert_eq!(sequence.tokens(), [5, 6, 7, LAST_SAMPLED | 2]);
        assert!(!sequence.expect(0), "the third is the last");
        assert_eq!(sequence.receive(token(8)).finish, None, "the third is not known yet");
        assert_eq!(sequence.receive(token(9)).finish, Some(FinishReason::Length));
        assert_eq!(sequence.tokens(), [5, 6, 7, 8, 9]);

        let mut sequence = Sequence::sample(2, vec![5], 9);
        assert!(sequence.expect(0) && sequence.expect(0));
        let update = sequence.receive(token(0));
        assert_eq!((update.token, update.finish), (None, Some(FinishReason::Stop)));
    }

    #[test]
    fn lower_priorities_come_first_then_earlier_arrivals() {
        let key = |priority, id| QueueKey { priority, id: SequenceId(id) };
        let mut keys = [key(0, 3), key(1, 1), key(-1, 4), key(0, 2)];
        keys.sort();
        assert_eq!(keys, [key(-1, 4), key(0, 2), key(0, 3), key(1, 1)]);
    }
}
