//! `x Wᵀ`, one path from a single row to a whole prefill.
//!
//! Weights lie in panels of sixteen features and are widened in a register. A task owns a few panels and all rows. It
//! takes the rows in blocks and, within a block, panel by panel, so that a weight comes from memory once, then from
//! the L1 cache within a block and from L2 between blocks.
//!
//! # Limit
//! One row: memory, 1 flop a byte of bf16. From about a dozen rows on: FMA, of which widening costs one in six.
//!
//! On a core of an AMD EPYC (Zen 3, AVX2; 100 GFLOP/s of bare FMAs): 90 in a prefill of a 0.5B. Versions before, at `k` =
//! 896: 83, with a weight kept on the stack and sums written one by one, which at `k` = 256 took one part in six; 71, with
//! rows as in the file and sums across lanes. Blocks of `k`, with the sums put by in between, changed nothing at 896 and
//! lost up to a fifth at 4864.

mod gated;
mod operands;
mod rounding;
mod rows;
mod tile;

use std::ops::Range;

use crate::activation::Activation;
use crate::cpu::activation::{Activate, silu_mul_in_place};
use crate::cpu::grid::{Grid, Tile};
use crate::cpu::linear::operands::{Exact, Operands, Rounded, Scaled};
use crate::cpu::linear::tile::{MR_MAX, next_height};
use crate::cpu::matrix::{CpuMatrix, Element, PANEL, Panels, Weights};
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, TILE, Vectors};

pub(crate) use crate::cpu::linear::gated::{Half, activated, gated};
pub(crate) use crate::cpu::linear::rounding::Rounding;
pub(crate) use crate::cpu::linear::rows::Rows;

/// Rows of a block: 12 rows of 4864 f32 are half of an L2 of 512 KiB.
const BLOCK_ROWS: usize = 12;

/// Up to this many rows are one block: a batch of decodes reads each weight from memory once.
const DECODE_ROWS: usize = 24;

/// Bytes of weights that are to stay in L2 from block to block.
const TASK_WEIGHT_BYTES: usize = 128 << 10;

/// Tasks for each thread: enough that a thread which lost its core for a while does not hold up the others.
const TASKS_PER_THREAD: usize = 8;

/// What becomes of a sum. One flat choice: a bias apart from the rest, added to a copy of the sums, made products of eight
/// rows by 256 columns a seventh slower.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Epilogue<'a> {
    /// `out = sum`
    Store,
    /// `out = sum + bias[feature]`
    Bias(&'a [f32]),
    /// `out += sum`
    Add,
    /// `out += sum + bias[feature]`
    AddBias(&'a [f32]),
    /// `out *= sum`
    Mul,
    /// `out *= sum + bias[feature]`
    MulBias(&'a [f32]),
    /// `out = silu(out) * sum`
    SiluMul,
}

impl Epilogue<'_> {
    /// Brings the sums of a panel, whose first feature is `feature`, to `out`, which is shorter at the last.
    #[inline(always)]
    pub(crate) fn write<S: Simd>(
        self,
        simd: S,
        out: &mut [f32],
        feature: usize,
        sums: &[f32; PANEL],
    ) {
        if let Some(out) = out.as_mut_array::<PANEL>() {
            return self.write_panel(simd, out, feature, sums);
        }
        let (mut padded, len) = ([0.0; PANEL], out.len());
        padded[..len].copy_from_slice(out);
        match self {
            // A bias has no padding.
            Self::Bias(bias) => {
                for index in 0..len {
                    padded[index] = sums[index] + bias[feature + index];
                }
            }
            Self::AddBias(bias) => {
                for index in 0..len {
                    padded[index] += sums[index] + bias[feature + index];
                }
            }
            Self::MulBias(bias) => {
                for index in 0..len {
                    padded[index] *= sums[index] + bias[feature + index];
                }
            }
            Self::Store | Self::Add | Self::Mul | Self::SiluMul => {
                self.write_panel(simd, &mut padded, feature, sums);
            }
        }
        out.copy_from_slice(&padded[..len]);
    }

    /// A length known beforehand makes vectors of the loops.
    #[inline(always)]
    fn write_panel<S: Simd>(
        self,
        simd: S,
        out: &mut [f32; PANEL],
        feature: usize,
        sums: &[f32; PANEL],
    ) {
        match self {
            Self::Store => *out = *sums,
            Self::Bias(bias) => {
                let bias = &bias[feature..feature + PANEL];
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out = sum + bias;
                }
            }
            Self::Add => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            }
            Self::AddBias(bias) => {
                let bias = &bias[feature..feature + PANEL];
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out += sum + bias;
                }
            }
            Self::Mul => {
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out *= sum;
                }
            }
            Self::MulBias(bias) => {
                let bias = &bias[feature..feature + PANEL];
                for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                    *out *= sum + bias;
                }
            }
            Self::SiluMul => silu_mul_in_place(simd, out, sums),
        }
    }
}

