//! Norms of a row: by the root mean square, and by mean and variance.
//!
//! # Limit
//! Memory, and there is little of it: a row is read twice from cache and written once.

use crate::cpu::grid::Grid;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, Vectors};
use crate::parts::Norm;

/// Norms rows of `x` into `out`, both `[num_rows, width]`.
pub(crate) fn norm_rows(
    pool: &mut Pool,
    vectors: Vectors,
    num_rows: usize,
    x: &[f32],
    norm: &Norm<'_, [f32]>,
    out: &mut [f32],
) {
    let width = norm.weight().len();
    Grid::of_rows(num_rows, width).for_each_tile(pool, out, &|mut tile| {
        for row in tile.rows() {
            let (x, out) = (&x[row * width..(row + 1) * width], tile.row(row));
            match *norm {
                Norm::Rms { weight, eps } => vectors.run(RmsNorm { x, weight, eps, out }),
                Norm::Layer { weight, bias, eps } => {
                    vectors.run(LayerNorm { x, weight, bias, eps, out });
                }
            }
        }
    });
}

/// One row: `out = x / sqrt(mean(x²) + eps) * weight`, in the order of Hugging Face: scale first, weight second.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, weight, eps, out } = self;
        let len = x.len() / S::LANES * S::LANES;
        let mut squares = simd.zero();
        for chunk in S::chunks(x) {
            let value = simd.load(chunk);
            squares = simd.mul_add(value, value, squares);
        }
        let rest = simd.load_partial(&x[len..]);
        squares = simd.mul_add(rest, rest, squares);
        let mean = simd.reduce_add(squares) / x.len() as f32;
        let scale = simd.splat(1.0 / (mean + eps).sqrt());

        let operands = S::chunks(x).iter().zip(S::chunks(weight));
        for (out, (x, weight)) in S::chunks_mut(out).iter_mut().zip(operands) {
            let scaled = simd.mul(simd.load(x), scale);
            simd.store(simd.mul(scaled, simd.load(weight)), out);
        }
        let scaled = simd.mul(rest, scale);
        let weighted = simd.mul(scaled, simd.load_partial(&weight[len..]));
        simd.store_partial(weighted, &mut out[len..]);
    }
}

/// One row: `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
///
/// The variance is the mean square of the differences, not a difference of two sums: those would cancel where the mean is
/// large.
pub(crate) struct LayerNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, weight, bias, eps, out } = self;
        let len = x.len() / S::LANES * S::LANES;
        let mut sums = simd.load_partial(&x[len..]);
        for chunk in S::chunks(x) {
            sums = simd.add(sums, simd.load(chunk));
        }
        let mean = simd.splat(simd.reduce_add(sums) / x.len() as f32);

        // Lanes behind the last value are none of its: their differences are put back to zero.
        simd.store_partial(simd.sub(simd.load_partial(&x[len..]), mean), &mut out[len..]);
        let rest = simd.load_partial(&out[len..]);
        let mut squares = simd.mul(rest, rest);
        for chunk in S::chunks(x) {
            let difference = simd.sub(simd.load(chunk), mean);
            squares = simd.mul_add(difference, difference, squares);
        }
        let variance = simd.reduce_add(squares) / x.len() as f32;
        let scale = simd.splat(1.0 / (variance + eps).sqrt());

        let operands = S::chunks(x).iter().zip(S::chunks(weight)).zip(S::chunks(bias));
        for (out, ((x, weight), bias)) in S::chunks_mut(out).iter_mut().zip(operands) {
            let normed = simd.mul(simd.sub(simd.load(x), mean), scale);
            simd.store(simd.mul_add(normed, simd.load(weight), simd.load(bias)), out);
        }
        let (weight, bias) = (simd.load_partial(&weight[len..]), simd.load_partial(&bias[len..]));
        let weighted = simd.mul_add(simd.mul(rest, scale), weight, bias);
        simd.store_partial(weighted, &mut out[len..]);
    }
}
