//! `lacuna serve`: the composition root. Here the parts meet, and nowhere else.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    cli::{CliError, greeting::greeting, print, runtime, start_logs},
    config::Config,
    service::CompletionService,
};

/// Serves until a signal comes.
///
/// # Errors
/// A port that is taken, a model that does not load, a listener that breaks.
pub(super) fn run(config: &Config) -> Result<(), CliError> {
    start_logs(&config.log)?;
    runtime(config.server.num_worker_threads)?.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<(), CliError> {
    // First the port, which fails at once; then the model, which takes time.
    let address = SocketAddr::new(config.server.host, config.server.port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; another --port, or 0 for any that is free, may help")
    })?;
    let address = listener.local_addr().context("cannot tell the port")?;
    let service = build(config)?;
    let model = service.model();
    info!(%address, model = model.name, engine = model.engine, "serving");
    print(&greeting(address, &model.name))
}

/// Puts the parts together: weights, engine, provider, service.
///
/// # Errors
/// The first part that cannot be made, with what would mend it.
pub(super) fn build(config: &Config) -> anyhow::Result<CompletionService> {
    bail!(
        "the engine is not composed into this build, so `{}` cannot be loaded",
        config.model.served_name
    )
}
