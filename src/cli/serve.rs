//! `lacuna serve`: listens, loads, serves, drains.

use std::net::SocketAddr;

use anyhow::Context as _;
use tracing::{info, warn};

use crate::{
    api::{ApiState, DrainFlag, router},
    cli::{
        CliError,
        compose::{Composed, compose},
        greeting::greeting,
        print, runtime, start_logs,
    },
    config::Config,
    server::{ServeOptions, bind, serve, shutdown_signal},
};

/// Serves until a signal comes.
///
/// # Errors
/// A port that is taken, a model that does not load, a system without signals.
pub(super) fn run(config: &Config) -> Result<(), CliError> {
    start_logs(&config.log)?;
    runtime(config.server.num_worker_threads)?.block_on(serve_until_signal(config))
}

async fn serve_until_signal(config: &Config) -> Result<(), CliError> {
    // First the port, which fails at once; then the model, which takes time.
    let address = SocketAddr::new(config.server.host, config.server.port);
    let listener = bind(address).await.with_context(|| {
        format!("cannot listen on {address}; another --port, or 0 for any that is free, may help")
    })?;
    let address = listener.local_addr().context("cannot tell the port")?;
    let Composed { engine, service, .. } = tokio::task::block_in_place(|| compose(config))?;
    let model = service.model();
    info!(%address, model = model.name, "serving");
    print(&greeting(address, &model.name))?;

    let drain = DrainFlag::default();
    let router = router(ApiState::new(service, &config.server, drain.clone()), &config.server);
    let options = ServeOptions {
        read_timeout: config.server.read_timeout,
        drain_timeout: config.server.drain_timeout,
        drain,
    };
    let shutdown = async {
        if let Err(error) = shutdown_signal().await {
            warn!(%error, "signals cannot be watched, so only a kill ends this process");
            std::future::pending::<()>().await;
        }
    };
    let drained = serve(listener, router, options, shutdown).await;
    // The listener is closed and its requests have ended or were cut: nothing is left to wait for.
    engine.drain(std::time::Duration::ZERO).await;
    info!(num_cut = drained.num_cut, "stopped");
    Ok(())
}
