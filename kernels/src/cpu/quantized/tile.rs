//! The register tile of an integer product: a few activation rows against a panel of sixteen features.
//!
//! # Order
//! Blocks of 32 columns ascend. A block's codes are summed exactly, group by group; then, in f32, each group's
//! `sum * scale`, less `minimum * sum of the activations' codes`, times the activations' scale, is added to the row's
//! running sum with one rounding. Nothing in that depends on the tier, the rows beside it, the task or the thread.

use half::f16;

use crate::cpu::grid::Tile;
use crate::cpu::linear::Epilogue;
use crate::cpu::quantized::activations::{ActivationBlock, ActivationRows};
use crate::cpu::quantized::dot::{Dot, DotKernel, Line, PANEL};
use crate::cpu::quantized::layout::STEPS;
use crate::cpu::quantized::panels::{CodePanels, Panel};
use crate::cpu::simd::{Kernel, Simd, Vectors};
use crate::formats::NIBBLE_CENTRE;

/// Rows that a panel meets before the next panel's turn. A panel of 896 columns and so many rows share an L1 of 32 KiB,
/// one of 4864 an L2 of 512 KiB.
pub(crate) const BLOCK_ROWS: usize = 16;

/// Brings the sums of a row to their place, in the vectors of f32.
struct Finish<'a> {
    epilogue: Epilogue<'a>,
    out: &'a mut [f32],
    feature: usize,
    sums: &'a [f32; PANEL],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.epilogue.write(simd, self.out, self.feature, self.sums);
    }
}

/// A task: all rows against the panels of the tile's columns. The form of the codes is in the type, so that each loop is
/// compiled for its own.
pub(crate) struct Task<'a, const NIBBLES: bool, const GROUPS: usize, const MINS: bool> {
    pub(crate) x: ActivationRows<'a>,
    pub(crate) weights: &'a CodePanels,
    pub(crate) epilogue: Epilogue<'a>,
    pub(crate) vectors: Vectors,
    pub(crate) tile: Tile<'a>,
}

impl<const NIBBLES: bool, const GROUPS: usize, const MINS: bool> DotKernel
    for Task<'_, NIBBLES, GROUPS, MINS>
{
    #[inline(always)]
    fn run<D: Dot>(mut self, dot: D) {
        let (rows, columns) = (self.tile.rows(), self.tile.columns());
        for start in rows.clone().step_by(BLOCK_ROWS) {
            let end = rows.end.min(start + BLOCK_ROWS);
            for index in columns.start / PANEL..columns.end.div_ceil(PANEL) {
                let mut row = start;
                while row < end {
                    // The greatest power of two that fits.
                    let height = D::ROWS_MAX.min(1 << (end - row).ilog2());
                    match height {
                        8 => self.rows::<D, 8>(dot, row, index),
                        4 => self.rows::<D, 4>(dot, row, index),
                        2 => self.rows::<D, 2>(dot, row, index),
                        _ => self.rows::<D, 1>(dot, row, index),
                    }
                    row += height;
                }
            }
        }
    }
}

impl<const NIBBLES: bool, const GROUPS: usize, const MINS: bool> Task<'_, NIBBLES, GROUPS, MINS> {
    /// Computes a panel's features of `MR` rows.
    #[inline(always)]
    fn rows<D: Dot, const MR: usize>(&mut self, dot: D, first_row: usize, index: usize) {
        if MR > D::ROWS_MAX {
            // Spares the tier the code of tiles that it has no registers for.
            unreachable!("the tier has tiles of {} rows at most, not {MR}", D::ROWS_MAX);
        }
        let panel = self.weights.panel(index);
        let mut x: [&[ActivationBlock]; MR] = [&[]; MR];
        for m in 0..MR {
            x[m] = self.x.row(first_row + m);
        }
        let sums = if NIBBLES {
            add_blocks::<D, MR, { STEPS / 2 }, NIBBLES, GROUPS, MINS>(dot, x, panel)
        } else {
            add_blocks::<D, MR, STEPS, NIBBLES, GROUPS, MINS>(dot, x, panel)
        };
        let columns = self.tile.columns();
        let (start, end) = (index * PANEL, columns.end.min((index + 1) * PANEL));
        for m in 0..MR {
            let lanes = dot.lanes(sums[m]);
            let row = self.tile.row(first_row + m);
            let out = &mut row[start - columns.start..end - columns.start];
            let epilogue = self.epilogue;
            self.vectors.run(Finish { epilogue, out, feature: start, sums: &lanes });
        }
    }
}

