//! `lacuna models pull`: a model into the local cache.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;

use crate::{
    cli::{
        CliError, fetch,
        models::{Shared, hub_model, misnamed, of_argument},
        print, runtime, start_logs,
    },
    config::Environment,
    server::Signals,
};

/// Longest time for pieces that came to be written after an interruption.
const GRACE: Duration = Duration::from_secs(2);

/// How a model on the hub is named.
const NAME: &str = "org/name[@revision][:FILE]";

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  lacuna models pull Qwen/Qwen2.5-Coder-1.5B
  lacuna models pull org/name@v1.0
  lacuna models pull Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M
  HF_TOKEN=hf_... lacuna models pull mistralai/Codestral-22B-v0.1

What is interrupted goes on where it was with the next pull. The path of the model goes to standard output, all else to \
standard error.")]
pub(super) struct PullArgs {
    /// Its name on the hub; the file of a GGUF repository is named by its path or by its quantisation.
    #[arg(value_name = NAME)]
    model: String,
    #[command(flatten)]
    shared: Shared,
}

/// Pulls, and prints where the model is.
///
/// # Errors
/// [`CliError::Usage`] for a name that is none, [`CliError::Failed`] where it cannot be had.
pub(super) fn run(arguments: PullArgs, environment: &Environment) -> Result<(), CliError> {
    let name = arguments.model.clone();
    let config = arguments.shared.load(Some(arguments.model), environment);
    let config = config.map_err(|error| of_argument(error, Some(NAME)))?;
    let model = hub_model(&config).ok_or_else(|| misnamed(NAME, &name))?;
    start_logs(&config.log)?;
    // Files are written and hashed on threads of their own; this one moves bytes.
    let runtime = runtime(1)?;
    let pulled = runtime.block_on(async {
        let mut signals = Signals::watch().context("cannot watch signals")?;
        tokio::select! {
            pulled = fetch::pull(&config, model) => pulled,
            () = signals.next() => Err(CliError::Failed(anyhow!(
                "interrupted; what has come is kept, and `lacuna models pull {model}` goes on from there"
            ))),
        }
    });
    // A kept part may be on its way through the hash, which would take long to no end.
    runtime.shutdown_timeout(GRACE);
    let pulled = pulled?;
    print(&format!("{}\n", pulled.path.display()))
}
