//! The measuring client against a server that plays scripts: counts, cancelling, failures.

use std::{
    future::pending,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use lacuna::{
    bench::{
        Watch,
        dialect::Dialect,
        exchange::{Failure, Target},
        keystrokes::{self, ClientKind, KeyOutcome, KeystrokesPlan, KeystrokesResult},
        serve::{self, Load, Prompts, ServePlan, ServeResult},
        source_text::Surroundings,
        typing::Typing,
    },
    client::Server,
    completion::{FinishReason, Input, Usage},
    provider::{ProviderError, ProviderErrorKind},
};

use crate::support::{
    TestServer,
    provider::{Script, Step, USAGE, chunk, counted, end},
    within,
};

/// Remembers the last that it was told.
#[derive(Default)]
struct Last(usize, usize);

impl Watch for Last {
    fn update(&mut self, num_done: usize, num_all: usize, _: &str) {
        (self.0, self.1) = (num_done, num_all);
    }

    fn is_stopped(&self) -> bool {
        false
    }
}

fn target(url: &str, dialect: Dialect) -> Target {
    let server = Server::parse(url).unwrap();
    Target { server, dialect, timeout: Duration::from_secs(50), model: None }
}

fn target_of(server: &TestServer) -> Target {
    target(&format!("http://{}", server.address), Dialect::OpenAi)
}

fn plan(load: Load, num_requests: usize) -> ServePlan {
    ServePlan {
        load,
        num_requests,
        prompts: Prompts::Synthetic { num_tokens: 40, is_distinct: true },
        max_tokens: 5,
        ignores_eos: true,
        seed: 3,
    }
}

fn two_pieces() -> Vec<Step> {
    vec![chunk(0, "a"), end(0, "b", FinishReason::Length), Step::Done(USAGE)]
}

async fn load(server: &TestServer, plan: &ServePlan) -> Result<(ServeResult, bool), Failure> {
    let target = target_of(server);
    let mut last = Last::default();
    let outcome = within("the load", serve::run(&target, plan, &mut last, pending())).await?;
    assert_eq!((last.0, last.1), (outcome.0.requests.ended, plan.num_requests));
    Ok(outcome)
}

#[tokio::test]
async fn every_request_is_counted_in_both_kinds_of_load() {
    let server = TestServer::start(Script::Play(two_pieces())).await;
    for by in [Load::Clients(3), Load::Clients(20), Load::Rate(500.0)] {
        let (result, is_complete) = load(&server, &plan(by, 10)).await.unwrap();
        assert!(is_complete);
        let requests = result.requests;
        assert_eq!((requests.ended, requests.succeeded, requests.failed), (10, 10, 0));
        let tokens = result.tokens;
        assert_eq!((tokens.prompt, tokens.cached, tokens.completion), (Some(110), Some(80), 20));
        assert_eq!(tokens.counted_by, "server");
        assert_eq!(result.server.model.as_deref(), Some("org/scripted"));
        let counts = [
            result.time_to_first_token_seconds,
            result.inter_token_seconds,
            result.time_per_output_token_seconds,
            result.total_seconds,
        ];
        assert!(counts.iter().all(|percentiles| percentiles.unwrap().count == 10), "{counts:?}");
        let (first, total) = (counts[0].unwrap(), counts[3].unwrap());
        assert!(first.min > 0.0 && first.p50 <= total.p50 && total.max <= result.duration_seconds);
        let mut asked = server.provider.take_requests();
        assert_eq!(asked.len(), 10);
        assert!(asked.iter().all(|request| request.ignores_eos && request.max_tokens == Some(5)));
        asked.sort_by_key(|request| format!("{:?}", request.input));
        asked.dedup_by_key(|request| format!("{:?}", request.input));
        assert_eq!(asked.len(), 10, "no two prompts are alike");
    }
}

#[tokio::test]
async fn prompts_are_repeated_where_they_need_not_differ() {
    let server = TestServer::start(Script::Play(two_pieces())).await;
    let text = |prefix: &str| Surroundings { prefix: prefix.to_owned(), suffix: "c".to_owned() };
    let rows = [
        (Prompts::Synthetic { num_tokens: 9, is_distinct: false }, 1),
        (Prompts::Given(vec![text("a"), text("b")]), 2),
    ];
    for (prompts, num_different) in rows {
        let plan = ServePlan { prompts, ..plan(Load::Clients(1), 6) };
        load(&server, &plan).await.unwrap();
        let mut asked: Vec<String> = server
            .provider
            .take_requests()
            .iter()
            .map(|request| format!("{:?}", request.input))
            .collect();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), num_different);
    }
}