/// Returns the sums of `MR` rows over all blocks of a panel of `LINES` a block.
#[inline(always)]
fn add_blocks<
    D: Dot,
    const MR: usize,
    const LINES: usize,
    const NIBBLES: bool,
    const GROUPS: usize,
    const MINS: bool,
>(
    dot: D,
    mut x: [&[ActivationBlock]; MR],
    panel: Panel<'_>,
) -> [D::Floats; MR] {
    let num_factors = GROUPS * (1 + usize::from(MINS));
    let lines = panel.lines.as_chunks::<LINES>().0;
    let len = lines.len();
    // Equal lengths, said once, spare the loop its bounds checks.
    for row in &mut x {
        *row = &row[..len];
    }
    let factors = &panel.factors[..len * num_factors];
    let mut running = [dot.zero(); MR];
    for block in 0..len {
        let mut blocks = [&x[0][block]; MR];
        for m in 0..MR {
            blocks[m] = &x[m][block];
        }
        let factors = &factors[block * num_factors..(block + 1) * num_factors];
        for group in 0..GROUPS {
            let lines = &lines[block][group * LINES / GROUPS..(group + 1) * LINES / GROUPS];
            let sums = if NIBBLES {
                nibble_sums::<D, MR, MINS>(dot, &blocks, lines, group, GROUPS)
            } else {
                byte_sums::<D, MR>(dot, &blocks, lines, group, GROUPS)
            };
            let mins = if MINS { &factors[GROUPS + group] } else { &factors[group] };
            let factors = (&factors[group], mins);
            add_group::<D, MR, GROUPS, MINS>(dot, &blocks, factors, (group, sums), &mut running);
        }
    }
    running
}

/// Sums the products of a group of bytes.
#[inline(always)]
fn byte_sums<D: Dot, const MR: usize>(
    dot: D,
    blocks: &[&ActivationBlock; MR],
    lines: &[Line],
    group: usize,
    num_groups: usize,
) -> [D::Ints; MR] {
    let first_step = group * STEPS / num_groups;
    let mut sums = [dot.zero_ints(); MR];
    for i in 0..STEPS / num_groups {
        let codes = dot.signed(&lines[i]);
        for m in 0..MR {
            sums[m] = dot.add_signed(sums[m], codes, blocks[m].codes[first_step + i]);
        }
    }
    for m in 0..MR {
        sums[m] = dot.signed_sums(sums[m], total(blocks[m], group, num_groups));
    }
    sums
}

/// Sums the products of a group of nibbles; without minimums they lie around [`NIBBLE_CENTRE`].
#[inline(always)]
fn nibble_sums<D: Dot, const MR: usize, const MINS: bool>(
    dot: D,
    blocks: &[&ActivationBlock; MR],
    lines: &[Line],
    group: usize,
    num_groups: usize,
) -> [D::Ints; MR] {
    let first_step = group * STEPS / num_groups;
    let mut running = [dot.zero_nibble_sums(); MR];
    for i in 0..STEPS / 2 / num_groups {
        let [low, high] = dot.nibbles(&lines[i]);
        for m in 0..MR {
            let step = first_step + 2 * i;
            running[m] = dot.add_nibbles(running[m], low, blocks[m].codes[step]);
            running[m] = dot.add_nibbles(running[m], high, blocks[m].codes[step + 1]);
        }
    }
    let mut sums = [dot.zero_ints(); MR];
    for m in 0..MR {
        let total = total(blocks[m], group, num_groups);
        let start = if MINS { 0 } else { -i32::from(NIBBLE_CENTRE) * total };
        sums[m] = dot.nibble_sums(running[m], start);
    }
    sums
}

/// Returns the sum of the activations' codes of a group.
#[inline(always)]
fn total(block: &ActivationBlock, group: usize, num_groups: usize) -> i32 {
    if num_groups == 1 { block.total } else { block.totals[group] }
}

/// Adds a group's sums, `factors` being its scales and minimums, to the running sums.
#[inline(always)]
fn add_group<D: Dot, const MR: usize, const GROUPS: usize, const MINS: bool>(
    dot: D,
    blocks: &[&ActivationBlock; MR],
    factors: (&[f16; PANEL], &[f16; PANEL]),
    (group, sums): (usize, [D::Ints; MR]),
    running: &mut [D::Floats; MR],
) {
    let (scales, mins) = (dot.factors(factors.0), dot.factors(factors.1));
    for m in 0..MR {
        let mut products = dot.scaled(sums[m], scales);
        if MINS {
            let total = total(blocks[m], group, GROUPS) as f32;
            products = dot.mul_add(mins, -total, products);
        }
        running[m] = dot.mul_add(products, blocks[m].scale, running[m]);
    }
}
