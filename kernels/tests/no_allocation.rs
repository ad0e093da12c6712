//! A step allocates nothing, on any thread: prefill and decode, from metadata to logits, under a counting allocator.

#![expect(unsafe_code, reason = "a global allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::activation::Activation;
use kernels::backend::{Backend, DType, MatrixData, WeightFormat};
use kernels::cpu::{CpuBackend, CpuLora, CpuOptions, CpuPairs, SimdTier};
use kernels::lora::{Lora, LoraPair, LoraShape, NO_ADAPTER};
use kernels::metadata::{AttentionShape, KvDType, StepInput};
use kernels::mixture::{Experts, Mixture, MixtureShape};
use kernels::parts::{Affine, FeedForward, HeadNorms, Norm};

static NUM_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is the system's; the count touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: handed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: handed on as it came.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 96;
const VOCABULARY: usize = 100;
const SHAPE: AttentionShape = AttentionShape {
    num_heads: 4,
    num_kv_heads: 2,
    head_dim: 16,
    block_size: 16,
    kv_dtype: KvDType::F16,
    scale: 0.25,
    window: None,
};

const MIXTURE: MixtureShape = MixtureShape {
    num_experts: 6,
    experts_per_token: 2,
    hidden_size: HIDDEN,
    expert_size: INTERMEDIATE,
    has_normed_weights: true,
};

type CpuMixture = <CpuBackend as Backend>::Mixture;

/// One layer with an embedding and a head; gates, ups and ways back of a mixture beside those of a dense part.
struct Model {
    router: <CpuBackend as Backend>::Matrix,
    experts: [<CpuMixture as Mixture<CpuBackend>>::Experts; 3],
    table: <CpuBackend as Backend>::Matrix,
    qkv: <CpuBackend as Backend>::Matrix,
    out: <CpuBackend as Backend>::Matrix,
    gate: <CpuBackend as Backend>::Matrix,
    up: <CpuBackend as Backend>::Matrix,
    down: <CpuBackend as Backend>::Matrix,
    norm: <CpuBackend as Backend>::Vector,
    head_norm: <CpuBackend as Backend>::Vector,
    rope: <CpuBackend as Backend>::RopeTable,
    pairs: CpuPairs,
}

struct State {
    mixture: CpuMixture,
    lora: CpuLora,
    cache: <CpuBackend as Backend>::LayerCache,
    step: <CpuBackend as Backend>::Step,
    residual: <CpuBackend as Backend>::Buffer,
    normed: <CpuBackend as Backend>::Buffer,
    wide: <CpuBackend as Backend>::Buffer,
    narrow: <CpuBackend as Backend>::Buffer,
    logits: <CpuBackend as Backend>::Buffer,
}

impl State {
    fn new(backend: &CpuBackend, mixture: CpuMixture, lora: CpuLora) -> Self {
        Self {
            mixture,
            lora,
            cache: backend.layer_cache(&SHAPE, 16).unwrap(),
            step: backend.step(200, 2, 16).unwrap(),
            residual: backend.buffer(200 * HIDDEN).unwrap(),
            normed: backend.buffer(200 * HIDDEN).unwrap(),
            wide: backend.buffer(200 * SHAPE.qkv_width()).unwrap(),
            narrow: backend.buffer(200 * INTERMEDIATE).unwrap(),
            logits: backend.buffer(2 * VOCABULARY).unwrap(),
        }
    }
}

fn matrix(
    backend: &mut CpuBackend,
    rows: usize,
    cols: usize,
    (dtype, format): (DType, WeightFormat),
) -> <CpuBackend as Backend>::Matrix {
    let bytes = vec![0x3C; dtype.num_bytes(rows * cols).unwrap()];
    backend.matrix(&[MatrixData { rows, cols, dtype, bytes: &bytes }], format).unwrap()
}

