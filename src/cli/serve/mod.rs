//! `lacuna serve`: listens, loads, serves, drains.

use std::{convert::Infallible, mem::ManuallyDrop, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{net::TcpListener, sync::mpsc};
use tracing::{error, info, warn};

use crate::{
    api::{ApiParts, ApiState, DrainFlag, Gateway, metrics_router, router},
    auth::{Clock, Guard},
    cli::{
        CliError, Loaded, exports,
        fetch::fetch_all,
        greeting::{Greeting, greeting},
        print, providers, runtime,
        standing::{LocalModel, Standing, engine_source, load},
        start_logs_with,
    },
    config::{Config, EngineFailure, Environment, MetricsAddress, layers::broken_in},
    engine::Engine,
    export::reports::{PendingReports, queue},
    routing::{RouteFile, Router},
    server::{ServeOptions, Signals, bind, serve},
    telemetry::{metrics::Metrics, store::Store},
};

/// How often the engine is looked after: a supervisor's restart takes longer, and the look is one atomic read.
const ENGINE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The AI Gateway's port of metrics.
const METRICS_PORT: u16 = 8082;

/// Serves until a signal comes.
///
/// # Errors
/// A port that is taken, a model that does not load, an engine that fails, a system without signals.
pub(super) fn run(loaded: &Loaded, environment: &Environment) -> Result<(), CliError> {
    let config = &loaded.config;
    config.check_exposure().map_err(|violation| CliError::Usage(violation.into()))?;
    let guard = Guard::new(config.auth.clone(), &config.hub.proxies, Clock::system());
    let guard = Arc::new(guard.map_err(|error| CliError::Usage(error.into()))?);
    let (layer, reports) = queue(&config.reports).unzip();
    start_logs_with(&config.log, layer)?;
    let unused = environment.unused_of_gateway();
    if !unused.is_empty() {
        warn!(
            unused = unused.join(", "),
            "variables of GitLab's AI Gateway that mean nothing here"
        );
    }
    let runtime = runtime(config.server.num_worker_threads)?;
    let ended = runtime.block_on(serve_until_signal(loaded, guard, reports));
    // A model that still loads would hold the process for minutes; the process's end frees what it has.
    runtime.shutdown_background();
    ended
}

async fn serve_until_signal(
    loaded: &Loaded,
    guard: Arc<Guard>,
    reports: Option<PendingReports>,
) -> Result<(), CliError> {
    let config = &loaded.config;
    let gateway = Gateway::load(config).map_err(|error| CliError::Usage(error.into()))?;
    let prompts = Arc::clone(&gateway.prompts);
    let hosted = providers::hosted(config, &prompts)
        .map_err(|violation| broken_in(loaded.file.as_deref(), violation))?;
    let metrics = Metrics::in_region(config.gateway.region.as_deref());
    let standing = Standing::new(config, hosted, &metrics)?;
    // First the signals, which else would end the process without a word; then the port, which fails at once; then
    // the models, which take time, while probes are answered already, and requests whom the routes have others for.
    let mut signals = Signals::watch().context("cannot watch signals")?;
    let mut later_signals = Signals::watch().context("cannot watch signals")?;
    let address = SocketAddr::new(config.server.host, config.server.port);
    let listener = bind(address).await.with_context(|| {
        format!("cannot listen on {address}; another --port, or 0 for any that is free, may help")
    })?;
    let address = listener.local_addr().context("cannot tell the port")?;
    info!(%address, is_open = guard.is_open(), "listening");
    let metrics_listener = bind_metrics(config).await?;

    let drain = DrainFlag::default();
    metrics.watch(engine_source(config, Arc::clone(&standing.locals)));
    let (exports, observed) = exports::start(config, reports, &metrics)
        .map_err(|violation| broken_in(loaded.file.as_deref(), violation))?;
    let store = store::open(config, &metrics).await?;
    let state = ApiState::new(ApiParts {
        models: standing.models.clone(),
        router: standing.router.clone(),
        config: &config.server,
        guard: Arc::clone(&guard),
        drain: drain.clone(),
        gateway,
        metrics,
        observed,
        store: store.clone(),
    });
    let router = router(state.clone(), &config.server);
    let metrics = hand_out(metrics_listener, state, config.server.read_timeout);
    let options = ServeOptions {
        read_timeout: config.server.read_timeout,
        drain_timeout: config.server.drain_timeout,
        drain,
    };
    let (mut engines, mut failure) = (Vec::new(), None);
    let shutdown = async {
        tokio::select! {
            () = signals.next() => {}
            never = guard.keep() => match never {},
            error = keep_models(config, address, &standing, guard.is_open(), &mut engines) => failure = Some(error),
            never = keep_routes(loaded, standing.router.clone()) => match never {},
            () = prompts.watch() => {}
            never = metrics => match never {},
        }
    };
    let num_cut = tokio::select! {
        drained = serve(listener, router, options, shutdown) => Some(drained.num_cut),
        () = second(&mut later_signals) => None,
    };
    end(engines, store, num_cut).await;
    exports.finish().await;
    failure.map_or(Ok(()), Err)
}

/// Ends the engines; `num_cut` is how many requests the drain has cut, `None` where nobody waited for it.
async fn end(engines: Vec<Engine>, store: Option<Store>, num_cut: Option<usize>) {
    let Some(num_cut) = num_cut else {
        warn!("a second signal: running requests are cut");
        // Dropping one would wait for the step in work; their threads end with the process.
        let _undropped = ManuallyDrop::new(engines);
        return;
    };
    // The listener is closed and its requests have ended or were cut: nothing is left to wait for.
    for engine in engines {
        engine.drain(Duration::ZERO).await;
    }
    store::close(store).await;
    info!(num_cut, "stopped");
}

/// Listens for whoever asks for metrics. A second server of this machine finds the usual port taken and takes another.
async fn bind_metrics(config: &Config) -> Result<Option<TcpListener>, CliError> {
    let listener = match config.metrics {
        MetricsAddress::Off => return Ok(None),
        MetricsAddress::At(address) => bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics; another --metrics-address, or off, may help")
        })?,
        MetricsAddress::Auto => {
            let host = config.server.host;
            match bind(SocketAddr::new(host, METRICS_PORT)).await {
                Ok(listener) => listener,
                Err(_) => bind(SocketAddr::new(host, 0)).await.context("cannot listen for metrics")?,
            }
        }
    };
    let address = listener.local_addr().context("cannot tell the port of metrics")?;
    info!(%address, "metrics");
    Ok(Some(listener))
}