/// Products of `x` `[num_rows, cols]` with matrices of one shape, one term after the other to the same `out` `[num_rows, rows]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) x: &'a [f32],
    /// One or more.
    pub(crate) terms: &'a [Term<'a>],
}

/// A product and what becomes of its sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term<'a> {
    /// Of one shape and type; more than one where rows are grouped.
    pub(crate) matrices: &'a [CpuMatrix],
    pub(crate) epilogue: Epilogue<'a>,
    /// Applied to the output when all of a tile is there.
    pub(crate) activation: Option<Activation>,
}

impl Term<'_> {
    /// Applies the function to what the product left in the tile, while that is in the caches.
    pub(crate) fn activate(&self, vectors: Vectors, mut tile: Tile<'_>) {
        let Some(activation) = self.activation else { return };
        for row in tile.rows() {
            vectors.run(Activate { activation, values: tile.row(row) });
        }
    }
}

impl<'a> Linear<'a> {
    /// Computes the products. Sizes were checked: `x` and `out` hold `num_rows` rows.
    pub(crate) fn run(self, pool: &mut Pool, vectors: Vectors, out: &mut [f32]) {
        self.for_each_term(pool, vectors, out, &|term, matrix, tile| match &matrix.weights {
            Weights::F32(panels) => self.exact(vectors, term, panels, tile),
            Weights::Bf16(panels) => self.exact(vectors, term, panels, tile),
            Weights::F16(panels) => self.exact(vectors, term, panels, tile),
            Weights::Fp8(panels) => {
                let operands = Scaled { x: self.x, cols: matrix.cols, panels };
                vectors.run(Task { operands, epilogue: term.epilogue, tile });
            }
            Weights::Codes(_) => unreachable!("products of integers are `quantized`'s"),
        });
    }

    /// Computes the products of bf16 with activations that were rounded, `[num_rows, cols.div_ceil(2)]` pairs.
    pub(crate) fn run_rounded(
        self,
        pool: &mut Pool,
        vectors: Vectors,
        pairs: &[u32],
        out: &mut [f32],
    ) {
        self.for_each_term(pool, vectors, out, &|term, matrix, tile| {
            let Weights::Bf16(panels) = &matrix.weights else {
                unreachable!("activations are rounded for bf16 only")
            };
            let pairs_per_row = matrix.cols.div_ceil(2);
            let operands = Rounded { pairs, pairs_per_row, panels };
            vectors.run_rounded(Task { operands, epilogue: term.epilogue, tile });
        });
    }

    fn exact<E: Element>(
        &self,
        vectors: Vectors,
        term: &Term<'_>,
        panels: &Panels<E>,
        tile: Tile<'_>,
    ) {
        let operands = Exact { x: self.x, cols: term.matrices[0].cols, panels };
        vectors.run(Task { operands, epilogue: term.epilogue, tile });
    }

    /// Cuts the output and runs every term on each tile while that is in the caches.
    fn for_each_term(
        &self,
        pool: &mut Pool,
        vectors: Vectors,
        out: &mut [f32],
        run: &(dyn Fn(&Term<'_>, &CpuMatrix, Tile<'_>) + Sync),
    ) {
        self.grid(pool, vectors).for_each_tile(pool, out, &|mut tile| {
            for term in self.terms {
                run(term, self.rows.matrix(term, tile.row_index()), tile.reborrow());
                term.activate(vectors, tile.reborrow());
            }
        });
    }

    fn grid(&self, pool: &Pool, vectors: Vectors) -> Grid<'a> {
        Grid {
            rows: self.rows.tiles(),
            width: self.terms[0].matrices[0].rows,
            tile_width: self.features_per_task(pool.num_threads(), vectors.lanes()),
        }
    }

    fn features_per_task(&self, num_threads: usize, num_lanes: usize) -> usize {
        let (matrix, num_rows) = (&self.terms[0].matrices[0], self.rows.longest());
        let all_features = matrix.rows * self.rows.num_groups();
        let by_threads = all_features.div_ceil(num_threads * TASKS_PER_THREAD);
        let features = if num_rows <= DECODE_ROWS {
            // Each weight is used in one block only: nothing needs to stay.
            by_threads
        } else {
            by_threads.min(TASK_WEIGHT_BYTES / matrix.bytes_per_row().max(1))
        };
        // Panels that are left over, with too few sums at a time, cost as much as a whole tile.
        let tile = PANEL * panels_per_tile(num_rows, num_lanes);
        features.next_multiple_of(tile).max(tile)
    }
}

/// Returns how many panels a register tile of so many rows takes. Few rows need many: enough sums at a time to hide the
/// latency of the FMAs, and enough streams to keep memory busy. A vector of the wide tiers is a whole panel, of the
/// others half of one.
const fn panels_per_tile(num_rows: usize, num_lanes: usize) -> usize {
    let panels = match num_rows {
        0 | 1 => 4,
        2 | 3 => 2,
        _ => 1,
    };
    if num_lanes == TILE { 2 * panels } else { panels }
}