fn experts(
    backend: &mut CpuBackend,
    mixture: &CpuMixture,
    (rows, cols): (usize, usize),
    (dtype, format): (DType, WeightFormat),
) -> <CpuMixture as Mixture<CpuBackend>>::Experts {
    let bytes = vec![0x3C; dtype.num_bytes(rows * cols).unwrap()];
    let part = MatrixData { rows, cols, dtype, bytes: &bytes };
    mixture.experts(backend, &[part; MIXTURE.num_experts], format).unwrap()
}

fn run(backend: &mut CpuBackend, model: &Model, state: &mut State, input: &StepInput<'_>) {
    let num_tokens = input.num_tokens();
    let State { mixture, lora, cache, step, residual, normed, wide, narrow, logits } = state;
    let norm = || Norm::Rms { weight: &model.norm, eps: 1e-6 };
    backend.load_step(input, step).unwrap();
    backend.embed(step, &model.table, residual).unwrap();
    backend.scale(num_tokens, HIDDEN, 0.5, residual).unwrap();
    backend.norm(num_tokens, residual, norm(), normed).unwrap();
    backend.linear(num_tokens, normed, &model.qkv, None, wide).unwrap();
    let heads = HeadNorms { query: &model.head_norm, key: &model.head_norm, eps: 1e-6 };
    backend.head_norm(num_tokens, &SHAPE, heads, wide).unwrap();
    backend.rope_and_cache_write(step, &SHAPE, &model.rope, wide, cache).unwrap();
    backend.attention(step, &SHAPE, wide, cache, narrow).unwrap();
    backend.linear_add(num_tokens, narrow, &model.out, Some(&model.norm), residual).unwrap();
    backend.norm(num_tokens, residual, norm(), normed).unwrap();
    lora.group(backend, step).unwrap();
    lora.add(backend, normed, &model.pairs, wide).unwrap();
    backend.activate((num_tokens, HIDDEN), Activation::Silu, residual, None, normed).unwrap();
    let [gate, up] = [&model.gate, &model.up].map(|matrix| Affine { matrix, bias: None });
    let layer = Norm::Layer { weight: &model.norm, bias: &model.norm, eps: 1e-6 };
    backend.norm(num_tokens, residual, layer, normed).unwrap();
    for (activation, up) in [(Activation::GeluErf, None), (Activation::Silu, Some(up))] {
        let parts = FeedForward { activation, gate, up };
        backend.feed_forward(num_tokens, normed, parts, narrow).unwrap();
    }
    backend.linear_add(num_tokens, narrow, &model.down, None, residual).unwrap();
    backend.linear(num_tokens, normed, &model.router, None, wide).unwrap();
    mixture.route(backend, step, wide).unwrap();
    let [gate, up, down] = &model.experts;
    let experts = Experts { activation: Activation::Silu, gate, up, down };
    mixture.add(backend, normed, &experts, residual).unwrap();
    backend.gather_logit_rows(step, HIDDEN, residual, normed).unwrap();
    backend.linear(input.logit_rows.len(), normed, &model.table, None, logits).unwrap();
}

/// How the matrices are stored, gate and up as the fourth and the first: as plain numbers, and as integers.
const FORMATS: [[(DType, WeightFormat); 5]; 2] = [
    [
        (DType::Bf16, WeightFormat::Stored),
        (DType::Bf16, WeightFormat::Stored),
        (DType::F32, WeightFormat::Stored),
        (DType::F16, WeightFormat::Stored),
        (DType::Bf16, WeightFormat::Stored),
    ],
    [
        (DType::Bf16, WeightFormat::Int8),
        (DType::Q8_0, WeightFormat::Stored),
        (DType::Q4_0, WeightFormat::Stored),
        (DType::Q5_1, WeightFormat::Stored),
        (DType::F16, WeightFormat::Int8),
    ],
];

/// Two adapters of queries, keys and values.
const ADAPTERS: LoraShape =
    LoraShape { num_adapters: 2, max_cols: HIDDEN, max_rank: 8, max_rows: SHAPE.qkv_width() };

