//! `lacuna bench kernels`.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use models::{
    Device, WeightFormat,
    bench::{Plan, Time, widths},
};

use crate::{
    bench::{engine::model, kernels, table},
    cli::{
        CliError,
        bench::{Output, Sink, watch::Progress},
        compose,
    },
    config::{
        Config, Environment, QuantizeChoice, RawConfig,
        raw::{RawEngine, RawModel},
    },
};

/// Side of the square product whose rate is the ceiling: busy for a few milliseconds.
const CEILING_SIDE_GPU: usize = 8192;
const CEILING_SIDE_CPU: usize = 1024;

#[derive(Args, Debug)]
pub(super) struct KernelsArgs {
    /// Shape whose operators are measured: one that `bench engine --random-weights` knows.
    #[arg(
        long,
        value_name = "SHAPE",
        default_value = "qwen2.5-coder-7b",
        allow_hyphen_values = true
    )]
    shape: String,
    /// Sequences of a decode, separated by commas; one measurement each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,8,64",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Vec<u16>,
    /// Tokens of a prefill, separated by commas; one measurement each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "512,2048",
        value_parser = clap::value_parser!(u32).range(1..=131_072))]
    prefill: Vec<u32>,
    /// Tokens that decodes look back on.
    #[arg(long, value_name = "N", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..=131_072))]
    context: u32,
    /// Memory that the calls read in turns, in MiB: several times the largest cache.
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    rotate_mib: u32,
    /// Least time of a measurement, in milliseconds.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    min_ms: u32,
    /// Measurements of each case.
    #[arg(id = "kernels_repeat", long = "repeat", value_name = "N", default_value = "5",
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    #[command(flatten)]
    output: Output,
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    #[command(flatten)]
    model: RawModel,
    #[command(flatten)]
    engine: RawEngine,
}

pub(super) fn run(arguments: &KernelsArgs, environment: &Environment) -> Result<(), CliError> {
    let raw = RawConfig {
        model: arguments.model.clone(),
        engine: arguments.engine.clone(),
        ..RawConfig::default()
    };
    let path = arguments.config.clone().or_else(|| environment.config_file());
    let config = Config::load(&raw, environment, path.as_deref())?;
    let shape = model::shape(&arguments.shape).context("cannot read the shape")?;
    let Some(spec) = shape else {
        let names: Vec<&str> = model::shape_names().collect();
        return Err(CliError::Usage(anyhow!(
            "--shape must be one of {}, got {}",
            names.join(", "),
            arguments.shape
        )));
    };
    let device = compose::device(&config);
    let options = compose::device_options(&config).map_err(CliError::Usage)?;
    let is_int8 = config.model.quantize == QuantizeChoice::Int8;
    let plan = Plan {
        widths: widths(&spec),
        format: if is_int8 { WeightFormat::Int8 } else { WeightFormat::Stored },
        batch: arguments.batch.iter().map(|&batch| batch.into()).collect(),
        prefill: arguments.prefill.iter().map(|&tokens| tokens as usize).collect(),
        context_tokens: arguments.context as usize,
        rotated_bytes: (arguments.rotate_mib as usize) << 20,
        ceiling_side: ceiling_side(device),
        time: Time {
            min: Duration::from_millis(arguments.min_ms.into()),
            repeat: arguments.repeat.into(),
        },
    };
    let simd = compose::simd_tier(&config)?.to_string();
    let sink = Sink { simd, ..Sink::open(&arguments.output)? };
    let (mut progress, _runtime) = Progress::stopped_by_signal()?;
    let format = if is_int8 { "int8" } else { "bf16" };
    let devices = (device, &options);
    let result = kernels::measure(&arguments.shape, devices, format, &plan, &mut progress);
    let result = result.context("the measurement failed")?;
    let is_complete = !crate::bench::Watch::is_stopped(&progress);
    drop(progress);
    sink.write("kernels", command(arguments, is_int8), (result, is_complete), table::kernels)
}

fn ceiling_side(device: Device) -> usize {
    let is_fast = device.is_gpu() && device != Device::Emulated;
    if is_fast { CEILING_SIDE_GPU } else { CEILING_SIDE_CPU }
}

fn command(arguments: &KernelsArgs, is_int8: bool) -> String {
    let list = |numbers: Vec<String>| numbers.join(",");
    format!(
        "lacuna bench kernels --shape {} --batch {} --prefill {} --context {} --rotate-mib {} --min-ms {} --repeat {}{}",
        arguments.shape,
        list(arguments.batch.iter().map(u16::to_string).collect()),
        list(arguments.prefill.iter().map(u32::to_string).collect()),
        arguments.context,
        arguments.rotate_mib,
        arguments.min_ms,
        arguments.repeat,
        if is_int8 { " --quantize int8" } else { "" },
    )
}
