//! Rotation, cache and attention over ragged steps: against the reference, and cut one way against another.

use kernels::backend::Backend;
use kernels::metadata::{AttentionShape, KvDType};
use kernels::reference::ReferenceBackend;
use kernels::selftest::rig::Random;
use kernels::selftest::world::{Outputs, Piece, World};
use proptest::prelude::*;

use crate::rig::{assert_close, assert_same_bits, cpus};

/// Scores, softmax and sums in f32 against f64, over up to a few hundred positions.
const LIMIT: f64 = 1e-6;

/// The same from a cache in f16. Both round the same keys, but rotate them in f32 and in f64: now and then one is rounded
/// up and the other down, 1 part in 1000 apart.
const F16_LIMIT: f64 = 3e-4;

fn shape(num_kv_heads: usize, group: usize, head_dim: usize, block_size: usize) -> AttentionShape {
    AttentionShape {
        num_heads: num_kv_heads * group,
        num_kv_heads,
        head_dim,
        block_size,
        kv_dtype: KvDType::F32,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
    }
}

fn assert_outputs_close(got: &[Outputs], expected: &[Outputs], limit: f64, what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert_close(&got.queries, &expected.queries, LIMIT, what);
        assert_close(&got.out, &expected.out, limit, what);
    }
}

/// The same sequences with a cache of these elements.
fn with_cache(world: &World, kv_dtype: KvDType) -> World {
    let mut world = world.clone();
    world.shape.kv_dtype = kv_dtype;
    world
}

/// Mixed steps equal the reference, and whole sequences alone to the bit, on every backend and with every cache.
fn check(world: &World, seed: u64) {
    for (kv_dtype, limit) in [(KvDType::F32, LIMIT), (KvDType::F16, F16_LIMIT)] {
        check_cache(&with_cache(world, kv_dtype), seed, limit);
    }
}

fn check_cache(world: &World, seed: u64, limit: f64) {
    let steps = world.mixed(&mut Random(seed));
    let expected = world.run(&mut ReferenceBackend, &steps).unwrap();
    for mut backend in cpus() {
        let what = format!("{} {:?}", backend.name(), world.shape);
        let got = world.run(&mut backend, &steps).unwrap();
        assert_outputs_close(&got, &expected, limit, &what);
        for (whole, got) in world.run(&mut backend, &world.alone()).unwrap().iter().zip(&got) {
            assert_same_bits(&got.queries, &whole.queries, &what);
            assert_same_bits(&got.out, &whole.out, &what);
        }
    }
}

#[test]
fn shapes_of_real_models_equal_the_reference() {
    for head_dim in [16, 64, 80, 128] {
        for group in [1, 2, 7] {
            for block_size in [8, 16, 32] {
                for window in [None, Some(1), Some(13)] {
                    let shape = AttentionShape { window, ..shape(2, group, head_dim, block_size) };
                    check(&World::new(shape, &[41, 1, 18], head_dim as u64), group as u64);
                }
            }
        }
    }
}

#[test]
fn odd_shapes_equal_the_reference() {
    for (head_dim, block_size, group) in [(2, 1, 3), (10, 5, 4), (22, 24, 17), (256, 40, 5)] {
        for window in [None, Some(7), Some(1000)] {
            let shape = AttentionShape { window, ..shape(1, group, head_dim, block_size) };
            check(&World::new(shape, &[29, 50], 1), 2);
        }
    }
}

#[test]
fn a_long_context_equals_the_reference() {
    let world = World::new(shape(1, 7, 64, 16), &[700, 333], 8);
    check(&world, 4);
}

