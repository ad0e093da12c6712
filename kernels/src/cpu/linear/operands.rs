//! What a product multiplies: f32 rows with panels of any type, or rounded rows with panels of bf16.

use half::bf16;

use crate::cpu::linear::tile::{Sums, products, rounded_products};
use crate::cpu::matrix::{Element, Panels, STEP};
use crate::cpu::simd::Simd;

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
