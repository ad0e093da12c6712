//! Bodies that break a rule: each gets a 4xx in its dialect's shape that names the field, and the server lives on.

use serde_json::{Value, json};

use crate::support::{
    NUM_SEQUENCES_MAX, TestServer,
    client::{self, Answer, post},
    provider::{Script, sum},
};

const OPENAI: &str = "/v1/completions";
const GITLAB: &str = "/v2/code/completions";
/// Stands for source text: no answer may repeat it.
const SECRET: &str = "sEcReT, expected x";

fn check_openai(name: &str, answer: &Answer, status: u16, field: Option<&str>) {
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    let body = answer.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{name}: {body}"));
    let mut members: Vec<&str> = error.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "type"], "{name}");
    assert_eq!(error["type"], json!("invalid_request_error"), "{name}");
    assert_eq!(error["param"].as_str(), field, "{name}: {body}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(field.unwrap_or_default()), "{name}: {message}");
    assert!(!answer.text().contains("sEcReT"), "{name}: {body}");
}

fn check_gitlab(name: &str, answer: &Answer, status: u16, field: Option<&str>) {
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    let body = answer.json();
    let detail = body["detail"].as_str().unwrap_or_else(|| panic!("{name}: {body}"));
    assert_eq!(body.as_object().unwrap().len(), 1, "{name}: {body}");
    if let Some(field) = field {
        assert!(detail.starts_with(&format!("`{field}`")), "{name}: {detail}");
    }
    assert!(!detail.contains("sEcReT"), "{name}: {detail}");
}

/// Bodies that are no JSON object at all.
fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("blank", b" \r\n\t".to_vec()),
        ("list", b"[]".to_vec()),
        ("list of members", br#"["a", "b", null, 1]"#.to_vec()),
        ("null", b"null".to_vec()),
        ("number", b"5".to_vec()),
        ("string", format!("\"{SECRET}\"").into_bytes()),
        ("cut off", br#"{"pro"#.to_vec()),
        ("no quotes", b"{prompt: 1}".to_vec()),
        ("two bodies", br"{} {}".to_vec()),
        ("NUL", b"\0".to_vec()),
        ("UTF-16", b"\xff\xfe{\0}\0".to_vec()),
        ("bare NaN", b"NaN".to_vec()),
        ("form", b"prompt=a&max_tokens=1".to_vec()),
        ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec()),
        ("deep lists", "[".repeat(200_000).into_bytes()),
    ]
}

#[tokio::test]
async fn refuses_what_is_no_object() {
    let server = TestServer::start(sum()).await;
    for (name, body) in unreadable() {
        check_openai(name, &post(server.address, OPENAI, &body).await, 400, None);
        check_gitlab(name, &post(server.address, GITLAB, &body).await, 422, None);
    }
}

/// Depth must cost neither the stack nor the process, in members we know and in others.
#[tokio::test]
async fn refuses_deep_nesting() {
    let server = TestServer::start(sum()).await;
    for member in ["prompt", "stop", "logit_bias", "current_file", "context", "telemetry", "other"]
    {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for is_closed in [false, true] {
                let close = if is_closed { close.repeat(200_000) } else { String::new() };
                let value = format!("{}1{close}", open.repeat(200_000));
                let body = format!(r#"{{"{member}":{value}{}"#, if is_closed { "}" } else { "" });
                let name = format!("{member} {open} {is_closed}");
                let answer = post(server.address, OPENAI, &body).await;
                let param = answer.json()["error"]["param"].as_str().map(str::to_owned);
                check_openai(&name, &answer, 400, param.as_deref());
                check_gitlab(&name, &post(server.address, GITLAB, &body).await, 422, None);
            }
        }
    }
}

#[tokio::test]
async fn refuses_wrong_types_in_openai() {
    let server = TestServer::start(Script::Echo).await;
    // The member, and values of every type it may have.
    let strings = ["model", "suffix", "user"];
    let integers = ["max_tokens", "n", "best_of", "logprobs", "seed", "top_k"];
    let numbers = [
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "min_p",
        "repetition_penalty",
    ];
    let flags = ["stream", "echo"];
    let all = || {
        [
            json!(SECRET),
            json!(1),
            json!(1.5),
            json!(true),
            json!([]),
            json!([[]]),
            json!({"a": SECRET}),
        ]
    };
    let mut rows: Vec<(&str, Value)> = Vec::new();
    let mut add = |names: &[&'static str], is_wrong: fn(&Value) -> bool| {
        for name in names {
            rows.extend(all().into_iter().filter(is_wrong).map(|value| (*name, value)));
        }
    };
    add(&strings, |value| !value.is_string());
    add(&integers, |value| !value.is_i64());
    add(&numbers, |value| !value.is_number());
    add(&flags, |value| !value.is_boolean());
    add(&["stream_options", "logit_bias"], |value| !value.is_object());
    add(&["stop", "prompt"], |value| !value.is_string() && *value != json!([]));
    for (name, value) in rows {
        if name == "prompt" && value == json!([[]]) {
            continue; // Of the right type, and refused by another rule.
        }
        let mut body = json!({"prompt": "a"});
        body[name] = value.clone();
        let answer = post(server.address, OPENAI, body.to_string()).await;
        let field = answer.json()["error"]["param"].as_str().map(str::to_owned).unwrap_or_default();
        // The path may go on into the value: `stop[0]`.
        assert!(field.starts_with(name), "{name}: {value}: {}", answer.text());
        check_openai(&format!("{name}: {value}"), &answer, 400, Some(&field));
    }
}

