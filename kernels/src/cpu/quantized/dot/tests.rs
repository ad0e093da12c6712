//! Each primitive of each tier of this machine against the plain formula, to the bit, at the ends of its range.

use half::f16;

use crate::cpu::quantized::dot::{Dot, DotKernel, Dots, Line, PANEL, STEP_CODES};
use crate::cpu::simd::SimdTier;

/// Every tier of codes that this machine has.
fn tiers() -> Vec<Dots> {
    Dots::available(SimdTier::Avx512).collect()
}

/// Bytes that take every value, the ends often.
fn line(seed: usize) -> Line {
    std::array::from_fn(|i| match (i + seed) % 5 {
        0 => 0x80,
        1 => 0x7F,
        2 => 0xFF,
        _ => (i * 37 + seed * 11) as u8,
    })
}

/// Four activation codes; the ends first.
fn x_codes(seed: usize) -> [i8; STEP_CODES] {
    match seed % 4 {
        0 => [127; STEP_CODES],
        1 => [-127; STEP_CODES],
        2 => [127, -127, 0, -1],
        _ => std::array::from_fn(|i| ((seed * 29 + i * 53) % 255) as i8 ^ 1).map(|x| x.max(-127)),
    }
}

fn word(codes: [i8; STEP_CODES]) -> i32 {
    i32::from_ne_bytes(codes.map(i8::cast_unsigned))
}

/// The sum of all the codes that came.
fn total(num_steps: usize) -> i32 {
    (0..num_steps).flat_map(x_codes).map(i32::from).sum()
}

/// Adds up a lane of steps; `code` gives the weight's code from the seed of its line and its byte.
fn plain(num_steps: usize, lane: usize, code: impl Fn(usize, usize) -> i32) -> i32 {
    let products = (0..num_steps).flat_map(|step| {
        let x = x_codes(step);
        (0..STEP_CODES).map(move |i| (step, i, i32::from(x[i])))
    });
    products.map(|(step, i, x)| code(step, lane * STEP_CODES + i) * x).sum()
}

struct Primitives(Dots);

impl DotKernel for Primitives {
    fn run<D: Dot>(self, dot: D) {
        let tier = self.0;
        // `scaled` by one is how sums come out.
        let ones = dot.factors(&[f16::ONE; PANEL]);
        for num_steps in [1, 4, 8] {
            let mut sums = dot.zero_ints();
            for step in 0..num_steps {
                sums = dot.add_signed(sums, dot.signed(&line(step)), word(x_codes(step)));
            }
            let sums = dot.signed_sums(sums, total(num_steps));
            let lanes = dot.lanes(dot.scaled(sums, ones));
            for (lane, got) in lanes.into_iter().enumerate() {
                let signed = |step, byte: usize| i32::from(line(step)[byte].cast_signed());
                let expected = plain(num_steps, lane, signed) as f32;
                assert_eq!(got.to_bits(), expected.to_bits(), "{tier:?}: {got} {expected}");
            }
            let mut sums = dot.zero_nibble_sums();
            for step in 0..num_steps {
                let codes = dot.nibbles(&line(step / 2))[step % 2];
                sums = dot.add_nibbles(sums, codes, word(x_codes(step)));
            }
            let lanes = dot.lanes(dot.scaled(dot.nibble_sums(sums, -1001), ones));
            for (lane, got) in lanes.into_iter().enumerate() {
                let nibble = |step: usize, byte: usize| {
                    i32::from((line(step / 2)[byte] >> (4 * (step % 2))) & 15)
                };
                let expected = (plain(num_steps, lane, nibble) - 1001) as f32;
                assert_eq!(got.to_bits(), expected.to_bits(), "{tier:?}: {got} {expected}");
            }
        }
        floats(tier, dot);
    }
}

fn floats<D: Dot>(tier: Dots, dot: D) {
    // 2⁻²⁴ is the least half-precision number, 65504 the greatest.
    let halves: [f16; PANEL] = std::array::from_fn(|lane| match lane {
        0 => f16::from_bits(1),
        1 => f16::MAX,
        2 => f16::NAN,
        3 => f16::INFINITY,
        lane => f16::from_f32((lane as f32 * 0.7).sin()),
    });
    let mut sums = dot.zero_ints();
    sums = dot.add_signed(sums, dot.signed(&line(0)), word([7, -3, 100, 1]));
    let sums = dot.signed_sums(sums, 105);
    let plain = dot.lanes(dot.scaled(sums, dot.factors(&[f16::ONE; PANEL])));
    let scaled = dot.scaled(sums, dot.factors(&halves));
    let fused = dot.lanes(dot.mul_add(scaled, 0.1, dot.factors(&halves)));
    let scaled = dot.lanes(scaled);
    for lane in 0..PANEL {
        let factor = halves[lane].to_f32();
        let expected = plain[lane] * factor;
        let rows = [(scaled[lane], expected), (fused[lane], expected.mul_add(0.1, factor))];
        for (got, expected) in rows {
            let is_same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
            assert!(is_same, "{tier:?}, lane {lane}: {got} is not {expected}");
        }
    }
    assert_eq!(dot.lanes(dot.zero()).map(f32::to_bits), [0; PANEL], "{tier:?}");
}

#[test]
fn primitives_equal_the_plain_formulas() {
    for tier in tiers() {
        tier.run(Primitives(tier));
    }
}

#[test]
fn a_tier_of_vectors_gets_its_own_products_at_most() {
    for tier in [SimdTier::Scalar, SimdTier::ScalarWide, SimdTier::ScalarBf16] {
        assert!(matches!(Dots::fastest(tier), Dots::Scalar(_)));
    }
    #[cfg(target_arch = "x86_64")]
    if SimdTier::Avx2.is_available() {
        assert!(!matches!(Dots::fastest(SimdTier::Avx2), Dots::Scalar(_) | Dots::Avx512Vnni(_)));
    }
    // Rounding bf16 is no reason to lose the products of integers.
    let [plain, rounding] = [SimdTier::Avx512, SimdTier::Avx512Bf16].map(Dots::fastest);
    assert_eq!(std::mem::discriminant(&plain), std::mem::discriminant(&rounding));
    assert!(tiers().iter().any(|tier| matches!(tier, Dots::Scalar(_))));
}
