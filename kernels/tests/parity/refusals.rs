//! What an operator must refuse, in the same words on every backend.

use kernels::activation::Activation;
use kernels::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use kernels::metadata::{AttentionShape, KvDType, StepInput};
use kernels::parts::{Affine, FeedForward, HeadNorms, Norm};
use kernels::reference::ReferenceBackend;

use crate::rig::{Stored, cpus, loaded_ids, silu_gated};

const SHAPE: AttentionShape = AttentionShape {
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 8,
    block_size: 4,
    kv_dtype: KvDType::F32,
    scale: 1.0,
    window: None,
};

/// Two sequences: a prefill of three tokens, and a decode at position 5.
const INPUT: StepInput<'static> = StepInput {
    token_ids: &[1, 2, 3, 4],
    positions: &[0, 1, 2, 5],
    slot_mapping: &[0, 1, 2, 9],
    cu_seqlens_q: &[0, 3, 4],
    context_lens: &[3, 6],
    block_tables: &[0, 9, 1, 2],
    max_blocks_per_seq: 2,
    logit_rows: &[2, 3],
    adapters: &[],
};

fn assert_refused(result: Result<(), BackendError>, operator: &str, rule: &str) {
    match result {
        Err(error @ BackendError::Shape { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with(&format!("{operator}: ")), "{message}");
            assert!(message.contains(rule), "{message}");
        }
        other => panic!("{operator} must refuse for {rule}, got {other:?}"),
    }
}

fn check_step<B: Backend>(backend: &mut B, input: &StepInput<'_>, rule: &str) {
    let mut step = backend.step(4, 2, 2).unwrap();
    assert_refused(backend.load_step(input, &mut step), "load_step", rule);
}

/// Rows of a step that is wrong in one place, with the rule that it breaks.
fn wrong_steps() -> Vec<(StepInput<'static>, &'static str)> {
    vec![
        (StepInput { positions: &[0, 1, 2], ..INPUT }, "`positions` must be 4, got 3"),
        (
            StepInput { positions: &[0, 1, 3, 5], ..INPUT },
            "`positions` of the last tokens must be 2, got 3",
        ),
        (StepInput { positions: &[0, 1, 2, 4], ..INPUT }, "must be 5, got 4"),
        (StepInput { slot_mapping: &[0], ..INPUT }, "`slot_mapping` must be 4, got 1"),
        (StepInput { cu_seqlens_q: &[0, 4], ..INPUT }, "`cu_seqlens_q` must be 3, got 2"),
        (
            StepInput { cu_seqlens_q: &[1, 3, 4], ..INPUT },
            "first of `cu_seqlens_q` must be 0, got 1",
        ),
        (
            StepInput { cu_seqlens_q: &[0, 3, 3], ..INPUT },
            "last of `cu_seqlens_q` must be 4, got 3",
        ),
        (StepInput { cu_seqlens_q: &[0, 3, 5], ..INPUT }, "`cu_seqlens_q` must ascend to 4, got 5"),
        (
            StepInput { cu_seqlens_q: &[0, 3, 2], ..INPUT },
            "`cu_seqlens_q` must ascend to 4, got 2 after 3",
        ),
        (
            StepInput { context_lens: &[2, 6], ..INPUT },
            "new tokens of a sequence must be at most 2, got 3",
        ),
        (StepInput { block_tables: &[0], ..INPUT }, "`block_tables` must be 4, got 1"),
        (
            StepInput { max_blocks_per_seq: 3, ..INPUT },
            "`max_blocks_per_seq` must be at most 2, got 3",
        ),
        (StepInput { logit_rows: &[4], ..INPUT }, "`logit_rows` must be below 4, got 4"),
        (StepInput { logit_rows: &[2, 2], ..INPUT }, "`logit_rows` must ascend, got 2 after 2"),
        (StepInput { adapters: &[0; 3], ..INPUT }, "length of `adapters` must be 4, got 3"),
        (StepInput { token_ids: &[0; 5], ..INPUT }, "`num_tokens` must be at most 4, got 5"),
        (StepInput { context_lens: &[1; 3], ..INPUT }, "`num_seqs` must be at most 2, got 3"),
    ]
}