fn pairs(backend: &mut CpuBackend, lora: &CpuLora) -> CpuPairs {
    let bytes = vec![0; SHAPE.qkv_width().max(HIDDEN) * 8 * size_of::<f32>()];
    let matrix = |rows: usize, cols: usize| MatrixData {
        rows,
        cols,
        dtype: DType::F32,
        bytes: &bytes[..rows * cols * size_of::<f32>()],
    };
    let pair = LoraPair { down: matrix(8, HIDDEN), up: matrix(SHAPE.qkv_width(), 8) };
    lora.pairs(backend, &[pair; 2]).unwrap()
}

#[test]
fn a_step_allocates_nothing() {
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert!(NUM_ALLOCATIONS.load(Ordering::SeqCst) > 0, "the allocator must count");
    let tiers = SimdTier::available().flat_map(|tier| [(tier, 1), (tier, 3)]);
    let cases = tiers.flat_map(|tier| FORMATS.map(|formats| (tier, formats)));
    for ((tier, num_threads), formats) in cases {
        let options = CpuOptions { num_threads: Some(num_threads), simd: Some(tier) };
        let mut backend = CpuBackend::new(options).unwrap();
        let mixture = CpuMixture::new(&mut backend, &MIXTURE, 200).unwrap();
        let lora = CpuLora::new(&mut backend, &ADAPTERS, 200).unwrap();
        let model = Model {
            router: matrix(&mut backend, MIXTURE.num_experts, HIDDEN, formats[2]),
            experts: [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
                .map(|shape| experts(&mut backend, &mixture, shape, formats[0])),
            table: matrix(&mut backend, VOCABULARY, HIDDEN, formats[0]),
            qkv: matrix(&mut backend, SHAPE.qkv_width(), HIDDEN, formats[1]),
            out: matrix(&mut backend, HIDDEN, SHAPE.num_heads * SHAPE.head_dim, formats[2]),
            gate: matrix(&mut backend, INTERMEDIATE, HIDDEN, formats[3]),
            up: matrix(&mut backend, INTERMEDIATE, HIDDEN, formats[0]),
            down: matrix(&mut backend, HIDDEN, INTERMEDIATE, formats[4]),
            norm: backend.vector(&[1.0; HIDDEN]).unwrap(),
            head_norm: backend.vector(&[1.0; SHAPE.head_dim]).unwrap(),
            rope: backend.rope_table(&[0.5; 8], 256, 1.0).unwrap(),
            pairs: pairs(&mut backend, &lora),
        };
        backend.reserve(200).unwrap();
        let mut state = State::new(&backend, mixture, lora);
        let counted: Vec<u32> = (0..200).collect();
        let adapters: Vec<u32> =
            counted.iter().map(|token| [0, NO_ADAPTER, 1][*token as usize % 3]).collect();
        let prefill = StepInput {
            token_ids: &[7; 200],
            positions: &counted,
            slot_mapping: &counted,
            cu_seqlens_q: &[0, 200],
            context_lens: &[200],
            block_tables: &counted[..13],
            max_blocks_per_seq: 13,
            logit_rows: &[199],
            adapters: &adapters,
        };
        let decode = StepInput {
            token_ids: &[7],
            positions: &[200],
            slot_mapping: &[200],
            cu_seqlens_q: &[0, 1],
            context_lens: &[201],
            logit_rows: &[0],
            adapters: &[1],
            ..prefill
        };
        let mut read = [0.0; VOCABULARY];
        let mut count = || {
            let before = NUM_ALLOCATIONS.load(Ordering::SeqCst);
            run(&mut backend, &model, &mut state, &prefill);
            run(&mut backend, &model, &mut state, &decode);
            backend.read(&state.logits, &mut read).unwrap();
            NUM_ALLOCATIONS.load(Ordering::SeqCst) - before
        };
        // A step that allocates does so each time; a thread that just starts, or the harness, may be counted once.
        let fewest = (0..8).map(|_| count()).min();
        assert_eq!(fewest, Some(0), "with {num_threads} threads, {formats:?}");
        assert!(read.iter().all(|value| value.is_finite()));
    }
}
