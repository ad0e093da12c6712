//! The tier of every machine: arrays of sixteen.

use half::f16;

use crate::cpu::quantized::dot::{Dot, Line, PANEL, STEP_CODES};

/// The token of the scalar tier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalar;

/// Adds the products of each lane's four codes with the four in `x`.
#[inline(always)]
fn add_products(mut sums: [i32; PANEL], codes: [[i32; STEP_CODES]; PANEL], x: i32) -> [i32; PANEL] {
    let x = x.to_ne_bytes().map(|code| i32::from(code.cast_signed()));
    for lane in 0..PANEL {
        for i in 0..STEP_CODES {
            sums[lane] += codes[lane][i] * x[i];
        }
    }
    sums
}

/// Widens the codes of a line.
#[inline(always)]
fn lanes_of(line: &Line, widen: impl Fn(u8) -> i32) -> [[i32; STEP_CODES]; PANEL] {
    let mut codes = [[0; STEP_CODES]; PANEL];
    for lane in 0..PANEL {
        for i in 0..STEP_CODES {
            codes[lane][i] = widen(line[lane * STEP_CODES + i]);
        }
    }
    codes
}

impl Dot for Scalar {
    const ROWS_MAX: usize = 2;

    type Floats = [f32; PANEL];
    type Ints = [i32; PANEL];
    type Signed = [[i32; STEP_CODES]; PANEL];
    type Nibbles = [[i32; STEP_CODES]; PANEL];
    type NibbleSums = [i32; PANEL];

    #[inline(always)]
    fn zero(self) -> [f32; PANEL] {
        [0.0; PANEL]
    }

    #[inline(always)]
    fn zero_ints(self) -> [i32; PANEL] {
        [0; PANEL]
    }

    #[inline(always)]
    fn zero_nibble_sums(self) -> [i32; PANEL] {
        [0; PANEL]
    }

    #[inline(always)]
    fn signed(self, line: &Line) -> Self::Signed {
        lanes_of(line, |byte| i32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn add_signed(self, sums: [i32; PANEL], codes: Self::Signed, x: i32) -> [i32; PANEL] {
        add_products(sums, codes, x)
    }

    #[inline(always)]
    fn signed_sums(self, sums: [i32; PANEL], _x_total: i32) -> [i32; PANEL] {
        sums
    }

    #[inline(always)]
    fn nibbles(self, line: &Line) -> [Self::Nibbles; 2] {
        [lanes_of(line, |byte| i32::from(byte & 15)), lanes_of(line, |byte| i32::from(byte >> 4))]
    }

    #[inline(always)]
    fn add_nibbles(self, sums: [i32; PANEL], codes: Self::Nibbles, x: i32) -> [i32; PANEL] {
        add_products(sums, codes, x)
    }

    #[inline(always)]
    fn nibble_sums(self, sums: [i32; PANEL], start: i32) -> [i32; PANEL] {
        sums.map(|sum| sum + start)
    }

    #[inline(always)]
    fn factors(self, factors: &[f16; PANEL]) -> [f32; PANEL] {
        factors.map(f16::to_f32)
    }

    #[inline(always)]
    fn scaled(self, a: [i32; PANEL], mut b: [f32; PANEL]) -> [f32; PANEL] {
        for lane in 0..PANEL {
            b[lane] *= a[lane] as f32;
        }
        b
    }

    /// Fused, though that is a call into libm where the target's baseline lacks it: once for 32 products, and the price
    /// of the same bits everywhere.
    #[inline(always)]
    fn mul_add(self, a: [f32; PANEL], b: f32, mut c: [f32; PANEL]) -> [f32; PANEL] {
        for lane in 0..PANEL {
            c[lane] = a[lane].mul_add(b, c[lane]);
        }
        c
    }

    #[inline(always)]
    fn lanes(self, floats: [f32; PANEL]) -> [f32; PANEL] {
        floats
    }
}
