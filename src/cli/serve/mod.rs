//! `lacuna serve`: listens, loads, serves, drains.

use std::{convert::Infallible, mem::ManuallyDrop, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::{
    api::{ApiState, DrainFlag, Gateway, metrics_router, router},
    auth::{Clock, Guard},
    cli::{
        CliError, Loaded,
        compose::{ComposedModels, compose_beside},
        fetch::fetch_all,
        greeting::{Greeting, greeting},
        print, providers, runtime, start_logs,
    },
    config::{Config, Environment, MetricsAddress},
    engine::{Engine, EngineHandle, EngineState, EngineStats},
    provider::hosted::HostedProvider,
    routing::{RouteFile, Router},
    server::{ServeOptions, Signals, bind, serve},
    service::ServedModels,
    telemetry::metrics::{EngineSample, EngineSource},
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
    start_logs(&config.log)?;
    let unused = environment.unused_of_gateway();
    if !unused.is_empty() {
        warn!(
            unused = unused.join(", "),
            "variables of GitLab's AI Gateway that mean nothing here"
        );
    }
    let runtime = runtime(config.server.num_worker_threads)?;
    let ended = runtime.block_on(serve_until_signal(loaded, guard));
    // A model that still loads would hold the process for minutes; the process's end frees what it has.
    runtime.shutdown_background();
    ended
}

async fn serve_until_signal(loaded: &Loaded, guard: Arc<Guard>) -> Result<(), CliError> {
    let config = &loaded.config;
    let gateway = Gateway::load(config).map_err(|error| CliError::Usage(error.into()))?;
    let prompts = Arc::clone(&gateway.prompts);
    let hosted = providers::hosted(config, &prompts).map_err(CliError::Usage)?;
    // First the signals, which else would end the process without a word; then the port, which fails at once; then
    // the model, which takes time, while probes are answered already.
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
    let state = ApiState::loading(&config.server, Arc::clone(&guard), drain.clone(), gateway);
    let router = router(state.clone(), &config.server);
    let store = store::open(config, &state).await?;
    let metrics = hand_out(metrics_listener, &state, config.server.read_timeout);
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
            error = keep_models(loaded, address, &state, hosted, &mut engines) => failure = Some(error),
            () = prompts.watch() => {}
            never = metrics => match never {},
        }
    };
    let num_cut = tokio::select! {
        drained = serve(listener, router, options, shutdown) => Some(drained.num_cut),
        () = second(&mut later_signals) => None,
    };
    if let Some(num_cut) = num_cut {
        // The listener is closed and its requests have ended or were cut: nothing is left to wait for.
        for engine in engines {
            engine.drain(Duration::ZERO).await;
        }
        store::close(store).await;
        info!(num_cut, "stopped");
    } else {
        warn!("a second signal: running requests are cut");
        // Dropping one would wait for the step in work; their threads end with the process.
        let _undropped = ManuallyDrop::new(engines);
    }
    failure.map_or(Ok(()), Err)
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
    state: &ApiState,
    read_timeout: Duration,
) -> Infallible {
    let Some(listener) = listener else { return std::future::pending().await };
    let options =
        ServeOptions { read_timeout, drain_timeout: Duration::ZERO, drain: DrainFlag::default() };
    let router = metrics_router(state.metrics().clone());
    serve(listener, router, options, std::future::pending()).await;
    std::future::pending().await
}

async fn second(signals: &mut Signals) {
    signals.next().await;
    signals.next().await;
}

