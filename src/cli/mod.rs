//! The command line: a contract that stays. `lacuna` alone serves; `complete`, `bench`, `models`, `keys`, `prompts`,
//! `openapi`, `report`, `routes`, `selftest`, `check-config` and `print-config` are the tools beside it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::{
    api::Gateway,
    auth::{Clock, Guard},
    config::{Config, ConfigError, Environment, LogConfig, LogFormat, RawConfig, layers},
    telemetry::{ReportLayer, logs},
};

mod bench;
pub mod complete;
pub mod compose;
mod exports;
mod fetch;
mod fim;
pub mod greeting;
mod keys;
mod models;
pub mod place;
mod placement;
pub mod progress;
mod prompts;
mod providers;
mod report;
mod routes;
mod selftest;
pub mod serve;
pub mod standing;

/// Exit code of a command line, a setting or a named file that cannot be used (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;
/// Exit code of everything that fails later: a model that does not load, a port that is taken, a server that is away.
pub const EXIT_FAILED: u8 = 1;

/// A command that ended badly, by whose fault.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was typed cannot be used; another try with the same words fails again.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// The words were right, the work failed.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.into())
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => EXIT_USAGE.into(),
            Self::Failed(_) => EXIT_FAILED.into(),
        }
    }
}

/// Lacuna fills the gap at the cursor: a local inference server for self-hosted code models.
///
/// Without a subcommand it serves.
#[derive(Debug, Parser)]
#[command(
    name = "lacuna",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Settings,
}

const AFTER_HELP: &str = "\
Examples:
  lacuna                                      serve the embedded demo model on 127.0.0.1:5052
  lacuna serve --model ~/models/coder --port 6000
  lacuna serve --model Qwen/Qwen2.5-Coder-0.5B --max-num-seqs 16 --kv-cache-memory 2GiB
  lacuna models inspect Qwen/Qwen2.5-Coder-0.5B
  lacuna keys new ada
  lacuna complete src/main.rs --line 12 --column 9
  lacuna complete src/main.rs --line 12 --column 9 --url http://127.0.0.1:5052
  lacuna print-config > lacuna.toml && lacuna --config lacuna.toml

An option is also a variable (--max-num-seqs is LACUNA_MAX_NUM_SEQS) and a key of the file that --config or \
LACUNA_CONFIG names. Options win over variables, variables over the file, the file over the defaults; \
a table of [[models]] wins for its own model. \
-h lists the common options, --help all of them.

Exit codes: 0 success; 64 a command line, a setting or a file of settings that breaks a rule; 1 any other failure, \
a model that cannot be used among them.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve completions over HTTP; the same as no subcommand.
    #[command(after_help = AFTER_HELP)]
    Serve(Box<Settings>),
    /// Print the completion of a place in a file.
    Complete(Box<complete::CompleteArgs>),
    /// Measure this machine's engine and memory, or a running server.
    Bench(bench::BenchArgs),
    /// Download models, look at them, list them.
    Models(models::ModelsArgs),
    /// Make API keys for who may ask.
    Keys(keys::KeysArgs),
    /// List the prompts that models are asked with; check a folder of them.
    Prompts(prompts::PromptsArgs),
    /// List the routes; say where a request would go and why.
    Routes(routes::RoutesArgs),
    /// Print what the telemetry store tells of some days: requests, users, acceptance, times.
    Report(Box<report::ReportArgs>),
    /// Print the description of all HTTP endpoints (`OpenAPI`) as JSON.
    #[command(name = "openapi")]
    OpenApi,
    /// Compute every operator and the embedded model on a device, and compare.
    Selftest(Box<selftest::SelftestArgs>),
    /// Check a file of settings, together with the variables, and say what is wrong.
    CheckConfig(CheckConfigArgs),
    /// Print the settings in force as TOML.
    PrintConfig(Box<Settings>),
}

/// Settings as options.
#[derive(Args, Debug)]
struct Settings {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    raw: RawConfig,
}

#[derive(Args, Debug)]
struct CheckConfigArgs {
    /// The file; without it the one that `LACUNA_CONFIG` names, or none.
    file: Option<PathBuf>,
}

/// Runs the command that the process was started with and returns its exit code.
pub fn main() -> ExitCode {
    let outcome = command().map_err(CliError::from).and_then(|command| {
        // Help and version are errors to clap, of the kind that goes to standard output and succeeds.
        match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => run(cli, &Environment::of_process()).map(|()| ExitCode::SUCCESS),
            Err(error) => {
                let _ = error.print();
                Ok(if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS })
            }
        }
    });
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {error}");
        error.exit_code()
    })
}

