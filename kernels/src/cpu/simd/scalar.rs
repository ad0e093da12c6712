//! The tier of every machine: arrays, which compilers turn into whatever the target's baseline has.
//!
//! It does not fuse multiply and add: without the instruction that is a call into libm per product.

use half::{bf16, f16};

use crate::cpu::fp8::E4m3;
use crate::cpu::simd::Simd;

/// The token of a scalar tier. Eight lanes are for use; sixteen run the loops of the AVX-512 tiers on any machine, with
/// `ROUNDS` those of the one that rounds activations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar<const LANES: usize, const ROUNDS: bool>;

#[inline(always)]
fn lanewise<const LANES: usize>(
    mut a: [f32; LANES],
    b: [f32; LANES],
    op: impl Fn(f32, f32) -> f32,
) -> [f32; LANES] {
    for lane in 0..LANES {
        a[lane] = op(a[lane], b[lane]);
    }
    a
}

#[inline(always)]
fn reduce<const LANES: usize>(mut vector: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            vector[lane] = op(vector[lane], vector[lane + half]);
        }
        half /= 2;
    }
    vector[0]
}

/// Sixteen lanes are for tests: their tall tiles, written out lane by lane, took half of the crate's time to compile.
#[inline(never)]
fn called_mul_add<const LANES: usize>(
    a: &[f32; LANES],
    b: &[f32; LANES],
    c: &[f32; LANES],
) -> [f32; LANES] {
    lanewise(lanewise(*a, *b, |a, b| a * b), *c, |a, b| a + b)
}

impl<const LANES: usize, const ROUNDS: bool> Simd for Scalar<LANES, ROUNDS> {
    const LANES: usize = LANES;

    // Sixteen lanes stand for AVX-512 in tests, tall tiles and all.
    const HAS_TALL_TILES: bool = LANES > 8;

    type F32 = [f32; LANES];
    type F32s = [f32; LANES];
    type Bf16Pairs = [[bf16; 2]; LANES];
    type F16s = [f16; LANES];
    type E4m3s = [E4m3; LANES];

    #[inline(always)]
    fn chunks(values: &[f32]) -> &[[f32; LANES]] {
        values.as_chunks().0
    }

    #[inline(always)]
    fn chunks_mut(values: &mut [f32]) -> &mut [[f32; LANES]] {
        values.as_chunks_mut().0
    }

    #[inline(always)]
    fn bf16_pairs(values: &[bf16]) -> &[[[bf16; 2]; LANES]] {
        values.as_chunks().0.as_chunks().0
    }

    #[inline(always)]
    fn f16_chunks(values: &[f16]) -> &[[f16; LANES]] {
        values.as_chunks().0
    }

    #[inline(always)]
    fn e4m3_chunks(codes: &[E4m3]) -> &[[E4m3; LANES]] {
        codes.as_chunks().0
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
    fn load_bf16_first(self, chunk: &[[bf16; 2]; LANES]) -> [f32; LANES] {
        chunk.map(|pair| f32::from_bits(u32::from(pair[0].to_bits()) << 16))
    }

    #[inline(always)]
    fn load_bf16_second(self, chunk: &[[bf16; 2]; LANES]) -> [f32; LANES] {
        chunk.map(|pair| f32::from_bits(u32::from(pair[1].to_bits()) << 16))
    }

    // A conversion without the instruction for it is long: it is compiled once and called.
    #[inline(never)]
    fn load_f16(self, chunk: &[f16; LANES]) -> [f32; LANES] {
        chunk.map(f16::to_f32)
    }

    // Without the conversion, as f32: exponent and mantissa at their place, and a product for the bias.
    #[inline(always)]
    fn load_e4m3(self, chunk: &[E4m3; LANES]) -> [f32; LANES] {
        chunk.map(|E4m3(code)| {
            let bits = u32::from(code & 0x7F) << 20 | u32::from(code & 0x80) << 24;
            f32::from_bits(bits) * f32::from_bits((127 + 112) << 23)
        })
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
        if LANES > 8 { called_mul_add(&a, &b, &c) } else { self.add(self.mul(a, b), c) }
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
