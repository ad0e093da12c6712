//! A step's metadata in host memory: checked against itself once, then only read.

use std::ops::Range;

use crate::allocate;
use crate::backend::{BackendError, StepRows};
use crate::checks::Check;
use crate::metadata::StepInput;

/// An owned [`StepInput`] with room for the largest step. Loading allocates nothing.
#[derive(Debug)]
pub struct HostStep {
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    slot_mapping: Vec<u32>,
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    logit_rows: Vec<u32>,
    adapters: Vec<u32>,
    max_blocks_per_seq: usize,
    room: StepRoom,
}

/// What a [`HostStep`] was allocated for.
#[derive(Clone, Copy, Debug)]
struct StepRoom {
    num_tokens: usize,
    num_seqs: usize,
    blocks_per_seq: usize,
}

/// One sequence of a step.
#[derive(Debug)]
pub(crate) struct StepSequence<'a> {
    /// The rows of the batch that are its new tokens.
    pub(crate) tokens: Range<usize>,
    /// Tokens in the cache, the new ones included.
    pub(crate) context_len: usize,
    /// Its row of the block tables.
    pub(crate) blocks: &'a [u32],
}

impl HostStep {
    /// Allocates room for the largest step.
    pub(crate) fn new(
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
        device: &'static str,
    ) -> Result<Self, BackendError> {
        let mut cu_seqlens_q = allocate::reserved(max_num_seqs.saturating_add(1), device)?;
        cu_seqlens_q.push(0);
        Ok(Self {
            token_ids: allocate::reserved(max_num_tokens, device)?,
            positions: allocate::reserved(max_num_tokens, device)?,
            slot_mapping: allocate::reserved(max_num_tokens, device)?,
            cu_seqlens_q,
            context_lens: allocate::reserved(max_num_seqs, device)?,
            block_tables: allocate::reserved(
                max_num_seqs.saturating_mul(max_blocks_per_seq),
                device,
            )?,
            logit_rows: allocate::reserved(max_num_tokens, device)?,
            adapters: allocate::reserved(max_num_tokens, device)?,
            max_blocks_per_seq: 0,
            room: StepRoom {
                num_tokens: max_num_tokens,
                num_seqs: max_num_seqs,
                blocks_per_seq: max_blocks_per_seq,
            },
        })
    }

    /// Replaces what is held by `input`; on an error the step before stays.
    pub(crate) fn load(&mut self, input: &StepInput<'_>) -> Result<(), BackendError> {
        check(input, self.room)?;
        replace(&mut self.token_ids, input.token_ids);
        replace(&mut self.positions, input.positions);
        replace(&mut self.slot_mapping, input.slot_mapping);
        replace(&mut self.cu_seqlens_q, input.cu_seqlens_q);
        replace(&mut self.context_lens, input.context_lens);
        replace(&mut self.block_tables, input.block_tables);
        replace(&mut self.logit_rows, input.logit_rows);
        replace(&mut self.adapters, input.adapters);
        self.max_blocks_per_seq = input.max_blocks_per_seq;
        Ok(())
    }

    /// Returns the number of tokens computed in this step.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns what the operators of a device without padding compute.
    pub(crate) fn rows(&self) -> StepRows {
        StepRows { num_tokens: self.num_tokens(), num_logit_rows: self.logit_rows.len() }
    }

    pub(crate) fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    pub(crate) fn positions(&self) -> &[u32] {
        &self.positions
    }

    pub(crate) fn slot_mapping(&self) -> &[u32] {
        &self.slot_mapping
    }

    pub(crate) fn logit_rows(&self) -> &[u32] {
        &self.logit_rows
    }

    /// Returns the adapter of each token; none where no token has one.
    pub(crate) fn adapters(&self) -> &[u32] {
        &self.adapters
    }

    pub(crate) fn cu_seqlens_q(&self) -> &[u32] {
        &self.cu_seqlens_q
    }

    pub(crate) fn context_lens(&self) -> &[u32] {
        &self.context_lens
    }

    pub(crate) fn max_blocks_per_seq(&self) -> usize {
        self.max_blocks_per_seq
    }

    pub(crate) fn num_seqs(&self) -> usize {
        self.context_lens.len()
    }

    pub(crate) fn sequence(&self, index: usize) -> StepSequence<'_> {
        let blocks = index * self.max_blocks_per_seq..(index + 1) * self.max_blocks_per_seq;
        StepSequence {
            tokens: self.cu_seqlens_q[index] as usize..self.cu_seqlens_q[index + 1] as usize,
            context_len: self.context_lens[index] as usize,
            blocks: &self.block_tables[blocks],
        }
    }

    pub(crate) fn sequences(&self) -> impl Iterator<Item = StepSequence<'_>> {
        (0..self.num_seqs()).map(|index| self.sequence(index))
    }
}

/// Copies into room that was reserved.
fn replace(held: &mut Vec<u32>, values: &[u32]) {
    held.clear();
    held.extend_from_slice(values);
}

/// The arrays must agree with each other and fit the room.
fn check(input: &StepInput<'_>, room: StepRoom) -> Result<(), BackendError> {
    let check = Check("load_step");
    let (num_tokens, num_seqs) = (input.num_tokens(), input.num_seqs());
    check.at_most("`num_tokens`", num_tokens, room.num_tokens)?;
    check.at_most("`num_seqs`", num_seqs, room.num_seqs)?;
    check.at_most("`max_blocks_per_seq`", input.max_blocks_per_seq, room.blocks_per_seq)?;
    check.equal("length of `positions`", input.positions.len(), num_tokens)?;
    check.equal("length of `slot_mapping`", input.slot_mapping.len(), num_tokens)?;
    check.equal("length of `cu_seqlens_q`", input.cu_seqlens_q.len(), num_seqs + 1)?;
    if !input.adapters.is_empty() {
        check.equal("length of `adapters`", input.adapters.len(), num_tokens)?;
    }
    let cells = num_seqs * input.max_blocks_per_seq;
    check.equal("length of `block_tables`", input.block_tables.len(), cells)?;
    check_sequences(check, input)?;
    check.indices("logit_rows", input.logit_rows, num_tokens)?;
    for (previous, row) in input.logit_rows.iter().zip(input.logit_rows.iter().skip(1)) {
        if previous >= row {
            return check.refuse(format!("`logit_rows` must ascend, got {row} after {previous}"));
        }
    }
    Ok(())
}

/// The running counts must ascend from 0 to `num_tokens`, and a sequence's new tokens must be the last of its context.
fn check_sequences(check: Check, input: &StepInput<'_>) -> Result<(), BackendError> {
    check.equal("first of `cu_seqlens_q`", input.cu_seqlens_q[0] as usize, 0)?;
    for (pair, &context_len) in input.cu_seqlens_q.windows(2).zip(input.context_lens) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        if start > end || end > input.num_tokens() {
            return check.refuse(format!(
                "`cu_seqlens_q` must ascend to {}, got {end} after {start}",
                input.num_tokens()
            ));
        }
        let context_len = context_len as usize;
        check.at_most("new tokens of a sequence", end - start, context_len)?;
        for (offset, &position) in input.positions[start..end].iter().enumerate() {
            let expected = context_len - (end - start) + offset;
            check.equal("`positions` of the last tokens", position as usize, expected)?;
        }
    }
    let last = input.cu_seqlens_q[input.num_seqs()] as usize;
    check.equal("last of `cu_seqlens_q`", last, input.num_tokens())
}
