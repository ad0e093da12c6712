//! What requests leave in the metrics: under GitLab's names and ours, however they ended.

use lacuna::completion::FinishReason;
use serde_json::json;

use crate::support::{
    TestServer,
    client::{self, post},
    provider::{Script, Step, USAGE, chunk, end, sum},
};

/// Returns the value of the one sample whose name and labels have all these words, or 0.
fn value(page: &str, words: &[&str]) -> f64 {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<&str> =
        samples.filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert!(lines.len() <= 1, "{words:?}: {lines:?}");
    lines.first().map_or(0.0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[track_caller]
fn has(page: &str, words: &[&str], expected: f64) {
    let found = value(page, words);
    assert!((found - expected).abs() < 1e-9, "{words:?}: {found}, not {expected}\n{page}");
}

#[tokio::test]
async fn a_suggestion_is_counted_as_the_gateway_counts_it() {
    let server = TestServer::start(sum()).await;
    let body = json!({
        "current_file": {"file_name": "a.py", "content_above_cursor": "a = ", "content_below_cursor": ""},
        "telemetry": [
            {"model_engine": "x", "model_name": "org/scripted", "lang": "python", "requests": 3, "accepts": 2, "errors": -1},
            {"model_engine": "x", "model_name": "another", "lang": "python", "requests": 9, "accepts": 9, "errors": 9},
        ],
    });
    let headers = [
        "X-Gitlab-Client-Type: ide",
        "X-Gitlab-Language-Server-Version: 7.17.1",
        "X-Gitlab-Version: 17.5.0",
        "X-Gitlab-Realm: self-managed",
    ];
    let request =
        client::request("POST", "/v2/code/completions", &headers, body.to_string().as_bytes());
    assert_eq!(client::send(server.address, &request).await.status, 200);
    let page = server.metrics();
    let inference = [
        "client_type=\"ide\"",
        "error=\"no\"",
        "gitlab_realm=\"self-managed\"",
        "gitlab_version=\"17.5.0\"",
        "lsp_version=\"7.17.1\"",
        "unit_primitive=\"complete_code\"",
        "finish_reason=\"stop\"",
    ];
    let named = |name: &'static str| [&[name][..], &inference].concat();
    has(&page, &named("model_inferences_total{"), 1.0);
    has(&page, &named("inference_input_tokens_total{"), f64::from(USAGE.num_prompt_tokens));
    has(&page, &["code_suggestions_prompt_language_total{lang=\"python\"}"], 1.0);
    has(&page, &["lacuna_requests_total{", "gitlab.completions", "outcome=\"ok\""], 1.0);
    has(&page, &["code_suggestions_requests_total{", "python"], 3.0);
    has(&page, &["code_suggestions_accepts_total{", "python"], 2.0);
    has(&page, &["code_suggestions_errors_total{", "python"], 0.0);
    has(&page, &["model_inferences_in_flight{", "gitlab.completions"], 0.0);
    assert!(!page.contains("another"), "{page}");
}

#[tokio::test]
async fn what_fails_and_what_nobody_waits_for_is_counted_too() {
    let steps = vec![chunk(0, "a"), Step::Gate, end(0, "b", FinishReason::Stop), Step::Done(USAGE)];
    let server = TestServer::start(Script::Play(steps)).await;
    post(server.address, "/v1/completions", "{").await;
    let mut connection = client::Connection::open(server.address).await;
    let body = br#"{"prompt":"a","stream":true}"#;
    connection.send(&client::request("POST", "/v1/completions", &[], body)).await;
    connection.head().await;
    let page = server.metrics();
    has(&page, &["model_inferences_in_flight{", "openai.completions"], 1.0);
    has(&page, &["lacuna_requests_total{", "invalid_request", "unknown"], 1.0);
    drop(connection);
    server
        .until_metrics(|page| {
            value(page, &["lacuna_requests_total{", "outcome=\"cancelled\""]) > 0.0
        })
        .await;
    has(&server.metrics(), &["model_inferences_in_flight{", "openai.completions"], 0.0);
}
