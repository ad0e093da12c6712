//! Many activation rows: weights are widened once a panel and used from cache by every row of the tile.
//!
//! A task owns `PANEL_HEIGHT` rows by `PANEL_WIDTH` features. It walks `k` in blocks of `PANEL_DEPTH`: widen the
//! block of its weights into scratch, run the register tiles over it, keep the sums as vectors until the last block.
//!
//! # Limit
//! FMA: a register tile does 12 of them for 7 loads, see `tile`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::BackendError;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::grid::Tile;
use crate::cpu::linear::Operands;
use crate::cpu::linear::tile::{MR_MAX, NR_MAX, Sums, add_products};
use crate::cpu::matrix::Element;
use crate::cpu::simd::{Kernel, Simd, TILE};

/// Activation rows of a task. Widening a weight costs about as much as three FMAs, so it is under a tenth of 48 rows.
pub(crate) const PANEL_HEIGHT: usize = 48;

/// Features of a task: a whole cache line of each output row.
pub(crate) const PANEL_WIDTH: usize = 16;

/// Values of `k` in a block: four weight rows and three activation rows of it are 28 KiB, an L1 of 32 KiB.
const PANEL_DEPTH: usize = 1024;

/// What a thread needs for a panel; its lock is never waited for.
#[derive(Debug)]
pub(crate) struct GemmScratch(Mutex<Panels>);

/// The panels of one thread.
#[derive(Debug)]
pub(crate) struct Panels {
    /// `[PANEL_WIDTH, PANEL_DEPTH]`, widened.
    weights: AlignedSlice<f32>,
    /// `[PANEL_HEIGHT, PANEL_WIDTH, LANES]`; room for the widest tier.
    sums: AlignedSlice<f32>,
}

impl GemmScratch {
    /// Lends the panels. A task that panicked left numbers behind, which the next one overwrites.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Panels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Allocates a scratch for each thread.
pub(crate) fn scratch_for(num_threads: usize) -> Result<Vec<GemmScratch>, BackendError> {
    let mut all = Vec::new();
    for _ in 0..num_threads {
        let weights = AlignedSlice::filled(PANEL_WIDTH * PANEL_DEPTH, 0.0, DEVICE)?;
        let sums = AlignedSlice::filled(PANEL_HEIGHT * PANEL_WIDTH * TILE, 0.0, DEVICE)?;
        all.push(GemmScratch(Mutex::new(Panels { weights, sums })));
    }
    Ok(all)
}

/// One task: the tile's rows of activations against its columns' rows of weights.
pub(crate) struct Gemm<'a, 's, E> {
    pub(crate) operands: Operands<'a, E>,
    pub(crate) tile: Tile<'a>,
    pub(crate) scratch: &'s mut Panels,
}

/// A block of `k`.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    end: usize,
    is_first: bool,
    is_last: bool,
}

impl<E: Element> Kernel for Gemm<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let cols = self.operands.cols;
        let mut start = 0;
        loop {
            let end = cols.min(start + PANEL_DEPTH);
            let block = Block { start, end, is_first: start == 0, is_last: end == cols };
            self.widen(simd, block);
            self.block(simd, block);
            if block.is_last {
                return;
            }
            start = end;
        }
    }
}

impl<E: Element> Gemm<'_, '_, E> {
    /// Widens the block of the weights; the zeros behind a row's end come along.
    #[inline(always)]
    fn widen<S: Simd>(&mut self, simd: S, block: Block) {
        let num_chunks = (block.end - block.start).div_ceil(S::LANES);
        let first = block.start / S::LANES;
        let panel = S::chunks_mut(self.scratch.weights.as_mut_slice());
        for (n, feature) in self.tile.columns.clone().enumerate() {
            let row = E::chunks::<S>(self.operands.weights.row(feature));
            let from = &row[first..first + num_chunks];
            let to = &mut panel[n * (PANEL_DEPTH / S::LANES)..][..num_chunks];
            for k in 0..num_chunks {
                simd.store(E::load(simd, &from[k]), &mut to[k]);
            }
        }
    }

    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, block: Block) {
        let mut feature = self.tile.columns.start;
        while feature + NR_MAX <= self.tile.columns.end {
            self.features::<S, NR_MAX>(simd, block, feature);
            feature += NR_MAX;
        }
        while feature < self.tile.columns.end {
            self.features::<S, 1>(simd, block, feature);
            feature += 1;
        }
    }

    #[inline(always)]
    fn features<S: Simd, const NR: usize>(&mut self, simd: S, block: Block, feature: usize) {
        let mut row = self.tile.rows.start;
        while row + MR_MAX <= self.tile.rows.end {
            self.register_tile::<S, MR_MAX, NR>(simd, block, row, feature);
            row += MR_MAX;
        }
        while row < self.tile.rows.end {
            self.register_tile::<S, 1, NR>(simd, block, row, feature);
            row += 1;
        }
    }

    #[inline(always)]
    fn register_tile<S: Simd, const MR: usize, const NR: usize>(
        &mut self,
        simd: S,
        block: Block,
        row: usize,
        feature: usize,
    ) {
        let column = feature - self.tile.columns.start;
        let mut x: [&[f32]; MR] = [&[]; MR];
        for m in 0..MR {
            x[m] = &self.operands.x_row(row + m)[block.start..block.end];
        }
        let panel = self.scratch.weights.as_slice();
        let mut w: [&[f32]; NR] = [&[]; NR];
        for n in 0..NR {
            w[n] = &panel[(column + n) * PANEL_DEPTH..(column + n + 1) * PANEL_DEPTH];
        }
        let kept = S::chunks_mut(self.scratch.sums.as_mut_slice());
        let first_kept = (row - self.tile.rows.start) * PANEL_WIDTH + column;
        let mut sums: Sums<S, MR, NR> = [[simd.zero(); NR]; MR];
        if !block.is_first {
            for m in 0..MR {
                for n in 0..NR {
                    sums[m][n] = simd.load(&kept[first_kept + m * PANEL_WIDTH + n]);
                }
            }
        }
        add_products::<S, f32, MR, NR>(simd, x, w, &mut sums);
        for m in 0..MR {
            if block.is_last {
                self.operands.write::<S, NR>(simd, &mut self.tile, row + m, feature, sums[m]);
            } else {
                for n in 0..NR {
                    simd.store(sums[m][n], &mut kept[first_kept + m * PANEL_WIDTH + n]);
                }
            }
        }
    }
}
