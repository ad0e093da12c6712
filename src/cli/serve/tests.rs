//! Engines that die, and a server that notices.

use std::{process::ExitCode, sync::mpsc};

use futures_util::{FutureExt as _, future::BoxFuture, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
};

use super::*;
use crate::{
    api::Observed,
    cli::compose::Composed,
    client,
    completion::{CompletionRequest, SamplingParams, Usage},
    config::{Environment, RawConfig, RouteConfig, RouteMatch, RouteTarget},
    engine::{
        self, Batch, EngineHandle, EngineLimits, Executor, ExecutorError, SampledToken,
        SequenceRequest,
    },
    prompt::budget::Shares,
    provider::{
        CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError,
        local::{LocalParts, LocalProvider},
    },
    routing::{self, NamedProvider},
    service::{CompletionService, ServedModels},
    tokenizer::Tokenizer,
};

/// A device that fails at its first step.
struct Broken;

impl Executor for Broken {
    fn start(&mut self, _: &Batch) -> Result<(), ExecutorError> {
        Err(ExecutorError::device("it fell off the bus"))
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        unreachable!("no step was started")
    }
}

fn limits() -> EngineLimits {
    EngineLimits {
        num_seqs_max: 1,
        num_batched_tokens_max: 16,
        block_size: 16,
        num_blocks: 4,
        context_tokens_max: 64,
        num_queued_max: 1,
        has_prefix_cache: false,
        vocab_size: 10,
    }
}

#[tokio::test]
async fn the_death_of_any_engine_ends_the_process_and_living_ones_are_left_alone() {
    let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let [first, second] = ["first", "second"].map(|name| loaded(name, Broken, &config));
    let engine = second.1.engine().unwrap().clone();
    let (_engines, locals) = ([first.0, second.0], [first.1, second.1]);
    let standing = standing(&config, locals);
    let moment = Duration::from_millis(20);
    assert!(tokio::time::timeout(moment, death_of_one(&config, &standing)).await.is_err());
    die(&engine).await;
    let death = tokio::time::timeout(Duration::from_mins(1), death_of_one(&config, &standing));
    assert!(death.await.unwrap().to_string().contains("the engine of `second` failed"));
}

#[tokio::test]
async fn an_engine_in_whose_place_another_answers_takes_nobody_with_it() {
    let mut config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let (_engine, local) = loaded("large", Broken, &config);
    let engine = local.engine().unwrap().clone();
    let Standing { models, locals, .. } = standing(&config, [local]);
    let targets = ["large", "away"];
    let target =
        |name: &&str| RouteTarget { name: (*name).to_owned(), weight: 0, except: Vec::new() };
    let route = RouteConfig {
        name: "all".to_owned(),
        when: RouteMatch::default(),
        targets: targets.iter().map(target).collect(),
        pins: Vec::new(),
        shadow: None,
    };
    let own: Arc<dyn Provider> = locals[0].provider().clone();
    let away: Arc<dyn Provider> = Arc::new(Away);
    let providers = [("large", &own), ("away", &away)].map(|(name, provider)| NamedProvider {
        name: name.to_owned(),
        provider: Arc::clone(provider),
    });
    let router =
        Router::new(&config.routing, vec![route], providers.into(), Arc::new(routing::NoObserver));
    let models = models.with_providers(|name, own| router.routed(name, Arc::clone(own)));
    let standing = Standing { models, router: Some(router), locals };
    die(&engine).await;
    assert!(standing.locals[0].is_dead());
    let moment = Duration::from_millis(20);
    assert!(tokio::time::timeout(moment, death_of_one(&config, &standing)).await.is_err());
    let served = &standing.models.find("large").unwrap().service;
    assert!(served.is_ready());
    config.server.engine_failure = EngineFailure::Exit;
    let death = tokio::time::timeout(Duration::from_mins(1), death_of_one(&config, &standing));
    assert!(death.await.unwrap().to_string().contains("the engine of `large` failed"));
}

/// A service elsewhere that is always there.
struct Away;

impl Provider for Away {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::new(model("away"))
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        _: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let events = stream::iter([Ok(CompletionEvent::Done(Usage::default()))]);
        async { Ok(CompletionStream::new(events)) }.boxed()
    }
}

/// Has the engine of a broken device do its first step.
async fn die(engine: &EngineHandle) {
    let request = SequenceRequest {
        prompt_token_ids: vec![1],
        max_tokens: 1,
        sampling: SamplingParams::greedy(),
        stop_token_ids: [].into(),
        logprobs: None,
        priority: 0,
        adapter: None,
    };
    let mut stream = engine.submit(request).unwrap();
    assert!(stream.next().await.unwrap().is_err());
}

