//! A step's metadata on a device: one packed array, one upload, and the same addresses for each step of the same size.

use std::cell::RefCell;

use crate::allocate;
use crate::backend::{BackendError, StepRows, Vocabulary};
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory};
use crate::host_step::HostStep;
use crate::lora::NO_ADAPTER;
use crate::metadata::{AttentionShape, LAST_SAMPLED, StepInput};

/// The slot of a padding row, as `rope_cache.cu` knows it.
const NO_SLOT: u32 = u32::MAX;

/// Numbers of sequences that graphs are captured for; a step of fewer is padded to the next. The most sequences of a step
/// are a bucket too, up to the last of these.
const BUCKETS: [usize; 10] = [1, 2, 3, 4, 8, 16, 24, 32, 48, 64];

/// Returns the buckets of steps of at most so many sequences, rising.
fn buckets(max_num_seqs: usize) -> impl Iterator<Item = usize> {
    let smaller = BUCKETS.into_iter().filter(move |&bucket| bucket < max_num_seqs);
    smaller.chain((max_num_seqs <= BUCKETS[9]).then_some(max_num_seqs))
}

/// Returns the steps of decodes that graphs are captured for, as numbers of sequences and blocks of a sequence, smallest
/// first. Each has two graphs, one that ends with logits and one that ends with tokens.
pub fn graph_steps(max_num_seqs: usize, max_blocks_per_seq: usize) -> Vec<(usize, usize)> {
    let sizes: Vec<usize> = buckets(max_num_seqs).collect();
    let mut widths = vec![table_width(1, max_blocks_per_seq)];
    while let Some(&width) = widths.last().filter(|&&width| width < max_blocks_per_seq) {
        widths.push(table_width(width + 1, max_blocks_per_seq));
    }
    let of_width = |width| sizes.iter().map(move |&size| (size, width));
    widths.into_iter().flat_map(of_width).collect()
}

/// Returns the width of a step's block tables in its graph.
fn table_width(num_blocks: usize, max_blocks_per_seq: usize) -> usize {
    let mut width = TABLE_WIDTH_MIN;
    while width < num_blocks {
        width *= 4;
    }
    width.min(max_blocks_per_seq)
}

/// Most new tokens of a sequence whose attention is split over its context, as a decode's is. A few tokens behind a long
/// context, as a keystroke leaves them, are too few rows to keep a GPU busy otherwise: 16 tokens of 7B behind 4096 are 8
/// blocks a layer unsplit, 448 split. To be tuned on one.
pub(super) const CHUNK_LEN_MAX: usize = 32;

/// Least width of a block table in a graph: 1024 tokens in blocks of 16. Wider ones are four times as wide, so that graphs
/// are few; blocks of threads behind a sequence's end cost a step of 64 sequences a microsecond or two.
const TABLE_WIDTH_MIN: usize = 64;

/// How large the arrays of a step are, hence where each of them lies. Steps of one layout can share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StepLayout {
    pub(super) num_tokens: usize,
    pub(super) num_seqs: usize,
    pub(super) num_logit_rows: usize,
    /// Tokens whose adapters are told: all, or none where none has one.
    pub(super) num_adapters: usize,
    /// Sequences with one new token.
    pub(super) num_decodes: usize,
    /// Sequences with a few, up to [`CHUNK_LEN_MAX`].
    pub(super) num_chunks: usize,
    /// Sequences with more.
    pub(super) num_prefills: usize,
    /// Most new tokens of a sequence.
    pub(super) max_seqlen_q: usize,
    /// Most new tokens of a sequence with a few.
    pub(super) max_chunk_len: usize,
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
    Adapters,
    Decodes,
    Chunks,
    Prefills,
    BlockTables,
}

