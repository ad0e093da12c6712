//! The engine by itself: prefill and decode through an executor, step by step, without HTTP or a scheduler between.

use std::time::Instant;

use serde::Serialize;

use crate::{
    bench::{
        Watch, bandwidth::BandwidthResult, engine::steps::Steps, machine::ProcessMemory,
        random::Random, statistics::Spread,
    },
    engine::{Batch, Executor, ExecutorError, LAST_SAMPLED},
};

pub mod model;
pub mod steps;

/// Tokens of the run that warms caches, pages and clocks up, and is not counted.
const WARM_UP_TOKENS: usize = 64;

/// Last tokens of a prompt that are computed again behind the others, as a keystroke leaves them.
const CHANGED_TOKENS: usize = 16;

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EnginePlan {
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded after it.
    pub gen_tokens: usize,
    /// Sequences computed together, one measurement each.
    pub batch: Vec<usize>,
    /// Tokens of prompts that are prefilled besides, each by itself and without a decode after it.
    pub prefill: Vec<usize>,
    /// Measurements of each.
    pub repeat: usize,
    /// Most tokens of a step.
    pub max_num_batched_tokens: usize,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Draws the prompts.
    pub seed: u64,
}

impl EnginePlan {
    /// Returns the tokens of a batch's sequence at its end.
    pub fn num_tokens_at_end(&self) -> usize {
        self.prompt_tokens + self.gen_tokens
    }

    /// Returns the tokens of the longest sequence at its end.
    pub fn num_tokens_max(&self) -> usize {
        self.prefill.iter().copied().fold(self.num_tokens_at_end(), usize::max)
    }

    /// Returns the sequences of the largest batch.
    pub fn num_seqs_max(&self) -> usize {
        self.batch.iter().copied().max().unwrap_or(1)
    }

    /// Returns the cache blocks that the largest batch takes, or the longest prompt beside it.
    pub fn num_blocks(&self) -> usize {
        let of_batch = self.num_seqs_max() * self.num_tokens_at_end().div_ceil(self.block_size);
        of_batch.max(self.num_tokens_max().div_ceil(self.block_size))
    }

    /// Returns the plan of a prompt that is prefilled by itself.
    fn of_prefill(&self, prompt_tokens: usize) -> Self {
        Self { prompt_tokens, gen_tokens: 0, prefill: Vec::new(), ..self.clone() }
    }
}

/// What a step reads from memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traffic {
    /// Weights that every step reads.
    pub weight_bytes: u64,
    /// Weights that a step reads where a token is routed to them.
    pub experts: ExpertTraffic,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
}

/// The experts of a model; none where it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExpertTraffic {
    /// Weights of all of them.
    pub num_bytes: u64,
    /// The share that a token goes through.
    pub share: f64,
}

impl ExpertTraffic {
    /// Returns what so many tokens read, if they are routed evenly: an expert that several go through is read once.
    ///
    /// # Units
    /// bytes
    pub fn bytes_read(&self, num_tokens: usize) -> f64 {
        self.num_bytes as f64 * (1.0 - (1.0 - self.share).powf(num_tokens as f64))
    }
}

/// Everything that `lacuna bench engine` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineResult {
    /// What was loaded.
    pub model: ModelFacts,
    /// What it ran on.
    pub device: String,
    /// Threads that computed.
    pub num_threads: usize,
    /// What was measured.
    pub settings: EnginePlan,
    /// Time to draw its weights; `None` where they came from files.
    pub draw_seconds: Option<f64>,
    /// Time to read its weights and bring them to the device.
    pub load_seconds: f64,
    /// The same and what a server does before it is ready: a first step, and on a GPU the largest steps and all graphs.
    pub ready_seconds: f64,
    /// The device's own memory with the model in it; `None` where it computes in the host's.
    pub device_memory: Option<DeviceMemory>,
    /// Memory of the process after the measurements.
    pub memory: ProcessMemory,
    /// How fast the memory was read, the device's own or with as many threads; `None` where it was not measured.
    pub bandwidth: Option<BandwidthResult>,
    /// One a batch size.
    pub batches: Vec<BatchResult>,
    /// One a prompt that was prefilled by itself.
    pub prefills: Vec<PrefillResult>,
}

/// A device's own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// What is taken, by this process and by others.
    pub used_bytes: u64,
    /// What there is.
    pub total_bytes: u64,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Its name, or that of its shape.
    pub name: String,
    /// Whether its weights are random: its speed is true, its words mean nothing.
    pub is_random: bool,
    /// Its architecture.
    pub architecture: &'static str,
    /// Its parameters.
    pub num_parameters: u64,
    /// Those that a token goes through.
    pub num_active_parameters: u64,
    /// Types of the matrices in memory, such as `bf16`, `int8` or `q4_k+q6_k`.
    pub weight_format: String,
    /// Memory of the weights.
    pub weight_bytes: u64,
    /// Element type of cached keys and values.
    pub kv_cache_dtype: &'static str,
    /// Memory of the keys and values of one token.
    pub kv_bytes_per_token: u64,
}