fn check_rows<B: Backend>(backend: &mut B) {
    let weights = Stored::new(&[0.0; 12], DType::Bf16);
    let matrix = backend.matrix(&[weights.data(3, 4)], WeightFormat::Stored).unwrap();
    backend.reserve(16).unwrap();
    let bias = backend.vector(&[0.0; 4]).unwrap();
    let (small, mut large) = (backend.buffer(7).unwrap(), backend.buffer(64).unwrap());
    let mut out = backend.buffer(5).unwrap();
    let result = backend.linear(2, &small, &matrix, None, &mut large);
    assert_refused(result, "linear", "`x` must hold 2 rows of 4 values (8), got 7");
    let result = backend.linear(2, &large, &matrix, None, &mut out);
    assert_refused(result, "linear", "`out` must hold 2 rows of 3 values (6), got 5");
    let result = backend.linear(1, &small, &matrix, Some(&bias), &mut large);
    assert_refused(result, "linear", "length of `bias` must be 3, got 4");
    let result = backend.linear_add(2, &large, &matrix, None, &mut out);
    assert_refused(result, "linear_add", "`residual` must hold 2 rows");
    let result = backend.linear(usize::MAX, &large, &matrix, None, &mut out);
    assert_refused(result, "linear", "got 64");
    let result = backend.linear_add(1, &large, &matrix, Some(&bias), &mut out);
    assert_refused(result, "linear_add", "length of `bias` must be 3, got 4");
    let rms = || Norm::Rms { weight: &bias, eps: 1e-6 };
    let result = backend.norm(2, &small, rms(), &mut large);
    assert_refused(result, "rms_norm", "`x` must hold 2 rows of 4 values (8), got 7");
    let result = backend.norm(2, &large, rms(), &mut out);
    assert_refused(result, "rms_norm", "`out` must hold");
    let short = backend.vector(&[0.0; 3]).unwrap();
    let norm = Norm::Layer { weight: &bias, bias: &short, eps: 1e-6 };
    let result = backend.norm(1, &small, norm, &mut large);
    assert_refused(result, "layer_norm", "length of `bias` must be 4, got 3");
    let result = backend.scale(2, 4, 2.0, &mut out);
    assert_refused(result, "scale", "`x` must hold 2 rows of 4 values (8), got 5");
    let norms = |query, key| HeadNorms { query, key, eps: 1e-6 };
    let shape = AttentionShape { head_dim: 4, ..SHAPE };
    let result = backend.head_norm(1, &shape, norms(&bias, &short), &mut large);
    assert_refused(result, "head_norm", "length of `key` must be 4, got 3");
    let result = backend.head_norm(1, &shape, norms(&short, &bias), &mut large);
    assert_refused(result, "head_norm", "length of `query` must be 4, got 3");
    let result = backend.head_norm(3, &shape, norms(&bias, &bias), &mut large);
    assert_refused(result, "head_norm", "`qkv` must hold 3 rows of 32 values (96), got 64");
    let other = backend.matrix(&[weights.data(4, 3)], WeightFormat::Stored).unwrap();
    let result = backend.feed_forward(1, &large, silu_gated(&matrix, &other), &mut out);
    assert_refused(result, "feed_forward", "rows of `up` must be 3, got 4");
    let result = backend.feed_forward(2, &small, silu_gated(&matrix, &matrix), &mut large);
    assert_refused(result, "feed_forward", "`x` must hold 2 rows of 4 values (8), got 7");
    let result = backend.feed_forward(2, &large, silu_gated(&matrix, &matrix), &mut out);
    assert_refused(result, "feed_forward", "`out` must hold 2 rows of 3 values (6), got 5");
    let gate = Affine { matrix: &matrix, bias: Some(&bias) };
    let parts = FeedForward { activation: Activation::GeluErf, gate, up: None };
    let result = backend.feed_forward(1, &large, parts, &mut out);
    assert_refused(result, "feed_forward", "length of `bias` must be 3, got 4");
    let right = Affine { matrix: &matrix, bias: None };
    let parts = FeedForward { activation: Activation::Silu, gate: right, up: Some(gate) };
    let result = backend.feed_forward(1, &large, parts, &mut out);
    assert_refused(result, "feed_forward", "length of `bias` must be 3, got 4");
    let result = backend.read(&small, &mut [0.0; 8]);
    assert_refused(result, "read", "`x` must hold 1 rows of 8 values (8), got 7");
    let step = loaded_ids(backend, &[0, 3]);
    let result = backend.embed(&step, &matrix, &mut large);
    assert_refused(result, "embed", "`token_ids` must be below 3, got 3");
    let step = loaded_ids(backend, &[0, 2]);
    let result = backend.embed(&step, &matrix, &mut out);
    assert_refused(result, "embed", "`out` must hold 2 rows of 4 values (8), got 5");
    let result = backend.gather_logit_rows(&step, 4, &small, &mut large);
    assert_refused(result, "gather_logit_rows", "`x` must hold");
    let result = backend.gather_logit_rows(&step, 4, &large, &mut out);
    assert_refused(result, "gather_logit_rows", "`out` must hold");
}