impl StepLayout {
    fn lens(&self) -> [(StepArray, usize); 11] {
        [
            (StepArray::TokenIds, self.num_tokens),
            (StepArray::Positions, self.num_tokens),
            (StepArray::Slots, self.num_tokens),
            (StepArray::CuSeqlens, self.num_seqs + 1),
            (StepArray::ContextLens, self.num_seqs),
            (StepArray::LogitRows, self.num_logit_rows),
            (StepArray::Adapters, self.num_adapters),
            (StepArray::Decodes, self.num_decodes),
            (StepArray::Chunks, self.num_chunks),
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

/// What steps have in common that share a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bucket {
    pub(super) layout: StepLayout,
    /// What tokens are sampled of, where they are.
    pub(super) vocabulary: Option<Vocabulary>,
}

/// What a step must satisfy before a kernel may run on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Demand {
    /// Token ids are rows of a table of so many.
    Ids(usize),
    /// Positions and slots are in the rope table of so many pairs and positions, and in so many blocks.
    Slots { shape: AttentionShape, half_dim: usize, num_positions: usize, num_blocks: usize },
    /// Adapters are among so many.
    Adapters(usize),
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
    /// What tokens are sampled of, where they are.
    vocabulary: Option<Vocabulary>,
    /// The tokens sampled last, `[max_num_tokens]`.
    sampled: M,
    /// Rows of `sampled` that the step before has written.
    num_sampled: usize,
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
            num_adapters: max_num_tokens,
            num_decodes: max_num_seqs,
            num_chunks: max_num_seqs,
            num_prefills: max_num_seqs,
            max_seqlen_q: 1,
            max_chunk_len: 0,
            table_width: max_blocks_per_seq,
        };
        let host = HostStep::new(max_num_tokens, max_num_seqs, max_blocks_per_seq, "the host")?;
        Ok(Self {
            host,
            layout: StepLayout { num_tokens: 0, num_seqs: 0, ..layout },
            is_bucket: false,
            words: allocate::reserved(layout.len(), "the host")?,
            memory: device.allocate(layout.len() * size_of::<u32>())?,
            vocabulary: None,
            sampled: device.allocate(max_num_tokens * size_of::<u32>())?,
            num_sampled: 0,
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
        self.check_sampled(input.token_ids)?;
        self.host.load(input)?;
        self.satisfied.borrow_mut().clear();
        self.vocabulary = None;
        self.num_sampled = 0;
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

    /// Tokens that the host does not know must have been sampled in the step before.
    fn check_sampled(&self, token_ids: &[u32]) -> Result<(), BackendError> {
        let rows =
            token_ids.iter().filter(|&id| id & LAST_SAMPLED != 0).map(|id| id - LAST_SAMPLED);
        match rows.max() {
            Some(row) if row as usize >= self.num_sampled => Check("load_step").refuse(format!(
                "`token_ids` names row {row} of the tokens sampled last, which are {}",
                self.num_sampled
            )),
            _ => Ok(()),
        }
    }

    /// Says that the loaded step samples a token for each row of its logits.
    pub(super) fn set_sampled(&mut self, vocabulary: Vocabulary) {
        self.vocabulary = Some(vocabulary);
        self.num_sampled = self.num_sampled_rows();
    }

    /// Returns the rows of logits that are wanted, without padding.
    pub(super) fn num_sampled_rows(&self) -> usize {
        self.host.logit_rows().len()
    }

    /// Returns what tokens are sampled of, where they are.
    pub(super) fn vocabulary(&self) -> Option<Vocabulary> {
        self.vocabulary
    }

    /// Returns the memory of the tokens sampled last.
    pub(super) fn sampled(&self) -> &M {
        &self.sampled
    }

    /// Returns what steps have in common that share this one's graph, where one may be captured.
    pub(super) fn bucket(&self) -> Option<Bucket> {
        let Self { layout, vocabulary, .. } = *self;
        self.is_bucket.then_some(Bucket { layout, vocabulary })
    }

    pub(super) fn rows(&self) -> StepRows {
        let StepLayout { num_tokens, num_logit_rows, .. } = self.layout;
        StepRows { num_tokens, num_logit_rows }
    }

    pub(super) fn array(&self, array: StepArray) -> Argument {
        self.element(array, 0)
    }

    /// Returns where an array's element is.
    pub(super) fn element(&self, array: StepArray, index: usize) -> Argument {
        let offset = (self.layout.offset(array) + index) * size_of::<u32>();
        Argument::Pointer(self.memory.address() + offset as u64)
    }

    /// Checks a demand, once for each step.
    pub(super) fn require(&self, check: Check, demand: Demand) -> Result<(), BackendError> {
        if self.satisfied.borrow().contains(&demand) {
            return Ok(());
        }
        match &demand {
            Demand::Ids(rows) => {
                // Sampled ids are rows of the logits, of which there are as many as of the table.
                let known = self.host.token_ids().iter().filter(|&id| id & LAST_SAMPLED == 0);
                let largest = known.max().map(std::slice::from_ref).unwrap_or_default();
                check.indices("token_ids", largest, *rows)?;
            }
            Demand::Slots { shape, half_dim, num_positions, num_blocks } => {
                check.slots(&self.host, shape, (*half_dim, *num_positions), *num_blocks)?;
            }
            Demand::Adapters(num) => check.adapters(self.host.adapters(), *num)?,
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
            num_adapters: host.adapters().len(),
            num_decodes: lens.clone().filter(|&len| kind(len) == Some(StepArray::Decodes)).count(),
            num_chunks: lens.clone().filter(|&len| kind(len) == Some(StepArray::Chunks)).count(),
            num_prefills: lens
                .clone()
                .filter(|&len| kind(len) == Some(StepArray::Prefills))
                .count(),
            max_seqlen_q: lens.clone().max().unwrap_or(0),
            max_chunk_len: lens.filter(|&len| len <= CHUNK_LEN_MAX).max().unwrap_or(0),
            table_width: host.max_blocks_per_seq(),
        };
        let num_seqs = exact.num_seqs;
        let is_decode = num_seqs > 0 && exact.num_decodes == num_seqs;
        let room = self.max_num_seqs.min(self.max_num_tokens);
        let bucket = buckets(room).find(|&bucket| bucket >= num_seqs);
        match bucket {
            Some(bucket) if has_graphs && is_decode && exact.num_logit_rows == num_seqs => {
                let padded = StepLayout {
                    num_tokens: bucket,
                    num_seqs: bucket,
                    num_logit_rows: bucket,
                    num_adapters: if exact.num_adapters > 0 { bucket } else { 0 },
                    num_decodes: bucket,
                    table_width: table_width(exact.table_width, self.max_table_width),
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
        pad(words, host.adapters(), layout.num_adapters, NO_ADAPTER);
        let num_seqs = host.num_seqs() as u32;
        let len = |index: u32| host.sequence(index as usize).tokens.len();
        let of = |wanted| (0..num_seqs).filter(move |&index| kind(len(index)) == Some(wanted));
        words.extend(of(StepArray::Decodes));
        words.extend(num_seqs..layout.num_seqs as u32);
        words.extend(of(StepArray::Chunks));
        words.extend(of(StepArray::Prefills));
        for index in 0..host.num_seqs() {
            pad(words, host.sequence(index).blocks, layout.table_width, 0);
        }
        words.resize(layout.len(), 0);
    }
}

/// Returns which list a sequence of so many new tokens is in.
fn kind(num_new_tokens: usize) -> Option<StepArray> {
    match num_new_tokens {
        0 => None,
        1 => Some(StepArray::Decodes),
        2..=CHUNK_LEN_MAX => Some(StepArray::Chunks),
        _ => Some(StepArray::Prefills),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_are_few_and_cover_every_step() {
        assert_eq!(graph_steps(3, 40), [(1, 40), (2, 40), (3, 40)]);
        let steps = graph_steps(64, 2048);
        assert_eq!(steps.len(), 10 * 4);
        assert_eq!((steps[0], steps[10], steps[39]), ((1, 64), (1, 256), (64, 2048)));
        assert_eq!(graph_steps(100, 65).len(), 10 * 2, "more sequences have no graph");
        for (num_blocks, expected) in [(1, 64), (64, 64), (65, 256), (257, 1000)] {
            assert_eq!(table_width(num_blocks, 1000), expected);
        }
    }

    #[test]
    fn arrays_lie_behind_each_other() {
        let layout = StepLayout {
            num_tokens: 5,
            num_seqs: 2,
            num_logit_rows: 1,
            num_adapters: 5,
            num_decodes: 1,
            num_chunks: 1,
            num_prefills: 2,
            max_seqlen_q: 40,
            max_chunk_len: 4,
            table_width: 7,
        };
        let arrays = layout.lens().map(|(array, _)| layout.offset(array));
        assert_eq!(arrays, [0, 5, 10, 15, 18, 20, 21, 26, 27, 28, 30]);
        assert_eq!(layout.len(), 30 + 2 * 7);
    }
}
