//! Conversations in OpenAI's dialect: to the byte, what each member becomes, and gaps that a message spells.

use std::sync::Arc;

use lacuna::{
    completion::{ChatMessage, ChatRole, FinishReason, Input},
    provider::ProviderError,
};
use serde_json::{Value, json};

use crate::support::{
    TestParts, TestServer,
    client::{self, Answer, post},
    provider::{Script, ScriptedProvider, Step, USAGE, end, sum, token},
};

const PATH: &str = "/v1/chat/completions";

async fn ask(server: &TestServer, body: Value) -> Answer {
    let body = body.to_string();
    let bytes = client::request("POST", PATH, &["X-Request-ID: r1"], body.as_bytes());
    client::send(server.address, &bytes).await
}

fn hello() -> Value {
    json!({"messages": [{"role": "user", "content": "Hello"}]})
}

fn with(mut body: Value, mut more: Value) -> Value {
    body.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    body
}

fn message(role: ChatRole, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.to_owned() }
}

#[tokio::test]
async fn answers_to_the_byte() {
    let server = TestServer::start(sum()).await;
    let answer = ask(&server, with(hello(), json!({"model": "org/scripted"}))).await;
    let created = answer.json()["created"].as_u64().unwrap();
    let expected = concat!(
        r#"{"id":"chatcmpl-r1","object":"chat.completion","created":0,"model":"org/scripted","#,
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"a + b"},"#,
        r#""logprobs":null,"finish_reason":"stop"}],"#,
        r#""usage":{"prompt_tokens":11,"completion_tokens":2,"total_tokens":13,"#,
        r#""prompt_tokens_details":{"cached_tokens":8}}}"#,
    );
    let text = answer.text().replace(&format!(r#""created":{created}"#), r#""created":0"#);
    assert_eq!(text, expected);
}

#[tokio::test]
async fn streams_to_the_byte() {
    let server = TestServer::start(sum()).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = ask(&server, with(hello(), options)).await;
    let mut events = answer.events();
    assert_eq!(events.pop(), Some("[DONE]"));
    let mut events: Vec<Value> =
        events.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(13)));
    let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    let expected = [
        choice(json!({"role": "assistant", "content": "a +"}), Value::Null),
        choice(json!({"content": " b"}), json!("stop")),
    ];
    let choices: Vec<Value> = events.iter().map(|event| event["choices"].clone()).collect();
    assert_eq!(choices, expected);
    for event in events {
        assert_eq!((&event["id"], &event["usage"]), (&json!("chatcmpl-r1"), &Value::Null));
        assert_eq!(event["object"], "chat.completion.chunk");
    }
}

#[tokio::test]
async fn an_end_without_text_is_an_empty_delta() {
    let script = vec![token("é", -0.25, &[("é", -0.25)]), end(0, "", FinishReason::Length)];
    let script = [script, vec![Step::Done(USAGE)]].concat();
    let server = TestServer::start(Script::Play(script)).await;
    let options = json!({"stream": true, "logprobs": true, "top_logprobs": 1});
    let answer = ask(&server, with(hello(), options.clone())).await;
    let events = answer.events();
    assert_eq!(events.len(), 3);
    let last: Value = serde_json::from_str(events[1]).unwrap();
    assert_eq!(last["choices"][0]["delta"], json!({}));
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    let told = json!([{
        "token": "é", "logprob": -0.25, "bytes": [195, 169],
        "top_logprobs": [{"token": "é", "logprob": -0.25, "bytes": [195, 169]}],
    }]);
    let first: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(first["choices"][0]["logprobs"]["content"], told);
    let whole = ask(&server, with(hello(), with(options, json!({"stream": false})))).await;
    assert_eq!(whole.json()["choices"][0]["logprobs"]["content"], told);
    assert_eq!(server.provider.take_requests()[1].logprobs, Some(1));
}

#[tokio::test]
async fn members_become_a_request() {
    let server = TestServer::start(sum()).await;
    let body = json!({
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null},
            {"role": "user", "content": "c"},
        ],
        "max_tokens": 7, "max_completion_tokens": 9, "n": 2, "stop": "x", "temperature": 0.5,
        "top_p": 0.9, "seed": 3, "presence_penalty": 1, "frequency_penalty": -1,
        "ignore_eos": true, "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
    });
    assert_eq!(ask(&server, body).await.status, 200);
    let request = server.provider.take_requests().remove(0);
    let expected = vec![
        message(ChatRole::System, "Be brief."),
        message(ChatRole::User, "a\nb"),
        message(ChatRole::Assistant, ""),
        message(ChatRole::User, "c"),
    ];
    assert_eq!(request.input, Input::Chat(expected));
    assert_eq!((request.max_tokens, request.num_choices, request.ignores_eos), (Some(9), 2, true));
    assert_eq!(request.stop, Some(vec!["x".to_owned()]));
    let sampling = request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.seed), (0.5, 0.9, Some(3)));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.0, -1.0));
    assert_eq!(ask(&server, hello()).await.status, 200);
    assert_eq!(server.provider.take_requests()[0].max_tokens, None);
}

