//! The AVX2 tier: a panel is two vectors, and eight-bit products go through 16 bits.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs with saturation. Signed codes become magnitudes and
//! hand their signs to the activations: a pair is at most `2 * 128 * 127`, under 2¹⁵. Nibbles are unsigned as they
//! are: eight pairs are at most `8 * 2 * 15 * 127`, still under 2¹⁵, so eight steps share one widening.

#![expect(unsafe_code, reason = "intrinsics of a feature that the token proves")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_si128, _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_srli_epi16, _mm256_storeu_ps,
};

use half::f16;

use crate::cpu::quantized::dot::{Dot, DotKernel, Line, PANEL};

/// Lanes of a vector.
const LANES: usize = 8;

/// The token of the AVX2 tier: whoever holds one has detected AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Returns the token if the machine has the features.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs the kernel, compiled for the tier.
    pub(super) fn run<K: DotKernel>(self, kernel: K) {
        // SAFETY: the token proves the features.
        unsafe { with_features(kernel, self) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn with_features<K: DotKernel>(kernel: K, dot: Avx2) {
    kernel.run(dot);
}

/// Codes of eight features: their magnitudes, and themselves for their signs.
#[derive(Clone, Copy)]
pub(crate) struct SignedCodes {
    magnitudes: __m256i,
    codes: __m256i,
}

/// Loads the two halves of a line.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_line(line: &Line) -> [__m256i; 2] {
    let (low, high) = line.split_at(line.len() / 2);
    // SAFETY: half a line has 32 bytes.
    let low = unsafe { _mm256_loadu_si256(low.as_ptr().cast()) };
    // SAFETY: half a line has 32 bytes.
    let high = unsafe { _mm256_loadu_si256(high.as_ptr().cast()) };
    [low, high]
}

/// Splits bytes into their low and their high nibbles.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_nibbles(line: &Line) -> [[__m256i; 2]; 2] {
    let ([a, b], mask) = (load_line(line), _mm256_set1_epi8(15));
    let low = [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)];
    // Bits that cross from byte to byte fall to the mask.
    let (a, b) = (_mm256_srli_epi16::<4>(a), _mm256_srli_epi16::<4>(b));
    [low, [_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)]]
}

/// Widens sixteen factors.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn load_factors(factors: &[f16; PANEL]) -> [__m256; 2] {
    let (low, high) = factors.split_at(LANES);
    // SAFETY: eight factors have 16 bytes.
    let low = unsafe { _mm_loadu_si128(low.as_ptr().cast()) };
    // SAFETY: eight factors have 16 bytes.
    let high = unsafe { _mm_loadu_si128(high.as_ptr().cast()) };
    [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
}

/// Multiplies sums, as f32, by factors.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn scale(sums: [__m256i; 2], factors: [__m256; 2]) -> [__m256; 2] {
    [
        _mm256_mul_ps(_mm256_cvtepi32_ps(sums[0]), factors[0]),
        _mm256_mul_ps(_mm256_cvtepi32_ps(sums[1]), factors[1]),
    ]
}

/// `a * b + c`, rounded once.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn fused(a: [__m256; 2], b: f32, c: [__m256; 2]) -> [__m256; 2] {
    let b = _mm256_set1_ps(b);
    [_mm256_fmadd_ps(a[0], b, c[0]), _mm256_fmadd_ps(a[1], b, c[1])]
}

/// Adds a number to each sum.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn offset(sums: [__m256i; 2], start: i32) -> [__m256i; 2] {
    let start = _mm256_set1_epi32(start);
    [_mm256_add_epi32(sums[0], start), _mm256_add_epi32(sums[1], start)]
}

/// Stores the lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(floats: [__m256; 2]) -> [f32; PANEL] {
    let mut lanes = [0.0; PANEL];
    let (low, high) = lanes.split_at_mut(LANES);
    // SAFETY: there is room for eight lanes.
    unsafe { _mm256_storeu_ps(low.as_mut_ptr(), floats[0]) };
    // SAFETY: there is room for eight lanes.
    unsafe { _mm256_storeu_ps(high.as_mut_ptr(), floats[1]) };
    lanes
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_signed(line: &Line) -> [SignedCodes; 2] {
    let [low, high] = load_line(line);
    [
        SignedCodes { magnitudes: _mm256_abs_epi8(low), codes: low },
        SignedCodes { magnitudes: _mm256_abs_epi8(high), codes: high },
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn signed_products(codes: SignedCodes, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(codes.magnitudes, _mm256_sign_epi8(x, codes.codes));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_signed(sums: [__m256i; 2], codes: [SignedCodes; 2], x: i32) -> [__m256i; 2] {
    let x = _mm256_set1_epi32(x);
    [
        _mm256_add_epi32(sums[0], signed_products(codes[0], x)),
        _mm256_add_epi32(sums[1], signed_products(codes[1], x)),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_nibbles(sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
    let x = _mm256_set1_epi32(x);
    [
        _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(codes[0], x)),
        _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(codes[1], x)),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn end_nibble_sums(sums: [__m256i; 2], start: i32) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    offset([_mm256_madd_epi16(sums[0], ones), _mm256_madd_epi16(sums[1], ones)], start)
}

// Each block below is one operation on a feature that the token proves.
impl Dot for Avx2 {
    // Four by two sums, two vectors of codes with their magnitudes, the broadcast and the ones are all 16 registers.
    const ROWS_MAX: usize = 4;

    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Signed = [SignedCodes; 2];
    type Nibbles = [__m256i; 2];
    /// Sums of 16 bits, two a lane.
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
    fn signed(self, line: &Line) -> [SignedCodes; 2] {
        // SAFETY: the token proves the feature.
        unsafe { load_signed(line) }
    }

    #[inline(always)]
    fn add_signed(self, sums: [__m256i; 2], codes: [SignedCodes; 2], x: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { add_signed(sums, codes, x) }
    }

    #[inline(always)]
    fn signed_sums(self, sums: [__m256i; 2], _x_total: i32) -> [__m256i; 2] {
        sums
    }

    #[inline(always)]
    fn nibbles(self, line: &Line) -> [[__m256i; 2]; 2] {
        // SAFETY: the token proves the feature.
        unsafe { load_nibbles(line) }
    }

    #[inline(always)]
    fn add_nibbles(self, sums: [__m256i; 2], codes: [__m256i; 2], x: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { add_nibbles(sums, codes, x) }
    }

    #[inline(always)]
    fn nibble_sums(self, sums: [__m256i; 2], start: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { end_nibble_sums(sums, start) }
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
