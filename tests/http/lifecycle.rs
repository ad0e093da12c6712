//! Clients that vanish, dawdle or come in crowds, and the way out.

use std::time::{Duration, Instant};

use lacuna::{completion::FinishReason, config::ServerConfig, server::Drained};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    TestServer,
    client::{Connection, get, post, request},
    provider::{Script, Step, USAGE, chunk, end},
    within,
};

const OPENAI: &str = "/v1/completions";
const GITLAB: &str = "/v2/code/completions";

/// Every endpoint that completes, streaming and not.
fn requests() -> [(&'static str, String); 5] {
    let gitlab = |stream: bool| {
        json!({
            "stream": stream,
            "current_file": {"file_name": "a.py", "content_above_cursor": "a", "content_below_cursor": ""},
        })
        .to_string()
    };
    [
        (OPENAI, r#"{"prompt":"a"}"#.to_owned()),
        (OPENAI, r#"{"prompt":"a","stream":true}"#.to_owned()),
        (GITLAB, gitlab(false)),
        (GITLAB, gitlab(true)),
        ("/v2/completions", gitlab(false)),
    ]
}

/// A piece, then nothing until the gate opens.
fn gated() -> Script {
    Script::Play(vec![
        chunk(0, "a"),
        Step::Gate,
        end(0, "b", FinishReason::Stop),
        Step::Done(USAGE),
    ])
}

#[tokio::test]
async fn cancels_when_the_client_vanishes() {
    // Queued, before the first piece, after it.
    for script in [Script::Queue, Script::Play(vec![Step::Gate]), gated()] {
        let server = TestServer::start(script).await;
        for (path, body) in requests() {
            let mut connection = Connection::open(server.address).await;
            connection.send(&request("POST", path, &[], body.as_bytes())).await;
            server.provider.wait_for_open(1).await;
            drop(connection);
            server.provider.wait_for_open(0).await;
        }
    }
}

#[tokio::test]
async fn cancels_though_bytes_lie_behind_the_request() {
    for behind in ["\r\n", "G", "GET /health HTTP/1.1\r\n\r\n"] {
        let server = TestServer::start(Script::Play(vec![Step::Gate])).await;
        for (path, body) in requests() {
            let mut connection = Connection::open(server.address).await;
            let mut bytes = request("POST", path, &[], body.as_bytes());
            bytes.extend_from_slice(behind.as_bytes());
            connection.send(&bytes).await;
            server.provider.wait_for_open(1).await;
            drop(connection);
            server.provider.wait_for_open(0).await;
        }
    }
}

#[tokio::test]
async fn cuts_off_who_takes_nothing() {
    // More than the buffers between two sockets hold.
    let pieces = (0..64).map(|_| chunk(0, &"x".repeat(1 << 20))).collect();
    let change = |config: &mut ServerConfig| config.read_timeout = Duration::from_millis(300);
    let server = TestServer::start_with(Script::Play(pieces), change).await;
    for path in [OPENAI, GITLAB] {
        let body = requests()
            .into_iter()
            .find(|(of, body)| *of == path && body.contains("\"stream\":true"));
        let (_, body) = body.expect("each dialect streams");
        let mut connection = Connection::open(server.address).await;
        connection.send(&request("POST", path, &[], body.as_bytes())).await;
        server.provider.wait_for_open(1).await;
        server.provider.wait_for_open(0).await;
    }
}

#[tokio::test]
async fn cancels_every_prompt_of_a_request() {
    let server = TestServer::start(gated()).await;
    for is_streaming in [false, true] {
        let mut connection = Connection::open(server.address).await;
        let body = json!({"prompt": ["a", "b", "c"], "stream": is_streaming}).to_string();
        connection.send(&request("POST", OPENAI, &[], body.as_bytes())).await;
        server.provider.wait_for_open(3).await;
        drop(connection);
        server.provider.wait_for_open(0).await;
    }
}

#[tokio::test]
async fn keeps_the_answers_of_a_crowd_apart() {
    let server = TestServer::start(Script::Echo).await;
    let mut clients = JoinSet::new();
    for number in 0..200 {
        let address = server.address;
        clients.spawn(async move {
            let text = format!("number {number}");
            let is_streaming = number % 2 == 0;
            if number % 4 < 2 {
                let body = json!({"prompt": text, "stream": is_streaming}).to_string();
                let answer = post(address, OPENAI, body).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                let events = if is_streaming { answer.events() } else { vec![answer.text(), "[DONE]"] };
                let answered: String = events[..events.len() - 1]
                    .iter()
                    .map(|event| serde_json::from_str::<serde_json::Value>(event).unwrap())
                    .map(|event| event["choices"][0]["text"].as_str().unwrap().to_owned())
                    .collect();
                assert_eq!(answered, text);
            } else {
                let file = json!({"file_name": "", "content_above_cursor": text, "content_below_cursor": ""});
                let body = json!({"current_file": file, "stream": is_streaming}).to_string();
                let answer = post(address, GITLAB, body).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                if is_streaming {
                    assert_eq!(answer.text(), text);
                } else {
                    assert_eq!(answer.json()["choices"][0]["text"], json!(text));
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    server.provider.wait_for_open(0).await;
}

#[tokio::test]
async fn answers_requests_on_one_connection_in_turn() {
    let server = TestServer::start(Script::Echo).await;
    let mut connection = Connection::open(server.address).await;
    for number in 0..20 {
        let body = json!({"prompt": number.to_string(), "stream": number % 2 == 0}).to_string();
        connection.send(&request("POST", OPENAI, &[], body.as_bytes())).await;
        let answer = connection.answer().await;
        assert!(answer.status == 200 && answer.is_whole);
    }
    // A refused body leaves the connection as good as before.
    connection.send(&request("POST", OPENAI, &[], b"[]")).await;
    assert_eq!(connection.answer().await.status, 400);
    connection.send(&request("GET", "/health", &[], b"")).await;
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test]
async fn refuses_more_than_it_may_have_in_work() {
    let server = TestServer::start_with(gated(), |config| config.concurrent_requests_max = 2).await;
    let [(_, whole), (_, streamed), (_, gitlab), ..] = requests();
    let mut busy = Vec::new();
    for body in [&whole, &streamed] {
        let mut connection = Connection::open(server.address).await;
        connection.send(&request("POST", OPENAI, &[], body.as_bytes())).await;
        busy.push(connection);
        server.provider.wait_for_open(busy.len()).await;
    }
    let refused = post(server.address, OPENAI, &whole).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.json()["error"]["code"], json!("rate_limit_exceeded"));
    let refused = post(server.address, GITLAB, &gitlab).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert_eq!(refused.text(), r#"{"detail":"Too many requests. Please try again later."}"#);
    assert_eq!(get(server.address, "/health").await.status, 200);

    // A place is free again when an answer ends, and when a client vanishes.
    drop(busy.pop());
    server.provider.wait_for_open(1).await;
    server.provider.open_gate();
    assert_eq!(busy[0].answer().await.status, 200);
    server.provider.wait_for_open(0).await;
    for (path, body) in requests() {
        assert_eq!(post(server.address, path, body).await.status, 200);
    }
}

/// Bodies that are being read hold room together, and give it back.
#[tokio::test]
async fn refuses_more_than_sixteen_large_bodies_at_once() {
    let size = 16 << 10;
    let server = TestServer::start_with(Script::Echo, |config| config.body_bytes_max = size).await;
    let body = format!("{{\"prompt\":\"a\",\"x\":\"{}\"}}", "x".repeat(size - 21));
    assert_eq!(body.len(), size);
    let whole = request("POST", OPENAI, &[], body.as_bytes());
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut connection = Connection::open(server.address).await;
        connection.send(&whole[..whole.len() - 1]).await;
        held.push(connection);
    }
    within("the refusal", async {
        while post(server.address, OPENAI, &body).await.status != 429 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = post(server.address, GITLAB, &body).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    for connection in &mut held {
        connection.send(&whole[whole.len() - 1..]).await;
        assert_eq!(connection.answer().await.status, 200);
    }
    assert_eq!(post(server.address, OPENAI, &body).await.status, 200);
}

/// Slow senders are cut off, and hold nobody else up.
#[tokio::test]
async fn cuts_slow_senders_off() {
    let limit = Duration::from_millis(300);
    let server = TestServer::start_with(Script::Echo, |config| {
        config.read_timeout = limit;
        config.concurrent_requests_max = 4;
    })
    .await;
    let started = Instant::now();
    let mut slow_heads = Vec::new();
    let mut slow_bodies = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(server.address).await;
        connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
        slow_heads.push(connection);
        let mut connection = Connection::open(server.address).await;
        connection
            .send(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")
            .await;
        slow_bodies.push(connection);
    }
    assert_eq!(post(server.address, OPENAI, r#"{"prompt":"a"}"#).await.status, 200);
    for connection in slow_heads {
        assert_eq!(connection.closed().await, b"");
    }
    for mut connection in slow_bodies {
        let answer = connection.answer().await;
        assert_eq!(answer.status, 408);
        assert_eq!(answer.json()["error"]["code"], json!("request_timeout"));
        assert_eq!(connection.closed().await, b"");
    }
    assert!(started.elapsed() >= limit);
}

/// The limit is of the whole body: a byte now and then does not extend it.
#[tokio::test]
async fn cuts_drips_off() {
    let server = TestServer::start_with(Script::Echo, |config| {
        config.read_timeout = Duration::from_millis(200);
    })
    .await;
    let mut connection = Connection::open(server.address).await;
    connection
        .send(b"POST /v2/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n{")
        .await;
    let mut drips = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            () = connection.readable() => break,
            _ = drips.tick() => connection.send(b" ").await,
        }
    }
    let answer = connection.answer().await;
    assert_eq!(answer.status, 408);
    assert!(answer.json()["detail"].as_str().unwrap().contains("longer than 0.2 s"));
}

#[tokio::test]
async fn drains_to_the_last_answer() {
    let mut server = TestServer::start(gated()).await;
    let mut running = Vec::new();
    for (path, body) in requests() {
        let mut connection = Connection::open(server.address).await;
        connection.send(&request("POST", path, &[], body.as_bytes())).await;
        running.push(connection);
        server.provider.wait_for_open(running.len()).await;
    }
    // Idle ones: one never used, one used before.
    let unused = Connection::open(server.address).await;
    let mut used = Connection::open(server.address).await;
    used.send(&request("GET", "/health", &[], b"")).await;
    assert_eq!(used.answer().await.status, 200);

    server.begin_drain();
    assert_eq!(unused.closed().await, b"");
    assert_eq!(used.closed().await, b"");
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "still accepting");
    server.provider.open_gate();
    for mut connection in running {
        let answer = connection.answer().await;
        assert!(answer.status == 200 && answer.is_whole, "{answer:?}");
        assert_eq!(connection.closed().await, b"");
    }
    assert_eq!(server.drained().await, Drained { num_cut: 0 });
}

/// What runs past the deadline is cut, and its work cancelled.
#[tokio::test]
async fn cuts_at_the_deadline() {
    let mut server = TestServer::start_with(gated(), |config| {
        config.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let mut running = Vec::new();
    for (path, body) in requests() {
        let mut connection = Connection::open(server.address).await;
        connection.send(&request("POST", path, &[], body.as_bytes())).await;
        running.push(connection);
        server.provider.wait_for_open(running.len()).await;
    }
    server.begin_drain();
    let provider = server.provider.clone();
    assert_eq!(server.drained().await, Drained { num_cut: running.len() });
    provider.wait_for_open(0).await;
}
