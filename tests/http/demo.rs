//! The whole server over the embedded model: what a person at an editor would meet, kind and hostile.

use std::net::SocketAddr;

use lacuna::{
    api::{ApiParts, ApiState, DrainFlag, Gateway, Observed, router},
    cli::standing::{LocalModel, Standing, load},
    config::{Config, Environment, RawConfig},
    engine::EngineHandle,
    server::{ServeOptions, bind, serve},
    telemetry::metrics::Metrics,
};
use serde_json::{Value, json};

use crate::support::{
    PATIENCE,
    client::{Connection, post, request},
    open_guard, within,
};

const OPENAI: &str = "/v1/completions";
const GITLAB: &str = "/v2/code/completions";

/// A server that lives as long as its value.
pub(crate) struct DemoServer {
    pub(crate) address: SocketAddr,
    /// One a model.
    pub(crate) engines: Vec<EngineHandle>,
    _owners: Vec<lacuna::engine::Engine>,
}

impl DemoServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let nothing = Environment::from_variables([]);
        let mut config = Config::load(&RawConfig::default(), &nothing, None).unwrap();
        change(&mut config);
        Self::start_config(&config).await
    }

    /// Starts with the settings of a file that says this.
    pub(crate) async fn start_file(text: &str) -> Self {
        let file = std::env::temp_dir().join(format!("lacuna-http-{}.toml", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let nothing = Environment::from_variables([]);
        let config = Config::load(&RawConfig::default(), &nothing, Some(&file));
        std::fs::remove_file(&file).unwrap();
        Self::start_config(&config.unwrap()).await
    }

    async fn start_config(config: &Config) -> Self {
        let metrics = Metrics::default();
        let standing = Standing::new(config, Vec::new(), &metrics).unwrap();
        let mut engines = Vec::new();
        load(config, &standing.locals, |_, engine| {
            engines.push(engine.unwrap());
            true
        });
        let drain = DrainFlag::default();
        let state = ApiState::new(ApiParts {
            models: standing.models,
            router: standing.router,
            config: &config.server,
            guard: open_guard(),
            drain: drain.clone(),
            gateway: Gateway::load(config).unwrap(),
            metrics,
            observed: Observed::default(),
            store: None,
        });
        let app = router(state, &config.server);
        let listener = bind((config.server.host, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = ServeOptions { read_timeout: PATIENCE, drain_timeout: PATIENCE, drain };
        tokio::spawn(serve(listener, app, options, std::future::pending()));
        let handles = standing.locals.iter().filter_map(LocalModel::engine).cloned().collect();
        Self { address, engines: handles, _owners: engines }
    }

    pub(crate) async fn text(&self, body: &Value) -> String {
        let answer = post(self.address, OPENAI, body.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Waits until no sequence runs or waits and no block is referenced.
    pub(crate) async fn idle(&self) {
        within("the engine's rest", async {
            loop {
                let is_idle = |engine: &EngineHandle| {
                    let stats = engine.stats();
                    (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
                };
                if self.engines.iter().all(is_idle) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn gap(prefix: &str, suffix: &str) -> Value {
    json!({"prompt": prefix, "suffix": suffix, "max_tokens": 24, "temperature": 0})
}

fn gitlab(prefix: &str, suffix: &str) -> Value {
    json!({"current_file": {
        "file_name": "a.py", "content_above_cursor": prefix, "content_below_cursor": suffix,
    }})
}

pub(crate) const PREFIX: &str =
    "def average(values):\n    total = 0\n    for value in values:\n        total += ";
pub(crate) const SUFFIX: &str = "\n    return total / len(values)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialects_give_the_same_completion_whole_and_streaming() {
    let server = DemoServer::start().await;
    let whole = server.text(&gap(PREFIX, SUFFIX)).await;
    assert!(!whole.trim().is_empty());
    assert!(!whole.contains('\n'), "the demo model's family gives a line: {whole:?}");

    let mut streaming = gap(PREFIX, SUFFIX);
    streaming["stream"] = true.into();
    let answer = post(server.address, OPENAI, streaming.to_string()).await;
    let pieces = answer.events().into_iter().filter(|data| *data != "[DONE]").map(|data| {
        let event: Value = serde_json::from_str(data).unwrap();
        event["choices"][0]["text"].as_str().unwrap().to_owned()
    });
    assert_eq!(pieces.collect::<String>(), whole);

    let answer = post(server.address, GITLAB, gitlab(PREFIX, SUFFIX).to_string()).await;
    assert_eq!(answer.json()["choices"][0]["text"], whole);
    let mut streaming = gitlab(PREFIX, SUFFIX);
    streaming["stream"] = true.into();
    assert_eq!(post(server.address, GITLAB, streaming.to_string()).await.text(), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_texts_get_a_sane_answer() {
    let server = DemoServer::start().await;
    let megabyte = "value = compute(1)\n".repeat(52_000);
    let rows = [
        ("nothing at all", String::new(), String::new()),
        ("CRLF", "def f():\r\n    x = 1\r\n    return ".to_owned(), "\r\n".to_owned()),
        ("NUL bytes", "a\0b = \0".to_owned(), "\0\n".to_owned()),
        ("half a grapheme", "name = \"e".to_owned(), "\u{301}\"\n".to_owned()),
        ("a joiner without its pair", "s = \"👩\u{200d}".to_owned(), "\"\n".to_owned()),
        (
            "sentinels as text",
            "x = \"<|fim_middle|><|endoftext|>".to_owned(),
            "<|fim_prefix|>\"".to_owned(),
        ),
        ("a megabyte behind", PREFIX.to_owned(), megabyte.clone()),
        ("a megabyte before", megabyte.clone() + PREFIX, SUFFIX.to_owned()),
        ("a line of a megabyte", "x + ".repeat(260_000), ")".repeat(1000)),
    ];
    for (name, prefix, suffix) in rows {
        let answer = post(server.address, OPENAI, gap(&prefix, &suffix).to_string()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let usage = &answer.json()["usage"];
        assert!(usage["prompt_tokens"].as_u64().unwrap() <= 2048 - 24, "{name}: {usage}");
        assert!(!answer.json()["choices"][0]["text"].as_str().unwrap().contains("<|"), "{name}");
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_refused_with_the_field() {
    let server = DemoServer::start().await;
    let rows = [
        (json!({"prompt": "word ".repeat(4000)}), "prompt", "at most"),
        (json!({"prompt": ""}), "prompt", "no token"),
        (json!({"prompt": [8192]}), "prompt", "8192"),
        (json!({"prompt": "a", "suffix": "", "max_tokens": 2047}), "max_tokens", "context"),
        (json!({"prompt": "a", "logit_bias": {"8192": 1}}), "logit_bias", "8192"),
    ];
    for (body, field, hint) in rows {
        let answer = post(server.address, OPENAI, body.to_string()).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(field)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(hint), "{error}");
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_gets_what_each_alone_would_get() {
    let server = DemoServer::start().await;
    let bodies: Vec<Value> = (0..40)
        .map(|index| {
            let mut body =
                gap(&format!("value_{index} = {index}\nother = value_"), "\nprint(other)\n");
            if index % 2 == 1 {
                body["temperature"] = 0.8.into();
                body["seed"] = index.into();
            }
            body
        })
        .collect();
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(server.text(body).await);
    }
    let together =
        futures_util::future::join_all(bodies.iter().map(|body| server.text(body))).await;
    assert_eq!(together, alone);
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_frees_its_blocks() {
    let server = DemoServer::start_with(|config| config.engine.num_seqs_max = 2).await;
    for (is_streaming, num_clients) in [(false, 1), (true, 1), (false, 6)] {
        // No stop text and no limit that is near: they run until somebody stops them, two at a time.
        let body = json!({
            "prompt": "a = 1\n", "max_tokens": 1900, "temperature": 1, "stream": is_streaming,
            "logit_bias": {"8183": -100, "8185": -100},
        });
        let bytes = request("POST", OPENAI, &[], body.to_string().as_bytes());
        let mut clients = Vec::new();
        for _ in 0..num_clients {
            let mut client = Connection::open(server.address).await;
            client.send(&bytes).await;
            clients.push(client);
        }
        within("the start", async {
            while server.engines[0].stats().num_running + server.engines[0].stats().num_waiting
                < num_clients
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(clients);
        server.idle().await;
    }
}
