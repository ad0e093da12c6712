//! The AVX2 tier: vectors of eight, with FMA and the conversions of F16C.

#![expect(unsafe_code, reason = "intrinsics of a feature that the token proves")]

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_add_ps, _mm_add_ss, _mm_and_si128, _mm_cvtepi8_epi16,
    _mm_cvtsi64_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps,
    _mm_movehl_ps, _mm_prefetch, _mm_set1_epi16, _mm_slli_epi16, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_cvtph_ps,
    _mm256_cvtps_epi32, _mm256_div_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_lddqu_si256,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
};

use half::{bf16, f16};

use crate::cpu::fp8::E4m3;
use crate::cpu::simd::{Kernel, Simd};

const LANES: usize = 8;

/// The token of the AVX2 tier: whoever holds one has detected AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Returns the token if the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs the kernel, compiled for the tier.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves the features.
        unsafe { with_features(kernel, self) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_features<K: Kernel>(kernel: K, simd: Avx2) -> K::Output {
    kernel.run(simd)
}

/// A bf16 is the upper half of an f32: the first of a pair moves up, the second is there already.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16_first(chunk: &[bf16; 2 * LANES]) -> __m256 {
    // SAFETY: the chunk has 32 bytes.
    let bits = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_bf16_second(chunk: &[bf16; 2 * LANES]) -> __m256 {
    // Another name of the same load, for the compiler not to merge the two: it would keep the first for the second, in a
    // register that the sums of a tile need.
    // SAFETY: the chunk has 32 bytes.
    let bits = unsafe { _mm256_lddqu_si256(chunk.as_ptr().cast()) };
    let upper = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
    _mm256_castsi256_ps(_mm256_and_si256(bits, upper))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_f16(chunk: &[f16; LANES]) -> __m256 {
    // SAFETY: the chunk has 16 bytes.
    let bits = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
    _mm256_cvtph_ps(bits)
}

/// Sign-extended to sixteen bits and moved up, a code has its sign at f16's place, and copies of it to be cleared.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn widen_e4m3(chunk: [E4m3; LANES]) -> __m256 {
    let codes = _mm_cvtsi64_si128(i64::from_le_bytes(bytemuck::cast(chunk)));
    let moved = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(codes));
    _mm256_cvtph_ps(_mm_and_si128(moved, _mm_set1_epi16(0xBF80_u16.cast_signed())))
}

#[inline]
#[target_feature(enable = "avx2")]
fn pow2(n: __m256) -> __m256 {
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_add(vector: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_max(vector: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}

// Each block below is one operation on a feature that the token proves.
impl Simd for Avx2 {
    const LANES: usize = LANES;

    type F32 = __m256;
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
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, chunk: &[f32; LANES]) -> __m256 {
        // SAFETY: the token proves the feature; the chunk has `LANES` values.
        unsafe { _mm256_loadu_ps(chunk.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m256, chunk: &mut [f32; LANES]) {
        // SAFETY: the token proves the feature; the chunk has `LANES` values.
        unsafe { _mm256_storeu_ps(chunk.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn load_bf16_first(self, chunk: &[bf16; 2 * LANES]) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { widen_bf16_first(chunk) }
    }

    #[inline(always)]
    fn load_bf16_second(self, chunk: &[bf16; 2 * LANES]) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { widen_bf16_second(chunk) }
    }

    #[inline(always)]
    fn load_f16(self, chunk: &[f16; LANES]) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { widen_f16(chunk) }
    }

    #[inline(always)]
    fn load_e4m3(self, chunk: &[E4m3; LANES]) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { widen_e4m3(*chunk) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        // SAFETY: the token proves the feature.
        unsafe { pow2(n) }
    }

    #[inline(always)]
    fn reduce_add(self, vector: __m256) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe { reduce_add(vector) }
    }

    #[inline(always)]
    fn reduce_max(self, vector: __m256) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe { reduce_max(vector) }
    }
}
