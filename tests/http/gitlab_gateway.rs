//! The gateway's dialect beyond plain completions: versions, what requests may bring, flags, callers, definitions.

use lacuna::{
    completion::{ChatMessage, ChatRole, FinishReason, Input},
    config::{Config, FlagRule, FlagScope},
    provider::{ProviderError, ProviderErrorKind},
};
use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::{self, Answer, get, post},
    provider::{Script, ScriptedProvider, Step, USAGE, chunk, end, sum},
};

fn v2(change: impl FnOnce(&mut Value)) -> String {
    let mut body = json!({
        "prompt_version": 1,
        "current_file": {
            "file_name": "test.py",
            "content_above_cursor": "def is_odd(n: int) ->",
            "content_below_cursor": "",
        },
    });
    change(&mut body);
    body.to_string()
}

fn components(change: impl FnOnce(&mut Value)) -> String {
    let mut body = json!({"prompt_components": [{
        "type": "code_editor_completion",
        "payload": {
            "file_name": "test",
            "content_above_cursor": "func hi(){\n\t",
            "content_below_cursor": "\n}",
            "model_provider": "vertex-ai",
            "language_identifier": "go",
            "choices_count": 3,
        },
        "metadata": {"source": "an instance", "version": "16.3"},
    }]});
    change(&mut body);
    body.to_string()
}

async fn post_as(server: &TestServer, path: &str, headers: &[&str], body: String) -> Answer {
    client::send(server.address, &client::request("POST", path, headers, body.as_bytes())).await
}

/// What GitLab and its clients are known to send, and what they look at in the answer.
#[tokio::test]
async fn what_gitlab_sends_is_answered() {
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), |config| {
        config.gateway.has_custom_models = true;
    })
    .await;
    let telemetry = json!([{"model_engine": "vertex-ai", "model_name": "codestral-2508", "lang": "python", "requests": 1, "accepts": 1, "errors": 0}]);
    let bodies = [
        v2(|b| {
            b["project_path"] = json!("grp/proj");
            b["project_id"] = json!(33);
            b["choices_count"] = json!(2);
            b["telemetry"] = telemetry;
        }),
        v2(|b| {
            b["prompt_version"] = json!(2);
            b["prompt"] = json!(null);
            b["model_provider"] = json!("litellm");
            b["model_name"] = json!("codegemma");
            b["model_endpoint"] = json!("http://localhost:4000/");
            b["model_api_key"] = json!("api-key");
            b["model_identifier"] = json!("provider/codegemma_2b");
            b["stream"] = json!(false);
            b["context"] =
                json!([{"type": "file", "name": "other.py", "content": "import numpy as np"}]);
        }),
        v2(|b| {
            b["model_provider"] = json!("gitlab");
            b["model_name"] = json!("codestral_2508_vertex");
            b["prompt_version"] = json!(3);
            b["prompt"] = json!(null);
        }),
        v2(|b| {
            b["project_id"] = json!(-1);
            b["model_provider"] = json!("fireworks_ai");
            b["model_name"] = json!("codestral-2501");
            b["intent"] = json!("completion");
            b["context"] = json!([{"type": "file", "name": "src/b.ts", "content": "x", "resolution_strategy": "open_tabs"}]);
        }),
        v2(|b| {
            b["current_file"] = json!({"file_name": "test.rb", "content_above_cursor": "def fibonacci(n)\n", "content_below_cursor": ""});
            b["telemetry"] = json!([]);
        }),
    ];
    for body in bodies {
        let answer = post(server.address, "/v2/code/completions", &body).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.json()["choices"][0]["text"], "a + b", "{body}");
        assert!(
            answer.header("x-process-time").is_some() && answer.header("x-request-id").is_some()
        );
    }
}

/// A path, a body that breaks a rule there, and words of the refusal.
type Broken = (&'static str, String, &'static str);

