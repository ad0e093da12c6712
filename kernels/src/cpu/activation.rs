//! The gated activation of the MLP.

use crate::cpu::simd::{Kernel, Simd, exp};

/// One row: `out = gate / (1 + e^-gate) * up`.
pub(crate) struct SiluMul<'a> {
    pub(crate) gate: &'a [f32],
    pub(crate) up: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { gate, up, out } = self;
        let len = gate.len() / S::LANES * S::LANES;
        let operands = S::chunks(gate).iter().zip(S::chunks(up));
        for (out, (gate, up)) in S::chunks_mut(out).iter_mut().zip(operands) {
            simd.store(silu_mul(simd, simd.load(gate), simd.load(up)), out);
        }
        let rest = silu_mul(simd, simd.load_partial(&gate[len..]), simd.load_partial(&up[len..]));
        simd.store_partial(rest, &mut out[len..]);
    }
}

/// For a very negative gate `e^-gate` is infinite, and the quotient 0 as it should be.
#[inline(always)]
fn silu_mul<S: Simd>(simd: S, gate: S::F32, up: S::F32) -> S::F32 {
    let decay = exp(simd, simd.sub(simd.zero(), gate));
    simd.mul(simd.div(gate, simd.add(simd.splat(1.0), decay)), up)
}