#[test]
fn a_decode_batch_equals_its_sequences_alone() {
    let world = World::new(shape(2, 7, 64, 16), &[17, 64, 5, 33, 16], 6);
    let prefill: Vec<Vec<Piece>> =
        (0..5).map(|index| vec![(index, 0..world.len_of(index) - 1)]).collect();
    let decode = |index: usize| (index, world.len_of(index) - 1..world.len_of(index));
    let together = [prefill.clone(), vec![(0..5).map(decode).collect()]].concat();
    let apart = [prefill, (0..5).map(|index| vec![decode(index)]).collect()].concat();
    for mut backend in cpus() {
        let (together, apart) =
            (world.run(&mut backend, &together).unwrap(), world.run(&mut backend, &apart).unwrap());
        for (together, apart) in together.iter().zip(&apart) {
            assert_same_bits(&together.out, &apart.out, &backend.name());
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let world = World::new(shape(2, 7, 80, 16), &[130, 1, 77], 3);
    let steps = world.mixed(&mut Random(1));
    for pair in cpus().chunks_exact_mut(2) {
        let [one, three] = pair else { unreachable!("chunks of two") };
        for (one, three) in
            world.run(one, &steps).unwrap().iter().zip(&world.run(three, &steps).unwrap())
        {
            assert_same_bits(&one.out, &three.out, "one thread and three");
        }
    }
}

/// A later token must not reach an earlier one, not even as zero times NaN.
#[test]
fn nan_stays_with_the_tokens_that_see_it() {
    // Windows and groups by which the last token that sees it and the first that does not share a register tile.
    let windows = [None, Some(8), Some(9), Some(10)];
    let cases = windows.iter().flat_map(|&window| [1, 2, 4].map(|group| (window, group)));
    for (index, (window, group)) in cases.enumerate() {
        let kv_dtype = if index % 2 == 0 { KvDType::F16 } else { KvDType::F32 };
        let shape = AttentionShape { window, kv_dtype, ..shape(1, group, 16, 8) };
        let clean = World::new(shape, &[40], 2);
        let mut tainted = clean.clone();
        let (bad, width, out_width) = (21, shape.qkv_width(), shape.num_heads * shape.head_dim);
        // The whole value, and half of the key.
        tainted.qkv[0][bad * width + out_width + 8..(bad + 1) * width].fill(f32::NAN);
        for mut backend in cpus() {
            let expected = &clean.run(&mut backend, &clean.alone()).unwrap()[0].out;
            let got = &tainted.run(&mut backend, &tainted.alone()).unwrap()[0].out;
            for position in 0..40 {
                let range = position * out_width..(position + 1) * out_width;
                let sees = position >= bad && window.is_none_or(|window| position < bad + window);
                if sees {
                    assert!(got[range].iter().all(|value| value.is_nan()), "{position}");
                } else {
                    assert_same_bits(&got[range.clone()], &expected[range], "before or after");
                }
            }
        }
    }
}

#[test]
fn keys_beyond_f16_are_cut_and_not_infinite() {
    let shape = AttentionShape { kv_dtype: KvDType::F16, ..shape(1, 1, 16, 4) };
    let mut world = World::new(shape, &[9], 5);
    // Keys and values of a token, as large as they come.
    let (bad, width) = (4, shape.qkv_width());
    world.qkv[0][bad * width + 16..(bad + 1) * width].fill(1e30);
    let expected = world.run(&mut ReferenceBackend, &world.alone()).unwrap();
    for mut backend in cpus() {
        let got = world.run(&mut backend, &world.alone()).unwrap();
        assert!(got[0].out.iter().all(|value| value.is_finite()));
        assert_outputs_close(&got, &expected, F16_LIMIT, &backend.name());
    }
}

#[test]
fn the_reference_says_what_a_hand_computes() {
    // One head of two elements at positions 0 and 1; the second query turns by one radian, and so does its key.
    let shape = AttentionShape { scale: 1.0, ..shape(1, 1, 2, 4) };
    let mut world = World::new(shape, &[2], 0);
    world.qkv[0] = vec![1.0, 0.0, 1.0, 0.0, 1.0, 2.0, 1.0, 0.0, 1.0, 0.0, 3.0, 6.0];
    let outputs = world.run(&mut ReferenceBackend, &world.alone()).unwrap();
    let (sin, cos) = 1.0_f64.sin_cos();
    assert_close(&outputs[0].queries[2..], &[cos as f32, sin as f32], 1e-7, "rotated query");
    let (far, near) = (cos.exp(), 1.0_f64.exp());
    let first = (far + 3.0 * near) / (far + near);
    let expected = [1.0, 2.0, first as f32, 2.0 * first as f32];
    assert_close(&outputs[0].out, &expected, 1e-7, "weighted values");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_ragged_schedule_equals_the_reference(
        lens in prop::collection::vec(1_usize..90, 1..6),
        heads in (1_usize..3, 1_usize..9),
        half_dim in 1_usize..40,
        block_size in 1_usize..36,
        window in prop::option::of(1_usize..60),
        seed in any::<u64>(),
    ) {
        let shape = AttentionShape { window, ..shape(heads.0, heads.1, 2 * half_dim, block_size) };
        check(&World::new(shape, &lens, seed), seed ^ 1);
    }
}
