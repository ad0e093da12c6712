//! Metrics at an address of their own: there while the models load, right after requests, off where nobody wants them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::serve::Server;

fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Returns the value of the one sample whose name and labels have all these words.
fn value<'a>(page: &'a str, words: &[&str]) -> &'a str {
    let lines = page.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    let lines: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 1, "{words:?}: {lines:?}");
    lines[0].rsplit_once(' ').unwrap().1
}

#[test]
fn what_was_done_is_counted() {
    let mut server = Server::start_with(&["--metrics-address", "127.0.0.1:0"], &[]);
    let address = String::from(server.line("metrics")["address"].as_str().unwrap());
    server.line("serving");
    let gap = r#"{"prompt":"def f(","suffix":"\n","max_tokens":4,"ignore_eos":true}"#;
    let answer = server.answer_to("/v1/completions", "", gap);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.answer_to("/v1/completions", "", "{");
    server.answer_to("/nowhere", "", "{}");
    let metrics = page(&address, "/metrics");
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{metrics}"
    );
    for (words, expected) in [
        (&["http_request_duration_seconds_count{", "handler=\"/v1/completions\"", "2xx"][..], "1"),
        (&["http_request_duration_seconds_count{", "handler=\"/v1/completions\"", "4xx"], "1"),
        (&["http_request_duration_seconds_count{", "handler=\"none\"", "4xx"], "1"),
        (&["vllm:num_requests_running{", "demo"], "0"),
        (&["vllm:generation_tokens_total{", "demo"], "4"),
        (&["lacuna_engine_ready{", "demo"], "1"),
        (&["lacuna_engine_queue_wait_seconds_count{", "demo"], "1"),
        (&["lacuna_clients_total{", "unknown", "ok"], "1"),
        (&["model_max_output_tokens{", "demo"], "4096"),
    ] {
        assert_eq!(value(&metrics, words), expected, "{words:?}\n{metrics}");
    }
    let steps: f64 = value(&metrics, &["lacuna_engine_steps_total{"]).parse().unwrap();
    let counted = value(&metrics, &["lacuna_engine_step_sequences_count{"]);
    assert!(steps >= 4.0 && counted.parse() == Ok(steps), "{steps} steps, {counted} counted");
    assert!(page(&address, "/v1/models").starts_with("HTTP/1.1 404"));

    let status = page(&address, "/status.json");
    let (head, body) = status.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("cache-control: no-store"), "{head}");
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    let engine = &status["engines"][0];
    assert_eq!((&engine["num_generated_tokens"], &engine["is_ready"]), (&4.into(), &true.into()));
    let requests = status["requests"].as_array().unwrap();
    let served = requests.iter().find(|row| row["model"] == engine["model"]).unwrap();
    assert_eq!((&served["outcomes"]["ok"], &served["apdex"]), (&1.into(), &1.0.into()), "{status}");
    let html = page(&address, "/status");
    assert!(html.contains("content-type: text/html") && html.ends_with("</html>\n"), "{html}");
    assert!(html.contains("content-security-policy: default-src 'none'; script-src 'sha256-"));
    assert!(server.get("/status").starts_with("HTTP/1.1 404"), "operators' pages are not for all");
    assert!(server.get("/admin/status").starts_with("HTTP/1.1 403"));
}

#[test]
fn metrics_may_be_off_and_an_address_that_is_taken_is_said() {
    let mut server = Server::start_with(&["--metrics-address", "off"], &[]);
    server.line("serving");
    server.signal("TERM");
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    assert!(!log.contains("\"metrics\""), "{log}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = crate::lacuna(&["--port", "0", "--metrics-address", &address], &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let message = format!("cannot listen on {address} for metrics; another --metrics-address");
    assert!(run.stderr.contains(&message), "{}", run.stderr);
}
