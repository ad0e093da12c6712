//! The register tile of a product: `MR` rows of activations against `NP` panels of weights, a running sum each.
//!
//! # Order
//! The sum of an output is one lane. It takes `x[k] * w[k]` for `k` ascending, fused where the tier fuses. Nothing in
//! that depends on `MR`, `NP`, the block, the task or the thread, nor on the width of the vectors: a row's result is
//! bit for bit the same alone and in company, and on all tiers that fuse. Rounded products take pairs of columns, `k`
//! ascending, the second of a pair first.

use std::hint::black_box;

use half::bf16;

use crate::cpu::matrix::{Element, PANEL, STEP};
use crate::cpu::simd::{Simd, TILE_VECTORS_MAX};

/// Rows of the tallest tile. Six rows by two vectors are twelve sums; with two vectors of weights and an activation
/// that is 15 registers of the 16 that AVX2 has, and eight loads feed twelve FMAs: the FMAs are the limit.
pub(crate) const MR_MAX: usize = 6;

/// Returns how many of the rows that are left the next tile takes: as few tiles as can be, of heights as even as can be.
#[inline(always)]
pub(crate) fn next_height(num_left: usize) -> usize {
    num_left.div_ceil(num_left.div_ceil(MR_MAX).max(1))
}

/// The running sums of a tile; of the vectors of a panel the wide tiers use the first only.
pub(crate) type Sums<S, const MR: usize, const NP: usize> =
    [[[<S as Simd>::F32; TILE_VECTORS_MAX]; NP]; MR];

/// Returns the products of rows of bf16 pairs, padded with a zero, and of the panels `w`.
///
/// # Panics
/// As [`products`].
#[inline(always)]
pub(crate) fn rounded_products<S: Simd, const MR: usize, const NP: usize>(
    simd: S,
    x: [&[u32]; MR],
    w: [&[[bf16; STEP]]; NP],
) -> Sums<S, MR, NP> {
    let mut sums = [[[simd.zero(); TILE_VECTORS_MAX]; NP]; MR];
    let num_pairs = x[0].len();
    let (mut rows, mut steps) = (x, w);
    for m in 0..MR {
        rows[m] = &x[m][..num_pairs];
    }
    for n in 0..NP {
        steps[n] = &w[n][..num_pairs];
    }
    for k in 0..num_pairs {
        for n in 0..NP {
            let weights = S::bf16_pairs(&steps[n][k]);
            for m in 0..MR {
                for v in 0..PANEL / S::LANES {
                    sums[m][n][v] = simd.dot_bf16_pairs(&weights[v], rows[m][k], sums[m][n][v]);
                }
            }
        }
    }
    sums
}

/// Returns the products of the rows of `x`, `[cols]` each, and of the panels `w`; of an odd number of columns where
/// the tile is a row by a panel.
///
/// # Panics
/// Where a panel has fewer steps than the rows of `x` have pairs of columns, a row is shorter than the first, or
/// columns are odd and the tile is larger.
#[inline(always)]
pub(crate) fn products<S: Simd, E: Element, const MR: usize, const NP: usize>(
    simd: S,
    x: [&[f32]; MR],
    w: [&[[E; STEP]]; NP],
) -> Sums<S, MR, NP> {
    let mut sums = [[[simd.zero(); TILE_VECTORS_MAX]; NP]; MR];
    let num_pairs = x[0].len() / 2;
    let mut pairs: [&[[f32; 2]]; MR] = [&[]; MR];
    let mut steps: [&[[E; STEP]]; NP] = [&[]; NP];
    // Equal lengths, said once, spare the loop its bounds checks. Rows are hidden from the compiler for it not to see that
    // they lie a stride apart: it would keep one pointer and the stride, and run out of registers for both.
    for m in 0..MR {
        pairs[m] = &black_box(x[m]).as_chunks().0[..num_pairs];
    }
    for n in 0..NP {
        steps[n] = &w[n][..num_pairs];
    }
    for k in 0..num_pairs {
        let mut activations = [&[0.0; 2]; MR];
        let mut weights = [&w[0][0]; NP];
        for m in 0..MR {
            activations[m] = &pairs[m][k];
        }
        for n in 0..NP {
            weights[n] = &steps[n][k];
        }
        add_step(simd, activations, weights, &mut sums);
    }
    if !x[0].len().is_multiple_of(2) {
        assert!(MR * NP == 1, "an odd column must meet the smallest tile");
        if MR * NP == 1 {
            // With the zeros that pad the panel.
            let last = [x[0][num_pairs * 2], 0.0];
            add_step(simd, [&last; MR], [&w[0][num_pairs]; NP], &mut sums);
        }
    }
    sums
}

/// Adds two columns. Of the weights no more than a panel's column is alive at a time: AVX2 has no register for more.
#[inline(always)]
fn add_step<S: Simd, E: Element, const MR: usize, const NP: usize>(
    simd: S,
    x: [&[f32; 2]; MR],
    w: [&[E; STEP]; NP],
    sums: &mut Sums<S, MR, NP>,
) {
    for col in 0..2 {
        for n in 0..NP {
            let mut weights = [simd.zero(); TILE_VECTORS_MAX];
            for v in 0..PANEL / S::LANES {
                weights[v] = E::load(simd, w[n], v, col);
            }
            for m in 0..MR {
                let activation = simd.splat(x[m][col]);
                for v in 0..PANEL / S::LANES {
                    sums[m][n][v] = simd.mul_add(activation, weights[v], sums[m][n][v]);
                }
            }
        }
    }
}
