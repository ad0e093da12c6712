//! `x Wᵀ`, one path from a single row to a whole prefill.
//!
//! Weights stay as they lie in the file and are widened in a register, once for every three rows of activations. A task
//! owns a few features and all rows. It takes the rows in blocks and, within a block, four features at a time, so
//! that a weight comes from memory once, then from the L1 cache within a block and from L2 between blocks.
//!
//! # Limit
//! One row: memory, 1 flop a byte of bf16. From about a dozen rows on: FMA. Widening costs a tenth or so of
//! that; a version with panels of widened weights and blocks of `k` was a tenth faster at `k` = 896, a tenth
//! slower at 4864, and needed scratch.
//!
//! On two cores of an AMD EPYC (Zen 3, AVX2; about 210 GFLOP/s), best of many on a busy machine: one row of
//! `[151936, 896]` 13.2 GB/s where plainly reading it gives 15.4; 64 rows 143 GFLOP/s at `k` = 896, 141 at 4864.

mod tile;

use half::{bf16, f16};

use crate::cpu::grid::{Grid, RowTiles, Tile};
use crate::cpu::linear::tile::{NR_MAX, Sums, add_products, next_height};
use crate::cpu::matrix::{CpuMatrix, Element, WeightRows, Weights};
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, Vectors};

/// Rows of a block: 12 rows of 4864 f32 are half of an L2 of 512 KiB.
const BLOCK_ROWS: usize = 12;

/// Bytes of weights that are to stay in L2 from block to block.
const TASK_WEIGHT_BYTES: usize = 128 << 10;

/// Features of a task are a multiple of this: a cache line of outputs belongs to one task.
const FEATURE_MULTIPLE: usize = 16;

/// Tasks for each thread: enough that a thread which lost its core for a while does not hold up the others.
const TASKS_PER_THREAD: usize = 8;

/// What becomes of a sum.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epilogue<'a> {
    /// `out = sum`
    Store,
    /// `out = sum + bias[feature]`
    Bias(&'a [f32]),
    /// `out += sum`
    Add,
}

impl Epilogue<'_> {
    #[inline(always)]
    fn apply(self, out: &mut f32, feature: usize, sum: f32) {
        match self {
            Self::Store => *out = sum,
            Self::Bias(bias) => *out = sum + bias[feature],
            Self::Add => *out += sum,
        }
    }
}

/// One product: `x` `[num_rows, cols]` to `out` `[num_rows, rows]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub(crate) num_rows: usize,
    pub(crate) x: &'a [f32],
    pub(crate) matrix: &'a CpuMatrix,
    pub(crate) epilogue: Epilogue<'a>,
}

impl Linear<'_> {
    /// Computes the product. Sizes were checked: `x` and `out` hold `num_rows` rows.
    pub(crate) fn run(self, pool: &mut Pool, vectors: Vectors, out: &mut [f32]) {
        let grid = Grid {
            rows: RowTiles::Even { num_rows: self.num_rows, height: self.num_rows.max(1) },
            width: self.matrix.rows,
            tile_width: self.features_per_task(pool.num_threads()),
        };
        grid.for_each_tile(pool, out, &|tile| match &self.matrix.weights {
            Weights::F32(weights) => vectors.run(self.task::<f32>(weights, tile)),
            Weights::Bf16(weights) => vectors.run(self.task::<bf16>(weights, tile)),
            Weights::F16(weights) => vectors.run(self.task::<f16>(weights, tile)),
            Weights::Codes(_) => unreachable!("products of integers are `quantized`'s"),
        });
    }

    fn task<'t, E>(&'t self, weights: &'t WeightRows<E>, tile: Tile<'t>) -> Task<'t, E> {
        Task { x: self.x, cols: self.matrix.cols, weights, epilogue: self.epilogue, tile }
    }

    fn features_per_task(&self, num_threads: usize) -> usize {
        let by_threads = self.matrix.rows.div_ceil(num_threads * TASKS_PER_THREAD);
        let features = if self.num_rows <= BLOCK_ROWS {
            // Each weight is used in one block only: nothing needs to stay.
            by_threads
        } else {
            by_threads.min(TASK_WEIGHT_BYTES / self.matrix.bytes_per_row())
        };
        features.next_multiple_of(FEATURE_MULTIPLE).max(FEATURE_MULTIPLE)
    }
}

/// The tile's columns are the features of the task.
struct Task<'a, E> {
    x: &'a [f32],
    cols: usize,
    weights: &'a WeightRows<E>,
    epilogue: Epilogue<'a>,
    tile: Tile<'a>,
}

impl<E: Element> Kernel for Task<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let num_rows = self.tile.rows.end;
        for start in (0..num_rows).step_by(BLOCK_ROWS) {
            let end = num_rows.min(start + BLOCK_ROWS);
            let mut feature = self.tile.columns.start;
            while feature + NR_MAX <= self.tile.columns.end {
                self.features::<S, NR_MAX>(simd, start, end, feature);
                feature += NR_MAX;
            }
            while feature < self.tile.columns.end {
                self.features::<S, 1>(simd, start, end, feature);
                feature += 1;
            }
        }
    }
}

impl<E: Element> Task<'_, E> {
    /// Computes `NR` features of the rows of a block.
    #[inline(always)]
    fn features<S: Simd, const NR: usize>(
        &mut self,
        simd: S,
        start: usize,
        end: usize,
        feature: usize,
    ) {
        let mut row = start;
        while row < end {
            let height = next_height(end - row);
            match height {
                3 => self.register_tile::<S, 3, NR>(simd, row, feature),
                2 => self.register_tile::<S, 2, NR>(simd, row, feature),
                _ => self.register_tile::<S, 1, NR>(simd, row, feature),
            }
            row += height;
        }
    }

    #[inline(always)]
    fn register_tile<S: Simd, const MR: usize, const NR: usize>(
        &mut self,
        simd: S,
        first_row: usize,
        feature: usize,
    ) {
        let mut x: [&[f32]; MR] = [&[]; MR];
        for m in 0..MR {
            let start = (first_row + m) * self.cols;
            x[m] = &self.x[start..start + self.cols];
        }
        let mut w: [&[E]; NR] = [&[]; NR];
        for n in 0..NR {
            w[n] = self.weights.row(feature + n);
        }
        let mut sums: Sums<S, MR, NR> = [[simd.zero(); NR]; MR];
        add_products::<S, E, MR, NR>(simd, x, w, &mut sums);
        let column = feature - self.tile.columns.start;
        for m in 0..MR {
            let out = &mut self.tile.row(first_row + m)[column..column + NR];
            for n in 0..NR {
                self.epilogue.apply(&mut out[n], feature + n, simd.reduce_add(sums[m][n]));
            }
        }
    }
}
