//! The steps of a prefill and of a decode, as a scheduler would feed them: chunks over several prompts at once, then a token
//! a sequence.

use std::{ops::Range, sync::Arc};

use crate::{
    completion::SamplingParams,
    engine::{Batch, SamplingRow, sequence::SequenceId},
};

/// Sequences of one length that are computed together, each in cache blocks of its own.
#[derive(Clone, Debug)]
pub struct Steps {
    sequences: Vec<Vec<u32>>,
    block_size: usize,
    blocks_per_seq: usize,
    sampling: Arc<SamplingParams>,
}

impl Steps {
    /// Takes the prompts, all of one length, which will grow to `num_tokens_max` tokens.
    ///
    /// # Panics
    /// Where there is no prompt, an empty one, or one of another length.
    pub fn new(prompts: Vec<Vec<u32>>, num_tokens_max: usize, block_size: usize) -> Self {
        let len = prompts.first().map_or(0, Vec::len);
        assert!(len > 0 && prompts.iter().all(|prompt| prompt.len() == len), "prompts are alike");
        Self {
            sequences: prompts,
            block_size,
            blocks_per_seq: num_tokens_max.div_ceil(block_size),
            sampling: Arc::new(SamplingParams::greedy()),
        }
    }

    /// Returns the steps of the prefill: for each the stretch of all prompts, laid end to end, that it computes. None
    /// has more than `num_tokens_max` tokens.
    pub fn prefill(&self, num_tokens_max: usize) -> Vec<Range<usize>> {
        let num_all = self.sequences.iter().map(Vec::len).sum();
        let starts = (0..num_all).step_by(num_tokens_max);
        starts.map(|start| start..num_all.min(start + num_tokens_max)).collect()
    }

    /// Fills in the step of a prefill.
    pub fn fill_prefill(&self, stretch: &Range<usize>, batch: &mut Batch) {
        clear(batch, self.blocks_per_seq);
        let mut begin = 0;
        for (index, tokens) in self.sequences.iter().enumerate() {
            let end = begin + tokens.len();
            let (first, last) = (stretch.start.max(begin), stretch.end.min(end));
            if first < last {
                self.push(index, first - begin..last - begin, batch);
            }
            begin = end;
        }
    }

    /// Fills in the step that computes the last token of each sequence.
    pub fn fill_decode(&self, batch: &mut Batch) {
        self.fill_last(1, batch);
    }

    /// Fills in the step that computes the last `num_tokens` tokens of each sequence, which must have as many.
    pub fn fill_last(&self, num_tokens: usize, batch: &mut Batch) {
        clear(batch, self.blocks_per_seq);
        for (index, tokens) in self.sequences.iter().enumerate() {
            self.push(index, tokens.len() - num_tokens..tokens.len(), batch);
        }
    }

    /// Appends a token to the sequence that a row of logits belongs to; the prefill must have ended, whose stretches
    /// count the prompts alone.
    pub fn append(&mut self, row: &SamplingRow, token_id: u32) {
        self.sequences[row.sequence_id.0 as usize].push(token_id);
    }

    /// Returns the tokens that a decode step attends to, over all sequences.
    pub fn num_context_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    fn push(&self, index: usize, positions: Range<usize>, batch: &mut Batch) {
        let tokens = &self.sequences[index];
        let first_block = (index * self.blocks_per_seq) as u32;
        batch.token_ids.extend_from_slice(&tokens[positions.clone()]);
        for position in positions.clone() {
            let slot = index * self.blocks_per_seq * self.block_size + position;
            batch.positions.push(position as u32);
            batch.slot_mapping.push(slot as u32);
        }
        batch.cu_seqlens_q.push(batch.token_ids.len() as u32);
        batch.context_lens.push(positions.end as u32);
        batch.block_tables.extend(first_block..first_block + self.blocks_per_seq as u32);
        if positions.end == tokens.len() {
            batch.logit_rows.push(batch.token_ids.len() as u32 - 1);
            batch.sampling_rows.push(SamplingRow {
                sequence_id: SequenceId(index as u64),
                params: Arc::clone(&self.sampling),
                num_generated: 0,
                history: Vec::new(),
                num_prompt_tokens: 0,
                logprobs: None,
            });
        }
    }
}

fn clear(batch: &mut Batch, max_blocks_per_seq: usize) {
    batch.token_ids.clear();
    batch.positions.clear();
    batch.slot_mapping.clear();
    batch.cu_seqlens_q.clear();
    batch.cu_seqlens_q.push(0);
    batch.context_lens.clear();
    batch.block_tables.clear();
    batch.max_blocks_per_seq = max_blocks_per_seq;
    batch.logit_rows.clear();
    batch.sampling_rows.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefill_is_cut_into_chunks_over_sequences_and_then_decodes() {
        let steps = Steps::new(vec![vec![10, 11, 12], vec![20, 21, 22]], 5, 2);
        let stretches = steps.prefill(4);
        assert_eq!(stretches, [0..4, 4..6]);
        let mut batch = Batch::default();

        steps.fill_prefill(&stretches[0], &mut batch);
        assert_eq!(batch.token_ids, [10, 11, 12, 20]);
        assert_eq!(batch.positions, [0, 1, 2, 0]);
        assert_eq!(batch.slot_mapping, [0, 1, 2, 6]);
        assert_eq!(batch.cu_seqlens_q, [0, 3, 4]);
        assert_eq!(batch.context_lens, [3, 1]);
        assert_eq!(
            (&batch.block_tables[..], batch.max_blocks_per_seq),
            (&[0, 1, 2, 3, 4, 5][..], 3)
        );
        assert_eq!(batch.logit_rows, [2], "only a prompt that is whole has a next token");

        steps.fill_prefill(&stretches[1], &mut batch);
        assert_eq!(batch.token_ids, [21, 22]);
    }

    #[test]
    fn a_decode_step_computes_the_last_token_of_each() {
        let mut steps = Steps::new(vec![vec![10, 11], vec![20, 21]], 4, 2);
        let mut batch = Batch::default();
        steps.fill_prefill(&(0..4), &mut batch);
        let rows = batch.sampling_rows.clone();
        steps.append(&rows[0], 12);
        steps.append(&rows[1], 22);
        steps.fill_decode(&mut batch);
        assert_eq!((&batch.token_ids[..], &batch.positions[..]), (&[12, 22][..], &[2, 2][..]));
        assert_eq!((&batch.slot_mapping[..], &batch.context_lens[..]), (&[2, 6][..], &[3, 3][..]));
        assert_eq!((&batch.logit_rows[..], steps.num_context_tokens()), (&[0, 1][..], 6));
    }
}
