//! The gated activation of the MLP.

use crate::cpu::simd::{Simd, TILE, exp};

/// `gate = gate / (1 + e^-gate) * up`, sixteen at a time.
#[inline(always)]
pub(crate) fn silu_mul_in_place<S: Simd>(simd: S, gate: &mut [f32; TILE], up: &[f32; TILE]) {
    for (gate, up) in S::chunks_mut(gate).iter_mut().zip(S::chunks(up)) {
        simd.store(silu_mul(simd, simd.load(gate), simd.load(up)), gate);
    }
}

/// For a very negative gate `e^-gate` is infinite, and the quotient 0 as it should be.
#[inline(always)]
fn silu_mul<S: Simd>(simd: S, gate: S::F32, up: S::F32) -> S::F32 {
    let decay = exp(simd, simd.sub(simd.zero(), gate));
    simd.mul(simd.div(gate, simd.add(simd.splat(1.0), decay)), up)
}