fn broken_files() -> Vec<Broken> {
    vec![
        (
            "/v2/completions",
            v2(|b| drop(b["current_file"].as_object_mut().unwrap().remove("content_below_cursor"))),
            "`current_file.content_below_cursor` is required",
        ),
        ("/v2/completions", v2(|b| b["prompt_version"] = json!("1")), "`prompt_version` must be"),
        (
            "/v2/completions",
            v2(|b| b["prompt_version"] = json!(4)),
            "`prompt_version` must be 1, 2 or 3, got 4",
        ),
        (
            "/v2/completions",
            v2(|b| b["telemetry"] = json!([{"requests": 1, "accepts": 1}])),
            "`telemetry[0].errors` is required",
        ),
        (
            "/v2/completions",
            v2(|b| {
                b["prompt_version"] = json!(3);
                b["prompt"] = json!({"a": "secret"});
            }),
            "`prompt` must be a text or a list",
        ),
        (
            "/v2/completions",
            v2(|b| {
                b["prompt_version"] = json!(3);
                b["prompt"] = json!([{"role": "robot", "content": "secret"}]);
            }),
            "`prompt[0].role` must be",
        ),
        (
            "/v2/completions",
            v2(|b| b["model_endpoint"] = json!("http://secret")),
            "`model_endpoint` is not taken",
        ),
        (
            "/v2/completions",
            v2(|b| b["model_metadata"] = json!({"api_key": "secret"})),
            "`model_metadata.api_key` is not taken",
        ),
        ("/v2/code/generations", v2(|b| b["prompt_version"] = json!(2)), "`prompt` is required"),
        (
            "/v2/code/generations",
            v2(|b| {
                b["prompt_version"] = json!(3);
                b["prompt"] = json!("secret");
            }),
            "`prompt` must be a list",
        ),
    ]
}

fn broken_components() -> Vec<Broken> {
    let long = "x".repeat(256);
    vec![
        ("/v4/code/suggestions", "{}".to_owned(), "`prompt_components` is required"),
        (
            "/v4/code/suggestions",
            r#"{"prompt_components":[]}"#.to_owned(),
            "must not be an empty list",
        ),
        (
            "/v4/code/suggestions",
            components(|b| b["prompt_components"][0]["type"] = json!("secret")),
            "`prompt_components[0].type` must be code_editor_completion",
        ),
        (
            "/v4/code/suggestions",
            components(
                |b| b["prompt_components"][0] = json!({"type": "code_context", "payload": {"type": "file", "name": "a", "content": "secret"}}),
            ),
            "the first component says what is asked",
        ),
        (
            "/v3/code/completions",
            components(|b| b["prompt_components"][0]["payload"]["file_name"] = json!(long)),
            "`prompt_components[0].payload.file_name` must be at most 255",
        ),
        (
            "/v3/code/completions",
            components(|b| b["prompt_components"][0]["metadata"]["source"] = json!(long)),
            "`prompt_components[0].metadata.source` must be at most 255",
        ),
        (
            "/v3/code/completions",
            components(|b| b["prompt_components"][0]["payload"]["intent"] = json!("secret")),
            "`intent` must be",
        ),
        (
            "/v3/code/completions",
            components(|b| {
                b["model_metadata"] = json!({"provider": "openai", "name": "codestral", "endpoint": "http://secret/v1"});
            }),
            "`model_metadata.endpoint` is not taken",
        ),
    ]
}

#[tokio::test]
async fn bodies_that_break_a_rule_are_refused_by_name() {
    let server = TestServer::start(sum()).await;
    let rows = broken_files().into_iter().chain(broken_components());
    for (path, body, words) in rows {
        let answer = post(server.address, path, &body).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 422, "{body}: {detail}");
        assert!(detail.contains(words) && !detail.contains("secret"), "{detail}");
    }
    let many: Vec<Value> = (0..101).map(|_| json!({"type": "code_context"})).collect();
    let answer = post(
        server.address,
        "/v4/code/suggestions",
        json!({"prompt_components": many}).to_string(),
    )
    .await;
    assert_eq!(answer.status, 422);
    assert!(server.provider.take_requests().is_empty());
}

