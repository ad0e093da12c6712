//! The exponential, for softmax and `SiLU`: one formula for every lane, remainder lanes too.

use crate::cpu::simd::Simd;

/// Below this the result is 0: half of the least f32 is 2^-150 = e^-103.97.
const LOWEST: f32 = -105.0;
/// Above this the result is infinite: the greatest f32 is e^88.72.
const HIGHEST: f32 = 89.0;
/// Added and taken off, it leaves the nearest integer (ties to even): the spacing of f32 in 2^23..2^24 is 1.
const ROUNDER: f32 = 1.5 * 8_388_608.0;
/// ln 2 in two parts; the first has 9 bits, so that its product with `n` (8 bits) is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
/// What is left of ln 2.
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Returns `e^x` a lane, off by at most 2 units in the last place; NaN stays NaN, -∞ gives 0, ∞ gives ∞.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; Taylor's series to `r^7` is off by 6e-9 there, a twentieth of a unit.
/// `2^n` is applied in two halves, so that results past the normal range overflow and underflow as they should.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // The bound comes first: `min` and `max` hand on their second argument where either is NaN.
    let x = simd.max(simd.splat(LOWEST), simd.min(simd.splat(HIGHEST), x));
    let n = nearest(simd, simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-LN_2_HIGH), x);
    let r = simd.mul_add(n, simd.splat(-LN_2_LOW), r);
    let mut series = simd.splat(1.0 / 5040.0);
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = simd.mul_add(series, r, simd.splat(coefficient));
    }
    let half = nearest(simd, simd.mul(n, simd.splat(0.5)));
    let other_half = simd.sub(n, half);
    simd.mul(simd.mul(series, simd.pow2(half)), simd.pow2(other_half))
}

#[inline(always)]
fn nearest<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    simd.sub(simd.add(x, simd.splat(ROUNDER)), simd.splat(ROUNDER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Kernel, SimdTier, Vectors};

    struct Exp(f32);

    impl Kernel for Exp {
        type Output = f32;

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            let mut chunk = simd.zero_chunk();
            simd.store(exp(simd, simd.splat(self.0)), &mut chunk);
            chunk.as_ref()[S::LANES - 1]
        }
    }

    fn tiers() -> impl Iterator<Item = Vectors> {
        SimdTier::available().map(|tier| Vectors::new(tier).unwrap())
    }

    #[test]
    fn is_within_two_units_in_the_last_place() {
        for vectors in tiers() {
            let mut worst = 0.0_f64;
            for step in -880_000..=887_000 {
                let x = step as f32 * 1e-4;
                let expected = f64::from(x).exp();
                let unit = expected * f64::from(f32::EPSILON);
                if expected > f64::from(f32::MIN_POSITIVE) {
                    let error = (f64::from(vectors.run(Exp(x))) - expected).abs() / unit;
                    worst = worst.max(error);
                }
            }
            assert!(worst < 2.0, "{}: {worst} units", vectors.tier());
        }
    }

    #[test]
    fn keeps_the_edges() {
        for vectors in tiers() {
            let exp = |x| vectors.run(Exp(x));
            assert!(exp(f32::NAN).is_nan());
            assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
            assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
            assert_eq!(exp(-1e30).to_bits(), 0);
            assert!(exp(f32::INFINITY).is_infinite());
            assert!(exp(88.8).is_infinite());
            assert!((exp(-100.0) - 3.783_5e-44).abs() < 2e-45, "denormals are kept");
        }
    }
}
