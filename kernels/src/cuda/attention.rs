//! Launches of rotation, cache write and attention.

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::cuda::memory::{CudaBuffer, CudaLayerCache, CudaRopeTable, Elements};
use crate::cuda::step::{CHUNK_LEN_MAX, CudaStep, Demand, StepArray};
use crate::metadata::{AttentionShape, KvDType};

/// Head widths that the kernels were made for.
const HEAD_DIMS: [usize; 5] = [16, 64, 80, 128, 256];

/// Rows of queries of a warp.
const ROWS: usize = 16;

/// Rows of queries of a block of `attention_prefill.cu`.
const PREFILL_ROWS: usize = 64;

const THREADS: u32 = 128;

/// Threads of a block of `rope_cache.cu`: few, so that one token's pairs are spread over multiprocessors.
const ROPE_THREADS: usize = 128;

/// Positions of a split of `attention_decode.cu`: a multiple of 128, so that each of four warps has the same number of
/// steps of 32. Shorter splits fill more multiprocessors with one sequence and cost more adding up.
const SPLIT_LEN: usize = 256;

/// Checks that the kernels can compute this shape.
pub(super) fn check_shape(check: Check, shape: &AttentionShape) -> Result<(), BackendError> {
    check.attention_shape(shape)?;
    if shape.kv_dtype != KvDType::F16 {
        let name = shape.kv_dtype.name();
        return check.refuse(format!("elements of the cache must be f16 on a GPU, got {name}"));
    }
    if !HEAD_DIMS.contains(&shape.head_dim) {
        let got = shape.head_dim;
        return check
            .refuse(format!("`head_dim` must be one of {HEAD_DIMS:?} on a GPU, got {got}"));
    }
    if !shape.block_size.is_multiple_of(8) {
        let got = shape.block_size;
        return check.refuse(format!("`block_size` must be a multiple of 8 on a GPU, got {got}"));
    }
    Ok(())
}

/// Rotates the step's queries and writes its keys and values.
pub(super) fn rope_and_cache_write<D: Device>(
    device: &mut D,
    step: &CudaStep<D::Memory>,
    shape: &AttentionShape,
    rope: &CudaRopeTable<D::Memory>,
    qkv: &CudaBuffer<D::Memory>,
    cache: &CudaLayerCache<D::Memory>,
) -> Result<(), BackendError> {
    let check = Check("rope_and_cache_write");
    check.cache_matches(&cache.shape, shape)?;
    let (half_dim, num_positions) = (rope.half_dim, rope.num_positions);
    let num_blocks = cache.num_blocks;
    step.require(check, Demand::Slots { shape: *shape, half_dim, num_positions, num_blocks })?;
    let num_tokens = step.layout().num_tokens;
    check.holds("qkv", qkv.len(), num_tokens, shape.qkv_width())?;
    let qkv = qkv.argument(check, "qkv", Elements::F32)?;
    let arguments = [
        qkv,
        cache.address(),
        rope.cos.address(),
        rope.sin.address(),
        step.array(StepArray::Positions),
        step.array(StepArray::Slots),
        Argument::U32(shape.num_heads as u32),
        Argument::U32(shape.num_kv_heads as u32),
        Argument::U32(shape.head_dim as u32),
        Argument::U32(shape.block_size as u32),
    ];
    if num_tokens == 0 {
        return Ok(());
    }
    // A thread turns a pair.
    let num_blocks = (shape.qkv_width() / 2).div_ceil(ROPE_THREADS);
    device.launch(&Launch {
        kernel: "rope_cache",
        grid: [num_tokens as u32, num_blocks as u32, 1],
        num_threads: ROPE_THREADS as u32,
        shared_bytes: 0,
        arguments: &arguments,
    })
}

/// Room that blocks of `attention_decode.cu` leave their part of a result in.
#[derive(Debug)]
pub(super) struct SplitRoom<M> {
    partials: M,
    /// One a sequence, key/value head and 16 rows; zero between launches.
    tickets: M,
}

/// Most bytes of partial results of a launch over chunks; where more sequences come together, there are more launches.
const CHUNK_ROOM_BYTES: usize = 64 << 20;

/// How the attention of sequences with few new tokens is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SplitPlan {
    num_seqs: usize,
    /// Of [`ROWS`] rows, a sequence.
    num_tiles: usize,
    num_kv_heads: usize,
    num_splits: usize,
    partial_rows: usize,
    head_dim: usize,
}

impl SplitPlan {
    /// Plans for `num_seqs` sequences of at most `num_new` new tokens and `num_positions` in all.
    fn new(shape: &AttentionShape, num_seqs: usize, num_new: usize, num_positions: usize) -> Self {
        let num_rows = num_new * (shape.num_heads / shape.num_kv_heads);
        Self {
            num_seqs,
            num_tiles: num_rows.div_ceil(ROWS),
            num_kv_heads: shape.num_kv_heads,
            num_splits: num_positions.div_ceil(SPLIT_LEN).max(1),
            partial_rows: num_rows.min(ROWS),
            head_dim: shape.head_dim,
        }
    }