#[tokio::test]
async fn passing_failures_are_counted_by_kind_and_lasting_ones_end_the_run() {
    let full = ProviderError::new(ProviderErrorKind::Overloaded, "full");
    let server = TestServer::start(Script::Refuse(full)).await;
    let (result, _) = load(&server, &plan(Load::Clients(2), 4)).await.unwrap();
    assert_eq!((result.requests.failed, result.errors["status_429"]), (4, 4));
    assert_eq!(result.time_to_first_token_seconds, None);

    let broken = ProviderError::new(ProviderErrorKind::Internal, "broke");
    let script = vec![chunk(0, "a"), Step::Fail(broken)];
    let server = TestServer::start(Script::Play(script)).await;
    let (result, _) = load(&server, &plan(Load::Clients(1), 3)).await.unwrap();
    assert_eq!((result.requests.failed, result.errors["server_error"]), (3, 3));

    let wrong = ProviderError::invalid("prompt", "wrong");
    let server = TestServer::start(Script::Refuse(wrong)).await;
    let failure = load(&server, &plan(Load::Clients(1), 3)).await.unwrap_err();
    assert_eq!(failure.kind(), "status_400");
    assert_eq!(server.provider.take_requests().len(), 1, "one was enough");
}

#[tokio::test]
async fn another_dialect_and_nobody_at_all_end_the_run_at_once() {
    let server = TestServer::start(Script::Play(two_pieces())).await;
    let plan = plan(Load::Rate(1000.0), 100);
    let wrong = target(&format!("http://{}", server.address), Dialect::Infill);
    let mut last = Last::default();
    let run = serve::run(&wrong, &plan, &mut last, pending());
    let failure = within("the failure", run).await.unwrap_err();
    assert_eq!(failure.kind(), "status_404");
    assert!(failure.to_string().contains("no endpoint answers POST"), "{failure}");

    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = target(&format!("http://{address}"), Dialect::OpenAi);
    let run = serve::run(&nobody, &plan, &mut last, pending());
    assert_eq!(within("the failure", run).await.unwrap_err().kind(), "unreachable");
}

#[tokio::test]
async fn a_stop_gives_what_there_is_and_cancels_the_rest() {
    let script =
        vec![chunk(0, "a"), Step::Gate, end(0, "", FinishReason::Length), Step::Done(USAGE)];
    let server = TestServer::start(Script::Play(script)).await;
    let stop = Box::pin(server.provider.wait_for_open(2));
    let plan = plan(Load::Clients(2), 5);
    let run = serve::run(&target_of(&server), &plan, &mut Last::default(), stop).await.unwrap();
    assert!(!run.1);
    assert_eq!((run.0.requests.ended, run.0.tokens.completion), (0, 0));
    server.provider.wait_for_open(0).await;
}

async fn type_keys(server: &TestServer, interval: Duration) -> KeystrokesResult {
    press(&target_of(server), 4, interval).await
}

async fn press(target: &Target, num_keys: usize, interval: Duration) -> KeystrokesResult {
    let plan = KeystrokesPlan {
        typing: Typing::new("fn a() {\n    b();\n}\n", Some(2), num_keys).unwrap(),
        client: ClientKind::Plain,
        interval,
        max_tokens: 9,
    };
    let mut last = Last::default();
    let run = keystrokes::run(target, &plan, &mut last, pending());
    let (result, is_complete) = within("the keys", run).await.unwrap();
    assert!(is_complete);
    assert_eq!((last.0, last.1, result.keys.typed), (num_keys, num_keys, num_keys));
    result
}

/// A prompt whose first piece comes with its counts, and whose rest never comes.
fn endless() -> Script {
    let usage = Usage { num_prompt_tokens: 30, num_cached_tokens: 28, ..USAGE };
    Script::Play(vec![counted(chunk(0, "a"), usage), Step::Gate])
}