#[tokio::test]
async fn a_prompt_of_gitlabs_own_goes_to_a_model_that_knows_words() {
    let messages =
        json!([{"role": "system", "content": "Complete."}, {"role": "user", "content": "x ="}]);
    let body = v2(|b| {
        b["prompt_version"] = json!(3);
        b["model_provider"] = json!("anthropic");
        b["prompt"] = messages;
    });
    let script = || {
        Script::Play(vec![end(0, "```python\nbool:\n```", FinishReason::Stop), Step::Done(USAGE)])
    };
    let server = TestServer::start(script()).await;
    let answer = post(server.address, "/v2/code/completions", &body).await;
    assert_eq!(answer.json()["choices"][0]["text"], "bool:");
    let asked = server.provider.take_requests().remove(0);
    let message = |role, content: &str| ChatMessage { role, content: content.to_owned() };
    let expected = [message(ChatRole::System, "Complete."), message(ChatRole::User, "x =")];
    assert_eq!(asked.input, Input::Chat(expected.to_vec()));
    assert_eq!(asked.max_tokens, Some(64));

    let server =
        TestServer::start_gateway(ScriptedProvider::new(sum()).without_chat(), |_| {}).await;
    assert_eq!(post(server.address, "/v2/code/completions", &body).await.status, 200);
    assert!(matches!(server.provider.take_requests().remove(0).input, Input::Fim { .. }));
}

#[tokio::test]
async fn components_are_answered_in_their_own_shape() {
    let server = TestServer::start(sum()).await;
    for path in ["/v3/code/completions", "/v4/code/suggestions"] {
        let answer = post(server.address, path, components(|_| {})).await;
        let mut body = answer.json();
        assert!(body["metadata"]["timestamp"].take().as_u64().unwrap() > 1_700_000_000);
        let model = json!({"engine": "lacuna", "name": "org/scripted", "lang": "go"});
        let expected = json!({
            "choices": [{"text": "a + b", "index": 0, "finish_reason": "stop"}],
            "metadata": {"model": model, "timestamp": null, "enabled_feature_flags": [], "region": null},
            "model": model,
        });
        assert_eq!(body, expected, "{path}");
        assert_eq!(server.provider.take_requests().remove(0).num_choices, 3);
    }
}

