//! `lacuna prompts`: the prompts that would be in force, and whether a folder of them can be used.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use crate::{
    cli::{CliError, print},
    config::{Config, Environment, RawConfig, RawPrompts},
    service::Prompts,
};

#[derive(Args, Debug)]
pub(super) struct PromptsArgs {
    #[command(subcommand)]
    command: PromptsCommand,
}

#[derive(Debug, Subcommand)]
enum PromptsCommand {
    /// List the prompts that would be in force: task, family and version, and what people call it.
    List(ListArgs),
    /// Check a folder of prompts and say what is wrong, with files and lines.
    Check(CheckArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    prompts: RawPrompts,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The folder.
    folder: PathBuf,
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] for settings, folders and files that cannot be used.
pub(super) fn run(arguments: PromptsArgs, environment: &Environment) -> Result<(), CliError> {
    match arguments.command {
        PromptsCommand::List(arguments) => list(arguments, environment),
        PromptsCommand::Check(arguments) => check(arguments.folder),
    }
}

fn list(arguments: ListArgs, environment: &Environment) -> Result<(), CliError> {
    let raw = RawConfig { prompts: arguments.prompts, ..RawConfig::default() };
    let file = arguments.config.or_else(|| environment.config_file());
    let config = Config::load(&raw, environment, file.as_deref())?;
    let prompts = Prompts::load(config.prompts.folder).map_err(|e| CliError::Usage(e.into()))?;
    let registry = prompts.current();
    let rows: Vec<(String, &str)> =
        registry.all().map(|prompt| (prompt.place.to_string(), prompt.name.as_str())).collect();
    let width = rows.iter().map(|(place, _)| place.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (place, name) in rows {
        writeln!(text, "{place:width$}  {name}").context("cannot write the list")?;
    }
    print(&text)
}

fn check(folder: PathBuf) -> Result<(), CliError> {
    let shown = folder.display().to_string();
    let (prompts, errors) =
        Prompts::open(Some(folder)).map_err(|error| CliError::Usage(error.into()))?;
    if errors.is_empty() && prompts.num_of_folder() == 0 {
        let form = "TASK/FAMILY/VERSION.yml, such as code_suggestions/generations/base/1.0.0.yml";
        return Err(CliError::Usage(anyhow!("{shown}: has no prompts; they are named {form}")));
    }
    if errors.is_empty() {
        return print(&format!("{shown}: ok, {} prompts\n", prompts.num_of_folder()));
    }
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(CliError::Usage(anyhow!("{shown}: {}", errors.join("\n  "))))
}
