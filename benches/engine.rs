//! What a step costs beside the device: scheduling, blocks, the prefix cache, sampling.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lacuna::completion::SamplingParams;
use lacuna::engine::block_pool::{BlockPool, Reuse};
use lacuna::engine::prefix_cache::PrefixCache;
use lacuna::engine::scheduler::Scheduler;
use lacuna::engine::sequence::{Sequence, SequenceId};
use lacuna::engine::{Batch, EngineLimits, SampledToken, Sampler, SamplingRow, SequenceRequest};

/// As many as a busy server decodes at once.
const NUM_RUNNING: usize = 64;
/// Tokens of a block as configured by default.
const BLOCK_SIZE: usize = 16;
/// A prompt of a large file with its context.
const NUM_PROMPT_TOKENS: usize = 8192;
/// Qwen2.5-Coder's.
const VOCAB_SIZE: usize = 151_936;

fn sequence(id: u64) -> Sequence {
    let request = SequenceRequest {
        prompt_token_ids: (0..1000).map(|token| token + id as u32).collect(),
        max_tokens: 100 + id as u32 % 100,
        sampling: SamplingParams::greedy(),
        stop_token_ids: Arc::new([0, 1, 2, 3]),
        logprobs: None,
        priority: 0,
        adapter: None,
    };
    Sequence::new(SequenceId(id), request)
}

/// One step of everything that is pure: plan, flat arrays, record. Who has ended is replaced.
fn step(criterion: &mut Criterion) {
    let mut scheduler = Scheduler::new(&EngineLimits {
        num_seqs_max: NUM_RUNNING,
        num_batched_tokens_max: 2048,
        block_size: BLOCK_SIZE,
        num_blocks: 10_000,
        context_tokens_max: 4096,
        num_queued_max: NUM_RUNNING,
        has_prefix_cache: true,
        vocab_size: VOCAB_SIZE as u32,
    });
    let mut batch = Batch::default();
    let mut next_id = 0;
    criterion.bench_function("engine/step/64_running", |bencher| {
        bencher.iter(|| {
            while scheduler.running().len() + scheduler.waiting().len() < NUM_RUNNING {
                scheduler.add(sequence(next_id));
                next_id += 1;
            }
            let output = scheduler.schedule();
            batch.fill(&output, &scheduler);
            let num_rows = batch.logit_rows.len();
            let tokens = (0..num_rows).map(|_| SampledToken { id: 7, logprob: None }).collect();
            let step = scheduler.start(&output);
            scheduler.finish(&step, tokens)
        });
    });
}

fn block_pool(criterion: &mut Criterion) {
    let mut pool = BlockPool::new(10_000);
    criterion.bench_function("engine/block_pool/take_and_give_back_512", |bencher| {
        bencher.iter(|| {
            let blocks: [_; 512] = std::array::from_fn(|_| pool.allocate());
            for block in blocks.into_iter().rev() {
                pool.release(block, Reuse::Last);
            }
        });
    });
}

fn prefix_cache(criterion: &mut Criterion) {
    let tokens: Vec<u32> = (0..NUM_PROMPT_TOKENS as u32).collect();
    let mut cache = PrefixCache::new(10_000, BLOCK_SIZE);
    let mut pool = BlockPool::new(10_000);
    let mut hashes = Vec::new();
    cache.extend_hashes(&mut hashes, &tokens, None);
    for hash in &hashes {
        cache.insert(*hash, pool.allocate());
    }
    criterion.bench_function("engine/prefix_cache/name_8192_tokens", |bencher| {
        bencher.iter_batched_ref(
            || Vec::with_capacity(hashes.len()),
            |hashes| cache.extend_hashes(hashes, black_box(&tokens), None),
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("engine/prefix_cache/find_8192_tokens", |bencher| {
        bencher.iter(|| cache.find(black_box(&hashes)).count());
    });
}

/// Logits as a model gives them: a few likely tokens over a broad bell.
fn logits() -> Vec<f32> {
    let noise = |id: usize, salt: usize| {
        let bits = (id * 4 + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        bits as f32 / (1 << 24) as f32 - 0.5
    };
    let bell = |id| (0..4).map(|salt| noise(id, salt)).sum::<f32>() * 4.0;
    (0..VOCAB_SIZE).map(|id| bell(id) + if id % 5000 == 0 { 12.0 } else { 0.0 }).collect()
}

fn sampler(criterion: &mut Criterion) {
    let row = |params: SamplingParams, logprobs| SamplingRow {
        sequence_id: SequenceId(0),
        params: Arc::new(params),
        num_generated: 0,
        history: Vec::new(),
        num_prompt_tokens: 0,
        logprobs,
    };
    let greedy = SamplingParams::greedy();
    let drawn = SamplingParams { temperature: 0.8, ..greedy.clone() };
    let rows = [
        ("greedy", row(greedy.clone(), None)),
        ("greedy_logprobs_5", row(greedy, Some(5))),
        ("temperature", row(drawn.clone(), None)),
        ("top_p", row(SamplingParams { top_p: 0.95, ..drawn.clone() }, None)),
        ("top_k", row(SamplingParams { top_k: 50, ..drawn.clone() }, None)),
        ("min_p", row(SamplingParams { min_p: 0.05, ..drawn }, None)),
    ];
    let mut sampler = Sampler::new(VOCAB_SIZE);
    // Nothing here changes the logits, so they serve again and again.
    let mut logits = logits();
    for (name, mut row) in rows {
        criterion.bench_function(&format!("engine/sampler/{name}"), |bencher| {
            bencher.iter(|| {
                row.num_generated += 1;
                sampler.sample(black_box(&mut logits), &row)
            });
        });
    }
}

criterion_group!(benches, step, block_pool, prefix_cache, sampler);
criterion_main!(benches);
