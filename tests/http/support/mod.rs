//! A server on a free port over a scripted provider, and a client that shows the bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use lacuna::{
    api::{ApiParts, ApiState, DrainFlag, Gateway, Observed, router},
    auth::{Clock, Guard},
    completion::Step,
    config::{
        AuthConfig, CompletionConfig, Config, EngineFailure, Environment, PostprocessConfig,
        Proxies, RawConfig, ServerConfig,
    },
    provider::Provider,
    routing::Router,
    server::{Drained, ServeOptions, bind, serve},
    service::{CompletionService, ServedModels},
    telemetry::{metrics::Metrics, store::Store},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::provider::{Script, ScriptedProvider};

pub(crate) mod client;
pub(crate) mod issuer;
pub(crate) mod provider;

/// Far longer than anything here takes, far shorter than a person waits.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Choices of a request over all its prompts.
pub(crate) const NUM_SEQUENCES_MAX: usize = 64;

/// Waits for what must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

/// A running server.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) provider: Arc<ScriptedProvider>,
    state: ApiState,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

impl TestServer {
    /// Starts with generous limits.
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_with(script, |_| {}).await
    }

    /// Starts with limits of the test's own.
    pub(crate) async fn start_with(script: Script, change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut parts = TestParts::default();
        change(&mut parts.config);
        Self::start_parts(Arc::new(ScriptedProvider::new(script)), parts).await
    }

    /// Starts behind a guard of the test's own.
    pub(crate) async fn start_guarded(script: Script, guard: Arc<Guard>) -> Self {
        let parts = TestParts { guard, ..TestParts::default() };
        Self::start_parts(Arc::new(ScriptedProvider::new(script)), parts).await
    }

    /// Starts with settings of the gateway of the test's own, over a provider of its own.
    pub(crate) async fn start_gateway(
        provider: ScriptedProvider,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = default_config();
        change(&mut config);
        let gateway = Gateway::load(&config).unwrap();
        Self::start_parts(Arc::new(provider), TestParts { gateway, ..TestParts::default() }).await
    }

    /// Starts over what a test makes of the scripted provider.
    pub(crate) async fn start_models(
        provider: ScriptedProvider,
        models: impl FnOnce(&Arc<ScriptedProvider>) -> ServedModels + 'static,
    ) -> Self {
        let models = |provider: &Arc<ScriptedProvider>| (models(provider), None);
        let parts = TestParts { models: Box::new(models), ..TestParts::default() };
        Self::start_parts(Arc::new(provider), parts).await
    }

    /// Starts with parts of the test's own.
    pub(crate) async fn start_parts(provider: Arc<ScriptedProvider>, parts: TestParts) -> Self {
        let TestParts { config, models, guard, gateway, store } = parts;
        let drain = DrainFlag::default();
        let (models, routes) = models(&provider);
        let state = ApiState::new(ApiParts {
            models,
            router: routes,
            config: &config,
            guard,
            drain: drain.clone(),
            gateway,
            metrics: Metrics::default(),
            observed: Observed::default(),
            store,
        });
        let app = router(state.clone(), &config);
        let listener = bind((config.host, config.port).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServeOptions {
            read_timeout: config.read_timeout,
            drain_timeout: config.drain_timeout,
            drain,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(listener, app, options, shutdown).await
        });
        Self { address, provider, state, stop: Some(stop), task }
    }

    /// Returns the page of metrics.
    pub(crate) fn metrics(&self) -> String {
        self.state.metrics().render()
    }

    /// Waits until the page of metrics is so.
    pub(crate) async fn until_metrics(&self, is_so: impl Fn(&str) -> bool) {
        within("what is counted", async {
            while !is_so(&self.metrics()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Begins to drain, as SIGTERM does.
    pub(crate) fn begin_drain(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Waits for the end of a drain.
    pub(crate) async fn drained(self) -> Drained {
        within("the drain", self.task).await.unwrap()
    }
}

/// Makes of the scripted provider what is served.
pub(crate) type MakeModels =
    Box<dyn FnOnce(&Arc<ScriptedProvider>) -> (ServedModels, Option<Arc<Router>>)>;

/// What a test may choose of a server.
pub(crate) struct TestParts {
    pub(crate) config: ServerConfig,
    pub(crate) models: MakeModels,
    pub(crate) guard: Arc<Guard>,
    pub(crate) gateway: Gateway,
    pub(crate) store: Option<Store>,
}

impl Default for TestParts {
    fn default() -> Self {
        Self {
            config: ServerConfig {
                host: [127, 0, 0, 1].into(),
                port: 0,
                cors_allowed_origins: vec!["*".to_owned()],
                body_bytes_max: 4 << 20,
                concurrent_requests_max: 256,
                drain_timeout: PATIENCE,
                read_timeout: PATIENCE,
                engine_failure: EngineFailure::Exit,
                num_worker_threads: 2,
            },
            models: Box::new(|provider| (service(provider.clone()).into(), None)),
            guard: open_guard(),
            gateway: Gateway::load(&default_config()).unwrap(),
            store: None,
        }
    }
}

/// Returns what answers over a provider. Texts stay as they are scripted, but for what the dialect does by itself.
pub(crate) fn service(provider: Arc<dyn Provider>) -> CompletionService {
    let generation = vec![Step::CodeFences, Step::LeadingNewline];
    let steps = PostprocessConfig { generation, ..PostprocessConfig::none() };
    CompletionService::new(provider, limits(), NUM_SEQUENCES_MAX).with_postprocess(steps)
}

/// Lets everybody in.
pub(crate) fn open_guard() -> Arc<Guard> {
    let guard = Guard::new(AuthConfig::open(), &Proxies::default(), Clock::system());
    Arc::new(guard.unwrap())
}

pub(crate) fn limits() -> CompletionConfig {
    CompletionConfig {
        max_tokens_default: 64,
        max_tokens_limit: u32::MAX,
        num_choices_limit: 4,
        num_stops_limit: 32,
        suffix_share: 0.3,
        context_share: 0.3,
        ranks_context: true,
        masks_secrets: true,
        line_start_layout: None,
        tokenizer_cache_bytes: 0,
        timeout: PATIENCE,
    }
}

fn default_config() -> Config {
    Config::load(&RawConfig::default(), &Environment::default(), None).unwrap()
}
