//! The embedded model through the whole engine: equal to PyTorch, and equal to itself however a step is put together.
//!
//! The simulation in `tests/engine` checks the scheduler against a scripted device; here the device is the real one.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod gguf;
#[path = "../../models/tests/gguf_writer.rs"]
#[expect(dead_code, reason = "the tests of `models` use the rest")]
mod gguf_writer;

use std::sync::Arc;

use lacuna::{
    completion::{FinishReason, SamplingParams},
    engine::{self, EngineHandle, EngineLimits, ModelRunner, SequenceRequest, SequenceStream},
};
use lacuna::{
    prompt::{FimTemplate, Gap, PromptBuilder, budget::Shares, family, family::Layout},
    tokenizer::Tokenizer,
};
use models::{
    Adapter, Device, GraphMode, KvCacheSize, KvDType, LoadOptions, Source, WeightFormat, load,
    read_spec,
};
use serde::Deserialize;

mod adapters;
mod keystrokes;
mod tokenizers;
mod trained;

const BLOCK_SIZE: usize = 16;
const CONTEXT_TOKENS: usize = 2048;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    prefix: String,
    suffix: String,
    #[serde(default)]
    typed: Option<String>,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../golden/demo.json");
    serde_json::from_str::<Golden>(text).unwrap().cases
}

/// How an engine puts its steps together.
#[derive(Clone, Copy, Debug)]
struct Shape {
    num_seqs_max: usize,
    num_batched_tokens_max: usize,
    num_blocks: usize,
    has_prefix_cache: bool,
    num_threads: usize,
}

/// One sequence at a time, whole prompts, nothing shared: what all others are compared with.
const ALONE: Shape = Shape {
    num_seqs_max: 1,
    num_batched_tokens_max: 2048,
    num_blocks: 512,
    has_prefix_cache: false,
    num_threads: 2,
};

fn start(shape: Shape) -> (engine::Engine, EngineHandle) {
    start_with(shape, Arc::default())
}

fn start_with(shape: Shape, adapters: Arc<[Adapter]>) -> (engine::Engine, EngineHandle) {
    let options = LoadOptions {
        device: Device::Cpu,
        weight_format: WeightFormat::Stored,
        block_size: BLOCK_SIZE,
        // As served.
        kv_dtype: KvDType::F16,
        kv_cache: KvCacheSize::Blocks(shape.num_blocks),
        max_num_tokens: shape.num_batched_tokens_max,
        max_num_seqs: shape.num_seqs_max,
        max_num_logit_rows: shape.num_seqs_max,
        context_tokens_max: None,
        num_threads: Some(shape.num_threads),
        simd: None,
        graphs: GraphMode::Captured,
        adapters,
        tensor_parallel_size: 1,
    };
    let model = load(Source::Demo, &options, &mut |_| {}).unwrap();
    let vocab_size = model.spec().vocab_size;
    let limits = EngineLimits {
        num_seqs_max: shape.num_seqs_max,
        num_batched_tokens_max: shape.num_batched_tokens_max,
        block_size: BLOCK_SIZE,
        num_blocks: shape.num_blocks,
        context_tokens_max: CONTEXT_TOKENS,
        num_queued_max: 256,
        has_prefix_cache: shape.has_prefix_cache,
        vocab_size: vocab_size as u32,
    };
    engine::start(Box::new(ModelRunner::new(model, vocab_size)), limits).unwrap()
}

fn request(case: &Case, sampling: SamplingParams) -> SequenceRequest {
    SequenceRequest {
        prompt_token_ids: case.prompt_ids.clone(),
        max_tokens: 24,
        sampling,
        stop_token_ids: Arc::from([]),
        logprobs: None,
        priority: 0,
        adapter: None,
    }
}

async fn collect(mut stream: SequenceStream) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(output) = stream.next().await {
        let output = output.unwrap();
        ids.extend(output.tokens.iter().map(|token| token.id));
        assert_ne!(output.finish, Some(FinishReason::Aborted));
    }
    ids
}

/// Submits all at once and waits for all.
async fn run(handle: &EngineHandle, requests: &[SequenceRequest]) -> Vec<Vec<u32>> {
    let streams: Vec<_> =
        requests.iter().map(|request| handle.submit(request.clone()).unwrap()).collect();
    let mut outputs = Vec::new();
    for stream in streams {
        outputs.push(collect(stream).await);
    }
    outputs
}