/// One batch size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchResult {
    /// Sequences computed together.
    pub batch: usize,
    /// All prompts, from nothing to their first tokens.
    pub prefill: PhaseResult,
    /// The first tokens once more, behind prompts of which all but the end is cached; `None` where prompts are shorter than
    /// that end, or a step has no room for the ends of all.
    pub cached: Option<CachedResult>,
    /// The tokens after the first, a step each; `None` where the plan has none.
    pub decode: Option<DecodeResult>,
}

/// One prompt by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PrefillResult {
    /// Its tokens.
    pub prompt_tokens: usize,
    /// From nothing to its first token.
    pub prefill: PhaseResult,
    /// Its first token once more behind a cache of all but its end; `None` where it is not longer than that end.
    pub cached: Option<CachedResult>,
}

/// How fast tokens went through, all sequences together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseResult {
    /// Tokens a second.
    pub tokens_per_second: Spread,
    /// Tokens of one repeat.
    pub num_tokens: usize,
    /// Steps of one repeat.
    pub num_steps: usize,
}

/// The first token behind a cached prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CachedResult {
    /// Tokens of each prompt that were computed, the last ones.
    pub num_new_tokens: usize,
    /// Time of the step.
    pub step_seconds: Spread,
}

/// A decode, and how near it came to the memory's limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecodeResult {
    /// How fast.
    #[serde(flatten)]
    pub phase: PhaseResult,
    /// Time of a step, the mean of each repeat.
    pub step_seconds: Spread,
    /// Weights, keys and values that a step reads, the mean of a repeat.
    pub bytes_per_step: f64,
    /// Bytes of the median step a second.
    pub bytes_per_second: f64,
    /// The same as a share of the measured bandwidth.
    pub bandwidth_fraction: Option<f64>,
}

/// One repeat, timed.
struct Repeat {
    prefill_seconds: f64,
    num_prefill_steps: usize,
    cached_seconds: Option<f64>,
    decode_seconds: f64,
    /// Context tokens, summed over the decode steps.
    num_context_tokens: usize,
}

/// What was measured until the plan was done, `watch` stopped it or the executor failed.
#[derive(Debug, Default)]
pub struct Measured {
    /// By batch size; those of which nothing was measured are left out.
    pub batches: Vec<BatchResult>,
    /// By length of the prompt, likewise.
    pub prefills: Vec<PrefillResult>,
    /// Why the executor computes no more.
    pub failure: Option<ExecutorError>,
}

/// Measures the plan on an executor, whose cache has [`EnginePlan::num_blocks`] blocks and whose token ids go to
/// `vocab_size`.
pub fn measure(
    executor: &mut dyn Executor,
    plan: &EnginePlan,
    vocab_size: u32,
    traffic: Traffic,
    watch: &mut dyn Watch,
) -> Measured {
    let warm_up = EnginePlan {
        prompt_tokens: plan.prompt_tokens.min(WARM_UP_TOKENS),
        gen_tokens: plan.gen_tokens.min(2),
        ..plan.clone()
    };
    let of_batches = plan.batch.iter().map(|&batch| (plan.clone(), batch));
    let of_prefills = plan.prefill.iter().map(|&tokens| (plan.of_prefill(tokens), 1));
    let cells: Vec<_> = of_batches.chain(of_prefills).collect();
    let num_all = cells.len() * plan.repeat;
    watch.update(0, num_all, "warming up");
    let mut measured = Measured::default();
    if let Err(failure) = run_once(executor, &warm_up, 1, vocab_size, watch) {
        return Measured { failure: Some(failure), ..measured };
    }
    for (index, (cell, batch)) in cells.iter().enumerate() {
        let is_of_batch = index < plan.batch.len();
        let (kind, size) =
            if is_of_batch { ("batch", *batch) } else { ("prompt of", cell.prompt_tokens) };
        let mut repeats = Vec::with_capacity(plan.repeat);
        for repeat in 0..plan.repeat {
            watch.update(index * plan.repeat + repeat, num_all, &format!("{kind} {size}"));
            match run_once(executor, cell, *batch, vocab_size, watch) {
                Ok(Some(timed)) => repeats.push(timed),
                Ok(None) => break,
                Err(failure) => {
                    measured.failure = Some(failure);
                    break;
                }
            }
        }
        match summarise(cell, *batch, traffic, &repeats) {
            Some(result) if is_of_batch => measured.batches.push(result),
            Some(BatchResult { prefill, cached, .. }) => {
                measured.prefills.push(PrefillResult { prompt_tokens: size, prefill, cached });
            }
            None => {}
        }
        if measured.failure.is_some() || watch.is_stopped() {
            break;
        }
    }
    watch.update(num_all, num_all, "done");
    measured
}

