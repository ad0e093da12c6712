//! Products of integer codes for a panel of sixteen features, in tiers that give the same bits.
//!
//! A lane is a feature. A line of 64 bytes holds four neighbouring codes of each feature, four neighbouring codes of an
//! activation row are broadcast against it, and each lane adds its four products: no lane ever meets another. Sums of
//! codes are exact in 32 bits; the few operations in f32 are the same in each tier, fused where they say so, one by one
//! in the same order. So tiers agree to the bit, which vectors of f32 cannot promise.
//!
//! | tier | signed codes, four products a lane | nibbles |
//! |---|---|---|
//! | scalar | four multiplications | the same |
//! | AVX2 | `vpsignb`, `vpmaddubsw`, `vpmaddwd`, `vpaddd` | `vpmaddubsw`, `vpaddw`: 8 steps fit 16 bits |
//! | AVX-VNNI, AVX-512 VNNI | `vpdpbusd` of codes + 128 | `vpdpbusd` |

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod scalar;
#[cfg(test)]
mod tests;

use half::f16;

pub(crate) use crate::cpu::matrix::PANEL;
use crate::cpu::quantized::dot::scalar::Scalar;
use crate::cpu::simd::SimdTier;

#[cfg(target_arch = "x86_64")]
use crate::cpu::quantized::dot::{avx_vnni::AvxVnni, avx2::Avx2, avx512_vnni::Avx512Vnni};

/// Neighbouring codes of a feature that stand together; what a lane multiplies in a step.
pub(crate) const STEP_CODES: usize = 4;

/// Codes of a step: `[PANEL, STEP_CODES]`, a byte each, or a nibble each of two steps.
pub(crate) type Line = [u8; PANEL * STEP_CODES];

/// A loop over panels, written once for all tiers; as [`crate::cpu::simd::Kernel`], all of it must be inlined.
pub(crate) trait DotKernel {
    /// Runs the loop.
    fn run<D: Dot>(self, dot: D);
}

/// The primitives of a tier on sixteen lanes.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// Activation rows of the tallest register tile; a power of two, at most 8.
    const ROWS_MAX: usize;

    /// Sixteen f32.
    type Floats: Copy;
    /// Sixteen sums of integers.
    type Ints: Copy;
    /// A line of signed codes, made ready for rows of activations.
    type Signed: Copy;
    /// A step of nibbles.
    type Nibbles: Copy;
    /// Sums of a few steps of nibbles.
    type NibbleSums: Copy;

    /// Sixteen zeros.
    fn zero(self) -> Self::Floats;
    /// Sixteen zeros.
    fn zero_ints(self) -> Self::Ints;
    /// Sixteen zeros.
    fn zero_nibble_sums(self) -> Self::NibbleSums;

    /// Loads a line of signed codes.
    fn signed(self, line: &Line) -> Self::Signed;
    /// Adds each lane's products with the four codes in `x`, which lie in -127..=127.
    fn add_signed(self, sums: Self::Ints, codes: Self::Signed, x: i32) -> Self::Ints;
    /// Ends sums that began with zero, where `x_total` is the sum of all codes that came as `x`.
    fn signed_sums(self, sums: Self::Ints, x_total: i32) -> Self::Ints;

    /// Loads a line of nibbles: the step in the low halves, then that in the high ones.
    fn nibbles(self, line: &Line) -> [Self::Nibbles; 2];
    /// Adds each lane's products with the four codes in `x`; eight steps at most.
    fn add_nibbles(self, sums: Self::NibbleSums, codes: Self::Nibbles, x: i32) -> Self::NibbleSums;
    /// Returns the sums, with `start` added to each.
    fn nibble_sums(self, sums: Self::NibbleSums, start: i32) -> Self::Ints;

    /// Widens sixteen factors.
    fn factors(self, factors: &[f16; PANEL]) -> Self::Floats;
    /// `a * b` lane by lane, of the sums as f32.
    fn scaled(self, a: Self::Ints, b: Self::Floats) -> Self::Floats;
    /// `a * b + c` with one rounding, `b` in each lane.
    fn mul_add(self, a: Self::Floats, b: f32, c: Self::Floats) -> Self::Floats;
    /// Returns the lanes.
    fn lanes(self, floats: Self::Floats) -> [f32; PANEL];
}

/// A tier that was found on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dots {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(Avx512Vnni),
}

impl Dots {
    /// Returns the tiers of this machine that a tier of vectors allows, the fastest first; the scalar one is always last.
    /// AVX-512 without VNNI has the codes' products of AVX2.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn available(tier: SimdTier) -> impl Iterator<Item = Self> {
        let (is_vector, is_wide) = match tier {
            SimdTier::Scalar | SimdTier::ScalarWide | SimdTier::ScalarBf16 => (false, false),
            SimdTier::Avx2 => (true, false),
            SimdTier::Avx512 | SimdTier::Avx512Bf16 => (true, true),
        };
        let wide = is_wide.then(Avx512Vnni::detect).flatten();
        let vnni = is_vector.then(AvxVnni::detect).flatten();
        let avx2 = is_vector.then(Avx2::detect).flatten();
        let found = [wide.map(Self::Avx512Vnni), vnni.map(Self::AvxVnni), avx2.map(Self::Avx2)];
        found.into_iter().flatten().chain([Self::Scalar(Scalar)])
    }

    /// Returns the tiers of this machine; the scalar one only.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn available(_tier: SimdTier) -> impl Iterator<Item = Self> {
        [Self::Scalar(Scalar)].into_iter()
    }

    /// Returns the fastest tier of this machine that a tier of vectors allows.
    pub(crate) fn fastest(tier: SimdTier) -> Self {
        Self::available(tier).next().unwrap_or(Self::Scalar(Scalar))
    }

    /// Runs the kernel, compiled for this tier.
    pub(crate) fn run<K: DotKernel>(self, kernel: K) {
        match self {
            Self::Scalar(dot) => kernel.run(dot),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(dot) => dot.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(dot) => dot.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(dot) => dot.run(kernel),
        }
    }
}
