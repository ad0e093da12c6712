//! OpenAI's dialect, streamed: every event to the byte.

use lacuna::{
    completion::{FinishReason, Usage},
    provider::{ProviderError, ProviderErrorKind},
};
use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::{self, Answer, post},
    provider::{Script, Step, USAGE, chunk, counted, end, sum, token},
};

const PATH: &str = "/v1/completions";

async fn stream(server: &TestServer, mut body: Value) -> Answer {
    body["stream"] = json!(true);
    let body = body.to_string();
    let bytes = client::request("POST", PATH, &["X-Request-ID: r1"], body.as_bytes());
    let answer = client::send(server.address, &bytes).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    answer
}

/// Returns the events without the clock's part.
fn events(answer: &Answer) -> Vec<String> {
    let created = |event: &str| -> Option<String> {
        let event: Value = serde_json::from_str(event).ok()?;
        Some(format!(r#""created":{}"#, event["created"].as_u64()?))
    };
    let strip = |event: &&str| match created(event) {
        Some(created) => event.replace(&created, r#""created":0"#),
        None => (*event).to_owned(),
    };
    answer.events().iter().map(strip).collect()
}

const HEAD: &str =
    r#"{"id":"cmpl-r1","object":"text_completion","created":0,"model":"org/scripted","#;

fn event(choices: &str, usage: &str) -> String {
    format!(r#"{HEAD}"choices":[{choices}]{usage}}}"#)
}

#[tokio::test]
async fn streams_to_the_byte() {
    let server = TestServer::start(sum()).await;
    let first = r#"{"index":0,"text":"a +","logprobs":null,"finish_reason":null}"#;
    let last = r#"{"index":0,"text":" b","logprobs":null,"finish_reason":"stop"}"#;
    for options in [json!(null), json!({}), json!({"include_usage": false})] {
        let answer = stream(&server, json!({"prompt": "x", "stream_options": options})).await;
        assert!(answer.is_whole);
        assert_eq!(events(&answer), [event(first, ""), event(last, ""), "[DONE]".to_owned()]);
    }

    let answer = stream(&server, json!({"prompt": "x", "stream_options": {"include_usage": true}}));
    let null = r#","usage":null"#;
    let usage = concat!(
        r#","usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13,"#,
        r#""prompt_tokens_details":{"cached_tokens":8}}"#,
    );
    let expected = [event(first, null), event(last, null), event("", usage), "[DONE]".to_owned()];
    assert_eq!(events(&answer.await), expected);
}

/// As vLLM has it: with the usage of the end, that of each piece may be asked for.
#[tokio::test]
async fn streams_usage_with_every_piece_that_is_counted() {
    let so_far = |num_completion_tokens| Usage { num_completion_tokens, ..USAGE };
    let script = vec![
        counted(chunk(0, "a"), so_far(1)),
        chunk(0, "b"),
        counted(end(0, "", FinishReason::Stop), so_far(2)),
        Step::Done(USAGE),
    ];
    let server = TestServer::start(Script::Play(script)).await;
    let told = async |options: Value| {
        let answer = stream(&server, json!({"prompt": "x", "stream_options": options})).await;
        let usage = |event: &String| {
            let event: Value = serde_json::from_str(event).ok()?;
            Some(event.get("usage")?["completion_tokens"].as_u64())
        };
        events(&answer).iter().map(usage).collect::<Vec<_>>()
    };
    let all = json!({"include_usage": true, "continuous_usage_stats": true});
    assert_eq!(told(all).await, [Some(Some(1)), Some(None), Some(Some(2)), Some(Some(2)), None]);
    let last = json!({"include_usage": true, "continuous_usage_stats": false});
    assert_eq!(told(last).await, [Some(None), Some(None), Some(None), Some(Some(2)), None]);
    assert_eq!(told(json!({"continuous_usage_stats": true})).await, [None; 4]);
}

#[tokio::test]
async fn streams_logprobs_with_offsets_that_go_on() {
    let script = vec![
        token("é", -0.25, &[]),
        token("b", -0.5, &[]),
        end(0, "", FinishReason::Stop),
        Step::Done(USAGE),
    ];
    let server = TestServer::start(Script::Play(script)).await;
    let answer = stream(&server, json!({"prompt": "x", "logprobs": 0})).await;
    let choices = [
        r#"{"index":0,"text":"é","logprobs":{"tokens":["é"],"token_logprobs":[-0.25],"top_logprobs":[{"é":-0.25}],"text_offset":[0]},"finish_reason":null}"#,
        r#"{"index":0,"text":"b","logprobs":{"tokens":["b"],"token_logprobs":[-0.5],"top_logprobs":[{"b":-0.5}],"text_offset":[1]},"finish_reason":null}"#,
        r#"{"index":0,"text":"","logprobs":{"tokens":[],"token_logprobs":[],"top_logprobs":[],"text_offset":[]},"finish_reason":"stop"}"#,
    ];
    let mut expected: Vec<String> = choices.iter().map(|choice| event(choice, "")).collect();
    expected.push("[DONE]".to_owned());
    assert_eq!(events(&answer), expected);
}

#[tokio::test]
async fn streams_every_choice_of_every_prompt() {
    let server = TestServer::start(Script::Echo).await;
    let body = json!({"prompt": ["ab", "c"], "n": 2, "echo": true});
    let answer = stream(&server, body).await;
    let mut texts = vec![String::new(); 4];
    let mut reasons = vec![None; 4];
    let events = answer.events();
    for event in &events[..events.len() - 1] {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        assert_eq!(reasons[index], None, "a choice went on after its end");
        texts[index] += choice["text"].as_str().unwrap();
        reasons[index] = choice["finish_reason"].as_str().map(str::to_owned);
    }
    assert_eq!(texts, ["abab", "abab", "cc", "cc"]);
    assert_eq!(reasons, vec![Some("length".to_owned()); 4]);
    assert_eq!(*events.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn says_what_failed_in_the_middle() {
    let error = ProviderError::new(ProviderErrorKind::Internal, "the engine stopped");
    let server = TestServer::start(Script::Play(vec![chunk(0, "a"), Step::Fail(error)])).await;
    let answer = stream(&server, json!({"prompt": "x"})).await;
    let events = events(&answer);
    let expected = concat!(
        r#"{"error":{"message":"the engine stopped","type":"server_error","#,
        r#""param":null,"code":"internal_error"}}"#,
    );
    assert_eq!(events.len(), 2, "no end mark after an error: {events:?}");
    assert_eq!(events[1], expected);
}

/// A stream that a provider ends without a word is a failure, not an end.
#[tokio::test]
async fn says_that_a_completion_broke_off() {
    let server = TestServer::start(Script::Play(vec![chunk(0, "a")])).await;
    let answer = stream(&server, json!({"prompt": "x"})).await;
    assert!(answer.events()[1].contains(r#""code":"internal_error""#));
}

#[tokio::test]
async fn gives_a_status_to_what_fails_before_the_first_event() {
    let error = ProviderError::new(ProviderErrorKind::DeadlineExceeded, "it took too long");
    let server = TestServer::start(Script::Play(vec![Step::Fail(error)])).await;
    let answer = post(server.address, PATH, r#"{"prompt":"x","stream":true}"#).await;
    assert_eq!((answer.status, answer.header("content-type")), (504, Some("application/json")));
    assert_eq!(answer.json()["error"]["code"], json!("deadline_exceeded"));
}