fn run(cli: Cli, environment: &Environment) -> Result<(), CliError> {
    match cli.command {
        None => serve::run(&load(cli.serve, environment)?, environment),
        Some(Command::Serve(settings)) => serve::run(&load(*settings, environment)?, environment),
        Some(Command::Complete(arguments)) => complete::run(*arguments, environment),
        Some(Command::Bench(arguments)) => bench::run(arguments, environment),
        Some(Command::Models(arguments)) => models::run(arguments, environment),
        Some(Command::Keys(arguments)) => keys::run(&arguments),
        Some(Command::Prompts(arguments)) => prompts::run(arguments, environment),
        Some(Command::OpenApi) => print(&format!("{}\n", crate::api::openapi())),
        Some(Command::Routes(arguments)) => routes::run(arguments, environment),
        Some(Command::Report(arguments)) => report::run(&arguments, environment),
        Some(Command::Selftest(arguments)) => selftest::run(*arguments, environment),
        Some(Command::PrintConfig(settings)) => {
            let text = load(*settings, environment)?
                .config
                .to_toml()
                .context("cannot print the settings")?;
            print(&text)
        }
        Some(Command::CheckConfig(arguments)) => {
            let file = arguments.file.or_else(|| environment.config_file());
            let config = Config::load(&RawConfig::default(), environment, file.as_deref())?;
            config.check_exposure().map_err(|violation| CliError::Usage(violation.into()))?;
            compose::check_models(&config).map_err(CliError::Usage)?;
            providers::check(&config)
                .map_err(|violation| layers::broken_in(file.as_deref(), violation))?;
            Gateway::load(&config).map_err(|error| CliError::Usage(error.into()))?;
            serve::store::check(&config).map_err(|fault| CliError::Usage(fault.into()))?;
            Guard::new(config.auth.clone(), &config.hub.proxies, Clock::system())
                .map_err(|error| CliError::Usage(error.into()))?;
            let what =
                file.map_or_else(|| "the settings".to_owned(), |file| file.display().to_string());
            print(&format!("{what}: ok\n"))
        }
    }
}

/// The settings in force, and the file that holds some of them.
struct Loaded {
    config: Config,
    file: Option<PathBuf>,
}

fn load(settings: Settings, environment: &Environment) -> Result<Loaded, CliError> {
    let file = settings.config.or_else(|| environment.config_file());
    let config = Config::load(&settings.raw, environment, file.as_deref())?;
    Ok(Loaded { config, file })
}

/// Returns the command with the defaults in its help, taken from where they are in force.
fn command() -> Result<clap::Command, ConfigError> {
    let defaults = layers::entries(&layers::defaults()?);
    let show = |argument: clap::Arg| {
        let id = argument.get_id().as_str().to_owned();
        let default = defaults.iter().find(|(key, _)| key.rsplit('.').next() == Some(&id));
        let (Some((_, default)), Some(help)) = (default, argument.get_help()) else {
            return argument;
        };
        let default = match default {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(items) if items.is_empty() => "none".to_owned(),
            other => other.to_string(),
        };
        let help = format!("{help} [default: {default}]");
        argument.help(help)
    };
    Ok(mut_all_args(Cli::command(), &show))
}

/// Changes the arguments of a command and of all below it.
fn mut_all_args(command: clap::Command, change: &dyn Fn(clap::Arg) -> clap::Arg) -> clap::Command {
    command.mut_args(change).mut_subcommands(|command| mut_all_args(command, change))
}

fn start_logs(config: &LogConfig) -> Result<(), CliError> {
    start_logs_with(config, None)
}

fn start_logs_with(config: &LogConfig, reports: Option<ReportLayer>) -> Result<(), CliError> {
    let started = match config.format {
        LogFormat::Text => logs::init_text(&config.filter, reports),
        LogFormat::Json => logs::init_json(&config.filter, reports),
    };
    Ok(started.context("cannot start logging")?)
}

/// Returns the runtime that speaks HTTP; the threads that compute are the engine's own.
fn runtime(num_worker_threads: usize) -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(num_worker_threads)
        .thread_name("lacuna-http")
        .enable_all()
        .build();
    Ok(runtime.context("cannot start the threads that speak HTTP")?)
}

/// Writes to standard output. A reader that has seen enough, as `head` has, is no failure.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Failed(
            anyhow::Error::new(error).context("cannot write to standard output"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        command().unwrap().debug_assert();
    }

    #[test]
    fn no_subcommand_takes_the_options_of_serve() {
        let rows: &[&[&str]] = &[
            &["lacuna", "--port", "6000", "--model", "demo"],
            &["lacuna", "serve", "--port", "6000", "--model", "demo"],
        ];
        for row in rows {
            let cli = Cli::try_parse_from(*row).unwrap();
            let settings = match cli.command {
                None => cli.serve,
                Some(Command::Serve(settings)) => *settings,
                Some(other) => panic!("{other:?}"),
            };
            assert_eq!(settings.raw.server.port, Some(6000));
            assert_eq!(settings.raw.model.source.as_deref(), Some("demo"));
        }
    }

    #[test]
    fn every_setting_shows_its_default_in_the_help() {
        let command = command().unwrap();
        for (key, _) in layers::entries(&layers::defaults().unwrap()) {
            let option = layers::option_of(&key).unwrap();
            let argument = command.get_arguments().find(|a| a.get_long() == Some(&option)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.contains("[default: "), "--{option}: {help}");
        }
    }
}
