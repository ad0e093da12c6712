//! The functions of a feed-forward part, and its gate.
//!
//! `SiLU` and the gate behind it are the end of a product without a bias. The others are rarer, and as long as a short product: they pass
//! over what a product left in its tile, so that the code of products stays small.

use crate::activation::{Activation, GELU_CUBE};
use crate::cpu::simd::{Kernel, Simd, TILE, exp};

/// `gate = gate / (1 + e^-gate) * up`, sixteen at a time.
#[inline(always)]
pub(crate) fn silu_mul_in_place<S: Simd>(simd: S, gate: &mut [f32; TILE], up: &[f32; TILE]) {
    for (gate, up) in S::chunks_mut(gate).iter_mut().zip(S::chunks(up)) {
        let silu = silu(simd, simd.load(gate));
        simd.store(simd.mul(silu, simd.load(up)), gate);
    }
}

/// Values that a function is applied to, in place.
pub(crate) struct Activate<'a> {
    pub(crate) activation: Activation,
    pub(crate) values: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { activation, values } = self;
        let len = values.len() / S::LANES * S::LANES;
        for chunk in S::chunks_mut(values) {
            simd.store(apply(simd, activation, simd.load(chunk)), chunk);
        }
        let rest = &mut values[len..];
        let value = apply(simd, activation, simd.load_partial(rest));
        simd.store_partial(value, rest);
    }
}

#[inline(always)]
fn apply<S: Simd>(simd: S, activation: Activation, x: S::F32) -> S::F32 {
    match activation {
        Activation::Silu => silu(simd, x),
        Activation::GeluTanh => gelu_tanh(simd, x),
        Activation::GeluErf => gelu_erf(simd, x),
    }
}

/// For a very negative `x` `e^-x` is infinite, and the quotient 0 as it should be.
#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let decay = exp(simd, simd.sub(simd.zero(), x));
    simd.div(x, simd.add(simd.splat(1.0), decay))
}

/// Half of `1 + tanh(u)` is `1 / (1 + e^-2u)`: the same quotient as above.
#[inline(always)]
fn gelu_tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // -2√(2/π), and the same times the factor of the cube.
    const SLOPE: f64 = -1.595_769_121_605_731;
    const LINEAR: f32 = SLOPE as f32;
    const CUBIC: f32 = (SLOPE * GELU_CUBE) as f32;
    let slope = simd.mul_add(simd.splat(CUBIC), simd.mul(x, x), simd.splat(LINEAR));
    let decay = exp(simd, simd.mul(x, slope));
    simd.div(x, simd.add(simd.splat(1.0), decay))
}

/// With `Φ(-a) = e^(-a²/2) s(t)`, `t = 1 / (1 + 0.26 a)`, both halves are `max(x, 0) - |x| Φ(-|x|)`.
///
/// `s` is a polynomial of degree 9 without a constant, fitted to `e^(a²/2) Φ(-a)` over `0 <= a <= 14` for the least relative
/// error, 2.5e-8; beyond that `Φ(-a)` is 0 in f32.
#[inline(always)]
fn gelu_erf<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const SERIES: [f32; 8] = [
        -0.152_829_1,
        0.251_491_86,
        -0.150_949_6,
        0.160_948_29,
        0.051_027_5,
        0.103_030_3,
        0.103_016_74,
        0.103_759_06,
    ];
    let one = simd.splat(1.0);
    let magnitude = simd.max(simd.sub(simd.zero(), x), x);
    // An infinite one, times its tail of 0, would be no number.
    let magnitude = simd.min(simd.splat(1e4), magnitude);
    let t = simd.div(one, simd.mul_add(simd.splat(0.26), magnitude, one));
    let mut series = simd.splat(0.030_504_942);
    for coefficient in SERIES {
        series = simd.mul_add(series, t, simd.splat(coefficient));
    }
    let halved = simd.mul(magnitude, simd.splat(-0.5));
    let decay = exp(simd, simd.mul(halved, magnitude));
    let tail = simd.mul(simd.mul(series, t), decay);
    // `max` hands on its second argument where either is no number.
    simd.sub(simd.max(simd.zero(), x), simd.mul(magnitude, tail))
}