/// Hands metrics out for as long as there is a server.
async fn hand_out(
    listener: Option<TcpListener>,
    state: ApiState,
    read_timeout: Duration,
) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    let options =
        ServeOptions { read_timeout, drain_timeout: Duration::ZERO, drain: DrainFlag::default() };
    let router = metrics_router(state);
    serve(listener, router, options, std::future::pending()).await;
    std::future::pending().await
}

async fn second(signals: &mut Signals) {
    signals.next().await;
    signals.next().await;
}

/// Puts routes in force as their file changes.
async fn keep_routes(loaded: &Loaded, router: Option<Arc<Router>>) -> Infallible {
    let (Some(router), Some(path)) = (router, loaded.file.clone()) else {
        return std::future::pending().await;
    };
    let config = &loaded.config;
    let file = RouteFile::new(path, config.served_names(), config.routes.clone(), router);
    Arc::new(file).watch().await
}

/// Loads the models and looks after their engines; ends with what went wrong, where nobody else answers for them.
async fn keep_models(
    config: &Config,
    address: SocketAddr,
    standing: &Standing,
    is_open: bool,
    engines: &mut Vec<Engine>,
) -> CliError {
    if let Err(error) = start_models(config, standing, engines).await {
        return error;
    }
    if let Err(error) = tell(config, address, standing, is_open) {
        return error;
    }
    death_of_one(config, standing).await
}

