//! `lacuna keys`: API keys, each shown once.

use std::io::{self, Write as _};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use crate::{
    auth::draw_api_key,
    cli::{CliError, print},
    config::{API_KEY_SCOPES, is_api_key_name, is_scope, misspelt_scope},
};

/// Arguments of `lacuna keys`.
#[derive(Args, Debug)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Print a new key, and its line for the file that --api-keys-file names.
    New {
        /// Who or what will have it; stands in logs.
        name: String,
        /// Unit primitives that it may use, separated by commas.
        #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_values = API_KEY_SCOPES)]
        scopes: Vec<String>,
    },
}

/// Makes a key and prints it.
///
/// # Errors
/// A name that a line cannot hold, a system without randomness.
pub(super) fn run(arguments: &KeysArgs) -> Result<(), CliError> {
    let KeysCommand::New { name, scopes } = &arguments.command;
    if !is_api_key_name(name) {
        let error = anyhow!("a name is 1 to 64 letters, digits, `-`, `_`, `.`, `@`, got {name:?}");
        return Err(CliError::Usage(error));
    }
    if let Some(scope) = scopes.iter().find(|scope| !is_scope(scope)) {
        let error =
            anyhow!("a scope is small letters and `_`, such as complete_code, got {scope:?}");
        return Err(CliError::Usage(error));
    }
    for scope in scopes {
        if let Some(meant) = misspelt_scope(scope) {
            let error = anyhow!("there is no scope {scope}; the nearest is {meant}");
            return Err(CliError::Usage(error));
        }
    }
    let (key, hash) =
        draw_api_key().map_err(|_| anyhow!("no randomness")).context("cannot draw a key")?;
    let more = if *scopes == API_KEY_SCOPES {
        String::new()
    } else {
        format!(" scopes={}", scopes.join(","))
    };
    // Words go where a pipe does not: what is printed is the key and its line, and nothing else.
    let told = writeln!(
        io::stderr(),
        "The key, shown this once, with which one may ask in the name of {name}; below it its line for the file that --api-keys-file names, or for LACUNA_API_KEYS."
    );
    told.context("cannot write to standard error")?;
    print(&format!("{key}\n{name}:{hash}{more}\n"))
}
