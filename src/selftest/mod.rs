//! Whether a device computes what it must: its operators one by one, then the embedded model through the engine's own
//! scheduler, against PyTorch's answers and against itself, also cut over two ranks.

mod golden;
mod shards;

use std::sync::Arc;

use models::{
    Device, DeviceOptions, GraphMode, KvCacheSize, KvDType, LoadOptions, ModelError, Source,
    WeightFormat, load, read_spec, selftest,
};
use serde::Serialize;

use crate::engine::{
    EngineLimits, ExecutorError, ModelRunner, Pipeline, SequenceRequest,
    scheduler::Scheduler,
    sequence::{Sequence, SequenceId},
};

pub use models::selftest::Grid;

/// Logits that are closer than this may change places on a device that rounds operands to bf16: answers must be
/// PyTorch's where no choice was as close.
///
/// # Units
/// logits. Rounding moves the embedded model's by 0.03 as a rule and by 0.1 at most.
const MARGIN: f64 = 0.2;

/// Ranks that the embedded model is cut over: it has as many key/value heads.
const NUM_RANKS: usize = 2;

const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 512;
const NUM_SEQS_MAX: usize = 8;

/// Tokens of a step for which a GPU takes sums in one order, however steps are put together: products stream their weights
/// past for up to 64, and attention is split over the context for up to 32 of a sequence. What ends a sequence is seen a
/// step later where the device samples, so such runs put their steps together otherwise than those that the host samples.
const ONE_ORDER_TOKENS_MAX: usize = 32;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The device.
    pub device: Device,
    /// Threads and instruction set of the CPU, and a GPU's graphs.
    pub options: DeviceOptions,
    /// Shapes of operators.
    pub grid: Grid,
    /// Prompts of the golden set; 0 leaves the model out.
    pub num_prompts: usize,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The operator, or `model`.
    pub check: String,
    /// Its shape or prompt.
    pub case: String,
    /// What it was compared with.
    pub against: String,
    /// Relative norm of the difference, or tokens that differ; null where something was no number.
    pub error: Option<f64>,
    /// The most that it may be; 0 asks for the same.
    pub limit: f64,
    /// Whether it is within.
    pub is_passed: bool,
}

