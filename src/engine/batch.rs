//! A step as flat arrays on the host: what the device computes, and how each wanted token is chosen.
//!
//! The arrays are those of one varlen paged attention call. They are filled anew in each step and keep their memory.

use std::sync::Arc;

use crate::completion::SamplingParams;
use crate::engine::scheduler::{Scheduler, SchedulerOutput};
use crate::engine::sequence::{Sequence, SequenceId};

/// With this bit, a token id names a row of the logits of the step before, whose token the device samples: nobody else
/// need know it yet.
pub const LAST_SAMPLED: u32 = 1 << 31;

/// In [`Batch::adapters`], that a token has none.
pub const NO_ADAPTER: u32 = u32::MAX;

/// The flat arrays of one step.
///
/// # Shapes
/// `token_ids`, `positions`, `slot_mapping`: `[num_tokens]`; `cu_seqlens_q`: `[num_seqs + 1]`; `context_lens`:
/// `[num_seqs]`; `block_tables`: `[num_seqs, max_blocks_per_seq]`; `logit_rows`, `sampling_rows`: `[num_logit_rows]`;
/// `adapters`: `[num_tokens]`, or empty.
#[derive(Debug, Default)]
pub struct Batch {
    /// The tokens to compute, one sequence after the other; those that the step before samples by
    /// [`LAST_SAMPLED`] and their row.
    pub token_ids: Vec<u32>,
    /// The position of each token in its sequence, from 0.
    pub positions: Vec<u32>,
    /// Where each token's key and value go: `block_id * block_size + offset`.
    pub slot_mapping: Vec<u32>,
    /// Running count of tokens, from 0, a sequence each.
    pub cu_seqlens_q: Vec<u32>,
    /// Tokens of each sequence in the cache once this step's were written.
    pub context_lens: Vec<u32>,
    /// Block ids of each sequence, padded with 0 to the same width.
    pub block_tables: Vec<u32>,
    /// The width of `block_tables`.
    pub max_blocks_per_seq: usize,
    /// The rows of `token_ids` whose logits are wanted, ascending: the last of each sequence that catches up.
    pub logit_rows: Vec<u32>,
    /// The adapter of each token, or [`NO_ADAPTER`]; empty where no token has one.
    pub adapters: Vec<u32>,
    /// How the token of each logit row is chosen.
    pub sampling_rows: Vec<SamplingRow>,
    /// Memory of histories that are not in use.
    spare_histories: Vec<Vec<u32>>,
}

/// How one token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingRow {
    /// Whose token it is.
    pub sequence_id: SequenceId,
    /// How tokens are chosen. Its seed chooses the random numbers; the handle has drawn one where the request had none.
    pub params: Arc<SamplingParams>,
    /// Position of the token in the output, from 0: the counter of the random numbers.
    pub num_generated: u32,
    /// Prompt and output so far; empty where no penalty asks for it.
    pub history: Vec<u32>,
    /// Leading tokens of `history` that are the prompt's.
    pub num_prompt_tokens: usize,
    /// Number of alternatives to report; `None` reports nothing.
    pub logprobs: Option<u32>,
}

impl Batch {
    /// Returns the number of tokens to compute.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns whether a next step can be planned and started before this one's tokens are known. Not where penalties
    /// count them, nor where the host samples them because their probabilities were asked for.
    pub fn can_be_followed(&self) -> bool {
        let needs_host = |row: &SamplingRow| row.logprobs.is_some() || row.params.has_penalties();
        !self.sampling_rows.iter().any(needs_host)
    }

    /// Returns the number of sequences.
    pub fn num_seqs(&self) -> usize {
        self.context_lens.len()
    }

    /// Replaces the content by the step that `scheduler` has planned.
    pub fn fill(&mut self, output: &SchedulerOutput, scheduler: &Scheduler) {
        self.clear();
        let sequences = scheduler.running();
        let num_blocks = sequences.iter().map(|sequence| sequence.block_table().len());
        self.max_blocks_per_seq = num_blocks.max().unwrap_or(0);
        self.cu_seqlens_q.push(0);
        for (sequence, num_tokens) in sequences.iter().zip(&output.num_scheduled_tokens) {
            self.push_tokens(sequence, *num_tokens, scheduler.kv_cache().block_size());
            if *num_tokens == sequence.num_uncomputed_tokens() {
                self.push_sampling_row(sequence);
            }
        }
        if self.adapters.iter().all(|adapter| *adapter == NO_ADAPTER) {
            self.adapters.clear();
        }
    }

    fn clear(&mut self) {
        self.token_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.cu_seqlens_q.clear();
        self.context_lens.clear();
        self.block_tables.clear();
        self.logit_rows.clear();
        self.adapters.clear();
        let histories = self.sampling_rows.drain(..).map(|row| row.history);
        self.spare_histories.extend(histories.filter(|history| history.capacity() > 0));
    }