/// Bodies whose prompt, or what goes with it, breaks a rule; and the member at fault.
fn broken_prompts() -> Vec<(Value, &'static str)> {
    let many = Value::from(vec!["x"; 33]);
    vec![
        (json!({}), "prompt"),
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": [[1], []]}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": [[1], 1]}), "prompt"),
        (json!({"prompt": [1, -1]}), "prompt[1]"),
        (json!({"prompt": [1, 1.5]}), "prompt[1]"),
        (json!({"prompt": [[1], [4_294_967_296u64]]}), "prompt[1][0]"),
        (json!({"prompt": [1000]}), "prompt"),
        (json!({"prompt": many}), "prompt"),
        (json!({"prompt": [1], "suffix": ""}), "suffix"),
        (json!({"prompt": [1], "echo": true}), "echo"),
        (json!({"prompt": "a", "echo": true, "logprobs": 1}), "echo"),
    ]
}

/// Parameters that break a rule; the member at fault is the parameter.
fn broken_parameters() -> Vec<(&'static str, Value)> {
    let many = Value::from(vec!["x"; 33]);
    let biases: Value =
        (0..1025).map(|id| (id.to_string(), json!(0))).collect::<serde_json::Map<_, _>>().into();
    vec![
        ("max_tokens", json!(0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(1e15)),
        ("max_tokens", json!(18_446_744_073_709_551_615u64)),
        ("max_tokens", json!(1e300)),
        ("temperature", json!(-0.1)),
        ("temperature", json!(2.1)),
        ("temperature", json!(1e300)),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("top_k", json!(-2)),
        ("min_p", json!(-0.5)),
        ("repetition_penalty", json!(0)),
        ("presence_penalty", json!(2.5)),
        ("frequency_penalty", json!(-2.5)),
        ("n", json!(0)),
        ("n", json!(5)),
        ("n", json!(1e9)),
        ("best_of", json!(2)),
        ("logprobs", json!(-1)),
        ("logprobs", json!(21)),
        ("stop", many),
        ("stop_token_ids", json!([1000])),
        ("stop_token_ids", json!([-1])),
        ("stop_token_ids", json!(vec![1; 129])),
        ("stop_token_ids", json!(5)),
        ("logit_bias", json!({"5": 101})),
        ("logit_bias", json!({"1000": 1})),
        ("logit_bias", json!({"sEcReT": 1})),
        ("logit_bias", json!({"-5": 1})),
        ("logit_bias", biases),
        ("seed", json!(1.5)),
        ("seed", json!(1e30)),
        ("ignore_eos", json!("yes")),
        ("min_tokens", json!(5)),
        ("bad_words", json!(["sEcReT"])),
        ("response_format", json!({"type": "json_object"})),
    ]
}

#[tokio::test]
async fn refuses_broken_rules_in_openai() {
    let server = TestServer::start(Script::Echo).await;
    let mut rows = broken_prompts();
    for (name, value) in broken_parameters() {
        rows.push((json!({"prompt": "a", name: value}), name));
    }
    rows.extend([
        (json!({"prompt": "a", "n": 2, "best_of": 1}), "best_of"),
        (json!({"prompt": vec!["a"; NUM_SEQUENCES_MAX / 4 + 1], "n": 4}), "prompt"),
        (json!({"prompt": ["a", "b", "c"], "suffix": "x".repeat(3 << 20)}), "suffix"),
        (json!({"prompt": "a", "stop": ["x", 1]}), "stop[1]"),
        (
            json!({"prompt": "a", "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
    ]);
    for (body, field) in rows {
        let answer = post(server.address, OPENAI, body.to_string()).await;
        let name: String = body.to_string().chars().take(80).collect();
        check_openai(&name, &answer, 400, Some(field));
    }
    let unknown = post(server.address, OPENAI, r#"{"prompt":"a","model":"sEcReT"}"#).await;
    check_openai("unknown model", &unknown, 404, Some("model"));
    assert_eq!(unknown.json()["error"]["code"], json!("model_not_found"));
    assert!(server.provider.take_requests().is_empty(), "a refused request was started");
}

/// Numbers that no JSON library of ours would write.
#[tokio::test]
async fn refuses_numbers_that_are_none() {
    let server = TestServer::start(sum()).await;
    for value in
        ["NaN", "-NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "1.", "+1", "--1"]
    {
        for name in ["temperature", "max_tokens", "seed"] {
            let body = format!(r#"{{"prompt":"a","{name}":{value}}}"#);
            let answer = post(server.address, OPENAI, &body).await;
            assert_eq!(answer.status, 400, "{body}: {}", answer.text());
            assert_eq!(answer.json()["error"]["type"], json!("invalid_request_error"), "{body}");
        }
        let body = format!(r#"{{"choices_count":{value},"current_file":{{}}}}"#);
        check_gitlab(&body, &post(server.address, GITLAB, &body).await, 422, None);
    }
}

fn gitlab_body() -> Value {
    json!({
        "prompt_version": 1,
        "current_file": {"file_name": "a.py", "content_above_cursor": "a", "content_below_cursor": ""},
        "context": [{"type": "file", "name": "b.py", "content": "b"}],
    })
}

/// Where it stands, and which values are of the right type.
type Member = (&'static str, fn(&Value) -> bool);

#[tokio::test]
async fn refuses_wrong_types_in_gitlab() {
    let server = TestServer::start(Script::Echo).await;
    let is_string: fn(&Value) -> bool = Value::is_string;
    let is_integer: fn(&Value) -> bool = |value| value.is_i64();
    let members: [Member; 19] = [
        ("/prompt_version", is_integer),
        ("/project_path", is_string),
        ("/project_id", is_integer),
        ("/current_file", |_| false),
        ("/current_file/file_name", is_string),
        ("/current_file/language_identifier", is_string),
        ("/current_file/content_above_cursor", is_string),
        ("/current_file/content_below_cursor", is_string),
        ("/model_provider", is_string),
        ("/model_name", is_string),
        ("/model_endpoint", is_string),
        ("/model_api_key", is_string),
        ("/model_identifier", is_string),
        ("/telemetry", |value| *value == json!([])),
        ("/stream", Value::is_boolean),
        ("/choices_count", is_integer),
        ("/context", |value| *value == json!([])),
        ("/context/0/type", is_string),
        ("/context/0/content", is_string),
    ];
    let values = [
        json!(SECRET),
        json!(1),
        json!(1.5),
        json!(true),
        json!([]),
        json!([1]),
        json!({"a": SECRET}),
    ];
    for (pointer, is_right) in members {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        for value in values.iter().filter(|value| !is_right(value)) {
            let mut body = gitlab_body();
            body.pointer_mut(parent).unwrap()[member] = value.clone();
            let name = format!("{pointer}: {value}");
            let answer = post(server.address, GITLAB, body.to_string()).await;
            check_gitlab(&name, &answer, 422, None);
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            let path = pointer[1..].replace("/0/", "[0].").replace('/', ".");
            assert!(detail.starts_with(&format!("`{path}")), "{name}: {detail}");
        }
    }
    assert!(server.provider.take_requests().is_empty(), "a refused request was started");
}

#[tokio::test]
async fn refuses_broken_rules_in_gitlab() {
    let server = TestServer::start(Script::Echo).await;
    let long = |num: usize| json!("ü".repeat(num));
    let item = json!({"type": "file", "name": "n", "content": "c"});
    let rows: Vec<(&str, Value, &str)> = vec![
        ("/prompt_version", json!(0), "prompt_version"),
        ("/prompt_version", json!(4), "prompt_version"),
        ("/prompt_version", json!(1e300), "prompt_version"),
        ("/prompt_version", json!("1"), "prompt_version"),
        ("/current_file", json!(null), "current_file"),
        ("/current_file/file_name", json!(null), "current_file.file_name"),
        ("/current_file/file_name", long(256), "current_file.file_name"),
        ("/current_file/language_identifier", long(256), "current_file.language_identifier"),
        ("/current_file/content_above_cursor", json!(null), "current_file.content_above_cursor"),
        ("/current_file/content_above_cursor", long(100_001), "current_file.content_above_cursor"),
        ("/current_file/content_below_cursor", json!(null), "current_file.content_below_cursor"),
        ("/current_file/content_below_cursor", long(100_001), "current_file.content_below_cursor"),
        (
            "/current_file/content_below_cursor",
            json!("s".repeat(1 << 20)),
            "current_file.content_below_cursor",
        ),
        ("/project_path", long(256), "project_path"),
        ("/model_provider", long(256), "model_provider"),
        ("/model_name", long(51), "model_name"),
        ("/choices_count", json!(-1), "choices_count"),
        ("/telemetry", json!(vec![json!({}); 11]), "telemetry"),
        ("/context", json!(vec![item; 101]), "context"),
        ("/context/0/content", json!(null), "context[0].content"),
        ("/context/0/content", long(500_001), "context[0].content"),
        ("/context/0/name", long(1025), "context[0].name"),
        ("/context/0/type", long(1025), "context[0].type"),
    ];
    for (pointer, value, field) in rows {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let mut body = gitlab_body();
        body.pointer_mut(parent).unwrap()[member] = value;
        let answer = post(server.address, GITLAB, body.to_string()).await;
        check_gitlab(pointer, &answer, 422, Some(field));
    }
    for member in ["file_name", "content_above_cursor", "content_below_cursor"] {
        let mut body = gitlab_body();
        body["current_file"].as_object_mut().unwrap().remove(member);
        let answer = post(server.address, GITLAB, body.to_string()).await;
        check_gitlab(member, &answer, 422, Some(&format!("current_file.{member}")));
    }
    check_gitlab("{}", &post(server.address, GITLAB, "{}").await, 422, Some("current_file"));
    assert!(server.provider.take_requests().is_empty(), "a refused request was started");
}

/// The limits count characters, and the last one still fits.
#[tokio::test]
async fn takes_values_at_their_limits() {
    let server = TestServer::start(sum()).await;
    let mut body = gitlab_body();
    body["current_file"]["file_name"] = json!(format!(" {} ", "ü".repeat(255)));
    body["current_file"]["content_above_cursor"] = json!("ü".repeat(100_000));
    body["current_file"]["content_below_cursor"] = json!("\u{1f600}".repeat(100_000));
    body["context"] = json!(vec![json!({"content": "c"}); 100]);
    body["model_name"] = json!("m".repeat(50));
    assert_eq!(post(server.address, GITLAB, body.to_string()).await.status, 200);
    let body = json!({
        "prompt": vec!["x"; NUM_SEQUENCES_MAX / 4], "suffix": "s".repeat(512 << 10), "stop": vec!["x"; 32], "n": 4,
        "temperature": 2, "logprobs": 20, "max_tokens": u32::MAX, "seed": u64::MAX, "top_p": 1,
    });
    let answer = post(server.address, OPENAI, body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Editors count in UTF-16 and cut pairs; files hold NUL; users write sentinels.
#[tokio::test]
async fn takes_odd_text() {
    let server = TestServer::start(Script::Echo).await;
    let rows = [
        (r"a\ud83d", "a\u{fffd}"),
        (r"\ude00b", "\u{fffd}b"),
        (r"\ud83d\ude00", "\u{1f600}"),
        (r"a\u0000b", "a\0b"),
        (r"<|fim_middle|>", "<|fim_middle|>"),
        (r"a\r\nb", "a\r\nb"),
        ("e\u{301}", "e\u{301}"),
        ("\u{200d}", "\u{200d}"),
        (r"\\ud83d", r"\ud83d"),
    ];
    for (written, expected) in rows {
        let body = format!(r#"{{"prompt":"{written}","suffix":"{written}"}}"#);
        let answer = post(server.address, OPENAI, &body).await;
        assert_eq!(answer.json()["choices"][0]["text"], json!(expected), "{written}");
        let body = format!(
            r#"{{"current_file":{{"file_name":"a.py","content_above_cursor":"{written}","content_below_cursor":""}}}}"#
        );
        let answer = post(server.address, GITLAB, &body).await;
        assert_eq!(answer.json()["choices"][0]["text"], json!(expected), "{written}");
    }
    let broken = [&br#"{"prompt":"a"#[..], b"\xff\xfe", br#""}"#].concat();
    check_openai("no UTF-8", &post(server.address, OPENAI, &broken).await, 400, None);
}

#[tokio::test]
async fn refuses_large_bodies() {
    let server = TestServer::start_with(sum(), |config| config.body_bytes_max = 10_000).await;
    let body = |num_bytes: usize| {
        let shell = r#"{"prompt":""}"#.len();
        format!(r#"{{"prompt":"{}"}}"#, "x".repeat(num_bytes - shell))
    };
    assert_eq!(post(server.address, OPENAI, body(10_000)).await.status, 200);
    for num_bytes in [10_001, 19_000] {
        let answer = post(server.address, OPENAI, body(num_bytes)).await;
        check_openai("large", &answer, 413, None);
        assert_eq!(answer.json()["error"]["code"], json!("request_too_large"));
        check_gitlab("large", &post(server.address, GITLAB, body(num_bytes)).await, 413, None);
    }
    // Without a length, in chunks.
    let mut bytes =
        b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..15 {
        bytes.extend_from_slice(b"3e8\r\n");
        bytes.extend_from_slice(&[b' '; 1000]);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    check_openai("chunks", &client::send(server.address, &bytes).await, 413, None);
    // A client that asks first need not send.
    let head = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n";
    check_openai("expect", &client::send(server.address, head).await, 413, None);
}
