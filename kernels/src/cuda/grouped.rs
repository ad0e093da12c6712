//! Products whose tokens are grouped by matrix: experts of a mixture, adapters.
//!
//! A pair is a token and one of its matrices. Which matrix has which pairs is found on the device, so that launches depend
//! on numbers of tokens only, and a graph holds them.

use crate::backend::BackendError;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::cuda::matrix::Weights;

/// Most tokens whose matrices stream past; above it tiles of tokens read them.
const STREAMED_TOKENS_MAX: usize = 64;

/// Rows of weights that a block of `experts_stream.cu` takes.
const STREAM_ROWS: usize = 16;

/// Pairs that a block of `experts_tiles.cu` takes.
const TILE_PAIRS: usize = 64;

/// Rows of weights that a block of `experts_tiles.cu` takes; of gates and ups half of each.
pub(super) const TILE_ROWS: usize = 128;

/// Threads of a block of either.
const THREADS: u32 = 256;

/// Matrices of a block of `group_pairs`, a warp each.
const MATRICES_PER_BLOCK: usize = 8;

/// The pairs of a step by matrix; `route.cu` says what the arrays hold.
#[derive(Debug)]
pub(super) struct Grouped<M> {
    num_matrices: usize,
    pairs: M,
    offsets: M,
}

/// The pairs of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The matrix of each pair: `[num_pairs]`.
    pub(super) matrices: Argument,
    pub(super) num_tokens: usize,
    pub(super) num_pairs: usize,
}

/// A product over the pairs.
#[derive(Debug)]
pub(super) struct GroupedProduct<'a> {
    /// What the kernel is called behind `expert_`.
    pub(super) what: &'a str,
    /// What its matrices are.
    pub(super) weights: Weights,
    /// What is written, then what is read.
    pub(super) operands: &'a [Argument],
    /// What the kernel takes behind the number of matrices.
    pub(super) numbers: &'a [u32],
    /// Rows of a matrix.
    pub(super) rows: usize,
    /// Those of a tile.
    pub(super) tile_rows: usize,
}

impl<M: DeviceMemory> Grouped<M> {
    /// Takes room for so many pairs.
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        num_matrices: usize,
        max_num_pairs: usize,
    ) -> Result<Self, BackendError> {
        let words = |len: usize| device.allocate(len.saturating_mul(size_of::<u32>()));
        Ok(Self { num_matrices, pairs: words(max_num_pairs)?, offsets: words(num_matrices + 1)? })
    }

    /// Groups the pairs.
    pub(super) fn group<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        wanted: Wanted,
    ) -> Result<(), BackendError> {
        device.launch(&Launch {
            kernel: "group_pairs",
            grid: [self.num_matrices.div_ceil(MATRICES_PER_BLOCK) as u32, 1, 1],
            num_threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                address(&self.offsets),
                address(&self.pairs),
                wanted.matrices,
                Argument::U32(self.num_matrices as u32),
                Argument::U32(wanted.num_pairs as u32),
            ],
        })
    }

    /// Computes a product over pairs that were grouped.
    pub(super) fn run<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        wanted: Wanted,
        product: &GroupedProduct<'_>,
    ) -> Result<(), BackendError> {
        let Wanted { num_tokens, num_pairs, .. } = wanted;
        let GroupedProduct { what, weights, rows, tile_rows, .. } = *product;
        let mut arguments = product.operands.to_vec();
        arguments.extend([address(&self.pairs), address(&self.offsets)]);
        let num_groups = num_pairs.min(self.num_matrices);
        let (kernel, row_blocks, groups) = if num_tokens <= STREAMED_TOKENS_MAX {
            arguments.push(wanted.matrices);
            let suffix = match weights {
                // No matrix has more pairs than there are tokens.
                Weights::Bf16 if num_tokens <= 8 => "8",
                Weights::Bf16 => "16",
                Weights::Codes(_) | Weights::F16 | Weights::F32 => weights.name(),
            };
            (format!("stream_expert_{what}_{suffix}"), rows.div_ceil(STREAM_ROWS), num_groups)
        } else {
            let kernel = match weights {
                Weights::Bf16 => format!("tile_expert_{what}"),
                _ => format!("tile_expert_{what}_{}", weights.name()),
            };
            (kernel, rows.div_ceil(tile_rows), num_pairs / TILE_PAIRS + num_groups)
        };
        arguments.push(Argument::U32(self.num_matrices as u32));
        arguments.extend(product.numbers.iter().map(|&number| Argument::U32(number)));
        device.launch(&Launch {
            kernel: &kernel,
            grid: [row_blocks as u32, groups as u32, 1],
            num_threads: THREADS,
            shared_bytes: 0,
            arguments: &arguments,
        })
    }
}

/// Returns a memory's address as an argument.
pub(super) fn address<M: DeviceMemory>(memory: &M) -> Argument {
    Argument::Pointer(memory.address())
}
