//! A step as it travels to the threads of other ranks: owned, and shared by all of them.

use kernels::metadata::{SampleRow, StepInput};

use crate::{LanguageModel, error::ModelError};

/// Copies of a step's arrays, some kilobytes.
#[derive(Debug)]
pub(super) struct OwnedStep {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mapping: Vec<u32>,
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    max_blocks_per_seq: usize,
    logit_rows: Vec<u32>,
    wanted: Wanted,
}

/// What becomes of a step's logits.
#[derive(Debug)]
pub(super) enum Wanted {
    /// The host chooses.
    Logits,
    /// The device does.
    Tokens {
        /// Ids that are chosen among.
        num_ids: usize,
        /// A row of logits each.
        rows: Vec<OwnedRow>,
    },
}

/// A [`SampleRow`] with lists of its own.
#[derive(Debug)]
pub(super) struct OwnedRow {
    numbers: SampleRow<'static>,
    bias: Vec<(u32, f32)>,
    seen: Vec<(u32, u32)>,
}

impl OwnedStep {
    pub(super) fn new(input: &StepInput<'_>, wanted: Wanted) -> Self {
        Self {
            token_ids: input.token_ids.to_vec(),
            positions: input.positions.to_vec(),
            slot_mapping: input.slot_mapping.to_vec(),
            cu_seqlens_q: input.cu_seqlens_q.to_vec(),
            context_lens: input.context_lens.to_vec(),
            block_tables: input.block_tables.to_vec(),
            max_blocks_per_seq: input.max_blocks_per_seq,
            logit_rows: input.logit_rows.to_vec(),
            wanted,
        }
    }

    /// Computes the step. What it comes to stays with the rank: that of the first is the answer.
    pub(super) fn run(&self, model: &mut dyn LanguageModel) -> Result<(), ModelError> {
        let input = StepInput {
            token_ids: &self.token_ids,
            positions: &self.positions,
            slot_mapping: &self.slot_mapping,
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks_per_seq: self.max_blocks_per_seq,
            logit_rows: &self.logit_rows,
        };
        match &self.wanted {
            Wanted::Logits => model.forward(&input).map(drop),
            Wanted::Tokens { num_ids, rows } => {
                let rows: Vec<SampleRow<'_>> = rows.iter().map(OwnedRow::borrow).collect();
                model.forward_sample(&input, *num_ids, &rows).map(drop)
            }
        }
    }
}

impl OwnedRow {
    pub(super) fn new(row: &SampleRow<'_>) -> Self {
        let SampleRow {
            temperature,
            top_k,
            top_p,
            log_min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            bias,
            seen,
            point,
        } = *row;
        let numbers = SampleRow {
            temperature,
            top_k,
            top_p,
            log_min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            bias: &[],
            seen: &[],
            point,
        };
        Self { numbers, bias: bias.to_vec(), seen: seen.to_vec() }
    }

    fn borrow(&self) -> SampleRow<'_> {
        SampleRow { bias: &self.bias, seen: &self.seen, ..self.numbers }
    }
}
