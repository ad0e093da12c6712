//! A step's metadata on a device: one packed array, one upload, and the same addresses for each step of the same size.

use std::cell::RefCell;

use crate::allocate;
use crate::backend::{BackendError, StepRows};
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory};
use crate::host_step::HostStep;
use crate::metadata::{AttentionShape, StepInput};

/// The slot of a padding row, as `rope_cache.cu` knows it.
const NO_SLOT: u32 = u32::MAX;

/// Numbers of sequences that graphs are captured for; a step of fewer is padded to the next.
const BUCKETS: [usize; 10] = [1, 2, 3, 4, 8, 16, 24, 32, 48, 64];

/// Least width of a block table in a graph. Wider ones double, so that a growing sequence seldom needs another graph.
const TABLE_WIDTH_MIN: usize = 16;

/// How large the arrays of a step are, hence where each of them lies. Steps of one layout can share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StepLayout {
    pub(super) num_tokens: usize,
    pub(super) num_seqs: usize,
    pub(super) num_logit_rows: usize,
    /// Sequences with one new token.
    pub(super) num_decodes: usize,
    /// Sequences with more.
    pub(super) num_prefills: usize,
    /// Most new tokens of a sequence.
    pub(super) max_seqlen_q: usize,
    /// Blocks of a row of the block tables.
    pub(super) table_width: usize,
}

/// The arrays of a step, in the order in which they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepArray {
    TokenIds,
    Positions,
    Slots,
    CuSeqlens,
    ContextLens,
    LogitRows,
    Decodes,
    Prefills,
    BlockTables,
}

impl StepLayout {
    fn lens(&self) -> [(StepArray, usize); 9] {
        [
            (StepArray::TokenIds, self.num_tokens),
            (StepArray::Positions, self.num_tokens),
            (StepArray::Slots, self.num_tokens),
            (StepArray::CuSeqlens, self.num_seqs + 1),
            (StepArray::ContextLens, self.num_seqs),
            (StepArray::LogitRows, self.num_logit_rows),
            (StepArray::Decodes, self.num_decodes),
            (StepArray::Prefills, self.num_prefills),
            (StepArray::BlockTables, self.num_seqs * self.table_width),
        ]
    }

    fn len(&self) -> usize {
        self.lens().iter().map(|(_, len)| len).sum()
    }

    /// Returns where an array begins, in words.
    fn offset(&self, array: StepArray) -> usize {
        let before = self.lens().into_iter().take_while(|(other, _)| *other != array);
        before.map(|(_, len)| len).sum()
    }
}

/// What a step must satisfy before a kernel may run on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Demand {
    /// Token ids are rows of a table of so many.
    Ids(usize),
    /// Positions and slots are in the rope table of so many pairs and positions, and in so many blocks.
    Slots { shape: AttentionShape, half_dim: usize, num_positions: usize, num_blocks: usize },
    /// Blocks are in a cache of so many.
    Blocks { shape: AttentionShape, num_blocks: usize },
}

/// The device's copy of a [`StepInput`].
#[derive(Debug)]
pub struct CudaStep<M> {
    host: HostStep,
    layout: StepLayout,
    /// Whether a graph may be captured of it: a decode in a bucket.
    is_bucket: bool,
    words: Vec<u32>,
    memory: M,
    max_num_seqs: usize,
    max_num_tokens: usize,
    max_table_width: usize,
    /// Demands that it was found to satisfy.
    satisfied: RefCell<Vec<Demand>>,
}

