//! The AVX-512 tier: vectors of sixteen. Line by line the AVX2 tier, so that reading one checks the other.

#![expect(unsafe_code, reason = "intrinsics of a feature that the token proves")]

use std::arch::x86_64::{
    __m256, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32,
    _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps, _mm_prefetch,
    _mm256_add_ps, _mm256_and_si256, _mm256_castpd_ps, _mm256_castps256_ps128,
    _mm256_cvtepi8_epi16, _mm256_extractf128_ps, _mm256_loadu_si256, _mm256_max_ps,
    _mm256_set1_epi16, _mm256_slli_epi16, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castps_pd, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cvtph_ps,
    _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpbf16_ps, _mm512_extractf64x4_pd, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_ps,
};
use std::mem::transmute;

use half::{bf16, f16};

use crate::cpu::fp8::E4m3;
use crate::cpu::simd::{Kernel, Simd};

const LANES: usize = 16;

/// The token of the AVX-512 tiers: whoever holds one has detected AVX-512 F with AVX2, FMA and F16C, and BF16 where
/// that is `true`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// Returns the token if the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!BF16 || is_x86_feature_detected!("avx512bf16"));
        found.then_some(Self(()))
    }

    /// Returns the token of the tier without BF16.
    #[expect(clippy::unused_self, reason = "the token in hand proves the features of the other")]
    pub(crate) fn plain(self) -> Avx512<false> {
        Avx512(())
    }

    /// Runs the kernel, compiled for the tier.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        if BF16 {
            // SAFETY: the token proves the features.
            unsafe { with_bf16(kernel, self) }
        } else {
            // SAFETY: the token proves the features.
            unsafe { with_features(kernel, self) }
        }
    }
}

#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn with_features<K: Kernel, const BF16: bool>(kernel: K, simd: Avx512<BF16>) -> K::Output {
    kernel.run(simd)
}

#[target_feature(enable = "avx512f,avx512bf16,avx2,fma,f16c")]
fn with_bf16<K: Kernel, const BF16: bool>(kernel: K, simd: Avx512<BF16>) -> K::Output {
    kernel.run(simd)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot_bf16_pairs(weights: &[bf16; 2 * LANES], x: u32, sum: __m512) -> __m512 {
    // SAFETY: the chunk has 64 bytes.
    let weights = unsafe { _mm512_loadu_si512(weights.as_ptr().cast()) };
    let x = _mm512_set1_epi32(x.cast_signed());
    // SAFETY: both types are 64 bytes of any bits.
    let weights = unsafe { transmute::<__m512i, __m512bh>(weights) };
    // SAFETY: as above.
    let x = unsafe { transmute::<__m512i, __m512bh>(x) };
    _mm512_dpbf16_ps(sum, weights, x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen_bf16_first(chunk: &[bf16; 2 * LANES]) -> __m512 {
    // SAFETY: the chunk has 64 bytes.
    let bits = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen_bf16_second(chunk: &[bf16; 2 * LANES]) -> __m512 {
    // SAFETY: the chunk has 64 bytes.
    let bits = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed());
    _mm512_castsi512_ps(_mm512_and_si512(bits, upper))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen_f16(chunk: &[f16; LANES]) -> __m512 {
    // SAFETY: the chunk has 32 bytes.
    let bits = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
    _mm512_cvtph_ps(bits)
}

/// Sign-extended to sixteen bits and moved up, a code has its sign at f16's place, and copies of it to be cleared.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn widen_e4m3(chunk: &[E4m3; LANES]) -> __m512 {
    // SAFETY: the chunk has 16 bytes.
    let codes = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
    let moved = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(codes));
    _mm512_cvtph_ps(_mm256_and_si256(moved, _mm256_set1_epi16(0xBF80_u16.cast_signed())))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pow2(n: __m512) -> __m512 {
    let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
}

/// The lower and the upper half. The compiler's own reduction is free to choose its order, ours must not be.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(vector: __m512) -> (__m256, __m256) {
    let upper = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(vector));
    (_mm512_castps512_ps256(vector), _mm256_castpd_ps(upper))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_add(vector: __m512) -> f32 {
    let (lower, upper) = halves(vector);
    let eight = _mm256_add_ps(lower, upper);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_max(vector: __m512) -> f32 {
    let (lower, upper) = halves(vector);
    let eight = _mm256_max_ps(lower, upper);
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

// Each block below is one operation on a feature that the token proves.
impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = LANES;

    type F32 = __m512;
    type F32s = [f32; LANES];
    type Bf16Pairs = [bf16; 2 * LANES];
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
    fn bf16_pairs(values: &[bf16]) -> &[[bf16; 2 * LANES]] {
        values.as_chunks().0
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
    fn prefetch<T>(self, value: &T) {
        // SAFETY: every x86-64 has the instruction, and it never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, chunk: &[f32; LANES]) -> __m512 {
        // SAFETY: the token proves the feature; the chunk has `LANES` values.
        unsafe { _mm512_loadu_ps(chunk.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512, chunk: &mut [f32; LANES]) {
        // SAFETY: the token proves the feature; the chunk has `LANES` values.
        unsafe { _mm512_storeu_ps(chunk.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn load_bf16_first(self, chunk: &[bf16; 2 * LANES]) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { widen_bf16_first(chunk) }
    }

    #[inline(always)]
    fn load_bf16_second(self, chunk: &[bf16; 2 * LANES]) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { widen_bf16_second(chunk) }
    }

    #[inline(always)]
    fn load_f16(self, chunk: &[f16; LANES]) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { widen_f16(chunk) }
    }

    #[inline(always)]
    fn load_e4m3(self, chunk: &[E4m3; LANES]) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { widen_e4m3(chunk) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn dot_bf16_pairs(self, weights: &[bf16; 2 * LANES], x: u32, sum: __m512) -> __m512 {
        assert!(BF16, "only the tier of BF16 has the instruction");
        // SAFETY: the token proves the feature.
        unsafe { dot_bf16_pairs(weights, x, sum) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { pow2(n) }
    }

    #[inline(always)]
    fn reduce_add(self, vector: __m512) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe { reduce_add(vector) }
    }

    #[inline(always)]
    fn reduce_max(self, vector: __m512) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe { reduce_max(vector) }
    }
}