/// Gives a token for each row of a step, when it is let; for ever once nobody holds it back.
struct Paced {
    leave: mpsc::Receiver<()>,
    num_rows: usize,
}

impl Executor for Paced {
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError> {
        self.num_rows = batch.sampling_rows.len();
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError> {
        let _ = self.leave.recv();
        Ok(vec![SampledToken { id: 5, logprob: None }; self.num_rows])
    }
}

fn model(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        engine: "lacuna".to_owned(),
        max_context_tokens: 64,
        has_fim: false,
        has_repo_fim: false,
        has_chat: false,
        vocab_size: 10,
    }
}

/// Returns a model over a device, and its engine.
fn loaded(name: &str, executor: impl Executor + 'static, config: &Config) -> (Engine, LocalModel) {
    let json = include_bytes!("../../../models/demo/tokenizer.json");
    let (engine, handle) = engine::start(Box::new(executor), limits()).unwrap();
    let provider = LocalProvider::new(LocalParts {
        engine: handle.clone(),
        tokenizer: Tokenizer::from_json(json).unwrap(),
        template: None,
        chat: None,
        model: model(name),
        eos_token_ids: Vec::new(),
        shares: Shares { suffix: 0.2, context: 0.3 },
        outlines: None,
        ranks_context: true,
        masks_secrets: true,
        max_tokens_default: 8,
        max_tokens_limit: 8,
    });
    let service = CompletionService::new(Arc::new(provider), config.completion.clone(), 1);
    let local = LocalModel::new(name, &[], None);
    let engine = local.fill(Composed { engine, handle, service, adapters: Vec::new() });
    (engine, local)
}

/// Serves models without routes.
fn standing(config: &Config, locals: impl Into<Vec<LocalModel>>) -> Standing {
    let locals: Arc<[LocalModel]> = locals.into().into();
    let service = |local: &LocalModel| {
        CompletionService::new(local.provider().clone(), config.completion.clone(), 1)
    };
    let mut models = ServedModels::new(service(&locals[0]));
    locals[1..].iter().for_each(|local| models.push(service(local)));
    Standing { models, router: None, locals }
}

async fn health(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = b"GET /health HTTP/1.1\r\nHost: lacuna\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn where_one_engine_dies_the_others_end_their_answers_and_the_process_fails() {
    let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let (let_go, leave) = mpsc::channel();
    let (living, large) = loaded("large", Paced { leave, num_rows: 0 }, &config);
    let (dying, small) = loaded("small", Broken, &config);
    let _engines = [living, dying];
    let standing = standing(&config, [large, small]);
    let drain = DrainFlag::default();
    let guard = Guard::new(config.auth.clone(), &config.hub.proxies, Clock::system());
    let guard = Arc::new(guard.unwrap());
    let gateway = Gateway::load(&config).unwrap();
    let state = ApiState::new(ApiParts {
        models: standing.models.clone(),
        router: None,
        config: &config.server,
        guard,
        drain: drain.clone(),
        gateway,
        metrics: Metrics::default(),
        observed: Observed::default(),
        store: None,
    });
    let listener = bind(SocketAddr::new(config.server.host, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let timeout = Duration::from_mins(1);
    let options = ServeOptions { read_timeout: timeout, drain_timeout: timeout, drain };
    let router = router(state, &config.server);
    let (look, looked) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let mut failure = None;
        let shutdown = async {
            let _ = looked.await;
            failure = Some(death_of_one(&config, &standing).await);
        };
        let drained = serve(listener, router, options, shutdown).await;
        (drained.num_cut, failure.unwrap())
    });
    let body =
        |model: &str| json!({"model": model, "prompt": [1], "stream": true, "max_tokens": 8});
    let server = client::Server::parse(&format!("http://{address}")).unwrap();

    let_go.send(()).unwrap();
    let mut answer = server.stream("/v1/completions", &body("large")).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());
    assert_eq!(health(address).await, "200");
    let short = json!({"model": "small", "prompt": [1]});
    assert!(server.post("/v1/completions", &short, timeout).await.is_err());
    assert_eq!(health(address).await, "503");
    look.send(()).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(let_go);
    let mut events = Vec::new();
    while let Some(event) = answer.next().await.unwrap() {
        events.push(event);
    }
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    assert!(events.pop().unwrap().contains("\"finish_reason\":\"length\""), "{events:?}");
    let (num_cut, failure) = serving.await.unwrap();
    assert_eq!((num_cut, failure.to_string().contains("`small` failed")), (0, true));
    assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::from(1)));
}
