//! `lacuna bench engine`: loads a model as `lacuna serve` would, and measures it without a server.

use std::{num::NonZeroU32, time::Instant};

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use models::{
    DecoderSpec, KvCacheSize, LanguageModel, LoadOptions, Progress, Source, kv_bytes_per_block,
    load_weights, open_weights, own_memory, rank_spec, read_spec, weights::Weights,
};
use tracing::warn;

use crate::{
    bench::{
        Watch as _, bandwidth,
        engine::{self, DeviceMemory, EnginePlan, EngineResult, ModelFacts, Traffic, model},
        machine::{self, ProcessMemory},
        operators, table,
    },
    cli::{
        CliError,
        bench::{Output, Sink, watch},
        compose,
        fetch::fetch,
        placement, runtime, start_logs,
    },
    config::{
        Config, DtypeChoice, Environment, KvDtypeChoice, QuantizeChoice, RawConfig,
        raw::{RawEngine, RawHub, RawModel},
    },
    engine::{EngineLimits, ModelRunner, memory::free_bytes},
};

/// Memory that is read to know the bandwidth: many times the largest cache.
const BANDWIDTH_BYTES: usize = 256 << 20;

/// Readings of a GPU's own memory.
const NUM_READINGS: usize = 7;

#[derive(Args, Debug)]
pub(super) struct EngineArgs {
    /// Random weights in a published shape in place of a model, such as qwen2.5-coder-7b, codestral-22b or demo;
    /// docs/benchmarks.md has all names, and a wrong one is answered with them.
    #[arg(long, value_name = "SHAPE", allow_hyphen_values = true, conflicts_with = "source")]
    random_weights: Option<String>,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value = "512", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prompt_tokens: u32,
    /// Tokens decoded after it, a step each; 0 measures the prefill alone.
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    gen_tokens: u32,
    /// Sequences computed together, separated by commas; one measurement each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Tokens of prompts that are prefilled besides, separated by commas: each by itself, then its last tokens once more
    /// behind the others, as a keystroke leaves them.
    #[arg(long, value_name = "N,…", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prefill: Vec<u32>,
    /// Measurements of each batch and of each of these prompts.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Draws the prompts.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    #[command(flatten)]
    output: Output,
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(flatten)]
    model: RawModel,
    #[command(flatten)]
    hub: RawHub,
    #[command(flatten)]
    engine: RawEngine,
}

/// A model, ready to be measured.
struct Loaded {
    model: Box<dyn LanguageModel>,
    facts: ModelFacts,
    traffic: Traffic,
    draw_seconds: Option<f64>,
    load_seconds: f64,
}

pub(super) fn run(arguments: &EngineArgs, environment: &Environment) -> Result<(), CliError> {
    let EngineArgs { random_weights, output, config, model, hub, engine, .. } = arguments;
    let mut raw = RawConfig {
        model: model.clone(),
        hub: hub.clone(),
        engine: engine.clone(),
        ..RawConfig::default()
    };
    raw.log.filter = Some("warn".to_owned());
    let path = config.clone().or_else(|| environment.config_file());
    let mut config = Config::load(&raw, environment, path.as_deref())?;
    let plan = plan(arguments, &config);
    // The measurement has sequences of its own length and number; what a server would reserve is not taken.
    config.model.context_tokens_max = NonZeroU32::new(plan.num_tokens_max() as u32);
    config.engine.num_seqs_max = plan.num_seqs_max();
    // The model alone is measured.
    config.model.adapters.clear();
    start_logs(&config.log)?;
    let simd = compose::simd_tier(&config)?.to_string();
    let sink = Sink { simd, ..Sink::open(output)? };
    if random_weights.is_none() {
        runtime(1)?.block_on(fetch(&config))?;
    }
    let mut progress = watch::Progress::new()?;
    let loaded = load_model(&config, random_weights.as_deref(), &plan, &mut progress)?;
    drop(progress);
    let mut command = command(arguments, &loaded.facts, &plan, &config);
    if config.engine.cpu_simd.is_some() {
        command.extend([" --cpu-simd ", &sink.simd]);
    }
    let (result, is_complete, failure) = measure(loaded, plan, &config)?;
    let written = sink.write("engine", command, (result, is_complete), table::engine);
    match failure {
        None => written,
        Some(failure) => Err(CliError::Failed(
            failure.context("the engine failed: the result has what was measured before"),
        )),
    }
}