    /// Returns the plan for as many of the sequences, one at least, as have their partial results in `max_bytes`.
    fn cut(self, max_bytes: usize) -> Self {
        let (bytes_per_seq, _) = Self { num_seqs: 1, ..self }.num_bytes();
        Self { num_seqs: (max_bytes / bytes_per_seq).clamp(1, self.num_seqs), ..self }
    }

    /// Returns the launches that the sequences are computed in, each with the first of its sequences.
    fn launches(self, max_bytes: usize) -> impl Iterator<Item = (usize, Self)> {
        let most = self.cut(max_bytes).num_seqs;
        (0..self.num_seqs)
            .step_by(most)
            .map(move |first| (first, Self { num_seqs: most.min(self.num_seqs - first), ..self }))
    }

    /// Returns the blocks of a launch: an item for each tile of a sequence.
    fn grid(&self) -> [u32; 3] {
        [(self.num_seqs * self.num_tiles) as u32, self.num_kv_heads as u32, self.num_splits as u32]
    }

    /// Returns what the kernel is told of it.
    fn arguments<M: DeviceMemory>(&self, room: &SplitRoom<M>) -> [Argument; 6] {
        [
            Argument::Pointer(room.partials.address()),
            Argument::Pointer(room.tickets.address()),
            Argument::U32(self.num_splits as u32),
            Argument::U32(SPLIT_LEN as u32),
            Argument::U32(self.partial_rows as u32),
            Argument::U32(self.num_tiles as u32),
        ]
    }

    /// Returns the bytes of partial results and of tickets.
    fn num_bytes(&self) -> (usize, usize) {
        let num_tickets = self.num_seqs * self.num_tiles * self.num_kv_heads;
        // Sums of values, a maximum and a sum of weights for each row.
        let num_partials = num_tickets * self.num_splits * self.partial_rows * (self.head_dim + 2);
        (num_partials * size_of::<f32>(), num_tickets * size_of::<u32>())
    }
}

impl<M: DeviceMemory> SplitRoom<M> {
    /// Returns where the room is, which graphs name: freed memory may come back at one of the addresses.
    pub(super) fn addresses(&self) -> [u64; 2] {
        [self.partials.address(), self.tickets.address()]
    }

    /// Returns room for every step of at most `num_seqs` sequences and `num_positions` positions, as far as it should be
    /// taken at once.
    pub(super) fn of_largest<D: Device<Memory = M>>(
        device: &D,
        shape: &AttentionShape,
        num_seqs: usize,
        num_positions: usize,
    ) -> Result<Self, BackendError> {
        Self::new(device, largest(shape, num_seqs, num_positions))
    }

    fn new<D: Device<Memory = M>>(
        device: &D,
        (partials, tickets): (usize, usize),
    ) -> Result<Self, BackendError> {
        let mut room =
            Self { partials: device.allocate(partials)?, tickets: device.allocate(tickets)? };
        device.zero(&mut room.tickets)?;
        Ok(room)
    }

    /// Returns room for a plan: that of `held`, or more where it is not enough.
    fn grown<D: Device<Memory = M>>(
        device: &D,
        held: Option<Self>,
        plan: &SplitPlan,
    ) -> Result<Self, BackendError> {
        let (partials, tickets) = plan.num_bytes();
        match held {
            Some(room)
                if room.partials.num_bytes() >= partials && room.tickets.num_bytes() >= tickets =>
            {
                Ok(room)
            }
            Some(room) => {
                let partials = partials.max(room.partials.num_bytes());
                let tickets = tickets.max(room.tickets.num_bytes());
                drop(room);
                Self::new(device, (partials, tickets))
            }
            None => Self::new(device, (partials, tickets)),
        }
    }
}

/// Returns the bytes of partial results and of tickets of every step of at most `num_seqs` sequences.
fn largest(shape: &AttentionShape, num_seqs: usize, num_positions: usize) -> (usize, usize) {
    let decodes = SplitPlan::new(shape, num_seqs, 1, num_positions).num_bytes();
    let chunks = SplitPlan::new(shape, num_seqs, CHUNK_LEN_MAX, num_positions);
    let chunks = chunks.cut(CHUNK_ROOM_BYTES).num_bytes();
    (decodes.0.max(chunks.0), decodes.1.max(chunks.1))
}

/// Returns the memory that attention takes beside the cache, for steps of at most `num_seqs` sequences and
/// `num_positions` positions each.
///
/// # Units
/// bytes
pub fn attention_bytes(shape: &AttentionShape, num_seqs: usize, num_positions: usize) -> u64 {
    let (partials, tickets) = largest(shape, num_seqs, num_positions);
    (partials + tickets) as u64
}

