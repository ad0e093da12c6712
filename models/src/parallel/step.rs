//! What travels to the threads of other ranks: a step, owned, and shared by all of them.

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
    adapters: Vec<u32>,
}

/// What all ranks do at the same time.
#[derive(Debug)]
pub(super) enum Command {
    /// Compute a step; the host chooses its tokens.
    Forward(OwnedStep),
    /// Start a step whose tokens the device chooses.
    Start(OwnedStep, Sampling),
    /// Wait for the tokens of the first step that was started and not finished.
    Finish,
}

/// How the tokens of a step are chosen.
#[derive(Debug)]
pub(super) struct Sampling {
    num_ids: usize,
    /// A row of logits each.
    rows: Vec<OwnedRow>,
}

/// A [`SampleRow`] with lists of its own.
#[derive(Debug)]
struct OwnedRow {
    numbers: SampleRow<'static>,
    bias: Vec<(u32, f32)>,
    seen: Vec<(u32, u32)>,
}

impl OwnedStep {
    pub(super) fn new(input: &StepInput<'_>) -> Self {
        Self {
            token_ids: input.token_ids.to_vec(),
            positions: input.positions.to_vec(),
            slot_mapping: input.slot_mapping.to_vec(),
            cu_seqlens_q: input.cu_seqlens_q.to_vec(),
            context_lens: input.context_lens.to_vec(),
            block_tables: input.block_tables.to_vec(),
            max_blocks_per_seq: input.max_blocks_per_seq,
            logit_rows: input.logit_rows.to_vec(),
            adapters: input.adapters.to_vec(),
        }
    }

    fn borrow(&self) -> StepInput<'_> {
        StepInput {
            token_ids: &self.token_ids,
            positions: &self.positions,
            slot_mapping: &self.slot_mapping,
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
            max_blocks_per_seq: self.max_blocks_per_seq,
            logit_rows: &self.logit_rows,
            adapters: &self.adapters,
        }
    }
}

impl Sampling {
    pub(super) fn new(num_ids: usize, rows: &[SampleRow<'_>]) -> Self {
        Self { num_ids, rows: rows.iter().map(OwnedRow::new).collect() }
    }
}

impl Command {
    /// Does it. What a step comes to stays with the rank: that of the first is the answer.
    pub(super) fn run(&self, model: &mut dyn LanguageModel) -> Result<(), ModelError> {
        match self {
            Self::Forward(step) => model.forward(&step.borrow()).map(drop),
            Self::Start(step, Sampling { num_ids, rows }) => {
                let rows: Vec<SampleRow<'_>> = rows.iter().map(OwnedRow::borrow).collect();
                model.start_sample(&step.borrow(), *num_ids, &rows)
            }
            Self::Finish => model.finish_sample().map(drop),
        }
    }
}

impl OwnedRow {
    fn new(row: &SampleRow<'_>) -> Self {
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