#[tokio::test]
async fn greedy_output_is_pytorchs_token_for_token() {
    let cases = cases();
    assert!(cases.len() >= 32, "the golden set has {} cases", cases.len());
    let eos = read_spec(Source::Demo).unwrap().eos_token_ids;
    let (_engine, handle) = start(Shape {
        num_seqs_max: 16,
        num_batched_tokens_max: 256,
        has_prefix_cache: true,
        ..ALONE
    });
    let requests: Vec<_> = cases
        .iter()
        .map(|case| SequenceRequest {
            max_tokens: case.output_ids.len().max(1) as u32,
            stop_token_ids: Arc::from(eos.as_slice()),
            ..request(case, SamplingParams::greedy())
        })
        .collect();
    for (case, output) in cases.iter().zip(run(&handle, &requests).await) {
        assert_eq!(output, case.output_ids, "{}", case.name);
    }
}

#[test]
fn prompts_are_built_as_the_golden_set_has_them() {
    let tokenizer = Tokenizer::from_json(models::demo::TOKENIZER_JSON).unwrap();
    let fim = family::fim_by_name("qwen2.5-coder").unwrap();
    let id = |token: &str| tokenizer.added_token_id(token);
    let template = FimTemplate::resolve("qwen2.5-coder", fim, id).unwrap();
    let builder = PromptBuilder {
        tokenizer: &tokenizer,
        context_tokens_max: CONTEXT_TOKENS,
        shares: Shares { suffix: 0.5, context: 0.0 },
        outlines: None,
    };
    let mut num_checked = 0;
    // The cases of several files have their sentinels in the prefix, which a client's text cannot.
    for case in cases().iter().filter(|case| !case.prefix.contains("<|")) {
        let layout = if case.typed.is_some() { Layout::LineStart } else { Layout::Plain };
        let prefix = format!("{}{}", case.prefix, case.typed.as_deref().unwrap_or_default());
        let gap = Gap {
            prefix: &prefix,
            suffix: &case.suffix,
            file_name: None,
            repository: None,
            language: None,
            context: &[],
        };
        let prompt = builder.gap(&template.clone().with_layout(layout), gap, 48).unwrap();
        assert_eq!(prompt.token_ids, case.prompt_ids, "{}", case.name);
        num_checked += 1;
    }
    assert!(num_checked >= 32, "{num_checked} cases");
}

/// Greedy and three ways of sampling, taken in turn over the golden prompts.
fn mixed_requests(cases: &[Case]) -> Vec<SequenceRequest> {
    let greedy = SamplingParams::greedy();
    let sampled = SamplingParams { temperature: 0.9, seed: Some(7), ..greedy.clone() };
    let narrow =
        SamplingParams { top_k: 20, top_p: 0.9, min_p: 0.02, seed: Some(11), ..sampled.clone() };
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
        seed: Some(13),
        ..sampled.clone()
    };
    let ways = [greedy, sampled, narrow, penalised];
    cases
        .iter()
        .enumerate()
        .map(|(index, case)| request(case, ways[index % ways.len()].clone()))
        .collect()
}

#[tokio::test]
async fn output_does_not_depend_on_how_steps_are_put_together() {
    let short = cases().into_iter().filter(|case| case.prompt_ids.len() < 700);
    let cases: Vec<Case> = short.step_by(2).collect();
    let requests = mixed_requests(&cases);
    let (_engine, handle) = start(ALONE);
    let alone = run(&handle, &requests).await;
    assert_eq!(handle.stats().num_preemptions, 0);

    let batched = Shape { num_seqs_max: 32, ..ALONE };
    let shapes = [
        ("batched", batched),
        ("chunked", Shape { num_seqs_max: 4, num_batched_tokens_max: 23, ..ALONE }),
        ("one thread", Shape { num_threads: 1, ..batched }),
        // Fewer blocks than the batch would like: the longest prompt just fits.
        ("preempted", Shape { num_seqs_max: 16, num_blocks: 48, ..ALONE }),
        (
            "preempted and cached",
            Shape { num_seqs_max: 16, num_blocks: 48, has_prefix_cache: true, ..ALONE },
        ),
    ];
    for (name, shape) in shapes {
        let (_engine, handle) = start(shape);
        assert_eq!(run(&handle, &requests).await, alone, "{name}");
        let num_preempted = handle.stats().num_preemptions;
        assert_eq!(
            num_preempted > 0,
            name.starts_with("preempted"),
            "{name}: {num_preempted} preemptions"
        );
    }
}

#[tokio::test]
async fn a_cached_prompt_gives_what_a_cold_one_gave() {
    let cases = cases();
    let requests = mixed_requests(&cases[..12]);
    let (_engine, handle) = start(Shape { num_seqs_max: 8, has_prefix_cache: true, ..ALONE });
    let cold = run(&handle, &requests).await;
    let cached_before = handle.stats().num_cache_hit_tokens;
    assert_eq!(run(&handle, &requests).await, cold);
    assert!(handle.stats().num_cache_hit_tokens > cached_before, "the second run hit the cache");
}
