//! What a product multiplies: f32 rows with panels of any type, with a scale among them or not, or rounded rows with
//! panels of bf16.

use half::bf16;

use crate::cpu::fp8::{E4m3, Fp8Block, Fp8Panels};
use crate::cpu::linear::tile::{Sums, products, rounded_products};
use crate::cpu::matrix::{Element, PANEL, Panels, STEP};
use crate::cpu::simd::{Simd, TILE_VECTORS_MAX};
use crate::formats::FP8_BLOCK_LEN;

/// Rows and panels that can be multiplied.
pub(crate) trait Operands: Copy {
    /// Returns whether tiles may be larger than a row by a panel.
    fn fit_large_tiles(self) -> bool;

    /// Returns the products of `MR` rows and `NP` panels.
    fn products<S: Simd, const MR: usize, const NP: usize>(
        self,
        simd: S,
        first_row: usize,
        first_panel: usize,
    ) -> Sums<S, MR, NP>;
}

/// Activations as they are: `x` `[num_rows, cols]`.
#[derive(Clone, Copy)]
pub(crate) struct Exact<'a, E> {
    pub(crate) x: &'a [f32],
    pub(crate) cols: usize,
    pub(crate) panels: &'a Panels<E>,
}

impl<E: Element> Operands for Exact<'_, E> {
    /// No published model has an odd width, so that one goes slowly instead of each tile having code for it.
    fn fit_large_tiles(self) -> bool {
        self.cols.is_multiple_of(2)
    }

    #[inline(always)]
    fn products<S: Simd, const MR: usize, const NP: usize>(
        self,
        simd: S,
        first_row: usize,
        first_panel: usize,
    ) -> Sums<S, MR, NP> {
        let x = rows::<f32, MR>(self.x, self.cols, first_row);
        products::<S, E, MR, NP>(simd, x, panels::<E, NP>(self.panels, first_panel))
    }
}

/// Activations in pairs of bf16: `pairs` `[num_rows, pairs_per_row]`.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<'a> {
    pub(crate) pairs: &'a [u32],
    pub(crate) pairs_per_row: usize,
    pub(crate) panels: &'a Panels<bf16>,
}

impl Operands for Rounded<'_> {
    fn fit_large_tiles(self) -> bool {
        true
    }

    #[inline(always)]
    fn products<S: Simd, const MR: usize, const NP: usize>(
        self,
        simd: S,
        first_row: usize,
        first_panel: usize,
    ) -> Sums<S, MR, NP> {
        let x = rows::<u32, MR>(self.pairs, self.pairs_per_row, first_row);
        rounded_products::<S, MR, NP>(simd, x, panels::<bf16, NP>(self.panels, first_panel))
    }
}

/// Activations as they are, `x` `[num_rows, cols]`, with panels of E4M3.
#[derive(Clone, Copy)]
pub(crate) struct Scaled<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) cols: usize,
    pub(crate) panels: &'a Fp8Panels,
}

impl Operands for Scaled<'_> {
    fn fit_large_tiles(self) -> bool {
        self.cols.is_multiple_of(2)
    }

    /// Each block of columns is a chain of its own, over codes; times their scales they are added, ascending. The scale of a
    /// sum instead of each weight's: one product in 128 more, and sums that leave the registers once a block.
    #[inline(always)]
    fn products<S: Simd, const MR: usize, const NP: usize>(
        self,
        simd: S,
        first_row: usize,
        first_panel: usize,
    ) -> Sums<S, MR, NP> {
        let x = rows::<f32, MR>(self.x, self.cols, first_row);
        let mut panels: [&[Fp8Block]; NP] = [&[]; NP];
        for n in 0..NP {
            panels[n] = self.panels.panel(first_panel + n);
        }
        let mut totals = [[[simd.zero(); TILE_VECTORS_MAX]; NP]; MR];
        for block in 0..panels[0].len() {
            let start = block * FP8_BLOCK_LEN;
            let end = self.cols.min(start + FP8_BLOCK_LEN);
            let (mut some_x, mut steps): ([&[f32]; MR], [&[[E4m3; STEP]]; NP]) =
                ([&[]; MR], [&[]; NP]);
            for m in 0..MR {
                some_x[m] = &x[m][start..end];
            }
            for n in 0..NP {
                steps[n] = &panels[n][block].steps;
            }
            let sums = products::<S, E4m3, MR, NP>(simd, some_x, steps);
            for n in 0..NP {
                let scales = S::chunks(&panels[n][block].scales);
                for v in 0..PANEL / S::LANES {
                    let scale = simd.load(&scales[v]);
                    for m in 0..MR {
                        totals[m][n][v] = simd.mul_add(sums[m][n][v], scale, totals[m][n][v]);
                    }
                }
            }
        }
        totals
    }
}

#[inline(always)]
fn rows<T, const MR: usize>(x: &[T], width: usize, first_row: usize) -> [&[T]; MR] {
    let mut rows: [&[T]; MR] = [&[]; MR];
    for m in 0..MR {
        rows[m] = &x[(first_row + m) * width..(first_row + m + 1) * width];
    }
    rows
}

#[inline(always)]
fn panels<E: Element, const NP: usize>(
    weights: &Panels<E>,
    first_panel: usize,
) -> [&[[E; STEP]]; NP] {
    let mut panels: [&[[E; STEP]]; NP] = [&[]; NP];
    for n in 0..NP {
        panels[n] = weights.panel(first_panel + n);
    }
    panels
}