#[tokio::test]
async fn each_key_calls_the_one_before_off_at_its_first_text() {
    let server = TestServer::start(endless()).await;
    let result = type_keys(&server, Duration::ZERO).await;
    assert_eq!(result.keys.cancelled, 4);
    server.provider.wait_for_open(0).await;
    assert!(result.samples.iter().all(|key| key.outcome == KeyOutcome::Cancelled));
    let recomputed = result.recomputed_tokens.unwrap();
    // The first key is told apart: nothing was at hand for it.
    assert_eq!((recomputed.count, recomputed.p50.to_bits()), (3, 2_f64.to_bits()));
    assert_eq!(result.first_key.unwrap().prompt_tokens, Some(30));
    let asked: Vec<Input> =
        server.provider.take_requests().into_iter().map(|request| request.input).collect();
    let expected = ["    b", "    b(", "    b()", "    b();"].map(|line| Input::Fim {
        prefix: format!("fn a() {{\n{line}"),
        suffix: "\n}\n".to_owned(),
    });
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn keys_that_come_too_fast_supersede_and_whole_answers_end() {
    let server = TestServer::start(Script::Play(vec![Step::Gate])).await;
    let result = type_keys(&server, Duration::from_millis(30)).await;
    assert_eq!((result.keys.superseded, result.keys.cancelled), (4, 0));
    assert_eq!(result.time_to_first_token_seconds, None);
    server.provider.wait_for_open(0).await;

    let server = TestServer::start(Script::Play(two_pieces())).await;
    let result = type_keys(&server, Duration::from_millis(300)).await;
    assert_eq!((result.keys.ended, result.keys.failed), (4, 0));
    assert_eq!(result.recomputed_tokens.unwrap().max.to_bits(), 3_f64.to_bits());
}

/// What a server that keeps to nothing does with a connection.
enum Answer {
    /// Writes this and closes it.
    Bytes(String),
    /// Says nothing until the client goes.
    Silence,
    /// Writes this event over and over until the client goes.
    Flood(String),
}

/// A server that plays an answer a connection, one after the other.
struct RawServer {
    address: SocketAddr,
    thread: JoinHandle<()>,
}

impl RawServer {
    fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                // The client may go at any moment.
                let _ = read_request(&stream).and_then(|()| match answer {
                    Answer::Bytes(bytes) => stream.write_all(bytes.as_bytes()),
                    Answer::Silence => stream.read(&mut [0]).map(|_| ()),
                    Answer::Flood(bytes) => {
                        let head = stream.write_all(HEAD.as_bytes());
                        while stream.write_all(bytes.as_bytes()).is_ok() {}
                        head
                    }
                });
            }
        });
        Self { address, thread }
    }

    fn target(&self) -> Target {
        target(&format!("http://{}", self.address), Dialect::OpenAi)
    }

    /// Waits until all answers were asked for.
    fn finish(self) {
        self.thread.join().unwrap();
    }
}

fn read_request(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut num_bytes = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(length) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            num_bytes = length.trim().parse().unwrap();
        }
    }
    reader.read_exact(&mut vec![0; num_bytes])
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const TEXT: &str = r#"{"choices":[{"text":"a","finish_reason":null}]}"#;
const END: &str = r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#;

fn events(data: &[&str]) -> Answer {
    let mut bytes = HEAD.to_owned();
    for data in data {
        bytes.extend(["data: ", data, "\n\n"]);
    }
    Answer::Bytes(bytes)
}

fn refusal(status: &str, message: &str) -> Answer {
    let body = serde_json::json!({"error": {"message": message}}).to_string();
    let len = body.len();
    Answer::Bytes(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
    ))
}

/// Asks for each of these answers in turn.
async fn load_raw(answers: Vec<Answer>) -> Result<ServeResult, Failure> {
    let plan = plan(Load::Clients(1), answers.len());
    let server = RawServer::start(answers);
    let target = Target { timeout: Duration::from_secs(20), ..server.target() };
    let mut last = Last::default();
    let run = serve::run(&target, &plan, &mut last, pending());
    let result = within("the load", run).await?.0;
    server.finish();
    Ok(result)
}