fn check_matrices<B: Backend>(backend: &mut B) {
    let mut refuse = |parts: &[MatrixData<'_>], rule| {
        assert_refused(backend.matrix(parts, WeightFormat::Stored).map(drop), "matrix", rule);
    };
    let part = MatrixData { rows: 2, cols: 3, dtype: DType::Bf16, bytes: &[0; 12] };
    refuse(&[], "at least one part");
    refuse(&[MatrixData { bytes: &[0; 11], ..part }], "bytes of a part must be 12, got 11");
    refuse(
        &[part, MatrixData { cols: 2, rows: 3, ..part }],
        "`cols` of each part must be 3, got 2",
    );
    refuse(&[MatrixData { rows: usize::MAX, ..part }], "bytes of a part");
    let blocks = MatrixData { rows: 1, cols: 256, dtype: DType::Q4K, bytes: &[0; 144] };
    refuse(
        &[MatrixData { cols: 255, ..blocks }],
        "`cols` of Q4K must be a multiple of 256, got 255",
    );
    refuse(&[MatrixData { bytes: &[0; 143], ..blocks }], "bytes of a part must be 144, got 143");
}

fn check_shapes<B: Backend>(backend: &mut B) {
    let refuse = |shape: AttentionShape, rule| {
        assert_refused(backend.layer_cache(&shape, 1).map(drop), "layer_cache", rule);
    };
    refuse(
        AttentionShape { num_heads: 3, ..SHAPE },
        "`num_kv_heads` must divide `num_heads`, got 2 and 3",
    );
    refuse(AttentionShape { num_kv_heads: 0, ..SHAPE }, "`num_kv_heads` must divide");
    refuse(AttentionShape { num_heads: 0, ..SHAPE }, "`num_kv_heads` must divide");
    refuse(AttentionShape { head_dim: 7, ..SHAPE }, "`head_dim` must be even and not 0, got 7");
    refuse(AttentionShape { head_dim: 0, ..SHAPE }, "`head_dim` must be even");
    refuse(AttentionShape { block_size: 0, ..SHAPE }, "`block_size` must be at least 1");
    refuse(AttentionShape { window: Some(0), ..SHAPE }, "`window` must be at least 1");
}

fn check_attention<B: Backend>(backend: &mut B) {
    let mut step = backend.step(4, 2, 2).unwrap();
    backend.load_step(&INPUT, &mut step).unwrap();
    let rope = backend.rope_table(&[1.0; 4], 6, 1.0).unwrap();
    let mut cache = backend.layer_cache(&SHAPE, 3).unwrap();
    let mut qkv = backend.buffer(4 * SHAPE.qkv_width()).unwrap();
    let mut out = backend.buffer(4 * 32).unwrap();
    backend.rope_and_cache_write(&step, &SHAPE, &rope, &mut qkv, &mut cache).unwrap();
    backend.attention(&step, &SHAPE, &qkv, &cache, &mut out).unwrap();

    let mut short = backend.buffer(4 * SHAPE.qkv_width() - 1).unwrap();
    let few_positions = backend.rope_table(&[1.0; 4], 5, 1.0).unwrap();
    let wrong_half = backend.rope_table(&[1.0; 8], 6, 1.0).unwrap();
    let mut few_blocks = backend.layer_cache(&SHAPE, 2).unwrap();
    let mut write = |rope: &B::RopeTable, cache: &mut B::LayerCache, shape, rule| {
        let result = backend.rope_and_cache_write(&step, &shape, rope, &mut qkv, cache);
        assert_refused(result, "rope_and_cache_write", rule);
    };
    write(&few_positions, &mut cache, SHAPE, "`positions` must be below 5, got 5");
    write(&wrong_half, &mut cache, SHAPE, "`inv_freq` of the rope table must be 4, got 8");
    write(&rope, &mut few_blocks, SHAPE, "`slot_mapping` must be below 8, got 9");
    let other = AttentionShape { block_size: 2, ..SHAPE };
    write(&rope, &mut cache, other, "`block_size` of the cache must be 2, got 4");
    let other = AttentionShape { kv_dtype: KvDType::F16, ..SHAPE };
    write(&rope, &mut cache, other, "elements of the cache must be f16, got f32");
    let other = AttentionShape { head_dim: 16, ..SHAPE };
    write(&rope, &mut cache, other, "`head_dim` of the cache must be 16, got 8");
    let other = AttentionShape { num_kv_heads: 1, ..SHAPE };
    write(&rope, &mut cache, other, "`num_kv_heads` of the cache must be 1, got 2");
    let result = backend.rope_and_cache_write(&step, &SHAPE, &rope, &mut short, &mut cache);
    assert_refused(result, "rope_and_cache_write", "`qkv` must hold 4 rows of 64 values");

    let result = backend.attention(&step, &SHAPE, &qkv, &few_blocks, &mut out);
    assert_refused(result, "attention", "`block_tables` must be below 2, got 2");
    let result = backend.attention(&step, &SHAPE, &short, &cache, &mut out);
    assert_refused(result, "attention", "`qkv` must hold");
    let result = backend.attention(&step, &SHAPE, &qkv, &cache, &mut short);
    assert!(result.is_ok(), "{result:?}");
    let mut narrow = backend.buffer(4 * 32 - 1).unwrap();
    let result = backend.attention(&step, &SHAPE, &qkv, &cache, &mut narrow);
    assert_refused(result, "attention", "`out` must hold 4 rows of 32 values (128), got 127");
    let narrow_tables = StepInput { block_tables: &[0, 1], max_blocks_per_seq: 1, ..INPUT };
    backend.load_step(&narrow_tables, &mut step).unwrap();
    let result = backend.attention(&step, &SHAPE, &qkv, &cache, &mut out);
    assert_refused(result, "attention", "for the width of `block_tables` must be at most 4, got 6");
}

