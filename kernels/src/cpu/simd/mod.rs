//! Vectors of f32 in several tiers, so that each loop is written once and runs through the widest that the machine has.
//!
//! A loop is a [`Kernel`]: generic over [`Simd`], inlined whole into a function that is compiled for the tier's
//! features. A tier's type is a token: it can only be had where the features were detected, which is what makes
//! its primitives safe to call.
//!
//! A tier may round activations to bf16 before they meet bf16 weights, for the sake of a dot product of pairs: twice the
//! products of an FMA, and 16 bits less of each activation. It is the precision that these models were trained in.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod exp;
mod scalar;
#[cfg(test)]
mod tests;

use std::fmt;

use half::{bf16, f16};

use crate::cpu::fp8::E4m3;
pub(crate) use crate::cpu::simd::exp::exp;
use crate::cpu::simd::scalar::Scalar;

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{avx2::Avx2, avx512::Avx512};

/// An instruction set that the operators are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimdTier {
    /// Plain Rust on arrays of eight; on every machine.
    Scalar,
    /// Plain Rust on arrays of sixteen: the loops of AVX-512 on every machine, for tests.
    ScalarWide,
    /// The same with activations rounded to bf16: the loops of AVX-512 BF16 on every machine, for tests.
    ScalarBf16,
    /// AVX2 with FMA and F16C: x86-64 since 2013.
    Avx2,
    /// AVX-512 F: x86-64 servers since 2017, AMD since Zen 4.
    Avx512,
    /// AVX-512 F and BF16, with activations rounded to bf16: AMD since Zen 4, Intel's servers since 2023.
    Avx512Bf16,
}

impl SimdTier {
    /// Every tier.
    pub const ALL: [Self; 6] = [
        Self::Scalar,
        Self::ScalarWide,
        Self::ScalarBf16,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
    ];

    /// Returns whether this machine can run the tier.
    pub fn is_available(self) -> bool {
        Vectors::new(self).is_some()
    }

    /// Returns whether the tier rounds activations to bf16 where the weights are bf16.
    pub fn rounds_to_bf16(self) -> bool {
        match self {
            Self::ScalarBf16 | Self::Avx512Bf16 => true,
            Self::Scalar | Self::ScalarWide | Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Returns the tiers of this machine.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|tier| tier.is_available())
    }

    /// Returns the fastest tier of this machine that takes activations as they are; one that rounds must be asked for.
    pub fn fastest() -> Self {
        let vector = [Self::Avx512, Self::Avx2].into_iter().find(|tier| tier.is_available());
        vector.unwrap_or(Self::Scalar)
    }
}

impl fmt::Display for SimdTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Scalar => "scalar",
            Self::ScalarWide => "scalar-wide",
            Self::ScalarBf16 => "scalar-bf16",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
        })
    }
}

/// A loop over vectors, written once for all tiers.
///
/// `run` and all that it calls with a `Simd` must be `#[inline(always)]`: what is not inlined is compiled without
/// the tier's features, right but many times slower. Closures are not inlined for certain; use `for`.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;

    /// Runs the loop.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A tier that was found on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Vectors {
    Scalar(Scalar<8, false>),
    ScalarWide(Scalar<16, false>),
    ScalarBf16(Scalar<16, true>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true>),
}

impl Vectors {
    /// Returns the tier if the machine has it.
    pub(crate) fn new(tier: SimdTier) -> Option<Self> {
        match tier {
            SimdTier::Scalar => Some(Self::Scalar(Scalar)),
            SimdTier::ScalarWide => Some(Self::ScalarWide(Scalar)),
            SimdTier::ScalarBf16 => Some(Self::ScalarBf16(Scalar)),
            #[cfg(target_arch = "x86_64")]
            SimdTier::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            SimdTier::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            SimdTier::Avx512Bf16 => Avx512::detect().map(Self::Avx512Bf16),
            #[cfg(not(target_arch = "x86_64"))]
            SimdTier::Avx2 | SimdTier::Avx512 | SimdTier::Avx512Bf16 => None,
        }
    }

    pub(crate) fn tier(self) -> SimdTier {
        match self {
            Self::Scalar(_) => SimdTier::Scalar,
            Self::ScalarWide(_) => SimdTier::ScalarWide,
            Self::ScalarBf16(_) => SimdTier::ScalarBf16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => SimdTier::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => SimdTier::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(_) => SimdTier::Avx512Bf16,
        }
    }

    /// Lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Scalar(_) => 8,
            Self::ScalarWide(_) | Self::ScalarBf16(_) => TILE,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) | Self::Avx512Bf16(_) => TILE,
        }
    }

    /// Runs the kernel, compiled for this tier; one that rounds has no loops of its own but those of [`Self::run_rounded`].
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Scalar(simd) => kernel.run(simd),
            Self::ScalarWide(simd) => kernel.run(simd),
            Self::ScalarBf16(_) => kernel.run(Scalar::<16, false>),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(simd) => simd.plain().run(kernel),
        }
    }

    /// Runs a kernel of rounded activations.
    ///
    /// # Panics
    /// Where the tier does not round.
    pub(crate) fn run_rounded<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::ScalarBf16(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(simd) => simd.run(kernel),
            _ => unreachable!("{} does not round", self.tier()),
        }
    }
}

