//! Up to three activation rows: each weight is read from memory once, widened in a register and used at once.
//!
//! # Limit
//! Memory: 2 flops a byte of bf16 and row.

use crate::cpu::grid::Tile;
use crate::cpu::linear::Operands;
use crate::cpu::linear::tile::{NR_MAX, Sums, add_products};
use crate::cpu::matrix::Element;
use crate::cpu::simd::{Kernel, Simd};

/// One task: the tile's rows of activations against its columns' rows of weights.
pub(crate) struct Gemv<'a, E> {
    pub(crate) operands: Operands<'a, E>,
    pub(crate) tile: Tile<'a>,
}

impl<E: Element> Kernel for Gemv<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        match self.tile.rows.len() {
            0 => {}
            1 => self.rows::<S, 1>(simd),
            2 => self.rows::<S, 2>(simd),
            3 => self.rows::<S, 3>(simd),
            _ => unreachable!("a tile has at most `MR_MAX` rows"),
        }
    }
}

impl<E: Element> Gemv<'_, E> {
    #[inline(always)]
    fn rows<S: Simd, const MR: usize>(&mut self, simd: S) {
        let mut feature = self.tile.columns.start;
        while feature + NR_MAX <= self.tile.columns.end {
            self.features::<S, MR, NR_MAX>(simd, feature);
            feature += NR_MAX;
        }
        while feature < self.tile.columns.end {
            self.features::<S, MR, 1>(simd, feature);
            feature += 1;
        }
    }

    /// Computes `NR` outputs of each row, from `feature` on.
    #[inline(always)]
    fn features<S: Simd, const MR: usize, const NR: usize>(&mut self, simd: S, feature: usize) {
        let first_row = self.tile.rows.start;
        let mut x: [&[f32]; MR] = [&[]; MR];
        for m in 0..MR {
            x[m] = self.operands.x_row(first_row + m);
        }
        let mut w: [&[E]; NR] = [&[]; NR];
        for n in 0..NR {
            w[n] = self.operands.weights.row(feature + n);
        }
        let mut sums: Sums<S, MR, NR> = [[simd.zero(); NR]; MR];
        add_products::<S, E, MR, NR>(simd, x, w, &mut sums);
        for m in 0..MR {
            self.operands.write::<S, NR>(simd, &mut self.tile, first_row + m, feature, sums[m]);
        }
    }
}