#[tokio::test]
async fn nothing_is_no_answer() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#;
    let rows: [(&[&str], bool); 7] = [
        (&["[DONE]"], false),
        (&[], false),
        (&[usage, "[DONE]"], false),
        (&[TEXT], false),
        (&[TEXT, "[DONE]"], true),
        (&[END, "[DONE]"], true),
        (&[TEXT, END], true),
    ];
    for (data, is_answer) in rows {
        let result = load_raw(vec![events(data)]).await.unwrap();
        assert_eq!(result.requests.succeeded, usize::from(is_answer), "{data:?}");
        assert_eq!(result.errors.contains_key("unfinished"), !is_answer, "{data:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_stop_is_stopped() {
    let long = |num_texts| {
        let texts = [TEXT].repeat(num_texts);
        events(&[&texts[..], &[END]].concat())
    };
    // Five tokens were asked for, and a server may send characters apart.
    let result = load_raw(vec![long(80), long(81), long(80)]).await.unwrap();
    assert_eq!((result.requests.succeeded, result.errors["overlong"]), (2, 1));

    let flood = || Answer::Flood(format!("data: {TEXT}\n\n"));
    let result = load_raw(vec![flood(), flood()]).await.unwrap();
    assert_eq!((result.requests.failed, result.errors["overlong"]), (2, 2));
}

#[tokio::test]
async fn counts_that_cannot_be_are_not_believed() {
    let max = u64::MAX;
    let rows = [
        (max, 0, 1, "tokens of the prompt"),
        (9, 10, 1, "10 cached tokens of the prompt, at most 9"),
        (9, 8, 11, "11 tokens of the answer, at most 10"),
        (9, 8, max, "tokens of the answer"),
        (9, 8, 0, "no token of an answer that has text"),
    ];
    for (prompt, cached, completion, message) in rows {
        let usage = serde_json::json!({"choices": [], "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }});
        let usage = usage.to_string();
        let lie = || events(&[TEXT, END, &usage, "[DONE]"]);
        let failure = load_raw(vec![lie()]).await.unwrap_err();
        assert_eq!(failure.kind(), "malformed");
        assert!(failure.to_string().contains(message), "{failure}");

        let truth = || events(&[TEXT, END, "[DONE]"]);
        let result = load_raw(vec![truth(), lie(), truth()]).await.unwrap();
        assert_eq!((result.requests.succeeded, result.errors["malformed"]), (2, 1));
        assert_eq!((result.tokens.prompt, result.tokens.completion), (None, 2));
    }
}

#[tokio::test]
async fn a_server_s_words_do_not_steer_a_terminal() {
    let message = format!("\u{1b}[2J\n{}", "a".repeat(100_000));
    let failure = load_raw(vec![refusal("400 Bad Request", &message)]).await.unwrap_err();
    assert_eq!(failure.kind(), "status_400");
    let shown = failure.to_string();
    assert!(shown.contains(r"Bad Request: \u{1b}[2J\naaa"), "{shown}");
    assert!(shown.chars().count() < 300 && !shown.contains(char::is_control), "{shown}");
}

#[tokio::test]
async fn keys_that_are_never_answered_fail() {
    for interval in [Duration::ZERO, Duration::from_millis(100)] {
        let server = RawServer::start((0..4).map(|_| Answer::Silence).collect());
        let target = Target { timeout: Duration::from_millis(40), ..server.target() };
        let result = press(&target, 4, interval).await;
        assert_eq!((result.keys.failed, result.keys.superseded), (4, 0), "{interval:?}");
        assert_eq!(result.errors["timeout"], 4);
        server.finish();
    }
}

#[tokio::test]
async fn a_refusal_between_answers_does_not_end_the_keys() {
    let answer = || events(&[END, "[DONE]"]);
    let server = RawServer::start(vec![answer(), refusal("400 Bad Request", "no"), answer()]);
    let result = press(&server.target(), 3, Duration::ZERO).await;
    assert_eq!((result.keys.ended, result.keys.failed), (2, 1));
    assert_eq!(result.errors["status_400"], 1);
    server.finish();
}

#[tokio::test]
async fn failed_keys_are_in_no_percentile() {
    let server = RawServer::start(vec![events(&[TEXT, END]), events(&[TEXT])]);
    let result = press(&server.target(), 2, Duration::from_millis(300)).await;
    assert_eq!((result.keys.ended, result.errors["unfinished"]), (1, 1));
    assert!(result.samples[1].time_to_first_token_seconds.is_some());
    assert_eq!(result.time_to_first_token_seconds, None);
    server.finish();
}