impl<M: DeviceMemory> CudaStep<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
    ) -> Result<Self, BackendError> {
        let layout = StepLayout {
            num_tokens: max_num_tokens,
            num_seqs: max_num_seqs,
            num_logit_rows: max_num_tokens,
            num_decodes: max_num_seqs,
            num_prefills: max_num_seqs,
            max_seqlen_q: 1,
            table_width: max_blocks_per_seq.next_power_of_two().max(TABLE_WIDTH_MIN),
        };
        let host = HostStep::new(max_num_tokens, max_num_seqs, max_blocks_per_seq, "the host")?;
        Ok(Self {
            host,
            layout: StepLayout { num_tokens: 0, num_seqs: 0, ..layout },
            is_bucket: false,
            words: allocate::reserved(layout.len(), "the host")?,
            memory: device.allocate(layout.len() * size_of::<u32>())?,
            max_num_seqs,
            max_num_tokens,
            max_table_width: layout.table_width,
            satisfied: RefCell::default(),
        })
    }

    /// Takes a step's arrays to the device; decodes are padded to a bucket where `has_graphs`.
    pub(super) fn load<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        input: &StepInput<'_>,
        has_graphs: bool,
    ) -> Result<(), BackendError> {
        self.host.load(input)?;
        self.satisfied.borrow_mut().clear();
        let (layout, is_bucket) = self.plan(has_graphs);
        self.layout = layout;
        self.is_bucket = is_bucket;
        self.pack();
        device.upload(&mut self.memory, 0, bytemuck::cast_slice(&self.words))
    }

    /// Returns the widest row of block tables that a step can have.
    pub(super) fn max_table_width(&self) -> usize {
        self.max_table_width
    }

    pub(super) fn layout(&self) -> &StepLayout {
        &self.layout
    }

    /// Returns the layout where a graph may be captured.
    pub(super) fn bucket(&self) -> Option<StepLayout> {
        self.is_bucket.then_some(self.layout)
    }

    pub(super) fn rows(&self) -> StepRows {
        let StepLayout { num_tokens, num_logit_rows, .. } = self.layout;
        StepRows { num_tokens, num_logit_rows }
    }

    pub(super) fn array(&self, array: StepArray) -> Argument {
        let offset = self.layout.offset(array) * size_of::<u32>();
        Argument::Pointer(self.memory.address() + offset as u64)
    }

    /// Checks a demand, once for each step.
    pub(super) fn require(&self, check: Check, demand: Demand) -> Result<(), BackendError> {
        if self.satisfied.borrow().contains(&demand) {
            return Ok(());
        }
        match &demand {
            Demand::Ids(rows) => check.indices("token_ids", self.host.token_ids(), *rows)?,
            Demand::Slots { shape, half_dim, num_positions, num_blocks } => {
                check.slots(&self.host, shape, (*half_dim, *num_positions), *num_blocks)?;
            }
            Demand::Blocks { shape, num_blocks } => check.blocks(&self.host, shape, *num_blocks)?,
        }
        self.satisfied.borrow_mut().push(demand);
        Ok(())
    }

    /// Returns what was checked so far.
    pub(super) fn satisfied(&self) -> Vec<Demand> {
        self.satisfied.borrow().clone()
    }

    fn plan(&self, has_graphs: bool) -> (StepLayout, bool) {
        let host = &self.host;
        let lens = host.cu_seqlens_q().windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let exact = StepLayout {
            num_tokens: host.num_tokens(),
            num_seqs: host.num_seqs(),
            num_logit_rows: host.logit_rows().len(),
            num_decodes: lens.clone().filter(|&len| len == 1).count(),
            num_prefills: lens.clone().filter(|&len| len > 1).count(),
            max_seqlen_q: lens.max().unwrap_or(0),
            table_width: host.max_blocks_per_seq(),
        };
        let num_seqs = exact.num_seqs;
        let is_decode = num_seqs > 0 && exact.num_decodes == num_seqs;
        let room = self.max_num_seqs.min(self.max_num_tokens);
        // The largest batch is a bucket too, whatever its size.
        let sizes = BUCKETS.into_iter().chain((room <= BUCKETS[9]).then_some(room));
        let bucket = sizes.filter(|&bucket| bucket >= num_seqs && bucket <= room).min();
        match bucket {
            Some(bucket) if has_graphs && is_decode && exact.num_logit_rows == num_seqs => {
                let padded = StepLayout {
                    num_tokens: bucket,
                    num_seqs: bucket,
                    num_logit_rows: bucket,
                    num_decodes: bucket,
                    table_width: exact.table_width.next_power_of_two().max(TABLE_WIDTH_MIN),
                    ..exact
                };
                (padded, true)
            }
            _ => (exact, false),
        }
    }

    fn pack(&mut self) {
        let Self { words, host, layout, .. } = self;
        let pad = |words: &mut Vec<u32>, values: &[u32], len: usize, value: u32| {
            let end = words.len() + len;
            words.extend_from_slice(values);
            words.resize(end, value);
        };
        words.clear();
        pad(words, host.token_ids(), layout.num_tokens, 0);
        pad(words, host.positions(), layout.num_tokens, 0);
        pad(words, host.slot_mapping(), layout.num_tokens, NO_SLOT);
        words.extend_from_slice(host.cu_seqlens_q());
        // A padding sequence has one new token and no context.
        words.extend((host.num_seqs()..layout.num_seqs).map(|index| index as u32 + 1));
        pad(words, host.context_lens(), layout.num_seqs, 0);
        words.extend_from_slice(host.logit_rows());
        words.extend((host.logit_rows().len()..layout.num_logit_rows).map(|row| row as u32));
        let num_seqs = host.num_seqs() as u32;
        let len = |index: u32| host.sequence(index as usize).tokens.len();
        words.extend((0..num_seqs).filter(|&index| len(index) == 1));
        words.extend(num_seqs..layout.num_seqs as u32);
        words.extend((0..num_seqs).filter(|&index| len(index) > 1));
        for index in 0..host.num_seqs() {
            pad(words, host.sequence(index).blocks, layout.table_width, 0);
        }
        words.resize(layout.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_lie_behind_each_other() {
        let layout = StepLayout {
            num_tokens: 5,
            num_seqs: 2,
            num_logit_rows: 1,
            num_decodes: 1,
            num_prefills: 1,
            max_seqlen_q: 4,
            table_width: 7,
        };
        let arrays = layout.lens().map(|(array, _)| layout.offset(array));
        assert_eq!(arrays, [0, 5, 10, 15, 18, 20, 21, 22, 23]);
        assert_eq!(layout.len(), 23 + 2 * 7);
    }
}