/// The primitives of a tier. Lanes never mix but in `reduce_add` and `reduce_max`, whose order is fixed.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a vector; divides [`TILE`].
    const LANES: usize;

    /// Whether many sums at a time are worth their code: vectors have latencies to hide.
    const HAS_TALL_TILES: bool = true;

    /// A vector of f32.
    type F32: Copy;
    /// `LANES` f32 in memory.
    type F32s: Copy + AsRef<[f32]> + AsMut<[f32]>;
    /// `LANES` pairs of bf16 in memory.
    type Bf16Pairs: Copy;
    /// `LANES` f16 in memory.
    type F16s: Copy;
    /// `LANES` codes of E4M3 in memory.
    type E4m3s: Copy;

    /// Views the values in chunks of `LANES`, less a remainder.
    fn chunks(values: &[f32]) -> &[Self::F32s];
    /// Views the values in chunks of `LANES`, less a remainder.
    fn chunks_mut(values: &mut [f32]) -> &mut [Self::F32s];
    /// Views the values in chunks of `LANES` pairs, less a remainder.
    fn bf16_pairs(values: &[bf16]) -> &[Self::Bf16Pairs];
    /// Views the values in chunks of `LANES`, less a remainder.
    fn f16_chunks(values: &[f16]) -> &[Self::F16s];
    /// Views the codes in chunks of `LANES`, less a remainder.
    fn e4m3_chunks(codes: &[E4m3]) -> &[Self::E4m3s];

    /// Asks for the cache line in which the value begins and that will be read soon; where a tier cannot, nothing.
    #[inline(always)]
    fn prefetch<T>(self, _value: &T) {}

    /// Every lane `value`.
    fn splat(self, value: f32) -> Self::F32;
    /// Loads a chunk.
    fn load(self, chunk: &Self::F32s) -> Self::F32;
    /// Stores a chunk.
    fn store(self, vector: Self::F32, chunk: &mut Self::F32s);
    /// Loads and widens the first of each pair, exactly.
    fn load_bf16_first(self, chunk: &Self::Bf16Pairs) -> Self::F32;
    /// Loads and widens the second of each pair, exactly.
    fn load_bf16_second(self, chunk: &Self::Bf16Pairs) -> Self::F32;
    /// Loads and widens a chunk, exactly.
    fn load_f16(self, chunk: &Self::F16s) -> Self::F32;
    /// Loads and widens a chunk: the numbers times 2⁻⁸, exactly. What is no number becomes one: matrices are searched for it.
    fn load_e4m3(self, chunk: &Self::E4m3s) -> Self::F32;

    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the tier fuses.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `sum + second * second + first * first` of the pairs of `weights` and the one pair of `x`, which lies as in memory,
    /// the first in the lower half. Rounded after each product; a tier may take denormals for zeros.
    #[inline(always)]
    fn dot_bf16_pairs(self, weights: &Self::Bf16Pairs, x: u32, sum: Self::F32) -> Self::F32 {
        let first = self.splat(f32::from_bits(x << 16));
        let second = self.splat(f32::from_bits(x & 0xFFFF_0000));
        let sum = self.mul_add(self.load_bf16_second(weights), second, sum);
        self.mul_add(self.load_bf16_first(weights), first, sum)
    }
    /// `if a < b { a } else { b }`: where either is NaN, `b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `if a > b { a } else { b }`: where either is NaN, `b`.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `2^n` for integral `n` in -126..=127; anything for other lanes.
    fn pow2(self, n: Self::F32) -> Self::F32;

    /// The sum of the lanes, by halves: lane `i` with lane `i + n / 2`, then again.
    fn reduce_add(self, vector: Self::F32) -> f32;
    /// The greatest lane, if none is NaN.
    fn reduce_max(self, vector: Self::F32) -> f32;

    /// Every lane zero.
    #[inline(always)]
    fn zero(self) -> Self::F32 {
        self.splat(0.0)
    }

    /// The first lane.
    #[inline(always)]
    fn first_lane(self, vector: Self::F32) -> f32 {
        let mut chunk = self.zero_chunk();
        self.store(vector, &mut chunk);
        chunk.as_ref()[0]
    }

    /// Loads fewer values than lanes; the other lanes are zero.
    #[inline(always)]
    fn load_partial(self, values: &[f32]) -> Self::F32 {
        self.load(&self.padded(values))
    }

    /// Copies fewer values than lanes into a chunk; the rest is zero.
    #[inline(always)]
    fn padded(self, values: &[f32]) -> Self::F32s {
        let mut chunk = self.zero_chunk();
        chunk.as_mut()[..values.len()].copy_from_slice(values);
        chunk
    }

    /// A chunk of zeros.
    fn zero_chunk(self) -> Self::F32s;

    /// Stores the first lanes only.
    #[inline(always)]
    fn store_partial(self, vector: Self::F32, values: &mut [f32]) {
        let mut chunk = self.zero_chunk();
        self.store(vector, &mut chunk);
        values.copy_from_slice(&chunk.as_ref()[..values.len()]);
    }
}

/// Lanes of the widest tier: layouts are padded to this, so that one layout serves all tiers.
pub(crate) const TILE: usize = 16;

/// Vectors of a [`TILE`] in the narrowest tier.
pub(crate) const TILE_VECTORS_MAX: usize = 2;