#[tokio::test]
async fn answers_say_the_region_that_the_server_stands_in() {
    let change = |config: &mut Config| config.gateway.region = Some("eu-1".to_owned());
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), change).await;
    let v2 = r#"{"current_file":{"file_name":"a.py","content_above_cursor":"a","content_below_cursor":""}}"#;
    let answer = post(server.address, "/v2/code/completions", v2).await.json();
    assert_eq!(answer["model"]["region"], "eu-1");
    let answer = post(server.address, "/v3/code/completions", components(|_| {})).await.json();
    assert_eq!(answer["metadata"]["region"], "eu-1");
    let body = components(|b| b["prompt_components"][0]["payload"]["stream"] = json!(true));
    let answer = post(server.address, "/v4/code/suggestions", body).await;
    assert!(answer.text().contains(r#""region":"eu-1""#), "{}", answer.text());
}

#[tokio::test]
async fn a_stream_of_events_is_these_bytes() {
    let server = TestServer::start(sum()).await;
    let body = components(|b| b["prompt_components"][0]["payload"]["stream"] = json!(true));
    let headers = ["x-gitlab-enabled-feature-flags: b,a"];
    let answer = post_as(&server, "/v4/code/suggestions", &headers, body.clone()).await;
    let expected_headers = [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("x-streaming-format", "sse"),
        ("cache-control", "no-store"),
        ("connection", "keep-alive"),
        ("x-accel-buffering", "no"),
    ];
    for (name, value) in expected_headers {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let text = answer.text();
    let (head, tail) = text.split_once(r#""timestamp":"#).unwrap();
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap();
    let text = format!(r#"{head}"timestamp":0{}"#, &tail[digits..]);
    let expected = concat!(
        "event: stream_start\r\n",
        r#"data: {"metadata":{"model":{"engine":"agent","name":"org/scripted"},"timestamp":0,"enabled_feature_flags":["a","b"]}}"#,
        "\r\n\r\n",
        "event: content_chunk\r\n",
        r#"data: {"choices":[{"delta":{"content":"a +"},"index":0}]}"#,
        "\r\n\r\n",
        "event: content_chunk\r\n",
        r#"data: {"choices":[{"delta":{"content":" b"},"index":0}]}"#,
        "\r\n\r\n",
        "event: stream_end\r\n",
        "data: null\r\n\r\n",
    );
    assert_eq!((text.as_str(), answer.is_whole), (expected, true));
    let bare = post(server.address, "/v3/code/completions", body).await;
    assert_eq!((bare.text(), bare.header("x-streaming-format")), ("a + b", None));
}

#[tokio::test]
async fn a_stream_of_events_that_fails_has_no_end_and_one_that_never_began_a_status() {
    let error = ProviderError::new(ProviderErrorKind::Internal, "the engine stopped");
    let body = components(|b| b["prompt_components"][0]["payload"]["stream"] = json!(true));
    let script = Script::Play(vec![chunk(0, "a"), Step::Fail(error.clone())]);
    let server = TestServer::start(script).await;
    let answer = post(server.address, "/v4/code/suggestions", &body).await;
    assert!(answer.text().contains("content_chunk") && !answer.text().contains("stream_end"));
    assert!(!answer.is_whole);
    let server = TestServer::start(Script::Play(vec![Step::Fail(error)])).await;
    let answer = post(server.address, "/v4/code/suggestions", &body).await;
    assert_eq!((answer.status, answer.text()), (503, r#"{"detail":"Inference failed"}"#));
}

#[tokio::test]
async fn other_files_count_from_language_servers_that_know_how_to_choose_them() {
    let server = TestServer::start(sum()).await;
    let body = components(|b| {
        let context = json!({"type": "code_context", "payload": {"type": "file", "name": "b.go", "content": "var b = 1"}});
        b["prompt_components"].as_array_mut().unwrap().push(context);
    });
    let rows = [
        (Some("X-Gitlab-Language-Server-Version: 7.17.1"), 1),
        (Some("X-Gitlab-Language-Server-Version: 7.17.0"), 0),
        (None, 0),
    ];
    for (header, num_items) in rows {
        let headers: Vec<&str> = header.into_iter().collect();
        assert_eq!(
            post_as(&server, "/v4/code/suggestions", &headers, body.clone()).await.status,
            200
        );
        let asked = server.provider.take_requests().remove(0);
        assert_eq!(asked.context.len(), num_items, "{header:?}");
    }
}

#[tokio::test]
async fn flags_in_force_are_listed_in_answers() {
    let rule = |flag: &str, scope| FlagRule { flag: flag.to_owned(), scope };
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), |config| {
        config.flags.on = vec![rule("mine", FlagScope::User("ada".to_owned()))];
        config.flags.off = vec![rule("old", FlagScope::Everyone)];
        config.flags.disallowed = vec![("self-managed".to_owned(), "logs".to_owned())];
    })
    .await;
    let rows =
        [("self-managed", "ada", json!(["mine", "new"])), ("saas", "bob", json!(["logs", "new"]))];
    for (realm, user, expected) in rows {
        let headers = [
            format!("X-Gitlab-Realm: {realm}"),
            format!("X-Gitlab-Global-User-Id: {user}"),
            "x-gitlab-enabled-feature-flags: new,logs,old".to_owned(),
        ];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        for (path, body) in
            [("/v2/completions", v2(|_| {})), ("/v4/code/suggestions", components(|_| {}))]
        {
            let answer = post_as(&server, path, &headers, body).await;
            assert_eq!(answer.json()["metadata"]["enabled_feature_flags"], expected, "{path}");
        }
    }
}

#[tokio::test]
async fn the_reason_of_an_end_can_be_what_the_original_says() {
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), |config| {
        config.gateway.has_true_finish_reason = false;
    })
    .await;
    for (path, body) in
        [("/v2/completions", v2(|_| {})), ("/v3/code/completions", components(|_| {}))]
    {
        let answer = post(server.address, path, body).await;
        assert_eq!(answer.json()["choices"][0]["finish_reason"], "length", "{path}");
    }
}

#[tokio::test]
async fn models_and_what_they_are_for_are_listed() {
    let server = TestServer::start(sum()).await;
    let answer = get(server.address, "/v1/models/definitions").await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["models"][0]["identifier"], "org/scripted");
    let features = body["unit_primitives"].as_array().unwrap();
    let settings: Vec<&Value> =
        features.iter().map(|feature| &feature["feature_setting"]).collect();
    assert_eq!(settings, ["code_completions", "code_generations"]);
    for feature in features {
        assert_eq!(feature["default_model"], "org/scripted");
        assert_eq!(feature["selectable_models"], json!(["org/scripted"]));
    }
    let server =
        TestServer::start_gateway(ScriptedProvider::new(sum()).without_chat(), |_| {}).await;
    let body = get(server.address, "/v1/models/definitions").await.json();
    let generations = &body["unit_primitives"][1];
    assert_eq!(
        (&generations["default_model"], &generations["selectable_models"]),
        (&json!("org/scripted"), &json!([]))
    );
}
