//! Metrics of the engines: under our own names, and under those of the Gateway API's model-server protocol.
//!
//! # Source
//! The Gateway API Inference Extension's model-server protocol, whose names are vLLM's.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::{
    Declared,
    sampled::{HistogramSample, SampledHistograms, Shows},
};

/// What an engine is doing and has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineSample {
    /// Name of the model.
    pub model: String,
    /// Names of its adapters.
    pub adapters: Vec<String>,
    /// Whether it would take a request.
    pub is_ready: bool,
    /// Sequences taken and not begun, held back ones included.
    pub num_waiting: usize,
    /// Sequences of the batch.
    pub num_running: usize,
    /// Most sequences that may wait; more are refused.
    pub num_queued_max: usize,
    /// Most sequences of a batch.
    pub num_running_max: usize,
    /// Tokens of a block of the cache.
    pub block_size: usize,
    /// Blocks that a sequence holds.
    pub num_blocks_used: usize,
    /// All blocks.
    pub num_blocks: usize,
    /// Most tokens of a prompt and its answer.
    pub max_context_tokens: u32,
    /// Most tokens of an answer.
    pub max_output_tokens: u32,
    /// Steps done.
    pub num_steps: u64,
    /// Tokens of prompts that were begun.
    pub num_prompt_tokens: u64,
    /// Of these, tokens that the prefix cache held.
    pub num_cache_hit_tokens: u64,
    /// Tokens written.
    pub num_generated_tokens: u64,
    /// Times that a sequence lost its blocks.
    pub num_preemptions: u64,
    /// Seconds from a submission to the start of its first step.
    pub queue_wait: HistogramSample,
    /// Sequences of the steps.
    pub batch_sizes: HistogramSample,
}

/// A family with what it shows of a sample.
type Shown<F, V> = (F, fn(&EngineSample) -> V);

/// Families of engines.
#[derive(Debug)]
pub(super) struct EngineFamilies {
    /// Each with what it shows of a sample.
    gauges: Vec<Shown<IntGaugeVec, usize>>,
    /// Each with what it counts in a sample.
    counters: Vec<Shown<IntCounterVec, u64>>,
    usage: Vec<GaugeVec>,
    limits: Vec<Shown<IntGaugeVec, usize>>,
    histograms: Vec<(SampledHistograms, Shows)>,
    adapters: IntGaugeVec,
    cache: IntGaugeVec,
}

/// Name, help and value of what goes up and down.
type GaugeRow = (&'static str, &'static str, fn(&EngineSample) -> usize);

const GAUGES: [GaugeRow; 7] = [
    ("vllm:num_requests_waiting", "Sequences that wait for a place in the batch.", |s| {
        s.num_waiting
    }),
    ("vllm:num_requests_running", "Sequences of the batch.", |s| s.num_running),
    ("lacuna_engine_sequences_waiting", "Sequences that wait for a place in the batch.", |s| {
        s.num_waiting
    }),
    ("lacuna_engine_batch_size", "Sequences of the batch.", |s| s.num_running),
    ("lacuna_engine_queue_limit", "Sequences that may wait.", |s| s.num_queued_max),
    ("lacuna_engine_kv_cache_blocks", "Blocks of the KV cache.", |s| s.num_blocks),
    ("lacuna_engine_ready", "1 while the engine takes requests.", |s| usize::from(s.is_ready)),
];

/// The AI Gateway's gauges of a model's limits, which have an engine's name beside the model's.
const LIMITS: [GaugeRow; 4] = [
    ("model_inferences_max_concurrent", "Most sequences of a batch.", |s| s.num_running_max),
    ("model_max_input_tokens", "Most tokens of a prompt.", |s| s.max_context_tokens as usize),
    ("model_max_output_tokens", "Most tokens of an answer.", |s| s.max_output_tokens as usize),
    ("model_max_total_tokens", "Most tokens of a prompt and its answer.", |s| {
        s.max_context_tokens as usize
    }),
];

/// Name, help and value of what only grows.
type CounterRow = (&'static str, &'static str, fn(&EngineSample) -> u64);

