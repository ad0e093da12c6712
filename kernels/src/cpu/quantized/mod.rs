//! Products of weights in four and eight bits: activations are rounded to eight bits, sums are integers.
//!
//! | file | concept |
//! |---|---|
//! | `layout` | which form a type's blocks take in memory |
//! | `panels` | weights of that form, packed once, sixteen features to a panel |
//! | `activations` | rows as codes, in room that is reserved once |
//! | `dot/` | products of codes in tiers that give the same bits |
//! | `tile` | a few rows against a panel |
//!
//! # Accuracy
//! A product of `cols` columns is off by about 0.4 % of its norm, from the activations' rounding; weights of a file are
//! what they are in the file, but for factors rounded to half precision (2⁻¹¹ each).
//!
//! # Limit
//! One row: memory, 8.5 bits a weight for int8, 4.5 to 5 for four bits. Many rows: on AVX2 two multiplications through 16 bits
//! for 32 products. With the signs and the adding a bare loop of it does 25 products a cycle and core, 330 GFLOP/s on the
//! machine below (a product and its adding are two); `vpdpbusd` on 512 bits does 64 an instruction.
//!
//! On two cores of an AMD EPYC (Zen 3, AVX2), medians: int8, 512 rows, 219 GFLOP/s at `k` = 896, 222 at 4864, 1.5 times the
//! product of bf16; one row of `[151936, 896]` 26.6 GB/s, where bf16 reads 17.5 of its twice as many; eight rows of it
//! 189 GFLOP/s. `Q4_0`: 272 and 250 GFLOP/s. Codes widened to 16 bits for `vpmaddwd`, two rows at a time, were a sixth slower. Eight features at a time, so that sums stay in registers, was a quarter slower:
//! each broadcast is then read twice.

mod activations;
mod dot;
mod layout;
mod panels;
mod tile;

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cpu::grid::{Grid, Tile};
use crate::cpu::linear::{Linear, Rows, Term};
use crate::cpu::matrix::{CpuMatrix, Weights};
use crate::cpu::pool::Pool;
use crate::cpu::quantized::activations::{ActivationRows, Activations};
use crate::cpu::quantized::dot::Dots;
use crate::cpu::quantized::tile::Task;
use crate::cpu::simd::Vectors;
use crate::formats::{CodeKind, CodeLayout};

pub(crate) use crate::cpu::quantized::dot::PANEL;
pub(crate) use crate::cpu::quantized::panels::CodePanels;

/// Bytes of weights that are to stay in L2 while rows pass by them.
const TASK_WEIGHT_BYTES: usize = 128 << 10;

/// Tasks for each thread: enough that a thread which lost its core for a while does not hold up the others.
const TASKS_PER_THREAD: usize = 8;

/// What products of integers need beside their operands.
#[derive(Debug)]
pub(crate) struct QuantizedProducts {
    dots: Dots,
    activations: Activations,
    /// Most blocks of a token's rows, over all matrices.
    num_blocks_max: usize,
}

/// Products whose activations were rounded.
#[derive(Clone, Copy, Debug)]
struct CodesLinear<'a> {
    rows: Rows<'a>,
    x: ActivationRows<'a>,
    terms: &'a [Term<'a>],
    vectors: Vectors,
}

impl QuantizedProducts {
    /// Chooses the instructions; there is no room for activations yet.
    pub(crate) fn new(vectors: Vectors) -> Self {
        let dots = Dots::fastest(vectors.tier());
        Self { dots, activations: Activations::none(), num_blocks_max: 0 }
    }

    /// Learns of a matrix that meets so many rows of each token.
    pub(crate) fn expect(&mut self, weights: &CodePanels, rows_per_token: usize) {
        self.num_blocks_max = self.num_blocks_max.max(weights.num_blocks() * rows_per_token);
    }

    /// Makes room for steps of `max_num_tokens` over all matrices that were expected.
    pub(crate) fn reserve(&mut self, max_num_tokens: usize) -> Result<(), BackendError> {
        self.activations = Activations::new(max_num_tokens.saturating_mul(self.num_blocks_max))?;
        Ok(())
    }

