//! The AVX-512 VNNI tier: a panel is one vector, a line one load, and `vpdpbusd` adds four products a lane.
//!
//! Signed codes are offset as in the AVX-VNNI tier. On servers from Ice Lake and Zen 4 on.

#![expect(unsafe_code, reason = "intrinsics of a feature that the token proves")]

use std::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_ps,
    _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi32,
    _mm512_storeu_ps, _mm512_xor_si512,
};

use half::f16;

use crate::cpu::quantized::dot::{Dot, DotKernel, Line, PANEL};

/// The token of the AVX-512 VNNI tier: whoever holds one has detected AVX-512 F and VNNI.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Vnni(());

impl Avx512Vnni {
    /// Returns the token if the machine has the features.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }

    /// Runs the kernel, compiled for the tier.
    pub(super) fn run<K: DotKernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { with_features(kernel, self) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn with_features<K: DotKernel>(kernel: K, dot: Avx512Vnni) {
    kernel.run(dot);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(line: &Line) -> __m512i {
    // SAFETY: the line has 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_offset(line: &Line) -> __m512i {
    _mm512_xor_si512(load_line(line), _mm512_set1_epi32(0x8080_8080_u32.cast_signed()))
}

/// Splits bytes into their low and their high nibbles.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_nibbles(line: &Line) -> [__m512i; 2] {
    let (bytes, mask) = (load_line(line), _mm512_set1_epi32(0x0F0F_0F0F));
    [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products(sums: __m512i, codes: __m512i, x: i32) -> __m512i {
    _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn offset(sums: __m512i, start: i32) -> __m512i {
    _mm512_add_epi32(sums, _mm512_set1_epi32(start))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_factors(factors: &[f16; PANEL]) -> __m512 {
    // SAFETY: the factors have 32 bytes.
    let halves = unsafe { _mm256_loadu_si256(factors.as_ptr().cast()) };
    _mm512_cvtph_ps(halves)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn scale(sums: __m512i, factors: __m512) -> __m512 {
    _mm512_mul_ps(_mm512_cvtepi32_ps(sums), factors)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fused(a: __m512, b: f32, c: __m512) -> __m512 {
    _mm512_fmadd_ps(a, _mm512_set1_ps(b), c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(floats: __m512) -> [f32; PANEL] {
    let mut lanes = [0.0; PANEL];
    // SAFETY: there is room for sixteen lanes.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), floats) };
    lanes
}

// Each block below is one operation on a feature that the token proves.
impl Dot for Avx512Vnni {
    // Eight chains of `vpdpbusd` cover its latency of 4 to 5 cycles on two ports; eight f32 sums beside them fit too.
    const ROWS_MAX: usize = 8;

    type Floats = __m512;
    type Ints = __m512i;
    type Signed = __m512i;
    type Nibbles = __m512i;
    type NibbleSums = __m512i;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn zero_ints(self) -> __m512i {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn zero_nibble_sums(self) -> __m512i {
        self.zero_ints()
    }

    #[inline(always)]
    fn signed(self, line: &Line) -> __m512i {
        // SAFETY: the token proves the feature.
        unsafe { load_offset(line) }
    }

    #[inline(always)]
    fn add_signed(self, sums: __m512i, codes: __m512i, x: i32) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe { add_products(sums, codes, x) }
    }

    #[inline(always)]
    fn signed_sums(self, sums: __m512i, x_total: i32) -> __m512i {
        // SAFETY: the token proves the feature.
        unsafe { offset(sums, -128 * x_total) }
    }

    #[inline(always)]
    fn nibbles(self, line: &Line) -> [__m512i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { load_nibbles(line) }
    }

    #[inline(always)]
    fn add_nibbles(self, sums: __m512i, codes: __m512i, x: i32) -> __m512i {
        // SAFETY: the token proves the features.
        unsafe { add_products(sums, codes, x) }
    }

    #[inline(always)]
    fn nibble_sums(self, sums: __m512i, start: i32) -> __m512i {
        // SAFETY: the token proves the feature.
        unsafe { offset(sums, start) }
    }

    #[inline(always)]
    fn factors(self, factors: &[f16; PANEL]) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { load_factors(factors) }
    }

    #[inline(always)]
    fn scaled(self, a: __m512i, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { scale(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: f32, c: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { fused(a, b, c) }
    }

    #[inline(always)]
    fn lanes(self, floats: __m512) -> [f32; PANEL] {
        // SAFETY: the token proves the feature.
        unsafe { store(floats) }
    }
}