/// Waits for the death of an engine, which nobody else would notice, and whose requests nobody else answers.
async fn death_of_one(config: &Config, standing: &Standing) -> CliError {
    let mut checks = tokio::time::interval(ENGINE_CHECK_INTERVAL);
    let mut is_told = vec![false; standing.locals.len()];
    loop {
        checks.tick().await;
        for (local, is_told) in standing.locals.iter().zip(&mut is_told) {
            if *is_told || !local.is_dead() {
                continue;
            }
            *is_told = true;
            let model = local.name();
            if !stays(config, standing) {
                error!(model, "the engine is dead, so this process ends");
                let what = "failed; its reason is in the log";
                return CliError::Failed(anyhow!("the engine of `{model}` {what}"));
            }
            error!(
                model,
                "the engine is dead; others answer as the routes say, until this process is started again"
            );
        }
    }
}

/// Returns whether the process goes on without the models that failed. A device that failed once does not recover within
/// its process: a supervisor is to start another, unless that would take away who answers in its place.
fn stays(config: &Config, standing: &Standing) -> bool {
    match config.server.engine_failure {
        EngineFailure::Auto => standing.goes_on(),
        EngineFailure::Exit => false,
    }
}

/// Loads the models of this machine; ends with why one cannot be, where nobody else answers for it.
async fn start_models(
    config: &Config,
    standing: &Standing,
    engines: &mut Vec<Engine>,
) -> Result<(), CliError> {
    if let Err(error) = fetch_all(config).await {
        standing.locals.iter().for_each(LocalModel::give_up);
        if !stays(config, standing) {
            return Err(error);
        }
        without("the models of this machine", &anyhow!(error.to_string()));
        return Ok(());
    }
    let (own_config, own_standing) = (config.clone(), standing.clone());
    let (loaded, mut owned) = mpsc::unbounded_channel();
    let loading = tokio::task::spawn_blocking(move || {
        let mut failure = None;
        load(&own_config, &own_standing.locals, |local, engine| {
            match engine {
                // Whoever took them has been dropped where the process ends: so does the engine.
                Ok(engine) => drop(loaded.send(engine)),
                Err(error) if stays(&own_config, &own_standing) => without(local.name(), &error),
                Err(error) => failure = Some(error),
            }
            failure.is_none()
        });
        failure
    });
    while let Some(engine) = owned.recv().await {
        engines.push(engine);
    }
    let failure = loading.await.context("loading the model panicked")?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Says that others answer in the place of a model.
fn without(model: &str, error: &anyhow::Error) {
    // No field of reports: it may name a folder.
    let reason = format!("{error:#}");
    error!(
        model,
        reason,
        "a model could not be loaded; others answer as the routes say, until this process is started again"
    );
}

/// Says that all is there, to the log and to a person.
fn tell(
    config: &Config,
    address: SocketAddr,
    standing: &Standing,
    is_open: bool,
) -> Result<(), CliError> {
    let elsewhere = config.providers.iter().map(|provider| provider.served_as.as_str());
    let each_model = config.each_model();
    let locals = standing.locals.iter().zip(&each_model);
    let there: Vec<_> = locals.filter(|(local, _)| !local.has_failed()).collect();
    let names: Vec<&str> = there.iter().map(|(local, _)| local.name()).chain(elsewhere).collect();
    let adapters: Vec<&str> = there
        .iter()
        .flat_map(|(_, config)| config.model.adapters.iter().map(|adapter| adapter.name.as_str()))
        .collect();
    info!(%address, model = names.join(", "), adapters = adapters.join(", "), "serving");
    print(&greeting(Greeting { address, models: &names, adapters: &adapters, is_open }))
}

pub(super) mod store;
#[cfg(test)]
mod tests;
