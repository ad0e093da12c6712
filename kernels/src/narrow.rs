//! f32 to the elements of a cache.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Writes the f16 that come nearest to the values, cut to the range of f16; NaN stays NaN.
///
/// The values are cut in place, and converted by the instructions of the machine where it has some.
///
/// # Panics
/// Where the lengths differ.
pub(crate) fn narrow_to_f16(values: &mut [f32], out: &mut [f16]) {
    for value in values.iter_mut() {
        *value = value.clamp(f16::MIN.to_f32_const(), f16::MAX.to_f32_const());
    }
    out.convert_from_f32_slice(values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest_and_cuts_what_is_too_large() {
        let mut values = [1e9, f32::NEG_INFINITY, -0.1, 0.0, 65504.0, 6e-8, f32::NAN];
        let expected = [65504.0, -65504.0, f16::from_f32(-0.1).to_f32(), 0.0, 65504.0];
        let mut out = [f16::ZERO; 7];
        narrow_to_f16(&mut values, &mut out);
        assert_eq!(out.map(f16::to_f32)[..5], expected);
        // The least that there is: 2^-24.
        assert_eq!(out[5].to_bits(), 1);
        assert!(out[6].is_nan());
    }
}