#[tokio::test]
async fn a_message_that_spells_a_gap_is_asked_as_one() {
    let server = TestServer::start(sum()).await;
    let gap = |prefix: &str, suffix: &str| Input::Fim {
        prefix: prefix.to_owned(),
        suffix: suffix.to_owned(),
    };
    let qwen = "<|fim_prefix|>a = <|fim_suffix|>\n<|fim_middle|>";
    let as_it_is = |content: &str| Input::Chat(vec![message(ChatRole::User, content)]);
    let rows = [
        (json!([{"role": "user", "content": qwen}]), gap("a = ", "\n")),
        (
            json!([{"role": "system", "content": " \n"}, {"role": "user", "content": qwen}]),
            gap("a = ", "\n"),
        ),
        (json!([{"role": "user", "content": "<PRE> a = <SUF>\n<MID>"}]), gap("a =", "\n")),
        (json!([{"role": "user", "content": "[SUFFIX]\n[PREFIX]a = "}]), gap("a = ", "\n")),
        (json!([{"role": "user", "content": [{"type": "text", "text": qwen}]}]), gap("a = ", "\n")),
        (
            json!([{"role": "user", "content": format!("What is {qwen}?")}]),
            as_it_is(&format!("What is {qwen}?")),
        ),
        (
            json!([{"role": "system", "content": "S"}, {"role": "user", "content": qwen}]),
            Input::Chat(vec![message(ChatRole::System, "S"), message(ChatRole::User, qwen)]),
        ),
        (
            json!([{"role": "assistant", "content": qwen}]),
            Input::Chat(vec![message(ChatRole::Assistant, qwen)]),
        ),
    ];
    for (messages, expected) in rows {
        let answer = ask(&server, json!({"messages": messages})).await;
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "a + b", "{messages}");
        assert_eq!(server.provider.take_requests()[0].input, expected, "{messages}");
    }
}

#[tokio::test]
async fn a_model_that_fills_no_gaps_takes_a_spelled_one_as_a_message() {
    let provider = ScriptedProvider::without_fim(sum());
    let server = TestServer::start_parts(Arc::new(provider), TestParts::default()).await;
    let spelled = "<|fim_prefix|>a = <|fim_suffix|>\n<|fim_middle|>";
    let body = json!({"messages": [{"role": "user", "content": spelled}]});
    let answer = ask(&server, body).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "a + b");
    let expected = Input::Chat(vec![message(ChatRole::User, spelled)]);
    assert_eq!(server.provider.take_requests()[0].input, expected);
}

#[tokio::test]
async fn a_rule_names_the_member_that_the_client_wrote() {
    let broken = ProviderError::invalid("max_tokens", "`max_tokens` must be from 1 to 9, got 10");
    let server = TestServer::start(Script::Refuse(broken)).await;
    let rows = [
        (json!({"max_tokens": 10}), "max_tokens"),
        (json!({"max_completion_tokens": 10}), "max_completion_tokens"),
        (json!({"max_completion_tokens": 10, "max_tokens": 5}), "max_completion_tokens"),
        (json!({"max_completion_tokens": 10, "stream": true}), "max_completion_tokens"),
    ];
    for (more, member) in rows {
        let answer = ask(&server, with(hello(), more)).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(member)));
        assert_eq!(error["message"], format!("`{member}` must be from 1 to 9, got 10"));
    }
}

#[tokio::test]
async fn what_is_not_supported_is_refused_with_its_path() {
    let server = TestServer::start(sum()).await;
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "a"}, message]});
    let rows = [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hello"}), "messages"),
        (json!({"messages": vec![json!({"role": "user", "content": "a"}); 1025]}), "messages"),
        (
            message(
                json!({"role": "user", "content": vec![json!({"type": "text", "text": "a"}); 1025]}),
            ),
            "messages[1].content",
        ),
        (message(json!({"content": "a"})), "messages[1].role"),
        (message(json!({"role": "tool", "content": "a"})), "messages[1].role"),
        (message(json!({"role": "user"})), "messages[1].content"),
        (message(json!({"role": "user", "content": 1})), "messages[1].content"),
        (
            message(json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})),
            "messages[1].content[0].type",
        ),
        (
            message(json!({"role": "user", "content": [{"type": "text"}]})),
            "messages[1].content[0].text",
        ),
        (
            message(json!({"role": "assistant", "tool_calls": [{"id": "x"}]})),
            "messages[1].tool_calls",
        ),
        (with(hello(), json!({"tools": [{"type": "function"}]})), "tools"),
        (with(hello(), json!({"response_format": {"type": "json_object"}})), "response_format"),
        (with(hello(), json!({"chat_template_kwargs": {"a": 1}})), "chat_template_kwargs"),
        (with(hello(), json!({"n": 5})), "n"),
        (with(hello(), json!({"max_completion_tokens": 0})), "max_completion_tokens"),
        (with(hello(), json!({"logprobs": 2})), "logprobs"),
        (with(hello(), json!({"logprobs": true, "top_logprobs": 21})), "top_logprobs"),
        (with(hello(), json!({"top_logprobs": 2})), "top_logprobs"),
        (with(hello(), json!({"logprobs": false, "top_logprobs": 1})), "top_logprobs"),
    ];
    for (body, field) in rows {
        let answer = post(server.address, PATH, body.to_string()).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str()), (400, Some(field)), "{error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let other = post(server.address, PATH, with(hello(), json!({"model": "b"})).to_string()).await;
    assert_eq!((other.status, &other.json()["error"]["code"]), (404, &json!("model_not_found")));
}
