//! HTTP-to-HTTP overhead: what the server adds to a completion that takes no time.
//!
//! A provider answers at once with eight tokens; sixteen clients keep a connection each, on the same two worker threads
//! as the server, and send one request after another. Prints a table, then JSON. It measures and asserts nothing.
//! One row shows a token, which is verified; the last one besides sends 50 KB of real code and another file, whose prompt is
//! built as for a model, with syntax trees, and whose answer goes through all steps of post-processing. `cargo bench --bench http_overhead`; where other work shares the cores, the tail shows its time slices, and
//! `chrt -r 5` before the executable shows ours alone.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench prints, and fails by panicking"
)]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{future::BoxFuture, stream};
use lacuna::{
    api::{ApiParts, ApiState, DrainFlag, Gateway, Observed, router},
    auth::{Clock, Credentials, Guard},
    completion::{CompletionChunk, CompletionRequest, FinishReason, Input, Usage},
    config::{
        AuthConfig, CompletionConfig, Config, EngineFailure, Environment, Proxies, RawConfig,
        Secret, ServerConfig,
    },
    prompt::{
        FimTemplate, Gap, PromptBuilder,
        budget::{self, Shares},
        context::{self, ContextOptions, OutlineCache, Texts},
        family,
    },
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
    server::{ServeOptions, bind, serve},
    service::CompletionService,
    telemetry::metrics::Metrics,
    tokenizer::Tokenizer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const NUM_CLIENTS: usize = 16;
const NUM_THREADS: usize = 2;
const NUM_REQUESTS: usize = 1000;
const NUM_WARM_UPS: usize = 200;
/// The model's context.
const CONTEXT_TOKENS: usize = 2048;
/// For lines, as the server's own default; outlines have an eighth of it.
const CACHE_BYTES: usize = 32 << 20;
/// Lines around the cursor: some 10 kB, a long file for an editor.
const NUM_LINES_ABOVE: usize = 200;
const NUM_LINES_BELOW: usize = 50;
const TOKENS: [&str; 8] = ["return", " self", ".", "total", " +", " other", ".", "total"];

/// Answers at once, or once the prompt is built.
struct Instantly {
    model: Arc<ModelInfo>,
    prompts: Option<Arc<Prompts>>,
}

/// What builds prompts.
struct Prompts {
    tokenizer: Tokenizer,
    template: FimTemplate,
    outlines: OutlineCache,
}

impl Prompts {
    fn new() -> Self {
        let tokenizer = Tokenizer::from_json(models::demo::TOKENIZER_JSON).unwrap();
        let tokenizer = tokenizer.with_cache(CACHE_BYTES);
        let fim = family::fim_by_name("lacuna-demo").unwrap();
        let id = |token: &str| tokenizer.added_token_id(token);
        let template = FimTemplate::resolve("lacuna-demo", fim, id).unwrap();
        Self { tokenizer, template, outlines: OutlineCache::new(CACHE_BYTES / 8) }
    }

    /// Does what the engine's provider does before it asks the engine.
    fn build(&self, request: CompletionRequest) {
        let Input::Fim { prefix, suffix } = request.input else { return };
        let options = ContextOptions {
            is_ranked: true,
            masks_secrets: true,
            bytes_max: budget::bytes_worth_encoding(CONTEXT_TOKENS),
        };
        let texts = Texts { prefix, suffix, items: request.context };
        let name = request.file_name.as_deref();
        let arranged = context::arrange(texts, name, request.language, options);
        let shares = Shares { suffix: 0.3, context: 0.3 };
        let builder = PromptBuilder {
            tokenizer: &self.tokenizer,
            context_tokens_max: CONTEXT_TOKENS,
            shares,
            outlines: Some(&self.outlines),
        };
        let gap = Gap {
            prefix: &arranged.prefix,
            suffix: &arranged.suffix,
            file_name: name,
            repository: None,
            language: request.language,
            context: &arranged.items,
        };
        std::hint::black_box(builder.gap(&self.template, gap, 64).unwrap());
    }
}

impl Provider for Instantly {
    fn model(&self) -> Arc<ModelInfo> {
        self.model.clone()
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let prompts = self.prompts.clone();
        let last = TOKENS.len() - 1;
        let chunks = TOKENS.iter().enumerate().map(move |(index, text)| {
            CompletionEvent::Chunk(CompletionChunk {
                choice_index: 0,
                text: (*text).to_owned(),
                logprobs: Vec::new(),
                finish_reason: (index == last).then_some(FinishReason::Stop),
                usage: None,
                num_choice_tokens: None,
            })
        });
        let events = chunks.chain([CompletionEvent::Done(Usage::default())]).map(Ok);
        let events = CompletionStream::new(stream::iter(events.collect::<Vec<_>>()));
        Box::pin(async move {
            if let Some(prompts) = prompts {
                tokio::task::spawn_blocking(move || prompts.build(request)).await.unwrap();
            }
            Ok(events)
        })
    }
}

/// A row of the table.
struct Row {
    name: &'static str,
    path: &'static str,
    /// Whether the server asks who it is, and a token says so.
    has_token: bool,
    /// Whether prompts are built and answers go through the steps.
    has_context: bool,
    body: String,
    /// What the answer ends with.
    end: &'static [u8],
}

fn rows() -> Vec<Row> {
    // Lines of the usual length: escapes are what costs when a body is read.
    let line = "        total += self.price(item) * 1.19\\n";
    let (prefix, suffix) = (line.repeat(NUM_LINES_ABOVE), line.repeat(NUM_LINES_BELOW));
    let openai =
        |more: &str| format!(r#"{{"prompt":"{prefix}","suffix":"{suffix}","max_tokens":8{more}}}"#);
    let gitlab = |more: &str| {
        format!(
            r#"{{"current_file":{{"file_name":"a.py","content_above_cursor":"{prefix}","content_below_cursor":"{suffix}"}}{more}}}"#
        )
    };
    let row =
        |name, path, body, end| Row { name, path, has_token: false, has_context: false, body, end };
    vec![
        row("openai", "/v1/completions", openai(""), b"}"),
        row("openai, streamed", "/v1/completions", openai(r#","stream":true"#), b"0\r\n\r\n"),
        row("gitlab", "/v2/code/completions", gitlab(""), b"}"),
        Row { has_token: true, ..row("gitlab, token", "/v2/code/completions", gitlab(""), b"}") },
        Row {
            has_token: true,
            ..row("gitlab, token, 50 KB", "/v2/code/completions", real(), b"}")
        },
        Row {
            has_token: true,
            has_context: true,
            ..row("gitlab, all", "/v2/code/completions", real(), b"}")
        },
        row("gitlab, streamed", "/v2/code/completions", gitlab(r#","stream":true"#), b"0\r\n\r\n"),
    ]
}

/// 50 KB of a real file around the cursor, and another one.
fn real() -> String {
    let file = include_str!("../kernels/src/backend.rs");
    let text = file.repeat(50_000 / file.len() + 1);
    let middle = text.floor_char_boundary(text.len() / 2);
    let ends =
        (text.ceil_char_boundary(middle - 25_000), text.floor_char_boundary(middle + 25_000));
    serde_json::json!({
        "current_file": {
            "file_name": "a.rs",
            "content_above_cursor": text[ends.0..middle],
            "content_below_cursor": text[middle..ends.1],
        },
        "context": [{"type": "file", "name": "b.rs", "content": file[..file.floor_char_boundary(8000)]}],
    })
    .to_string()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NUM_THREADS)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (guard, token) = guarded().await;
        let open = Guard::new(AuthConfig::open(), &Proxies::default(), Clock::system());
        let guard = Arc::new(guard);
        let open = start(Arc::new(open.unwrap()), false).await;
        let guarded = start(Arc::clone(&guard), false).await;
        let with_context = start(guard, true).await;
        println!(
            "{NUM_CLIENTS} clients, {NUM_THREADS} threads for both sides, {} tokens an answer",
            TOKENS.len()
        );
        println!(
            "{:<20} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "p50 ms", "p90 ms", "p99 ms", "max ms", "req/s"
        );
        let mut lines = Vec::new();
        for row in rows() {
            let (address, headers) = match (row.has_token, row.has_context) {
                (true, true) => (with_context, token.as_str()),
                (true, false) => (guarded, token.as_str()),
                (false, _) => (open, ""),
            };
            let (times, wall) = measure(address, headers, &row).await;
            let at = |share: f64| {
                times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3
            };
            let rate = times.len() as f64 / wall.as_secs_f64();
            let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
            println!("{:<20} {p50:>9.3} {p90:>9.3} {p99:>9.3} {max:>9.3} {rate:>9.0}", row.name);
            lines.push(serde_json::json!({
                "name": row.name, "num_requests": times.len(), "p50_ms": p50, "p90_ms": p90,
                "p99_ms": p99, "max_ms": max, "requests_per_second": rate,
            }));
        }
        let report = serde_json::json!({
            "bench": "http_overhead", "num_clients": NUM_CLIENTS, "num_threads": NUM_THREADS,
            "num_tokens": TOKENS.len(), "rows": lines,
        });
        println!("{report}");
    });
}

/// Returns a guard and the headers that show it a token of its own.
async fn guarded() -> (Guard, String) {
    let mut config = AuthConfig::open();
    config.signing_key.pem = Some(Secret::from(include_str!("../tests/keys/one.pem")));
    config.bypass.external_with_header = true;
    let guard = Guard::new(config, &Proxies::default(), Clock::system()).unwrap();
    let user = "ada";
    let request =
        Credentials { bypass: Some("true"), global_user_id: Some(user), ..Credentials::default() };
    let caller = guard.authenticate(&request).await.unwrap();
    let token = guard.issue(&caller, &request).unwrap().token;
    let headers = format!(
        "Authorization: Bearer {token}\r\nX-Gitlab-Authentication-Type: oidc\r\nX-Gitlab-Global-User-Id: {user}\r\n"
    );
    (guard, headers)
}

async fn start(guard: Arc<Guard>, has_context: bool) -> SocketAddr {
    let config = ServerConfig {
        host: [127, 0, 0, 1].into(),
        port: 0,
        cors_allowed_origins: vec!["*".to_owned()],
        body_bytes_max: 4 << 20,
        concurrent_requests_max: 256,
        drain_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(30),
        engine_failure: EngineFailure::Exit,
        num_worker_threads: 2,
    };
    let limits = CompletionConfig {
        max_tokens_default: 64,
        max_tokens_limit: 256,
        num_choices_limit: 4,
        num_stops_limit: 32,
        suffix_share: 0.3,
        context_share: 0.3,
        ranks_context: true,
        masks_secrets: true,
        line_start_layout: None,
        tokenizer_cache_bytes: 0,
        timeout: Duration::from_secs(30),
    };
    let model = ModelInfo {
        name: "instant".to_owned(),
        engine: "lacuna".to_owned(),
        max_context_tokens: 2048,
        has_fim: true,
        has_repo_fim: false,
        has_chat: false,
        vocab_size: 1000,
    };
    let prompts = has_context.then(|| Arc::new(Prompts::new()));
    let provider = Instantly { model: Arc::new(model), prompts };
    let service = CompletionService::new(Arc::new(provider), limits, 128);
    let drain = DrainFlag::default();
    let defaults = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let gateway = Gateway::load(&defaults).unwrap();
    let service =
        if has_context { service.with_postprocess(defaults.postprocess) } else { service };
    let state = ApiState::new(ApiParts {
        models: service.into(),
        router: None,
        config: &config,
        guard,
        drain: drain.clone(),
        gateway,
        metrics: Metrics::default(),
        observed: Observed::default(),
        store: None,
    });
    let app = router(state, &config);
    let listener = bind((config.host, config.port).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions {
        read_timeout: config.read_timeout,
        drain_timeout: config.drain_timeout,
        drain,
    };
    tokio::spawn(serve(listener, app, options, std::future::pending()));
    address
}

/// Returns the times of all requests, rising, and of the whole.
async fn measure(address: SocketAddr, headers: &str, row: &Row) -> (Vec<Duration>, Duration) {
    let request: Arc<[u8]> = format!(
        "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{}",
        row.path,
        row.body.len(),
        row.body
    )
    .into_bytes()
    .into();
    for num_requests in [NUM_WARM_UPS, NUM_REQUESTS] {
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..NUM_CLIENTS {
            clients.spawn(client(address, request.clone(), row.end, num_requests));
        }
        let mut times: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
        if num_requests == NUM_REQUESTS {
            times.sort_unstable();
            return (times, started.elapsed());
        }
    }
    (Vec::new(), Duration::ZERO)
}

async fn client(
    address: SocketAddr,
    request: Arc<[u8]>,
    end: &'static [u8],
    num_requests: usize,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times = Vec::with_capacity(num_requests);
    let mut answer = Vec::new();
    for _ in 0..num_requests {
        answer.clear();
        let started = Instant::now();
        stream.write_all(&request).await.unwrap();
        while !answer.ends_with(end) || !is_whole(&answer) {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the server hung up");
        }
        times.push(started.elapsed());
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&answer));
    }
    times
}

/// A body with a length is whole when it has it; one in chunks when its end mark is there, which the caller looks at.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head_bytes) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..head_bytes]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_none_or(|length: usize| answer.len() == head_bytes + 4 + length)
}