fn plan(arguments: &EngineArgs, config: &Config) -> EnginePlan {
    let batch: Vec<usize> = arguments.batch.iter().map(|&batch| batch.into()).collect();
    let largest = batch.iter().copied().max().unwrap_or(1);
    EnginePlan {
        prefill: arguments.prefill.iter().map(|&tokens| tokens as usize).collect(),
        prompt_tokens: arguments.prompt_tokens as usize,
        gen_tokens: arguments.gen_tokens as usize,
        // A decode step has a token of each sequence.
        max_num_batched_tokens: config.engine.num_batched_tokens_max.max(largest),
        batch,
        repeat: arguments.repeat.into(),
        block_size: config.engine.block_size,
        seed: arguments.seed,
    }
}

fn load_model(
    config: &Config,
    random_weights: Option<&str>,
    plan: &EnginePlan,
    watch: &mut watch::Progress,
) -> Result<Loaded, CliError> {
    let path = if random_weights.is_some() { None } else { compose::path(config)? };
    let source = path.as_deref().map_or(Source::Demo, Source::at);
    let spec = match random_weights {
        Some(name) => named_shape(name)?,
        None => read_spec(source).context("cannot read the model's configuration")?,
    };
    fits_context(plan, spec.max_position_embeddings).map_err(CliError::Usage)?;
    let began = Instant::now();
    let (weights, draw_seconds) = if random_weights.is_some() {
        let (needed, free) = (
            model::drawn_bytes(&spec, compose::device(config))
                .context("cannot draw the weights")?,
            free_bytes(),
        );
        if needed > free {
            return Err(CliError::Failed(anyhow!(
                "random weights of this shape take {needed} bytes while they are loaded, and {free} are free; take a \
                 smaller shape"
            )));
        }
        let weights = model::draw(&spec).context("cannot draw the weights")?;
        (weights, Some(began.elapsed().as_secs_f64()))
    } else {
        (open_weights(source).context("cannot load the model")?, None)
    };
    let options = load_options(config, &spec, &weights, plan)?;
    let name = random_weights.unwrap_or(&config.model.served_name).to_owned();
    let facts = model::facts(name, random_weights.is_some(), (&spec, &weights), &options);
    let (facts, traffic) = facts.context("cannot use the model")?;
    let mut report = |at: Progress| {
        watch.update((at.bytes_done >> 10) as usize, (at.bytes_total >> 10) as usize, "KiB");
    };
    let began = Instant::now();
    let model = load_weights(spec, &weights, &options, &mut report);
    let model = model.context("cannot load the model")?;
    let load_seconds = began.elapsed().as_secs_f64();
    // Drawn weights lay beside their packed copy; what they took is not what the model takes.
    drop(weights);
    machine::forget_peak();
    Ok(Loaded { model, facts, traffic, draw_seconds, load_seconds })
}

fn fits_context(plan: &EnginePlan, context_tokens: usize) -> anyhow::Result<()> {
    let at_end = plan.num_tokens_at_end();
    ensure!(
        at_end <= context_tokens,
        "--prompt-tokens and --gen-tokens must be at most {context_tokens} together, the model's context, got {at_end}"
    );
    let longest = plan.num_tokens_max();
    ensure!(
        longest <= context_tokens,
        "--prefill must be at most {context_tokens}, the model's context, got {longest}"
    );
    Ok(())
}

/// Returns how the model is loaded, with a cache for just the sequences of the plan.
fn load_options(
    config: &Config,
    spec: &DecoderSpec,
    weights: &Weights,
    plan: &EnginePlan,
) -> anyhow::Result<LoadOptions> {
    let rank_spec = rank_spec(spec, config.engine.tensor_parallel_size)?;
    let block_bytes = kv_bytes_per_block(&rank_spec, plan.block_size, compose::kv_dtype(config));
    let mut config = config.clone();
    config.engine.kv_cache_bytes = Some(block_bytes.saturating_mul(plan.num_blocks() as u64));
    let options = placement::load_options(&config, spec, weights, free_bytes())
        .context("this needs smaller --batch, --prompt-tokens or --gen-tokens, or another model")?;
    Ok(LoadOptions {
        kv_cache: KvCacheSize::Blocks(plan.num_blocks()),
        max_num_tokens: plan.max_num_batched_tokens,
        ..options
    })
}

fn named_shape(name: &str) -> Result<DecoderSpec, CliError> {
    let spec = model::shape(name).context("cannot read the shape")?;
    spec.ok_or_else(|| {
        let names: Vec<&str> = model::shape_names().collect();
        CliError::Usage(anyhow!("--random-weights must be one of {}, got {name}", names.join(", ")))
    })
}

