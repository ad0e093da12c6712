//! `lacuna bench kernels`.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use models::{
    Device,
    bench::{Plan, Time, widths},
};

use crate::{
    bench::{engine::model, operators, table},
    cli::{
        CliError,
        bench::{Output, Sink, watch::Progress},
        compose,
    },
    config::{
        Config, Environment, QuantizeChoice, RawConfig,
        raw::{RawEngine, RawModel},
        scalar::Scalar,
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
    /// Measure only the operators and cases whose names have this text, such as "attention" or "head 1 row": see the names in a result.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    only: Option<String>,
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
    /// Device to compute on.
    #[arg(id = "kernels_device", long = "device", value_name = "auto|cpu|cuda:N")]
    device: Option<String>,
    /// Makes integers of the weights.
    #[arg(id = "kernels_quantize", long = "quantize", value_name = "none|int8|fp8")]
    quantize: Option<String>,
    /// Threads of the CPU; all cores unless said.
    #[arg(id = "kernels_threads", long = "threads", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Instruction set of the CPU; the fastest of the machine unless said.
    #[arg(
        id = "kernels_simd",
        long = "cpu-simd",
        value_name = "auto|avx512-bf16|avx512|avx2|scalar"
    )]
    cpu_simd: Option<String>,
}

pub(super) fn run(arguments: &KernelsArgs, environment: &Environment) -> Result<(), CliError> {
    let config = Config::load(&arguments.settings(), environment, None)?;
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
    let plan = Plan {
        widths: widths(&spec),
        format: compose::weight_format(&config),
        batch: arguments.batch.iter().map(|&batch| batch.into()).collect(),
        prefill: arguments.prefill.iter().map(|&tokens| tokens as usize).collect(),
        context_tokens: arguments.context as usize,
        rotated_bytes: (arguments.rotate_mib as usize) << 20,
        ceiling_side: ceiling_side(device),
        only: arguments.only.clone(),
        time: Time {
            min: Duration::from_millis(arguments.min_ms.into()),
            repeat: arguments.repeat.into(),
        },
    };
    let simd = compose::simd_tier(&config)?.to_string();
    let sink = Sink { simd, ..Sink::open(&arguments.output)? };
    let (mut progress, _runtime) = Progress::stopped_by_signal()?;
    let format = match config.model.quantize {
        QuantizeChoice::None => "bf16",
        quantize => quantize.name(),
    };
    let devices = (device, &options);
    let result = operators::measure(&arguments.shape, devices, format, &plan, &mut progress);
    let result = result.context("the measurement failed")?;
    let is_complete = !crate::bench::Watch::is_stopped(&progress);
    drop(progress);
    if let Some(only) =
        arguments.only.as_ref().filter(|_| result.operators.is_empty() && is_complete)
    {
        return Err(CliError::Usage(anyhow!(
            "--only must be text of an operator's or case's name, got {only}"
        )));
    }
    sink.write("kernels", arguments.command(), (result, is_complete), table::kernels)
}

fn ceiling_side(device: Device) -> usize {
    if device.is_real_gpu() { CEILING_SIDE_GPU } else { CEILING_SIDE_CPU }
}

impl KernelsArgs {
    /// Returns what was said, as settings.
    fn settings(&self) -> RawConfig {
        RawConfig {
            model: RawModel {
                device: self.device.clone(),
                quantize: self.quantize.clone(),
                ..RawModel::default()
            },
            engine: RawEngine {
                threads: self.threads.map(|threads| Scalar::Integer(threads.into())),
                cpu_simd: self.cpu_simd.clone(),
                ..RawEngine::default()
            },
            ..RawConfig::default()
        }
    }

    /// Returns the command that repeats this one.
    fn command(&self) -> String {
        let list = |numbers: Vec<String>| numbers.join(",");
        let mut command = format!(
            "lacuna bench kernels --shape {} --batch {} --prefill {} --context {} --rotate-mib {} --min-ms {} --repeat {}",
            self.shape,
            list(self.batch.iter().map(u16::to_string).collect()),
            list(self.prefill.iter().map(u32::to_string).collect()),
            self.context,
            self.rotate_mib,
            self.min_ms,
            self.repeat,
        );
        let threads = self.threads.map(|threads| threads.to_string());
        let only = self.only.as_ref().map(|only| format!("{only:?}"));
        for (option, value) in [
            ("--only", &only),
            ("--device", &self.device),
            ("--quantize", &self.quantize),
            ("--threads", &threads),
            ("--cpu-simd", &self.cpu_simd),
        ] {
            if let Some(value) = value {
                command.extend([" ", option, " ", value]);
            }
        }
        command
    }
}
