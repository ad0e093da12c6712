//! The tier of every machine: arrays of eight, which compilers turn into whatever the target's baseline has.
//!
//! It does not fuse multiply and add: without the instruction that is a call into libm per product.

use half::{bf16, f16};

use crate::cpu::simd::Simd;

const LANES: usize = 8;

/// The token of the scalar tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

#[inline(always)]
fn lanewise(a: [f32; LANES], b: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        *out = op(*out, b);
    }
    out
}

#[inline(always)]
fn reduce(vector: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> f32 {
    let ([low @ .., _, _, _, _], [_, _, _, _, high @ ..]) = (vector, vector);
    let mut four = low;
    for lane in 0..4 {
        four[lane] = op(four[lane], high[lane]);
    }
    op(op(four[0], four[2]), op(four[1], four[3]))
}

impl Simd for Scalar {
    const LANES: usize = LANES;

    type F32 = [f32; LANES];
    type F32s = [f32; LANES];
    type Bf16s = [bf16; LANES];
    type F16s = [f16; LANES];

    #[inline(always)]
    fn chunks(values: &[f32]) -> &[[f32; LANES]] {
        values.as_chunks().0
    }

    #[inline(always)]
    fn chunks_mut(values: &mut [f32]) -> &mut [[f32; LANES]] {
        values.as_chunks_mut().0
    }

    #[inline(always)]
    fn bf16_chunks(values: &[bf16]) -> &[[bf16; LANES]] {
        values.as_chunks().0
    }

    #[inline(always)]
    fn f16_chunks(values: &[f16]) -> &[[f16; LANES]] {
        values.as_chunks().0
    }

    #[inline(always)]
    fn zero_chunk(self) -> [f32; LANES] {
        [0.0; LANES]
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, chunk: &[f32; LANES]) -> [f32; LANES] {
        *chunk
    }

    #[inline(always)]
    fn store(self, vector: [f32; LANES], chunk: &mut [f32; LANES]) {
        *chunk = vector;
    }

    #[inline(always)]
    fn load_bf16(self, chunk: &[bf16; LANES]) -> [f32; LANES] {
        chunk.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
    }

    #[inline(always)]
    fn load_f16(self, chunk: &[f16; LANES]) -> [f32; LANES] {
        chunk.map(f16::to_f32)
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        lanewise(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn pow2(self, n: [f32; LANES]) -> [f32; LANES] {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn reduce_add(self, vector: [f32; LANES]) -> f32 {
        reduce(vector, |a, b| a + b)
    }

    #[inline(always)]
    fn reduce_max(self, vector: [f32; LANES]) -> f32 {
        reduce(vector, |a, b| if a > b { a } else { b })
    }
}
