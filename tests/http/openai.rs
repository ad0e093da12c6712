//! OpenAI's dialect, whole answers: to the byte, and what each member of a request becomes.

use lacuna::completion::{FinishReason, Input, SamplingParams};
use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::{self, get, post},
    provider::{Script, Step, USAGE, chunk, end, sum, token},
};

const PATH: &str = "/v1/completions";

/// Posts with a fixed request id and returns the text without the clock's part.
async fn answer(server: &TestServer, body: Value) -> String {
    let body = body.to_string();
    let bytes = client::request("POST", PATH, &["X-Request-ID: r1"], body.as_bytes());
    let answer = client::send(server.address, &bytes).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let created = answer.json()["created"].as_u64().unwrap();
    answer.text().replace(&format!(r#""created":{created}"#), r#""created":0"#)
}

#[tokio::test]
async fn answers_to_the_byte() {
    let server = TestServer::start(sum()).await;
    let expected = concat!(
        r#"{"id":"cmpl-r1","object":"text_completion","created":0,"model":"org/scripted","#,
        r#""choices":[{"index":0,"text":"a + b","logprobs":null,"finish_reason":"stop"}],"#,
        r#""usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13,"#,
        r#""prompt_tokens_details":{"cached_tokens":8}}}"#,
    );
    let body = json!({"model": "org/scripted", "prompt": "def add(a, b):\n    return "});
    assert_eq!(answer(&server, body).await, expected);
    assert_eq!(answer(&server, json!({"model": "", "prompt": "", "suffix": ""})).await, expected);
}

#[tokio::test]
async fn answers_logprobs_to_the_byte() {
    let script = vec![
        token("é", -0.25, &[("é", -0.25), ("e", -1.5)]),
        token(" b", f32::NEG_INFINITY, &[("\u{fffd}", -0.5), ("\u{fffd}", -2.0)]),
        end(0, "", FinishReason::Length),
        Step::Done(USAGE),
    ];
    let server = TestServer::start(Script::Play(script)).await;
    let text = answer(&server, json!({"prompt": "x", "logprobs": 2})).await;
    let expected = concat!(
        r#""choices":[{"index":0,"text":"é b","logprobs":{"tokens":["é"," b"],"#,
        r#""token_logprobs":[-0.25,-9999.0],"#,
        r#""top_logprobs":[{"é":-0.25,"e":-1.5},{""#,
        "\u{fffd}",
        r#"":-0.5," b":-9999.0}],"text_offset":[0,1]},"finish_reason":"length"}]"#,
    );
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn numbers_choices_over_prompts() {
    let script = vec![
        chunk(1, "y"),
        end(0, "x", FinishReason::Stop),
        end(1, "", FinishReason::Aborted),
        Step::Done(USAGE),
    ];
    let server = TestServer::start(Script::Play(script)).await;
    let body = json!({"prompt": ["p", "q"], "n": 2, "best_of": 2, "echo": true});
    let answer = post(server.address, PATH, body.to_string()).await.json();
    let choice = |index: u32, text: &str, reason: &str| json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason});
    let expected = json!([
        choice(0, "px", "stop"),
        choice(1, "py", "length"),
        choice(2, "qx", "stop"),
        choice(3, "qy", "length"),
    ]);
    assert_eq!(answer["choices"], expected);
    assert_eq!(answer["usage"]["prompt_tokens"], json!(22));
    assert_eq!(answer["usage"]["completion_tokens"], json!(4));
}

#[tokio::test]
async fn translates_prompts() {
    let server = TestServer::start(Script::Echo).await;
    let fim =
        |prefix: &str, suffix: &str| Input::Fim { prefix: prefix.into(), suffix: suffix.into() };
    let text = |text: &str| Input::Text(text.into());
    let rows = [
        (json!({"prompt": "a"}), vec![text("a")]),
        (json!({"prompt": "a", "suffix": null}), vec![text("a")]),
        (json!({"prompt": "a", "suffix": ""}), vec![fim("a", "")]),
        (json!({"prompt": ["a", "b"], "suffix": "s"}), vec![fim("a", "s"), fim("b", "s")]),
        (json!({"prompt": [1, 999]}), vec![Input::Tokens(vec![1, 999])]),
        (json!({"prompt": [[1], [2, 3]]}), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
    ];
    for (body, expected) in rows {
        let answer = post(server.address, PATH, body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let inputs: Vec<Input> =
            server.provider.take_requests().into_iter().map(|request| request.input).collect();
        assert_eq!(inputs, expected, "{body}");
    }
}

#[tokio::test]
async fn translates_parameters() {
    let server = TestServer::start(Script::Echo).await;
    let asked = async |body: Value| {
        let answer = post(server.address, PATH, body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        server.provider.take_requests().remove(0)
    };
    let request = asked(json!({
        "prompt": "a", "max_tokens": 16.0, "temperature": 0.5, "top_p": 0.9, "n": 2, "logprobs": 0,
        "stop": ["\n", "", "b"], "presence_penalty": 1, "frequency_penalty": -2, "seed": -1,
        "logit_bias": {"7": -100, "8": 0.5}, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.5,
        "stop_token_ids": [5], "user": "u",
        "ignore_eos": true, "min_tokens": 0, "bad_words": [], "unheard_of": {"x": [1]},
    }))
    .await;
    let expected = SamplingParams {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.1,
        repetition_penalty: 1.5,
        presence_penalty: 1.0,
        frequency_penalty: -2.0,
        logit_bias: vec![(7, -100.0), (8, 0.5)],
        seed: Some(u64::MAX),
    };
    assert_eq!(request.sampling, expected);
    assert_eq!((request.max_tokens, request.num_choices, request.logprobs), (Some(16), 2, Some(0)));
    assert_eq!(request.stop, Some(vec!["\n".to_owned(), "b".to_owned()]));
    assert_eq!((request.stop_token_ids, request.ignores_eos), (vec![5], true));
}

/// Absent, null and neutral values.
#[tokio::test]
async fn takes_defaults_where_nothing_is_said() {
    let server = TestServer::start(Script::Echo).await;
    let asked = async |body: Value| {
        let answer = post(server.address, PATH, body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        server.provider.take_requests().remove(0)
    };
    let all_null = [
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "best_of",
        "stream",
        "stream_options",
        "logprobs",
        "echo",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "user",
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop_token_ids",
        "suffix",
        "model",
        "ignore_eos",
    ];
    let mut body = json!({"prompt": "a"});
    for name in all_null {
        body[name] = json!(null);
    }
    let request = asked(body).await;
    assert_eq!(request.sampling, SamplingParams::greedy());
    assert_eq!((request.max_tokens, request.num_choices, request.logprobs), (None, 1, None));
    assert_eq!((request.stop, request.model.as_deref()), (None, Some("org/scripted")));
    assert!(!request.ignores_eos);

    let stop = asked(json!({"prompt": "a", "stop": "```", "top_k": -1})).await;
    assert_eq!((stop.stop, stop.sampling.top_k), (Some(vec!["```".to_owned()]), 0));
    assert_eq!(
        asked(json!({"prompt": "a", "n": 2})).await.sampling.temperature.to_bits(),
        1f32.to_bits()
    );
}

#[tokio::test]
async fn lists_models() {
    let server = TestServer::start(sum()).await;
    let list = get(server.address, "/v1/models").await;
    let created = list.json()["data"][0]["created"].as_u64().unwrap();
    let model = format!(
        concat!(
            r#"{{"id":"org/scripted","object":"model","created":{},"owned_by":"lacuna","#,
            r#""capabilities":{{"fim":true,"repo_fim":false,"chat":true,"max_context":2048}}}}"#,
        ),
        created
    );
    assert_eq!(list.text(), format!(r#"{{"object":"list","data":[{model}]}}"#));
    for path in
        ["/v1/models/org/scripted", "/v1/models/org%2Fscripted", "//v1/models//org/scripted/"]
    {
        let one = get(server.address, path).await;
        assert_eq!((one.status, one.text()), (200, model.as_str()), "{path}");
    }
    let missing = get(server.address, "/v1/models/other").await;
    let expected = concat!(
        r#"{"error":{"message":"`model` is not served here; `org/scripted` is","#,
        r#""type":"invalid_request_error","param":"model","code":"model_not_found"}}"#,
    );
    assert_eq!((missing.status, missing.text()), (404, expected));
}

#[tokio::test]
async fn tolerates_credentials_it_does_not_ask_for() {
    let server = TestServer::start(sum()).await;
    for header in [
        "Authorization: Bearer ",
        "Authorization: Bearer undefined",
        "x-api-key: k",
        "Content-Type: text/plain",
    ] {
        let bytes = client::request("POST", PATH, &[header], br#"{"prompt":"a"}"#);
        assert_eq!(client::send(server.address, &bytes).await.status, 200, "{header}");
    }
}