/// Returns what both kernels are told of the step and of the layer.
fn geometry<M: DeviceMemory>(step: &CudaStep<M>, shape: &AttentionShape) -> [Argument; 9] {
    [
        step.array(StepArray::CuSeqlens),
        step.array(StepArray::ContextLens),
        step.array(StepArray::BlockTables),
        Argument::U32(step.layout().table_width as u32),
        Argument::U32(shape.num_heads as u32),
        Argument::U32(shape.num_kv_heads as u32),
        Argument::U32(shape.block_size as u32),
        Argument::U32(shape.window.unwrap_or(0) as u32),
        Argument::F32(shape.scale),
    ]
}

/// Causal attention of the step's queries.
pub(super) fn attention<D: Device>(
    device: &mut D,
    step: &CudaStep<D::Memory>,
    shape: &AttentionShape,
    (qkv, out): (&CudaBuffer<D::Memory>, &CudaBuffer<D::Memory>),
    cache: &CudaLayerCache<D::Memory>,
    room: &mut Option<SplitRoom<D::Memory>>,
) -> Result<(), BackendError> {
    let check = Check("attention");
    check.cache_matches(&cache.shape, shape)?;
    step.require(check, Demand::Blocks { shape: *shape, num_blocks: cache.num_blocks })?;
    let layout = *step.layout();
    check.holds("qkv", qkv.len(), layout.num_tokens, shape.qkv_width())?;
    check.holds("out", out.len(), layout.num_tokens, shape.num_heads * shape.head_dim)?;
    let common = [
        out.argument(check, "out", Elements::Bf16)?,
        qkv.argument(check, "qkv", Elements::F32)?,
        cache.address(),
    ];
    let geometry = geometry(step, shape);
    let arguments = |seqs: Argument, more: &[Argument]| {
        let mut arguments = common.to_vec();
        arguments.push(seqs);
        arguments.extend_from_slice(&geometry);
        arguments.extend_from_slice(more);
        arguments
    };
    if layout.num_prefills > 0 {
        let rows = layout.max_seqlen_q * (shape.num_heads / shape.num_kv_heads);
        let tiles = rows.div_ceil(PREFILL_ROWS) as u32;
        device.launch(&Launch {
            kernel: &format!("attention_prefill_{}", shape.head_dim),
            grid: [tiles, layout.num_prefills as u32, shape.num_kv_heads as u32],
            num_threads: THREADS,
            shared_bytes: 0,
            arguments: &arguments(step.array(StepArray::Prefills), &[]),
        })?;
    }
    let num_positions = layout.table_width * shape.block_size;
    let lists = [
        (StepArray::Decodes, layout.num_decodes, 1, usize::MAX),
        (StepArray::Chunks, layout.num_chunks, layout.max_chunk_len, CHUNK_ROOM_BYTES),
    ];
    for (list, num_seqs, num_new, max_bytes) in lists {
        if num_seqs == 0 {
            continue;
        }
        let plan = SplitPlan::new(shape, num_seqs, num_new, num_positions);
        for (first, plan) in plan.launches(max_bytes) {
            let held = SplitRoom::grown(device, room.take(), &plan)?;
            let more = plan.arguments(&held);
            *room = Some(held);
            device.launch(&Launch {
                kernel: &format!("attention_decode_{}", shape.head_dim),
                grid: plan.grid(),
                num_threads: THREADS,
                shared_bytes: 0,
                arguments: &arguments(step.element(list, first), &more),
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_computed_in_launches_whose_results_have_room() {
        let shape = AttentionShape {
            num_heads: 28,
            num_kv_heads: 4,
            head_dim: 128,
            block_size: 16,
            kv_dtype: KvDType::F16,
            scale: 1.0,
            window: None,
        };
        let plan = SplitPlan::new(&shape, 5, 16, 4096);
        // 112 rows of a key/value head are seven tiles; 16 rows of 130 values for each of 16 splits.
        let bytes_per_seq = 7 * 4 * 16 * 16 * 130 * 4;
        assert_eq!(plan.num_bytes(), (5 * bytes_per_seq, 5 * 7 * 4 * 4));
        assert_eq!(plan.grid(), [35, 4, 16]);
        for (room, expected) in [
            (usize::MAX, vec![(0, 5)]),
            (2 * bytes_per_seq + 1, vec![(0, 2), (2, 2), (4, 1)]),
            (1, (0..5).map(|first| (first, 1)).collect()),
        ] {
            let launches: Vec<(usize, usize)> =
                plan.launches(room).map(|(first, plan)| (first, plan.num_seqs)).collect();
            assert_eq!(launches, expected);
        }
    }
}
