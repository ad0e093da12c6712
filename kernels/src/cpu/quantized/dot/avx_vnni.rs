//! The AVX-VNNI tier: a panel is two vectors, and `vpdpbusd` adds four products of unsigned by signed bytes a lane.
//!
//! Signed codes are offset by 128 to be unsigned. That adds 128 times the sum of the activations' codes to every lane,
//! which [`Dot::signed_sums`] takes off again; in 32 bits all of it is exact.

#![expect(unsafe_code, reason = "intrinsics of a feature that the token proves")]

use std::arch::x86_64::{
    __m256, __m256i, _mm256_dpbusd_avx_epi32, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_xor_si256,
};

use half::f16;

use crate::cpu::quantized::dot::avx2::{
    Avx2, fused, load_factors, load_line, load_nibbles, offset, scale, store,
};
use crate::cpu::quantized::dot::{Dot, DotKernel, Line, PANEL};

/// The token of the AVX-VNNI tier: whoever holds one has detected it, AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvxVnni(());

impl AvxVnni {
    /// Returns the token if the machine has the features.
    pub(super) fn detect() -> Option<Self> {
        Avx2::detect().filter(|_| is_x86_feature_detected!("avxvnni")).map(|_| Self(()))
    }

    /// Runs the kernel, compiled for the tier.
    pub(super) fn run<K: DotKernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { with_features(kernel, self) }
    }
}

#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
fn with_features<K: DotKernel>(kernel: K, dot: AvxVnni) {
    kernel.run(dot);
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_offset(line: &Line) -> [__m256i; 2] {
    let ([low, high], offset) = (load_line(line), _mm256_set1_epi8(i8::MIN));
    [_mm256_xor_si256(low, offset), _mm256_xor_si256(high, offset)]
}

#[inline]
#[target_feature(enable = "avxvnni,avx2")]
fn add_products(sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
    let x = _mm256_set1_epi32(x);
    [_mm256_dpbusd_avx_epi32(sums[0], codes[0], x), _mm256_dpbusd_avx_epi32(sums[1], codes[1], x)]
}

// Each block below is one operation on a feature that the token proves.
impl Dot for AvxVnni {
    const ROWS_MAX: usize = 4;

    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Signed = [__m256i; 2];
    type Nibbles = [__m256i; 2];
    type NibbleSums = [__m256i; 2];

    #[inline(always)]
    fn zero(self) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        [unsafe { _mm256_setzero_ps() }; 2]
    }

    #[inline(always)]
    fn zero_ints(self) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        [unsafe { _mm256_setzero_si256() }; 2]
    }

    #[inline(always)]
    fn zero_nibble_sums(self) -> [__m256i; 2] {
        self.zero_ints()
    }

    #[inline(always)]
    fn signed(self, line: &Line) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { load_offset(line) }
    }

    #[inline(always)]
    fn add_signed(self, sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the features.
        unsafe { add_products(sums, codes, x) }
    }

    #[inline(always)]
    fn signed_sums(self, sums: [__m256i; 2], x_total: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { offset(sums, -128 * x_total) }
    }

    #[inline(always)]
    fn nibbles(self, line: &Line) -> [[__m256i; 2]; 2] {
        // SAFETY: the token proves the feature.
        unsafe { load_nibbles(line) }
    }

    #[inline(always)]
    fn add_nibbles(self, sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the features.
        unsafe { add_products(sums, codes, x) }
    }

    #[inline(always)]
    fn nibble_sums(self, sums: [__m256i; 2], start: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { offset(sums, start) }
    }

    #[inline(always)]
    fn factors(self, factors: &[f16; PANEL]) -> [__m256; 2] {
        // SAFETY: the token proves the features.
        unsafe { load_factors(factors) }
    }

    #[inline(always)]
    fn scaled(self, a: [__m256i; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { scale(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: f32, c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the features.
        unsafe { fused(a, b, c) }
    }

    #[inline(always)]
    fn lanes(self, floats: [__m256; 2]) -> [f32; PANEL] {
        // SAFETY: the token proves the feature.
        unsafe { store(floats) }
    }
}
