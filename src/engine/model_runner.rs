//! The executor over a loaded model: a batch to logits, logits to tokens.

use std::collections::VecDeque;

use models::{LanguageModel, SampleRow, StepInput, graph_steps};

use crate::engine::batch::{LAST_SAMPLED, NO_ADAPTER};
use crate::engine::sample_rows::SampleRows;
use crate::engine::{Batch, EngineLimits, Executor, ExecutorError, SampledToken, Sampler};

const _: () =
    assert!(LAST_SAMPLED == models::LAST_SAMPLED, "the engine speaks of tokens as devices do");
const _: () = assert!(NO_ADAPTER == models::NO_ADAPTER, "and of adapters");

/// Runs a model and chooses tokens.
pub struct ModelRunner {
    model: Box<dyn LanguageModel>,
    sampler: Sampler,
    vocab_size: usize,
    /// Ids that the tokenizer knows; checkpoints pad the vocabulary, and a padding row must not be chosen.
    num_token_ids: usize,
    started: VecDeque<Started>,
}

/// A step whose tokens were not taken yet.
enum Started {
    /// The device samples them.
    OnDevice,
    /// They are here already.
    Sampled(Vec<SampledToken>),
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
        let sampler = Sampler::new(num_token_ids);
        Self { model, sampler, vocab_size, num_token_ids, started: VecDeque::new() }
    }

    /// Runs one token, alone and with each adapter, and looks at its logits, so that broken weights are refused before anybody
    /// is answered.
    ///
    /// # Errors
    /// The model fails, or what it computes is no number.
    pub fn probe(&mut self) -> Result<(), ExecutorError> {
        self.probe_with(&[], "the model's logits are no numbers: its weights are broken")?;
        for adapter in 0..self.model.num_adapters() as u32 {
            let number = adapter + 1;
            let broken = format!(
                "the model's logits with its adapter {number} are no numbers: it is broken"
            );
            self.probe_with(&[adapter], &broken)?;
        }
        Ok(())
    }

    fn probe_with(&mut self, adapters: &[u32], broken: &str) -> Result<(), ExecutorError> {
        let input = StepInput {
            token_ids: &[0],
            positions: &[0],
            slot_mapping: &[0],
            cu_seqlens_q: &[0, 1],
            context_lens: &[1],
            block_tables: &[0],
            max_blocks_per_seq: 1,
            logit_rows: &[0],
            adapters,
        };
        let logits = self.model.forward(&input).map_err(ExecutorError::device)?;
        if logits.iter().all(|logit| logit.is_finite()) {
            return Ok(());
        }
        Err(ExecutorError::device(broken))
    }

    /// Runs steps of the sizes that will come: long prompts in powers of two, then decodes of few and of many sequences over
    /// short and over long contexts. A GPU takes its memory, chooses its products and captures its graphs in them, and not in
    /// somebody's request; but for the steps whose probabilities are asked for, whose tokens the host samples.
    ///
    /// # Errors
    /// The device failed, or its memory is too small.
    pub fn warm_up(&mut self, limits: &EngineLimits) -> Result<(), ExecutorError> {
        let num_slots = limits.num_blocks * limits.block_size;
        let longest = limits.num_batched_tokens_max.min(limits.context_tokens_max).min(num_slots);
        let sizes = (7..usize::BITS).map(|power| 1 << power).take_while(|&len| len < longest);
        let prefills = sizes.chain([longest]).map(|len| (1, len, len.div_ceil(limits.block_size)));
        let context_tokens =
            limits.context_tokens_max.min(self.model.spec().max_position_embeddings);
        let most_blocks = context_tokens.div_ceil(limits.block_size);
        let largest = limits.num_seqs_max;
        let decodes = graph_steps(largest, most_blocks).into_iter().chain([(largest, 1)]);
        let decodes = decodes.map(|(num_seqs, num_blocks)| (num_seqs, 1, num_blocks));
        let steps: Vec<_> = prefills.chain(decodes).collect();
        for adapter in (self.model.num_adapters() > 0).then_some(0).into_iter().chain([NO_ADAPTER])
        {
            for &step in &steps {
                self.warm_up_step(step, adapter)?;
            }
        }
        Ok(())
    }

    /// Runs sequences of `len` new tokens each, in tables of `table_width` blocks, all of them over the first blocks: what
    /// they leave there is overwritten.
    fn warm_up_step(
        &mut self,
        (num_seqs, len, table_width): (usize, usize, usize),
        adapter: u32,
    ) -> Result<(), ExecutorError> {
        let counted: Vec<u32> = (0..(num_seqs * len) as u32).collect();
        let places: Vec<u32> = counted.iter().map(|token| token % len as u32).collect();
        let ends: Vec<u32> = (0..=num_seqs).map(|seq| (seq * len) as u32).collect();
        let blocks: Vec<u32> = (0..num_seqs).flat_map(|_| 0..table_width as u32).collect();
        let adapters = vec![adapter; if adapter == NO_ADAPTER { 0 } else { counted.len() }];
        let input = StepInput {
            token_ids: &vec![0; counted.len()],
            positions: &places,
            slot_mapping: &places,
            cu_seqlens_q: &ends,
            context_lens: &vec![len as u32; num_seqs],
            block_tables: &blocks,
            max_blocks_per_seq: table_width,
            logit_rows: &ends[1..].iter().map(|end| end - 1).collect::<Vec<u32>>(),
            adapters: &adapters,
        };
        if self.model.has_sampler() {
            let greedy = SampleRow { repetition_penalty: 1.0, top_p: 1.0, ..SampleRow::default() };
            let rows = vec![greedy; num_seqs];
            let started = self.model.start_sample(&input, self.num_token_ids, &rows);
            let finished = started.and_then(|()| self.model.finish_sample());
            return finished.map(drop).map_err(ExecutorError::device);
        }
        self.model.forward(&input).map(drop).map_err(ExecutorError::device)
    }
}