/// The tile's columns are the features of the task, from a panel's first on.
struct Task<'a, O> {
    operands: O,
    epilogue: Epilogue<'a>,
    tile: Tile<'a>,
}

impl<O: Operands> Kernel for Task<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let all_rows = self.tile.rows();
        let height = if all_rows.len() <= DECODE_ROWS { DECODE_ROWS } else { BLOCK_ROWS };
        let mut sums = [[[0.0; PANEL]; NP_MAX]; MR_MAX];
        for start in all_rows.clone().step_by(height) {
            let rows = start..all_rows.end.min(start + height);
            let mut panels =
                self.tile.columns().start / PANEL..self.tile.columns().end.div_ceil(PANEL);
            let is_large = S::HAS_TALL_TILES && self.operands.fit_large_tiles();
            let widest = if is_large { panels_per_tile(rows.len(), S::LANES) } else { 1 };
            for width in [widest, 1] {
                while panels.len() >= width {
                    let tiles = Tiles { rows: rows.clone(), first_panel: panels.start, width };
                    self.tiles(simd, tiles, is_large, &mut sums);
                    panels.start += width;
                }
            }
        }
    }
}

/// Most panels of a tile.
const NP_MAX: usize = 8;

/// The sums of a tile of any size, panel by panel.
type TileSums = [[[f32; PANEL]; NP_MAX]; MR_MAX];

/// Tiles over each other: rows of a block by a few panels.
struct Tiles {
    rows: Range<usize>,
    first_panel: usize,
    /// In panels.
    width: usize,
}

impl<O: Operands> Task<'_, O> {
    /// Computes tiles and writes what they come to. What is done with sums is long and stands here only: compiled once for
    /// each size of a tile, it made most of the crate.
    #[inline(always)]
    fn tiles<S: Simd>(&mut self, simd: S, tiles: Tiles, is_large: bool, sums: &mut TileSums) {
        let Tiles { rows, first_panel, width } = tiles;
        let mut row = rows.start;
        while row < rows.end {
            let height = if is_large { next_height(rows.end - row) } else { 1 };
            let at = (row, first_panel);
            match width {
                8 if S::HAS_TALL_TILES && S::LANES == TILE => {
                    self.sum::<S, 8>(simd, height, at, sums);
                }
                4 if S::HAS_TALL_TILES => self.sum::<S, 4>(simd, height, at, sums),
                2 if S::HAS_TALL_TILES => self.sum::<S, 2>(simd, height, at, sums),
                1 => self.sum::<S, 1>(simd, height, at, sums),
                _ => unreachable!("no tile is {width} panels wide"),
            }
            for (m, sums) in sums[..height].iter().enumerate() {
                for (n, sums) in sums[..width].iter().enumerate() {
                    self.finish(simd, row + m, first_panel + n, sums);
                }
            }
            row += height;
        }
    }

    /// Sums a tile of `height` rows by `NP` panels.
    #[inline(always)]
    fn sum<S: Simd, const NP: usize>(
        &self,
        simd: S,
        height: usize,
        at: (usize, usize),
        sums: &mut TileSums,
    ) {
        // `run` asks for no wide tile that is tall, nor for a low one where there are many rows: none is compiled.
        let (few, some) = if S::HAS_TALL_TILES { (S::LANES / 8, S::LANES / 4) } else { (0, 0) };
        match height {
            6 if NP <= few => self.register_tile::<S, 6, NP>(simd, at, sums),
            5 if NP <= few => self.register_tile::<S, 5, NP>(simd, at, sums),
            4 if NP <= few => self.register_tile::<S, 4, NP>(simd, at, sums),
            3 if NP <= some => self.register_tile::<S, 3, NP>(simd, at, sums),
            2 if NP <= some => self.register_tile::<S, 2, NP>(simd, at, sums),
            1 => self.register_tile::<S, 1, NP>(simd, at, sums),
            _ => unreachable!("no tile of {height} rows by {NP} panels"),
        }
    }

    #[inline(always)]
    fn register_tile<S: Simd, const MR: usize, const NP: usize>(
        &self,
        simd: S,
        (first_row, first_panel): (usize, usize),
        out: &mut TileSums,
    ) {
        let sums = self.operands.products::<S, MR, NP>(simd, first_row, first_panel);
        for m in 0..MR {
            for n in 0..NP {
                let features = S::chunks_mut(&mut out[m][n]);
                for (chunk, &sum) in features.iter_mut().zip(&sums[m][n]) {
                    simd.store(sum, chunk);
                }
            }
        }
    }

    /// Writes a row's sums of a panel, less the padding of the last.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, row: usize, panel: usize, sums: &[f32; PANEL]) {
        let columns = self.tile.columns();
        let (first, end) = (panel * PANEL, columns.end.min((panel + 1) * PANEL));
        let out = &mut self.tile.row(row)[first - columns.start..end - columns.start];
        self.epilogue.write(simd, out, first, sums);
    }
}