/// Runs one prefill and its decode; `None` where it was stopped.
fn run_once(
    executor: &mut dyn Executor,
    plan: &EnginePlan,
    num_seqs: usize,
    vocab_size: u32,
    watch: &dyn Watch,
) -> Result<Option<Repeat>, ExecutorError> {
    let prompts = (0..num_seqs).map(|index| prompt(plan, index, vocab_size)).collect();
    let mut steps = Steps::new(prompts, plan.num_tokens_at_end(), plan.block_size);
    let mut batch = Batch::default();
    let stretches = steps.prefill(plan.max_num_batched_tokens);
    let mut first_tokens = Vec::with_capacity(num_seqs);
    let began = Instant::now();
    for stretch in &stretches {
        if watch.is_stopped() {
            return Ok(None);
        }
        steps.fill_prefill(stretch, &mut batch);
        let tokens = executor.execute(&batch)?;
        first_tokens.extend(batch.sampling_rows.drain(..).zip(tokens));
    }
    let prefill_seconds = began.elapsed().as_secs_f64();
    let mut cached_seconds = None;
    let has_room = num_seqs * CHANGED_TOKENS <= plan.max_num_batched_tokens;
    if plan.prompt_tokens > CHANGED_TOKENS && has_room {
        steps.fill_last(CHANGED_TOKENS, &mut batch);
        let began = Instant::now();
        executor.execute(&batch)?;
        cached_seconds = Some(began.elapsed().as_secs_f64());
    }
    for (row, token) in first_tokens {
        steps.append(&row, token.id);
    }
    let mut num_context_tokens = 0;
    let began = Instant::now();
    for step in 0..plan.gen_tokens {
        if watch.is_stopped() {
            return Ok(None);
        }
        steps.fill_decode(&mut batch);
        num_context_tokens += steps.num_context_tokens();
        executor.start(&batch)?;
        if executor.runs_ahead() {
            // As the engine does: the next step is started before this one's tokens are known.
            for (index, row) in (0..).zip(&batch.sampling_rows) {
                steps.append(row, LAST_SAMPLED | index);
            }
            if step > 0 {
                executor.finish()?;
            }
            continue;
        }
        let tokens = executor.finish()?;
        for (row, token) in batch.sampling_rows.iter().zip(tokens) {
            steps.append(row, token.id);
        }
    }
    if executor.runs_ahead() && plan.gen_tokens > 0 {
        executor.finish()?;
    }
    let decode_seconds = began.elapsed().as_secs_f64();
    let num_prefill_steps = stretches.len();
    Ok(Some(Repeat {
        prefill_seconds,
        num_prefill_steps,
        cached_seconds,
        decode_seconds,
        num_context_tokens,
    }))
}

fn prompt(plan: &EnginePlan, index: usize, vocab_size: u32) -> Vec<u32> {
    let mut random = Random::new(plan.seed, index as u64);
    (0..plan.prompt_tokens).map(|_| random.below(vocab_size as usize) as u32).collect()
}

fn summarise(
    plan: &EnginePlan,
    batch: usize,
    traffic: Traffic,
    repeats: &[Repeat],
) -> Option<BatchResult> {
    let spread = |of: &dyn Fn(&Repeat) -> f64| Spread::of(repeats.iter().map(of).collect());
    let num_tokens = batch * plan.prompt_tokens;
    let prefill = PhaseResult {
        tokens_per_second: spread(&|repeat| num_tokens as f64 / repeat.prefill_seconds)?,
        num_tokens,
        num_steps: repeats.first()?.num_prefill_steps,
    };
    let cached = Spread::of(repeats.iter().filter_map(|repeat| repeat.cached_seconds).collect());
    let cached =
        cached.map(|step_seconds| CachedResult { num_new_tokens: CHANGED_TOKENS, step_seconds });
    if plan.gen_tokens == 0 {
        return Some(BatchResult { batch, prefill, cached, decode: None });
    }
    let (num_tokens, num_steps) = (batch * plan.gen_tokens, plan.gen_tokens);
    let num_context_tokens = repeats.first()?.num_context_tokens as f64 / num_steps as f64;
    let weight_bytes = traffic.weight_bytes as f64 + traffic.experts.bytes_read(batch);
    let bytes_per_step = weight_bytes + num_context_tokens * traffic.kv_bytes_per_token as f64;
    let step_seconds = spread(&|repeat| repeat.decode_seconds / num_steps as f64)?;
    let decode = DecodeResult {
        phase: PhaseResult {
            tokens_per_second: spread(&|repeat| num_tokens as f64 / repeat.decode_seconds)?,
            num_tokens,
            num_steps,
        },
        bytes_per_step,
        bytes_per_second: bytes_per_step / step_seconds.median,
        step_seconds,
        bandwidth_fraction: None,
    };
    Some(BatchResult { batch, prefill, cached, decode: Some(decode) })
}

impl EngineResult {
    /// Sets the bandwidth, and every decode's share of the best reading.
    pub fn compare_with(&mut self, bandwidth: BandwidthResult) {
        for decode in self.batches.iter_mut().filter_map(|batch| batch.decode.as_mut()) {
            let share = decode.bytes_per_second / bandwidth.bytes_per_second.max;
            decode.bandwidth_fraction = Some(share);
        }
        self.bandwidth = Some(bandwidth);
    }
}

#[cfg(test)]
mod tests;
