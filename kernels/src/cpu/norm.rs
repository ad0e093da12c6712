//! Root mean square norm.
//!
//! # Limit
//! Memory, and there is little of it: a row is read twice from cache and written once.

use crate::cpu::simd::{Kernel, Simd};

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
