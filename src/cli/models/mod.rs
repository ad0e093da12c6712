//! `lacuna models`: models before they are served.

use clap::{Args, Subcommand};

use crate::{cli::CliError, config::Environment};

mod list;

#[derive(Args, Debug)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the model families that are known: how each fills gaps, its context, its licence.
    List(list::ListArgs),
}

/// Runs the subcommand.
///
/// # Errors
/// [`CliError::Usage`] for words and settings that cannot be used, else [`CliError::Failed`].
pub(super) fn run(arguments: ModelsArgs, _environment: &Environment) -> Result<(), CliError> {
    match arguments.command {
        ModelsCommand::List(arguments) => list::run(&arguments),
    }
}
