//! `lacuna models`: models before they are served: brought here, looked at, listed.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::{
    cli::CliError,
    config::{
        Config, ConfigError, Environment, HubModel, ModelSource, RawConfig, RawLog, raw::RawHub,
    },
};

mod cached;
mod chatting;
mod filling;
mod inspect;
mod list;
mod pull;
mod report;

#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Download a model from the Hugging Face hub, or what lacks of it, and print where it is.
    Pull(Box<pull::PullArgs>),
    /// Tell what a model is, what it takes in memory, and which cards hold it.
    Inspect(Box<inspect::InspectArgs>),
    /// List the models in the local cache, with their sizes.
    Cached(Box<cached::CachedArgs>),
    /// List the model families that are known: how each fills gaps, its context, its licence.
    List(list::ListArgs),
}

/// What every subcommand may be told.
#[derive(Args, Debug)]
struct Shared {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    hub: RawHub,
    #[command(flatten)]
    log: RawLog,
}

impl Shared {
    /// Returns the settings in force, with `model` as the model where one is named.
    fn load(self, model: Option<String>, environment: &Environment) -> Result<Config, ConfigError> {
        let mut raw = RawConfig { hub: self.hub, log: self.log, ..RawConfig::default() };
        raw.model.source = model;
        let file = self.config.or_else(|| environment.config_file());
        Config::load(&raw, environment, file.as_deref())
    }
}

/// Returns the error of settings where a model is named by an argument: the name is no setting, and came from no option.
/// `rule` is that of the argument, where it has one of its own.
fn of_argument(error: ConfigError, rule: Option<&str>) -> CliError {
    match error {
        ConfigError::Value { violation, .. } if violation.key == "model.source" => {
            misnamed(rule.unwrap_or(&violation.rule), &violation.got)
        }
        error => error.into(),
    }
}

/// Returns the error of a name that cannot be one.
fn misnamed(rule: &str, got: &str) -> CliError {
    CliError::Usage(anyhow!("the model's name must be {rule}, got {got}"))
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] for words and settings that cannot be used, else [`CliError::Failed`].
pub(super) fn run(arguments: ModelsArgs, environment: &Environment) -> Result<(), CliError> {
    match arguments.command {
        ModelsCommand::Pull(arguments) => pull::run(*arguments, environment),
        ModelsCommand::Inspect(arguments) => inspect::run(*arguments, environment),
        ModelsCommand::Cached(arguments) => cached::run(*arguments, environment),
        ModelsCommand::List(arguments) => list::run(&arguments),
    }
}

/// Returns the model's name on the hub, if that is where it is from.
fn hub_model(config: &Config) -> Option<&HubModel> {
    match &config.model.source {
        ModelSource::Hub(model) => Some(model),
        ModelSource::None | ModelSource::Demo | ModelSource::Path(_) => None,
    }
}

/// Returns bytes as people read them.
fn bytes(num_bytes: u64) -> String {
    indicatif::HumanBytes(num_bytes).to_string()
}