    fn push_tokens(&mut self, sequence: &Sequence, num_tokens: usize, block_size: usize) {
        let start = sequence.num_computed_tokens();
        let end = start + num_tokens;
        let table = sequence.block_table();
        self.token_ids.extend_from_slice(&sequence.tokens()[start..end]);
        self.positions.extend(start as u32..end as u32);
        self.slot_mapping.extend((start..end).map(|position| table.slot(position, block_size)));
        let adapter = sequence.adapter().unwrap_or(NO_ADAPTER);
        self.adapters.resize(self.token_ids.len(), adapter);
        self.cu_seqlens_q.push(self.token_ids.len() as u32);
        self.context_lens.push(end as u32);
        self.block_tables.extend(table.blocks().iter().map(|block| block.0));
        self.block_tables.resize(self.context_lens.len() * self.max_blocks_per_seq, 0);
    }

    fn push_sampling_row(&mut self, sequence: &Sequence) {
        let mut history = Vec::new();
        if sequence.sampling().has_penalties() {
            history = self.spare_histories.pop().unwrap_or_default();
            history.clear();
            history.extend_from_slice(sequence.tokens());
        }
        self.logit_rows.push(self.token_ids.len() as u32 - 1);
        self.sampling_rows.push(SamplingRow {
            sequence_id: sequence.id(),
            params: Arc::clone(sequence.sampling()),
            num_generated: sequence.num_generated_tokens() as u32,
            history,
            num_prompt_tokens: sequence.num_prompt_tokens(),
            logprobs: sequence.logprobs(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineLimits;
    use crate::engine::executor::SampledToken;

    fn scheduler() -> Scheduler {
        Scheduler::new(&EngineLimits {
            num_seqs_max: 2,
            num_batched_tokens_max: 5,
            block_size: 2,
            num_blocks: 8,
            context_tokens_max: 64,
            num_queued_max: 1,
            has_prefix_cache: false,
            vocab_size: 100,
        })
    }

    #[test]
    fn a_decode_and_a_chunk_lie_flat_behind_each_other() {
        let mut scheduler = scheduler();
        let mut batch = Batch::default();
        scheduler.add(Sequence::sample(0, vec![10, 11, 12], 9));
        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        assert_eq!((&batch.token_ids[..], &batch.logit_rows[..]), (&[10, 11, 12][..], &[2][..]));
        let step = scheduler.start(&output);
        scheduler.finish(&step, vec![SampledToken { id: 50, logprob: None }]);

        scheduler.add(Sequence::sample(1, vec![20, 21, 22, 23, 24], 9));
        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        assert_eq!(batch.token_ids, [50, 20, 21, 22, 23]);
        assert_eq!(batch.positions, [3, 0, 1, 2, 3]);
        assert_eq!(batch.slot_mapping, [3, 4, 5, 6, 7]);
        assert_eq!(batch.cu_seqlens_q, [0, 1, 5]);
        assert_eq!(batch.context_lens, [4, 4]);
        assert_eq!((&batch.block_tables[..], batch.max_blocks_per_seq), (&[0, 1, 2, 3][..], 2));
        assert_eq!(batch.logit_rows, [0], "a prompt cut short has no next token");
        assert_eq!(batch.sampling_rows[0].num_generated, 1);
        let step = scheduler.start(&output);
        scheduler.finish(&step, vec![SampledToken { id: 51, logprob: None }]);

        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        assert_eq!(batch.token_ids, [51, 24]);
        assert_eq!(batch.block_tables, [0, 1, 4, 2, 3, 5]);
        assert_eq!(batch.logit_rows, [0, 1]);
    }

    #[test]
    fn each_token_has_the_adapter_of_its_sequence_and_none_is_told_where_there_is_none() {
        let mut scheduler = scheduler();
        let mut batch = Batch::default();
        scheduler.add(Sequence::sample(0, vec![10, 11], 9));
        scheduler.add(Sequence::sample(1, vec![20, 21, 22], 9).with_adapter(3));
        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        assert_eq!(batch.adapters, [NO_ADAPTER, NO_ADAPTER, 3, 3, 3]);
        scheduler.abort(SequenceId(1));
        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        assert_eq!((batch.num_tokens(), batch.adapters.len()), (2, 0));
    }

    #[test]
    fn a_warm_batch_keeps_its_memory() {
        let mut scheduler = scheduler();
        let request = crate::engine::SequenceRequest {
            prompt_token_ids: vec![10, 11, 12],
            max_tokens: 9,
            sampling: SamplingParams { presence_penalty: 1.0, ..SamplingParams::greedy() },
            stop_token_ids: Arc::new([]),
            logprobs: None,
            priority: 0,
            adapter: None,
        };
        scheduler.add(Sequence::new(SequenceId(0), request));
        let mut batch = Batch::default();
        let output = scheduler.schedule();
        batch.fill(&output, &scheduler);
        let memory = |batch: &Batch| {
            (
                batch.token_ids.as_ptr(),
                batch.sampling_rows.as_ptr(),
                batch.sampling_rows[0].history.as_ptr(),
            )
        };
        let before = memory(&batch);
        batch.fill(&output, &scheduler);
        assert_eq!(memory(&batch), before);
        assert_eq!(batch.sampling_rows[0].history, [10, 11, 12]);
    }
}