/// Loads the models, serves them and looks after their engines; ends with what went wrong.
async fn keep_models(
    loaded: &Loaded,
    address: SocketAddr,
    state: &ApiState,
    hosted: Vec<HostedProvider>,
    engines: &mut Vec<Engine>,
) -> CliError {
    match start_models(&loaded.config, address, state, hosted, engines).await {
        Ok((running, router)) => tokio::select! {
            error = failure_of_one(&running) => error,
            never = keep_routes(loaded, router) => match never {},
        },
        Err(error) => error,
    }
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

/// Waits for the death of an engine. A device that failed once does not recover within its process: a supervisor is to
/// start another. The others answer what they have begun.
async fn failure_of_one(running: &[Running]) -> CliError {
    let model = death_of_one(running).await;
    error!(model, "the engine is dead, so this process ends");
    CliError::Failed(anyhow!("the engine of `{model}` failed; its reason is in the log"))
}

/// An engine that is looked after, with the name of its model.
type Running = (String, EngineHandle);

async fn start_models(
    config: &Config,
    address: SocketAddr,
    state: &ApiState,
    hosted: Vec<HostedProvider>,
    engines: &mut Vec<Engine>,
) -> Result<(Vec<Running>, Option<Arc<Router>>), CliError> {
    fetch_all(config).await?;
    let own_config = config.clone();
    let metrics = state.metrics().clone();
    let composing =
        tokio::task::spawn_blocking(move || compose_beside(&own_config, hosted, &metrics));
    let composed = composing.await.context("loading the model panicked")?;
    let ComposedModels { engines: owned, handles: running, models, router } = composed?;
    engines.extend(owned);
    state.metrics().watch(engine_source(config, &running, &models));
    // All at once: who asks for the second model while it loads is told to come back, not that there is none.
    state.serve(models);
    if let Some(router) = &router {
        state.look_after(Arc::clone(router));
    }
    let elsewhere = config.providers.iter().map(|provider| provider.served_as.as_str());
    let names: Vec<&str> = running.iter().map(|(name, _)| name.as_str()).chain(elsewhere).collect();
    let each_model = config.each_model();
    let adapters: Vec<&str> = each_model
        .iter()
        .flat_map(|config| config.model.adapters.iter().map(|adapter| adapter.name.as_str()))
        .collect();
    info!(%address, model = names.join(", "), adapters = adapters.join(", "), "serving");
    let is_open = state.is_open();
    print(&greeting(Greeting { address, models: &names, adapters: &adapters, is_open }))?;
    Ok((running, router))
}

/// Returns what shows the engines' figures when somebody asks for them.
fn engine_source(config: &Config, running: &[Running], models: &ServedModels) -> EngineSource {
    let rows: Vec<(EngineSample, EngineHandle)> = config
        .each_model()
        .iter()
        .zip(running)
        .map(|(config, (name, handle))| {
            let context = models.find(name).map(|served| served.service.model().max_context_tokens);
            let sample = EngineSample {
                model: name.clone(),
                adapters: config.model.adapters.iter().map(|a| a.name.clone()).collect(),
                num_running_max: config.engine.num_seqs_max,
                block_size: config.engine.block_size,
                max_context_tokens: context.unwrap_or(0),
                max_output_tokens: config.completion.max_tokens_limit,
                ..EngineSample::default()
            };
            (sample, handle.clone())
        })
        .collect();
    Arc::new(move || rows.iter().map(|(sample, handle)| sampled(sample, &handle.stats())).collect())
}

fn sampled(sample: &EngineSample, stats: &EngineStats) -> EngineSample {
    EngineSample {
        is_ready: stats.state == EngineState::Running,
        num_waiting: stats.num_queued + stats.num_waiting,
        num_running: stats.num_running,
        num_blocks_used: stats.num_blocks_used,
        num_blocks: stats.num_blocks,
        num_steps: stats.num_steps,
        num_prompt_tokens: stats.num_prompt_tokens,
        num_cache_hit_tokens: stats.num_cache_hit_tokens,
        num_generated_tokens: stats.num_generated_tokens,
        num_preemptions: stats.num_preemptions,
        ..sample.clone()
    }
}

/// Waits for the death of an engine, which nobody else would notice, and returns its model's name.
async fn death_of_one(running: &[Running]) -> &str {
    let mut checks = tokio::time::interval(ENGINE_CHECK_INTERVAL);
    loop {
        let dead = running.iter().find(|(_, engine)| engine.stats().state == EngineState::Dead);
        if let Some((name, _)) = dead {
            return name;
        }
        checks.tick().await;
    }
}

pub(super) mod store;
#[cfg(test)]
mod tests;
