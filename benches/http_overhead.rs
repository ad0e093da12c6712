//! HTTP-to-HTTP overhead: what the server adds to a completion that takes no time.
//!
//! A provider answers at once with eight tokens; eight clients keep a connection each, on the same two worker threads
//! as the server, and send one request after another. Prints a table, then JSON. It measures and asserts nothing.
//! One row shows a token, which is verified. `cargo bench --bench http_overhead`; where other work shares the cores, the tail shows its time slices, and
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
    api::{ApiState, DrainFlag, Gateway, router},
    auth::{Clock, Credentials, Guard},
    completion::{CompletionChunk, CompletionRequest, FinishReason, Usage},
    config::{
        AuthConfig, CompletionConfig, Config, Environment, Proxies, RawConfig, Secret, ServerConfig,
    },
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
    server::{ServeOptions, bind, serve},
    service::CompletionService,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

const NUM_CLIENTS: usize = 8;
const NUM_THREADS: usize = 2;
const NUM_REQUESTS: usize = 2000;
const NUM_WARM_UPS: usize = 200;
/// Lines around the cursor: some 10 kB, a long file for an editor.
const NUM_LINES_ABOVE: usize = 200;
const NUM_LINES_BELOW: usize = 50;
const TOKENS: [&str; 8] = ["return", " self", ".", "total", " +", " other", ".", "total"];

/// Answers at once.
struct Instantly(Arc<ModelInfo>);

impl Provider for Instantly {
    fn model(&self) -> Arc<ModelInfo> {
        self.0.clone()
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        _: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
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
        Box::pin(std::future::ready(Ok(CompletionStream::new(stream::iter(events)))))
    }
}

/// A row of the table.
struct Row {
    name: &'static str,
    path: &'static str,
    /// Whether the server asks who it is, and a token says so.
    has_token: bool,
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
    let row = |name, path, body, end| Row { name, path, has_token: false, body, end };
    vec![
        row("openai", "/v1/completions", openai(""), b"}"),
        row("openai, streamed", "/v1/completions", openai(r#","stream":true"#), b"0\r\n\r\n"),
        row("gitlab", "/v2/code/completions", gitlab(""), b"}"),
        Row { has_token: true, ..row("gitlab, token", "/v2/code/completions", gitlab(""), b"}") },
        row("gitlab, streamed", "/v2/code/completions", gitlab(r#","stream":true"#), b"0\r\n\r\n"),
    ]
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
        let (open, guarded) = (start(open.unwrap()).await, start(guard).await);
        println!(
            "{NUM_CLIENTS} clients, {NUM_THREADS} threads for both sides, {} tokens an answer",
            TOKENS.len()
        );
        println!(
            "{:<18} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "p50 ms", "p90 ms", "p99 ms", "max ms", "req/s"
        );
        let mut lines = Vec::new();
        for row in rows() {
            let (address, headers) =
                if row.has_token { (guarded, token.as_str()) } else { (open, "") };
            let (times, wall) = measure(address, headers, &row).await;
            let at = |share: f64| {
                times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3
            };
            let rate = times.len() as f64 / wall.as_secs_f64();
            let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
            println!("{:<18} {p50:>9.3} {p90:>9.3} {p99:>9.3} {max:>9.3} {rate:>9.0}", row.name);
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

async fn start(guard: Guard) -> SocketAddr {
    let config = ServerConfig {
        host: [127, 0, 0, 1].into(),
        port: 0,
        cors_allowed_origins: vec!["*".to_owned()],
        body_bytes_max: 4 << 20,
        concurrent_requests_max: 256,
        drain_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(30),
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
    let service = CompletionService::new(Arc::new(Instantly(Arc::new(model))), limits, 128);
    let drain = DrainFlag::default();
    let defaults = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let gateway = Gateway::load(&defaults).unwrap();
    let app =
        router(ApiState::new(service, &config, Arc::new(guard), drain.clone(), gateway), &config);
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
