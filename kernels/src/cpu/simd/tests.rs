//! Each primitive of each tier of this machine against the plain formula, lane by lane and to the bit.

use half::{bf16, f16};

use crate::cpu::fp8::E4m3;
use crate::cpu::matrix::Element;
use crate::cpu::simd::{Kernel, Simd, SimdTier, Vectors};

/// Values with signs, ties, denormals and both infinities; as many as the widest tier has lanes.
const A: [f32; 16] = [
    1.5,
    -2.25,
    0.0,
    -0.0,
    3.0e38,
    -1.0e-40,
    f32::INFINITY,
    7.0,
    -7.0,
    0.1,
    123_456.79,
    -1.0,
    f32::NEG_INFINITY,
    65_504.0,
    2.0e-20,
    -3.5,
];
/// Partners for [`A`].
const B: [f32; 16] = [
    2.5,
    -2.25,
    1.0,
    0.0,
    2.0,
    3.0,
    -1.0,
    f32::NAN,
    0.3,
    -0.7,
    1.0e-3,
    -1.0,
    5.0,
    0.5,
    2.0e-20,
    9.0,
];

struct Primitives(SimdTier);

/// Applies a primitive of two operands to the first lanes of [`A`] and [`B`].
fn assert_lanes<S: Simd>(simd: S, got: S::F32, expected: impl Fn(usize) -> f32, what: &str) {
    let mut chunk = simd.zero_chunk();
    simd.store(got, &mut chunk);
    for (lane, got) in chunk.as_ref().iter().enumerate() {
        let expected = expected(lane);
        let is_same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        assert!(is_same, "{what}, lane {lane}: {got} is not {expected}");
    }
}

impl Kernel for Primitives {
    type Output = ();

    fn run<S: Simd>(self, simd: S) {
        let tier = self.0;
        let (a, b) = (simd.load(&S::chunks(&A)[0]), simd.load(&S::chunks(&B)[0]));
        let check = |got, expected: &dyn Fn(usize) -> f32, what: &str| {
            assert_lanes(simd, got, expected, &format!("{tier} {what}"));
        };
        check(simd.splat(2.5), &|_| 2.5, "splat");
        check(a, &|lane| A[lane], "load and store");
        check(simd.add(a, b), &|lane| A[lane] + B[lane], "add");
        check(simd.sub(a, b), &|lane| A[lane] - B[lane], "sub");
        check(simd.mul(a, b), &|lane| A[lane] * B[lane], "mul");
        check(simd.div(a, b), &|lane| A[lane] / B[lane], "div");
        check(simd.min(a, b), &|lane| if A[lane] < B[lane] { A[lane] } else { B[lane] }, "min");
        check(simd.max(a, b), &|lane| if A[lane] > B[lane] { A[lane] } else { B[lane] }, "max");
        let is_fused = matches!(tier, SimdTier::Avx2 | SimdTier::Avx512 | SimdTier::Avx512Bf16);
        let sum = |lane: usize| {
            if is_fused { A[lane].mul_add(B[lane], 0.3) } else { A[lane] * B[lane] + 0.3 }
        };
        check(simd.mul_add(a, b, simd.splat(0.3)), &sum, "mul_add");
        for n in [-126.0_f32, -1.0, 0.0, 3.0, 127.0] {
            check(simd.pow2(simd.splat(n)), &|_| n.exp2(), "pow2");
        }
        let halves = [A, B].concat().into_iter().map(bf16::from_f32).collect::<Vec<_>>();
        let pairs = &S::bf16_pairs(&halves)[0];
        check(simd.load_bf16_first(pairs), &|lane| halves[2 * lane].to_f32(), "first of bf16");
        check(
            simd.load_bf16_second(pairs),
            &|lane| halves[2 * lane + 1].to_f32(),
            "second of bf16",
        );
        if tier != SimdTier::Avx512 {
            let x = [1.5, -0.75].map(bf16::from_f32);
            let bits = u32::from(x[0].to_bits()) | u32::from(x[1].to_bits()) << 16;
            // Products of bf16 are exact in f32, so fused or not is the same. The AVX-512 tier leaves this to its twin.
            let sum = |lane: usize| {
                let sum = 0.3 + halves[2 * lane + 1].to_f32() * x[1].to_f32();
                sum + halves[2 * lane].to_f32() * x[0].to_f32()
            };
            check(simd.dot_bf16_pairs(pairs, bits, simd.splat(0.3)), &sum, "dot_bf16_pairs");
        }
        let halves = A.map(f16::from_f32);
        check(simd.load_f16(&S::f16_chunks(&halves)[0]), &|lane| halves[lane].to_f32(), "f16");
        let codes: Vec<E4m3> = (0..=255).map(E4m3).filter(|code| code.is_finite()).collect();
        for (chunk, codes) in S::e4m3_chunks(&codes).iter().zip(codes.chunks(S::LANES)) {
            check(simd.load_e4m3(chunk), &|lane| codes[lane].widen(), "e4m3");
        }
        let partial = |lane: usize| if lane < 3 { A[lane] } else { 0.0 };
        check(simd.load_partial(&A[..3]), &partial, "load_partial");
        let mut some = [9.0; 4];
        simd.store_partial(a, &mut some[..3]);
        let expected = [A[0], A[1], A[2], 9.0];
        assert_eq!(some.map(f32::to_bits), expected.map(f32::to_bits), "{tier} store_partial");
        assert_eq!(simd.first_lane(a).to_bits(), A[0].to_bits(), "{tier} first_lane");
        reductions(simd, tier);
    }
}

fn reductions<S: Simd>(simd: S, tier: SimdTier) {
    // Sums of these differ in the last bits with the order.
    let mut values: Vec<f32> = (0..S::LANES).map(|lane| (lane as f32 + 0.7).sin()).collect();
    let vector = simd.load(&S::chunks(&values)[0]);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(simd.reduce_max(vector).to_bits(), greatest.to_bits(), "{tier} reduce_max");
    while values.len() > 1 {
        let upper = values.split_off(values.len() / 2);
        for (value, upper) in values.iter_mut().zip(upper) {
            *value += upper;
        }
    }
    assert_eq!(simd.reduce_add(vector).to_bits(), values[0].to_bits(), "{tier} reduce_add");
}

#[test]
fn primitives_equal_the_plain_formulas() {
    for tier in SimdTier::available() {
        let vectors = Vectors::new(tier).unwrap();
        if tier.rounds_to_bf16() {
            vectors.run_rounded(Primitives(tier));
        } else {
            vectors.run(Primitives(tier));
        }
    }
}

#[test]
fn the_fastest_tier_is_one_of_this_machine() {
    assert!(SimdTier::fastest().is_available());
    assert_ne!(SimdTier::fastest(), SimdTier::ScalarWide);
    assert!(!SimdTier::fastest().rounds_to_bf16());
}