/// Why a selftest did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// There is no such device, or it failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed in a step.
    #[error(transparent)]
    Step(#[from] ExecutorError),
    /// The embedded answers cannot be read.
    #[error("the embedded golden set cannot be read")]
    Golden(#[from] serde_json::Error),
}

/// Runs all checks of a plan and hands each outcome to `sink`. Returns the device's name.
///
/// # Errors
/// [`SelftestError`]: nothing after it was tried.
pub fn run(plan: &Plan, sink: &mut dyn FnMut(Outcome)) -> Result<String, SelftestError> {
    let name = selftest::operators(plan.device, &plan.options, plan.grid, &mut |outcome| {
        sink(Outcome {
            check: outcome.operator.to_owned(),
            is_passed: outcome.is_passed(),
            case: outcome.case,
            against: outcome.against.to_owned(),
            error: outcome.error.is_finite().then_some(outcome.error),
            limit: outcome.limit,
        });
    })?;
    if plan.num_prompts > 0 {
        model(plan, sink)?;
    }
    Ok(name)
}

/// The embedded model: together, alone, in chunks, and without graphs.
fn model(plan: &Plan, sink: &mut dyn FnMut(Outcome)) -> Result<(), SelftestError> {
    let cases = golden::cases(plan.num_prompts)?;
    let eos = Arc::<[u32]>::from(read_spec(Source::Demo)?.eos_token_ids);
    let requests: Vec<SequenceRequest> = cases.iter().map(|case| case.request(&eos)).collect();
    let together = Way { num_seqs_max: NUM_SEQS_MAX, num_batched_tokens_max: 256 };
    let mut runner = open(plan, plan.options.graphs, 1)?;
    runner.warm_up(&limits(together, 1))?;
    let answers = decode(&mut runner, together, &requests)?;
    for (case, answer) in cases.iter().zip(&answers) {
        let is_sure = case.min_margin >= MARGIN;
        let num_different = num_different(answer, &case.output_ids);
        sink(Outcome {
            check: "model".to_owned(),
            case: case.name.clone(),
            against: if is_sure { "PyTorch" } else { "PyTorch, where it was unsure" }.to_owned(),
            error: Some(num_different as f64),
            limit: if is_sure { 0.0 } else { f64::from(u32::MAX) },
            is_passed: num_different == 0 || !is_sure,
        });
    }
    sampling(&mut runner, &requests, together, sink)?;
    let mut same = |against: &str, others: &[Vec<u32>]| {
        let answers = answers.iter().zip(others).zip(&cases).filter(|((answer, other), case)| {
            num_different(answer, other) > 0 && case.min_margin >= MARGIN
        });
        let num_different = answers.count();
        sink(Outcome {
            check: "model".to_owned(),
            case: format!("{} prompts", cases.len()),
            against: against.to_owned(),
            error: Some(num_different as f64),
            limit: 0.0,
            is_passed: num_different == 0,
        });
    };
    let alone = Way { num_seqs_max: 1, ..together };
    same("the prompts alone", &decode(&mut runner, alone, &requests)?);
    let chunked = Way { num_seqs_max: 3, num_batched_tokens_max: 23 };
    same("the prompts in chunks", &decode(&mut runner, chunked, &requests)?);
    drop(runner);
    let mut eager = open(plan, GraphMode::Eager, 1)?;
    same("eager launches", &decode(&mut eager, together, &requests)?);
    drop(eager);
    if has_ranks(plan.device) {
        let mut ranks = open(plan, plan.options.graphs, NUM_RANKS)?;
        same("two ranks, a shard each", &decode(&mut ranks, together, &requests)?);
        drop(ranks);
        shards::logits(plan, &requests, sink)?;
    }
    Ok(())
}

/// Returns whether a device can be all ranks of a group; several GPUs are for who has them.
fn has_ranks(device: Device) -> bool {
    match device {
        Device::Cpu | Device::Reference | Device::Emulated => true,
        Device::Auto => !device.is_gpu(),
        Device::Cuda(_) => false,
    }
}

/// Tokens chosen on the device, where it does that, against those of the host's sampler.
fn sampling(
    runner: &mut ModelRunner,
    requests: &[SequenceRequest],
    together: Way,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), SelftestError> {
    let sampled = golden::sampled(requests);
    let way = Way { num_batched_tokens_max: ONE_ORDER_TOKENS_MAX, ..together };
    let on_device = decode(runner, way, &sampled)?;
    // Who asks for log-probabilities is answered from the logits, by the host's sampler.
    let asks = |request: &SequenceRequest| SequenceRequest { logprobs: Some(0), ..request.clone() };
    let on_host = decode(runner, way, &sampled.iter().map(asks).collect::<Vec<_>>())?;
    // Steps that the host samples stand before and behind steps that the device does.
    let every_third = |(index, request): (usize, &SequenceRequest)| {
        if index % 3 == 0 { asks(request) } else { request.clone() }
    };
    let mixed: Vec<SequenceRequest> = sampled.iter().enumerate().map(every_third).collect();
    let mixed = decode(runner, way, &mixed)?;
    for (chosen, how) in [(on_device, "six ways"), (mixed, "six ways, a third by the host")] {
        let num_different = chosen.iter().zip(&on_host).filter(|(a, b)| a != b).count();
        sink(Outcome {
            check: "sample".to_owned(),
            case: format!("{} prompts, {how}", sampled.len()),
            against: "the host's sampler".to_owned(),
            error: Some(num_different as f64),
            limit: 0.0,
            is_passed: num_different == 0,
        });
    }
    Ok(())
}

/// How steps are put together.
#[derive(Clone, Copy, Debug)]
struct Way {
    num_seqs_max: usize,
    num_batched_tokens_max: usize,
}

fn open(plan: &Plan, graphs: GraphMode, num_ranks: usize) -> Result<ModelRunner, SelftestError> {
    let model = load(Source::Demo, &load_options(plan, graphs, num_ranks), &mut |_| {})?;
    let vocab_size = model.spec().vocab_size;
    Ok(ModelRunner::new(model, vocab_size))
}

fn load_options(plan: &Plan, graphs: GraphMode, num_ranks: usize) -> LoadOptions {
    LoadOptions {
        device: plan.device,
        weight_format: WeightFormat::Stored,
        block_size: BLOCK_SIZE,
        kv_dtype: KvDType::F16,
        kv_cache: KvCacheSize::Blocks(NUM_BLOCKS),
        max_num_tokens: 256,
        max_num_seqs: NUM_SEQS_MAX,
        max_num_logit_rows: NUM_SEQS_MAX,
        context_tokens_max: None,
        num_threads: plan.options.num_threads,
        simd: plan.options.simd,
        graphs,
        adapters: Arc::default(),
        tensor_parallel_size: num_ranks,
    }
}

/// Runs all requests to their ends, step by step, without a thread of its own.
fn decode(
    runner: &mut ModelRunner,
    way: Way,
    requests: &[SequenceRequest],
) -> Result<Vec<Vec<u32>>, ExecutorError> {
    let mut scheduler = Scheduler::new(&limits(way, requests.len()));
    for (id, request) in (0..).zip(requests) {
        scheduler.add(Sequence::new(SequenceId(id), request.clone()));
    }
    let mut outputs = vec![Vec::new(); requests.len()];
    let mut pipeline = Pipeline::new(scheduler);
    while !pipeline.is_empty() {
        for update in pipeline.step(runner, &mut |_, _| ())? {
            outputs[update.id.0 as usize].extend(update.token.map(|token| token.id));
        }
    }
    Ok(outputs)
}

fn limits(way: Way, num_queued_max: usize) -> EngineLimits {
    EngineLimits {
        num_seqs_max: way.num_seqs_max,
        num_batched_tokens_max: way.num_batched_tokens_max,
        block_size: BLOCK_SIZE,
        num_blocks: NUM_BLOCKS,
        context_tokens_max: NUM_BLOCKS * BLOCK_SIZE,
        num_queued_max: num_queued_max.max(1),
        has_prefix_cache: false,
        vocab_size: u32::MAX,
    }
}

/// Returns the tokens that differ, those that one has more among them.
fn num_different(a: &[u32], b: &[u32]) -> usize {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    a.len().max(b.len()) - same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_counted() {
        assert_eq!(num_different(&[1, 2, 3], &[1, 2, 3]), 0);
        assert_eq!(num_different(&[1, 2, 3], &[1, 9]), 2);
        assert_eq!(num_different(&[], &[1, 9]), 2);
    }
}