impl Executor for ModelRunner {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        let input = StepInput {
            token_ids: &batch.token_ids,
            positions: &batch.positions,
            slot_mapping: &batch.slot_mapping,
            cu_seqlens_q: &batch.cu_seqlens_q,
            context_lens: &batch.context_lens,
            block_tables: &batch.block_tables,
            max_blocks_per_seq: batch.max_blocks_per_seq,
            logit_rows: &batch.logit_rows,
            adapters: &batch.adapters,
        };
        // Log-probabilities are made of the model's own logits, which are then brought to the host.
        let wants_logprobs = batch.sampling_rows.iter().any(|row| row.logprobs.is_some());
        if self.model.has_sampler() && !wants_logprobs {
            let rows = SampleRows::new(&batch.sampling_rows, self.num_token_ids);
            let started = self.model.start_sample(&input, self.num_token_ids, &rows.as_rows());
            self.started.push_back(Started::OnDevice);
            return started.map_err(ExecutorError::device);
        }
        let logits = self.model.forward(&input).map_err(ExecutorError::device)?;
        let rows = logits.chunks_exact_mut(self.vocab_size).zip(&batch.sampling_rows);
        let tokens = rows
            .map(|(logits, row)| self.sampler.sample(&mut logits[..self.num_token_ids], row))
            .collect();
        self.started.push_back(Started::Sampled(tokens));
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        if let Some(Started::Sampled(tokens)) = self.started.pop_front() {
            return Ok(tokens);
        }
        // Where nothing was started, the model says so.
        let ids = self.model.finish_sample().map_err(ExecutorError::device)?;
        Ok(ids.into_iter().map(|id| SampledToken { id, logprob: None }).collect())
    }

    fn runs_ahead(&self) -> bool {
        self.model.has_sampler()
    }
}