const COUNTERS: [CounterRow; 7] = [
    ("lacuna_engine_steps_total", "Steps of the engine.", |s| s.num_steps),
    ("lacuna_engine_prompt_tokens_total", "Tokens of prompts that were begun.", |s| {
        s.num_prompt_tokens
    }),
    (
        "lacuna_engine_prefix_cache_hit_tokens_total",
        "Tokens of prompts that the prefix cache held.",
        |s| s.num_cache_hit_tokens,
    ),
    ("lacuna_engine_generated_tokens_total", "Tokens written.", |s| s.num_generated_tokens),
    ("lacuna_engine_preemptions_total", "Times that a sequence lost its blocks.", |s| {
        s.num_preemptions
    }),
    ("vllm:prompt_tokens_total", "Tokens of prompts that were begun.", |s| s.num_prompt_tokens),
    ("vllm:generation_tokens_total", "Tokens written.", |s| s.num_generated_tokens),
];

/// Name, help and counts of what is a histogram.
type HistogramRow = (&'static str, &'static str, Shows);

const HISTOGRAMS: [HistogramRow; 2] = [
    (
        "lacuna_engine_queue_wait_seconds",
        "From a submission to the start of its sequence's first step.",
        |s| &s.queue_wait,
    ),
    ("lacuna_engine_step_sequences", "Sequences of a step.", |s| &s.batch_sizes),
];

const USAGE: [(&str, &str); 2] = [
    ("vllm:kv_cache_usage_perc", "Share of the KV cache that sequences hold, 1 is all of it."),
    (
        "lacuna_engine_kv_cache_usage_ratio",
        "Share of the KV cache that sequences hold, 1 is all of it.",
    ),
];

impl EngineFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let mut gauge = |name: &str, help: &str, labels: &[&str]| {
            declared.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let mut gauges = Vec::new();
        for (name, help, value) in GAUGES {
            gauges.push((gauge(name, help, &["model_name"])?, value));
        }
        let mut limits = Vec::new();
        for (name, help, value) in LIMITS {
            limits.push((gauge(name, help, &["model_engine", "model_name"])?, value));
        }
        let adapters = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"];
        let adapters = gauge("vllm:lora_requests_info", "Adapters that are loaded.", &adapters)?;
        let cache = ["model_name", "block_size", "num_gpu_blocks"];
        let cache =
            gauge("vllm:cache_config_info", "Size of the KV cache and its blocks.", &cache)?;
        let mut usage = Vec::new();
        for (name, help) in USAGE {
            usage.push(declared.add(GaugeVec::new(Opts::new(name, help), &["model_name"])?)?);
        }
        let mut counters = Vec::new();
        for (name, help, value) in COUNTERS {
            let family = IntCounterVec::new(Opts::new(name, help), &["model_name"])?;
            counters.push((declared.add(family)?, value));
        }
        let mut histograms = Vec::new();
        for (name, help, shows) in HISTOGRAMS {
            histograms.push((declared.add(SampledHistograms::new(name, help)?)?, shows));
        }
        Ok(Self { gauges, counters, usage, limits, histograms, adapters, cache })
    }

    /// Shows what the engines are doing now.
    pub(super) fn show(&self, samples: &[EngineSample]) {
        for (family, shows) in &self.histograms {
            family.show(samples, *shows);
        }
        for sample in samples {
            let model = sample.model.as_str();
            for (family, value) in &self.gauges {
                family.with_label_values(&[model]).set(gauge(value(sample)));
            }
            for (family, value) in &self.counters {
                let counter = family.with_label_values(&[model]);
                counter.inc_by(value(sample).saturating_sub(counter.get()));
            }
            let share = sample.num_blocks_used as f64 / sample.num_blocks.max(1) as f64;
            for family in &self.usage {
                family.with_label_values(&[model]).set(share);
            }
            // Its size is not known before it is loaded, and a series of a wrong one would stay.
            if sample.num_blocks == 0 {
                continue;
            }
            for (family, value) in &self.limits {
                family.with_label_values(&["lacuna", model]).set(gauge(value(sample)));
            }
            let (size, blocks) = (sample.block_size.to_string(), sample.num_blocks.to_string());
            self.cache.with_label_values(&[model, &size, &blocks]).set(1);
            // All adapters are in memory all the time, so whichever a request names is there.
            if !sample.adapters.is_empty() {
                let (max, names) = (sample.adapters.len().to_string(), sample.adapters.join(","));
                self.adapters.with_label_values(&[max.as_str(), &names, ""]).set(1);
            }
        }
    }
}

/// Returns a number as gauges have it.
fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