fn check_all<B: Backend>(backend: &mut B) {
    for (input, rule) in wrong_steps() {
        check_step(backend, &input, rule);
    }
    check_rows(backend);
    check_matrices(backend);
    check_shapes(backend);
    check_attention(backend);
}

#[test]
fn every_backend_refuses_in_the_same_words() {
    check_all(&mut ReferenceBackend);
    for mut backend in cpus() {
        check_all(&mut backend);
    }
}

#[test]
fn a_window_frees_the_blocks_behind_it() {
    // The first block of the second sequence is out of sight, so its id is never looked at.
    let shape = AttentionShape { window: Some(2), ..SHAPE };
    let input = StepInput { block_tables: &[0, 9, u32::MAX, 2], ..INPUT };
    for mut backend in cpus() {
        let mut step = backend.step(4, 2, 2).unwrap();
        backend.load_step(&input, &mut step).unwrap();
        let cache = backend.layer_cache(&shape, 3).unwrap();
        let qkv = backend.buffer(4 * shape.qkv_width()).unwrap();
        let mut out = backend.buffer(4 * 32).unwrap();
        backend.attention(&step, &shape, &qkv, &cache, &mut out).unwrap();
        let result = backend.attention(&step, &SHAPE, &qkv, &cache, &mut out);
        assert_refused(result, "attention", "`block_tables` must be below 3");
    }
}

#[test]
fn a_head_that_is_too_large_for_the_cpu_is_refused() {
    let shape = AttentionShape { head_dim: 258, ..SHAPE };
    for backend in cpus() {
        let result = backend.layer_cache(&shape, 1).map(drop);
        assert_refused(result, "layer_cache", "`head_dim` must be at most 256, got 258");
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error() {
    for backend in cpus() {
        let error = backend.buffer(usize::MAX / 8).unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { device: "cpu", .. }));
        let error = backend.layer_cache(&SHAPE, usize::MAX / 64).unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { device: "cpu", .. }));
        let error = backend.step(usize::MAX / 64, 1, 1).unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { device: "cpu", .. }));
    }
}

#[test]
fn a_refused_step_leaves_the_one_before() {
    for mut backend in cpus() {
        let mut step = backend.step(4, 2, 2).unwrap();
        backend.load_step(&INPUT, &mut step).unwrap();
        let wrong = StepInput { positions: &[0], ..INPUT };
        backend.load_step(&wrong, &mut step).unwrap_err();
        let x = backend.buffer(4).unwrap();
        let mut out = backend.buffer(1).unwrap();
        let result = backend.gather_logit_rows(&step, 1, &x, &mut out);
        assert_refused(result, "gather_logit_rows", "`out` must hold 2 rows");
    }
}
