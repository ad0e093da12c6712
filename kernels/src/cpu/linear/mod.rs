//! `x Wᵀ`: few rows straight from the weights ([`gemv`]), many rows through widened panels ([`gemm`]).
//!
//! Both run the tile of [`tile`], whose order of sums makes them agree bit for bit.

mod gemm;
mod gemv;
mod tile;

use half::{bf16, f16};

use crate::cpu::grid::{Grid, RowTiles, Tile};
use crate::cpu::linear::gemm::{Gemm, PANEL_HEIGHT, PANEL_WIDTH};
use crate::cpu::linear::gemv::Gemv;
use crate::cpu::linear::tile::{MR_MAX, NR_MAX};
use crate::cpu::matrix::{CpuMatrix, Element, WeightRows, Weights};
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Simd, Vectors};

pub(crate) use crate::cpu::linear::gemm::{GemmScratch, scratch_for};

/// What becomes of a sum.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epilogue<'a> {
    /// `out = sum`
    Store,
    /// `out = sum + bias[row of the matrix]`
    Bias(&'a [f32]),
    /// `out += sum`
    Add,
}

impl Epilogue<'_> {
    /// Applies to the output of the matrix's row `feature`.
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

/// Activations and weights of a task, of one element type.
#[derive(Debug)]
struct Operands<'a, E> {
    x: &'a [f32],
    cols: usize,
    weights: &'a WeightRows<E>,
    epilogue: Epilogue<'a>,
}

impl<E> Clone for Operands<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Operands<'_, E> {}

impl<'a, E> Operands<'a, E> {
    /// Returns a row of activations, `[cols]`.
    #[inline(always)]
    fn x_row(&self, row: usize) -> &'a [f32] {
        &self.x[row * self.cols..(row + 1) * self.cols]
    }

    /// Adds up the lanes of `sums` and writes the outputs of a row, from `feature` on.
    #[inline(always)]
    fn write<S: Simd, const NR: usize>(
        &self,
        simd: S,
        tile: &mut Tile<'_>,
        row: usize,
        feature: usize,
        sums: [S::F32; NR],
    ) {
        let column = feature - tile.columns.start;
        let out = &mut tile.row(row)[column..column + NR];
        for n in 0..NR {
            self.epilogue.apply(&mut out[n], feature + n, simd.reduce_add(sums[n]));
        }
    }
}

/// Tasks for each thread: enough that a thread which lost its core for a while does not hold up the others.
const TASKS_PER_THREAD: usize = 8;

impl Linear<'_> {
    /// Computes the product. Sizes were checked: `x` and `out` hold `num_rows` rows.
    pub(crate) fn run(
        self,
        pool: &mut Pool,
        vectors: Vectors,
        scratch: &[GemmScratch],
        out: &mut [f32],
    ) {
        match &self.matrix.weights {
            Weights::F32(weights) => self.run_with::<f32>(weights, pool, vectors, scratch, out),
            Weights::Bf16(weights) => self.run_with::<bf16>(weights, pool, vectors, scratch, out),
            Weights::F16(weights) => self.run_with::<f16>(weights, pool, vectors, scratch, out),
        }
    }

    fn run_with<E: Element>(
        self,
        weights: &WeightRows<E>,
        pool: &mut Pool,
        vectors: Vectors,
        scratch: &[GemmScratch],
        out: &mut [f32],
    ) {
        let operands =
            Operands { x: self.x, cols: self.matrix.cols, weights, epilogue: self.epilogue };
        let width = self.matrix.rows;
        if self.num_rows <= MR_MAX {
            let rows = RowTiles::Even { num_rows: self.num_rows, height: MR_MAX };
            let tile_width = tile_width(width, pool.num_threads());
            Grid { rows, width, tile_width }.for_each_tile(pool, out, &|_, tile| {
                vectors.run(Gemv { operands, tile });
            });
        } else {
            let rows = RowTiles::Even { num_rows: self.num_rows, height: PANEL_HEIGHT };
            let grid = Grid { rows, width, tile_width: PANEL_WIDTH };
            grid.for_each_tile(pool, out, &|thread_index, tile| {
                let mut scratch = scratch[thread_index].lock();
                vectors.run(Gemm { operands, tile, scratch: &mut scratch });
            });
        }
    }
}

/// Weight rows of a task where each is read once: whole register tiles, and whole cache lines of the output.
fn tile_width(num_features: usize, num_threads: usize) -> usize {
    const OUTPUTS_PER_CACHE_LINE: usize = 16;
    let multiple = OUTPUTS_PER_CACHE_LINE.next_multiple_of(NR_MAX);
    num_features.div_ceil(num_threads * TASKS_PER_THREAD).next_multiple_of(multiple).max(multiple)
}
