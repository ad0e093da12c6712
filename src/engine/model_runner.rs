//! The executor over a loaded model: a batch to logits, logits to tokens.

use models::{LanguageModel, StepInput};

use crate::engine::{Batch, Executor, ExecutorError, SampledToken, Sampler};

/// Runs a model and chooses tokens.
pub struct ModelRunner {
    model: Box<dyn LanguageModel>,
    sampler: Sampler,
    vocab_size: usize,
    /// Ids that the tokenizer knows; checkpoints pad the vocabulary, and a padding row must not be chosen.
    num_token_ids: usize,
}

impl std::fmt::Debug for ModelRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelRunner")
            .field("backend", &self.model.backend_name())
            .finish_non_exhaustive()
    }
}

impl ModelRunner {
    /// Takes a loaded model whose tokenizer has `num_token_ids` ids.
    pub fn new(model: Box<dyn LanguageModel>, num_token_ids: usize) -> Self {
        let vocab_size = model.spec().vocab_size;
        let num_token_ids = num_token_ids.clamp(1, vocab_size);
        Self { model, sampler: Sampler::new(num_token_ids), vocab_size, num_token_ids }
    }
}

impl Executor for ModelRunner {
    fn execute(&mut self, batch: &Batch) -> Result<Vec<SampledToken>, ExecutorError> {
        let input = StepInput {
            token_ids: &batch.token_ids,
            positions: &batch.positions,
            slot_mapping: &batch.slot_mapping,
            cu_seqlens_q: &batch.cu_seqlens_q,
            context_lens: &batch.context_lens,
            block_tables: &batch.block_tables,
            max_blocks_per_seq: batch.max_blocks_per_seq,
            logit_rows: &batch.logit_rows,
        };
        let logits = self.model.forward(&input).map_err(ExecutorError::device)?;
        let rows = logits.chunks_exact_mut(self.vocab_size).zip(&batch.sampling_rows);
        Ok(rows
            .map(|(logits, row)| self.sampler.sample(&mut logits[..self.num_token_ids], row))
            .collect())
    }
}
