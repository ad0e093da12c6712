//! Plain numbers rounded to eight bits: symmetric, 32 to a scale, the scale in half precision.

use half::f16;

use crate::formats::{CodeRun, RUN_LEN};

/// The largest code. -128 has no counterpart and is not used.
const CODE_MAX: f32 = 127.0;

/// Rounds 32 numbers to codes in -127..=127. The codes fit the scale as it is stored, rounded to half precision, so that
/// its rounding is no error of its own. A number that is not finite makes the whole run NaN, never a finite value.
pub fn round_to_int8(values: &[f32; RUN_LEN]) -> CodeRun {
    let greatest = values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    if !values.iter().all(|value| value.is_finite()) {
        return CodeRun::uniform([0; RUN_LEN], f32::NAN, 0.0);
    }
    let scale = f16::from_f32(greatest / CODE_MAX).to_f32();
    // A scale below half precision stands for zeros; one above it is infinite and makes the run NaN.
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    let round = |value: f32| (value * inverse).round_ties_even().clamp(-CODE_MAX, CODE_MAX) as i8;
    CodeRun::uniform(values.map(round), scale, 0.0)
}