    /// Computes the products, all of integers. `x` and `out` were checked to hold `num_rows` rows.
    pub(crate) fn run(
        &mut self,
        check: Check,
        linear: Linear<'_>,
        (pool, vectors): (&mut Pool, Vectors),
        out: &mut [f32],
    ) -> Result<(), BackendError> {
        let Linear { rows, terms, .. } = linear;
        let (weights, num_rows) = (codes_of(&terms[0].matrices[0]), rows.len());
        let needed = num_rows.saturating_mul(weights.num_blocks());
        check.at_most(
            "blocks of `x` in the room of `reserve`",
            needed,
            self.activations.capacity(),
        )?;
        let x = &linear.x[..num_rows * weights.cols];
        let x = self.activations.load(pool, vectors, num_rows, x);
        let linear = CodesLinear { rows, x, terms, vectors };
        let grid = Grid {
            rows: rows.tiles(),
            width: weights.rows,
            tile_width: linear.features_per_task(pool.num_threads()),
        };
        let dots = self.dots;
        grid.for_each_tile(pool, out, &|mut tile| {
            for term in terms {
                let weights = codes_of(rows.matrix(term, tile.row_index()));
                linear.run_task(dots, (term, weights), tile.reborrow());
                term.activate(vectors, tile.reborrow());
            }
        });
        Ok(())
    }
}

/// Returns the codes of a matrix.
fn codes_of(matrix: &CpuMatrix) -> &CodePanels {
    let Weights::Codes(panels) = &matrix.weights else {
        unreachable!("products of plain numbers are `linear`'s")
    };
    panels
}

impl CodesLinear<'_> {
    fn features_per_task(&self, num_threads: usize) -> usize {
        let weights = codes_of(&self.terms[0].matrices[0]);
        let num_panels = weights.rows.div_ceil(PANEL) * self.rows.num_groups();
        let by_threads = num_panels.div_ceil(num_threads * TASKS_PER_THREAD);
        let by_cache = TASK_WEIGHT_BYTES / weights.bytes_per_panel().max(1);
        // Where all rows meet a panel in one go, nothing needs to stay.
        let panels = if self.rows.longest() <= tile::BLOCK_ROWS {
            by_threads
        } else {
            by_threads.min(by_cache)
        };
        panels.max(1) * PANEL
    }

    fn run_task(&self, dots: Dots, term: (&Term<'_>, &CodePanels), tile: Tile<'_>) {
        let CodeLayout { codes, num_groups, has_min } = term.1.layout;
        match (codes, num_groups, has_min) {
            (CodeKind::Byte, 1, false) => dots.run(self.task::<false, 1, false>(term, tile)),
            (CodeKind::Byte, 1, true) => dots.run(self.task::<false, 1, true>(term, tile)),
            (CodeKind::Byte, _, false) => dots.run(self.task::<false, 2, false>(term, tile)),
            (CodeKind::Byte, _, true) => dots.run(self.task::<false, 2, true>(term, tile)),
            (CodeKind::Nibble, 1, false) => dots.run(self.task::<true, 1, false>(term, tile)),
            (CodeKind::Nibble, 1, true) => dots.run(self.task::<true, 1, true>(term, tile)),
            (CodeKind::Nibble, _, false) => dots.run(self.task::<true, 2, false>(term, tile)),
            (CodeKind::Nibble, _, true) => dots.run(self.task::<true, 2, true>(term, tile)),
        }
    }

    fn task<'t, const NIBBLES: bool, const GROUPS: usize, const MINS: bool>(
        &'t self,
        (term, weights): (&Term<'t>, &'t CodePanels),
        tile: Tile<'t>,
    ) -> Task<'t, NIBBLES, GROUPS, MINS> {
        Task { x: self.x, weights, epilogue: term.epilogue, vectors: self.vectors, tile }
    }
}
