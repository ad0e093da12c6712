//! `lacuna bench`: one tool for every comparison.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use models::SimdTier;
use serde::Serialize;

use crate::{
    bench::{
        machine::Machine,
        report::{self, Report, Run, rfc3339},
    },
    cli::{CliError, bench::destination::Destination, print},
    config::Environment,
};

mod bandwidth;
mod destination;
mod engine;
mod operators;
mod serving;
mod watch;

/// The options of `lacuna bench`.
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  lacuna bench engine --model demo
  lacuna bench engine --random-weights qwen2.5-coder-0.5b --batch 1,4 --format json --output engine.json
  lacuna bench serve --url http://127.0.0.1:5052 --clients 8 --requests 64 --distinct --ignore-eos
  lacuna bench serve --url http://127.0.0.1:8080 --dialect infill --rate 2 --requests 100
  lacuna bench keystrokes --url http://127.0.0.1:5052 src/main.rs
  lacuna bench bandwidth
  lacuna bench kernels --device cuda:0 --shape qwen2.5-coder-7b

Ctrl-C ends a measurement early; what was measured until then is printed, and the exit code is 1."
)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

const FAILURES_HELP: &str = "\
Exit codes: 0 all were answered; 1 some or all failed, or none was answered: the result is written all the same, and \
standard error says how many of how many; 64 a command line or a named file that cannot be used. A server that is away, \
or refuses what all would ask, ends the run without a result.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure prefill and decode of a model on this machine, without a server.
    Engine(Box<engine::EngineArgs>),
    /// Put a running server under load.
    #[command(after_help = FAILURES_HELP)]
    Serve(Box<serving::ServeArgs>),
    /// Type through a file and ask a running server at each key.
    #[command(after_help = FAILURES_HELP)]
    Keystrokes(Box<serving::KeystrokesArgs>),
    /// Measure how fast the memory is read.
    Bandwidth(bandwidth::BandwidthArgs),
    /// Measure the large operators of a shape by themselves, against what the device can do at best.
    Kernels(Box<operators::KernelsArgs>),
}

/// Where a result goes, and how.
#[derive(Args, Debug)]
struct Output {
    /// Form of the result; docs/benchmarks.md has the members of the JSON.
    #[arg(
        id = "output_format",
        long = "format",
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    format: Format,
    /// File for the result, in place of standard output; an earlier one stays until the new one is whole.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, in 100 columns.
    Table,
    /// For programs, with every sample.
    Json,
}

/// Measures.
///
/// # Errors
/// [`CliError::Usage`] for what was typed wrongly, [`CliError::Failed`] where the measurement failed or was stopped.
pub(super) fn run(arguments: BenchArgs, environment: &Environment) -> Result<(), CliError> {
    match arguments.command {
        Command::Engine(arguments) => engine::run(&arguments, environment),
        Command::Serve(arguments) => serving::serve(&arguments, environment),
        Command::Keystrokes(arguments) => serving::keystrokes(&arguments, environment),
        Command::Bandwidth(arguments) => bandwidth::run(&arguments),
        Command::Kernels(arguments) => operators::run(&arguments, environment),
    }
}

/// A result's way out, opened before anything is measured: a file that cannot be written is known at once.
struct Sink {
    format: Format,
    file: Option<Destination>,
    date: String,
    /// The vector instructions that computed, or the widest that the kernels would use here.
    simd: String,
}

impl Sink {
    fn open(output: &Output) -> Result<Self, CliError> {
        let file = match &output.output {
            None => None,
            Some(path) => {
                let file = Destination::open(path)
                    .with_context(|| format!("cannot write to {}", path.display()))
                    .map_err(CliError::Usage)?;
                Some(file)
            }
        };
        // A clock before 1970 is no reason not to measure.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self {
            format: output.format,
            file,
            date: rfc3339(now.as_secs()),
            simd: SimdTier::fastest().to_string(),
        })
    }

    /// Writes the result; one that was stopped early is written and is a failure.
    fn write<T: Serialize>(
        self,
        bench: &'static str,
        command: String,
        (result, is_complete): (T, bool),
        table: impl FnOnce(&Run, &T) -> String,
    ) -> Result<(), CliError> {
        let run = Run {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("BUILD_COMMIT").unwrap_or(env!("GIT_COMMIT")),
            date: self.date,
            command,
            is_complete,
            machine: Machine::here(),
            simd: self.simd,
        };
        let text = match self.format {
            Format::Table => table(&run, &result),
            Format::Json => Report { schema: report::SCHEMA, bench, run, result }
                .to_json()
                .context("cannot write the result as JSON")?,
        };
        match self.file {
            None => print(&text)?,
            Some(file) => {
                let path = file.path().display().to_string();
                file.write(&text).with_context(|| format!("cannot write to {path}"))?;
            }
        }
        if is_complete {
            return Ok(());
        }
        Err(CliError::Failed(anyhow::anyhow!("stopped early: the result is a part")))
    }
}