fn measure(
    loaded: Loaded,
    plan: EnginePlan,
    config: &Config,
) -> Result<(EngineResult, bool, Option<anyhow::Error>), CliError> {
    let Loaded { model, facts, traffic, draw_seconds, load_seconds } = loaded;
    let (vocab_size, device) = (model.spec().vocab_size, model.backend_name());
    let num_threads = config.engine.num_threads.unwrap_or_else(compose::num_cores);
    let mut runner = ModelRunner::new(model, vocab_size);
    // As a server does; the device is open already.
    let began = Instant::now();
    compose::make_ready(&mut runner, &limits(&plan, vocab_size as u32), compose::device(config))?;
    let ready_seconds = load_seconds + began.elapsed().as_secs_f64();
    let (mut progress, _runtime) = watch::Progress::stopped_by_signal()?;
    let measured = engine::measure(&mut runner, &plan, vocab_size as u32, traffic, &mut progress);
    let mut failure = measured.failure.map(anyhow::Error::from);
    if let Some(failure) =
        failure.take_if(|_| measured.batches.is_empty() && measured.prefills.is_empty())
    {
        return Err(CliError::Failed(failure.context("the engine failed")));
    }
    let mut result = EngineResult {
        model: facts,
        device,
        num_threads,
        settings: plan,
        draw_seconds,
        load_seconds,
        ready_seconds,
        device_memory: asked(device_memory(config), "cannot ask the device for its memory"),
        batches: measured.batches,
        prefills: measured.prefills,
        memory: ProcessMemory::here(),
        bandwidth: None,
    };
    // Its buffer would else be part of the peak.
    let device = compose::device(config);
    let bandwidth = if device.is_gpu() {
        compose::device_options(config).and_then(|options| {
            Ok(operators::read_memory(device, &options, BANDWIDTH_BYTES, NUM_READINGS)?)
        })
    } else {
        bandwidth::measure(num_threads, BANDWIDTH_BYTES, &mut progress).map_err(Into::into)
    };
    if let Some(bandwidth) = asked(bandwidth, "cannot compare with the memory") {
        result.compare_with(bandwidth);
    }
    let is_complete = failure.is_none() && !progress.is_stopped();
    Ok((result, is_complete, failure))
}

/// Returns what was found beside the measurement, which is kept where that failed.
fn asked<T>(found: anyhow::Result<Option<T>>, what: &'static str) -> Option<T> {
    found.unwrap_or_else(|error| {
        warn!(error = format!("{error:#}"), "{what}");
        None
    })
}

/// Returns the limits of a server that would have the sequences of the plan.
fn limits(plan: &EnginePlan, vocab_size: u32) -> EngineLimits {
    EngineLimits {
        num_seqs_max: plan.num_seqs_max(),
        num_batched_tokens_max: plan.max_num_batched_tokens,
        block_size: plan.block_size,
        num_blocks: plan.num_blocks(),
        context_tokens_max: plan.num_tokens_max(),
        num_queued_max: 1,
        has_prefix_cache: false,
        vocab_size,
    }
}

/// Returns what is taken of the device's own memory while the model is in it.
fn device_memory(config: &Config) -> anyhow::Result<Option<DeviceMemory>> {
    let options = compose::device_options(config)?;
    let memory = own_memory(compose::device(config), &options)?;
    Ok(memory.map(|memory| DeviceMemory {
        used_bytes: memory.total_bytes.saturating_sub(memory.free_bytes),
        total_bytes: memory.total_bytes,
    }))
}

fn command(
    arguments: &EngineArgs,
    facts: &ModelFacts,
    plan: &EnginePlan,
    config: &Config,
) -> String {
    let what = if facts.is_random { "--random-weights" } else { "--model" };
    let list =
        |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let prefill = match &plan.prefill[..] {
        [] => String::new(),
        prefill => format!(" --prefill {}", list(prefill)),
    };
    let threads = config.engine.num_threads.unwrap_or_else(compose::num_cores);
    let format = match (config.model.quantize, config.model.dtype) {
        (QuantizeChoice::Int8, _) => " --quantize int8",
        (QuantizeChoice::Fp8, _) => " --quantize fp8",
        (QuantizeChoice::None, DtypeChoice::F32) => " --dtype f32",
        (QuantizeChoice::None, DtypeChoice::Bf16) => "",
    };
    let kv_dtype = match config.engine.kv_cache_dtype {
        KvDtypeChoice::F16 => "",
        KvDtypeChoice::F32 => " --kv-cache-dtype f32",
    };
    let ranks = match config.engine.tensor_parallel_size {
        1 => String::new(),
        num_ranks => format!(" --tensor-parallel-size {num_ranks}"),
    };
    format!(
        "lacuna bench engine {what} {} --prompt-tokens {} --gen-tokens {} --batch {}{prefill} --repeat {} --seed {} \
         --max-num-batched-tokens {} --block-size {} --threads {threads}{format}{kv_dtype}{ranks}",
        facts.name,
        plan.prompt_tokens,
        plan.gen_tokens,
        list(&plan.batch),
        plan.repeat,
        arguments.seed,
        plan.max_num_batched_tokens,
        plan.block_size,
    )
}
