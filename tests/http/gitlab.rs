//! The gateway's dialect: answers to the byte, and what each member of a request becomes.

use lacuna::{
    completion::{ContextItem, FinishReason, Input, Language, SamplingParams},
    provider::{ProviderError, ProviderErrorKind},
};
use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::{self, post},
    provider::{Script, ScriptedProvider, Step, USAGE, chunk, end, sum},
};

const PATHS: [&str; 2] = ["/v2/code/completions", "/v2/completions"];

fn body(change: impl FnOnce(&mut Value)) -> String {
    let mut body = json!({
        "prompt_version": 1,
        "current_file": {
            "file_name": "src/add.py",
            "content_above_cursor": "def add(a, b):\n    return ",
            "content_below_cursor": "\n",
        },
    });
    change(&mut body);
    body.to_string()
}

/// Replaces the only part of an answer that the clock decides.
fn without_created(text: &str) -> String {
    let (head, tail) = text.split_once(r#""created":"#).unwrap();
    let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap();
    assert!(tail[..digits].parse::<u64>().unwrap() > 1_700_000_000);
    format!(r#"{head}"created":0{}"#, &tail[digits..])
}

#[tokio::test]
async fn answers_to_the_byte() {
    let server = TestServer::start(sum()).await;
    for path in PATHS {
        let answer = post(server.address, path, body(|_| {})).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let expected = concat!(
            r#"{"id":"id","model":{"engine":"lacuna","name":"org/scripted","lang":"python","#,
            r#""tokens_consumption_metadata":{"input_tokens":11,"output_tokens":2,"#,
            r#""max_output_tokens_used":false,"context_tokens_sent":5,"context_tokens_used":3},"#,
            r#""region":null},"experiments":[],"object":"text_completion","created":0,"#,
            r#""choices":[{"text":"a + b","index":0,"finish_reason":"stop"}],"#,
            r#""metadata":{"enabled_feature_flags":[]}}"#,
        );
        assert_eq!(without_created(answer.text()), expected);
    }
}

#[tokio::test]
async fn answers_an_empty_suggestion_without_choices() {
    let script = vec![end(0, "", FinishReason::Stop), Step::Done(USAGE)];
    let server = TestServer::start(Script::Play(script)).await;
    let answer =
        post(server.address, PATHS[0], body(|b| b["current_file"]["file_name"] = json!("x"))).await;
    assert_eq!(answer.status, 200);
    let expected = concat!(
        r#"{"id":"id","model":{"engine":"lacuna","name":"org/scripted","lang":"","#,
        r#""tokens_consumption_metadata":null,"region":null},"experiments":[],"#,
        r#""object":"text_completion","created":0,"choices":[],"#,
        r#""metadata":{"enabled_feature_flags":[]}}"#,
    );
    assert_eq!(without_created(answer.text()), expected);
}

#[tokio::test]
async fn leaves_out_choices_that_add_nothing() {
    let script = vec![
        end(0, "one", FinishReason::Length),
        end(1, "", FinishReason::Stop),
        end(2, "one", FinishReason::Stop),
        end(3, "two", FinishReason::Stop),
        Step::Done(USAGE),
    ];
    let server = TestServer::start(Script::Play(script)).await;
    let answer = post(server.address, PATHS[0], body(|b| b["choices_count"] = json!(4))).await;
    let choices = json!([
        {"text": "one", "index": 0, "finish_reason": "length"},
        {"text": "two", "index": 1, "finish_reason": "stop"},
    ]);
    assert_eq!(answer.json()["choices"], choices);
    let tokens = &answer.json()["model"]["tokens_consumption_metadata"];
    assert_eq!(tokens["max_output_tokens_used"], json!(true));
}

#[tokio::test]
async fn streams_bare_text() {
    let server = TestServer::start(sum()).await;
    for path in PATHS {
        let mut connection = client::Connection::open(server.address).await;
        let body = body(|b| b["stream"] = json!(true));
        connection.send(&client::request("POST", path, &[], body.as_bytes())).await;
        let head = connection.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert!(head.header("x-request-id").is_some() && head.header("x-process-time").is_some());
        let mut pieces = Vec::new();
        while let Some(piece) = connection.chunk().await {
            let is_end = piece.is_empty();
            pieces.push(String::from_utf8(piece).unwrap());
            if is_end {
                break;
            }
        }
        assert_eq!(pieces, ["a +", " b", ""]);
    }
}

#[tokio::test]
async fn streams_nothing_of_an_empty_suggestion() {
    let script = vec![end(0, "", FinishReason::Stop), Step::Done(USAGE)];
    let server = TestServer::start(Script::Play(script)).await;
    let answer = post(server.address, PATHS[1], body(|b| b["stream"] = json!(true))).await;
    assert_eq!((answer.status, answer.text(), answer.is_whole), (200, "", true));
}

#[tokio::test]
async fn cuts_a_stream_that_fails() {
    let error = ProviderError::new(ProviderErrorKind::Internal, "the engine stopped");
    let server = TestServer::start(Script::Play(vec![chunk(0, "a"), Step::Fail(error)])).await;
    let answer = post(server.address, PATHS[0], body(|b| b["stream"] = json!(true))).await;
    assert_eq!((answer.status, answer.text(), answer.is_whole), (200, "a", false));
}

#[tokio::test]
async fn translates_requests() {
    let server = TestServer::start(Script::Echo).await;
    let asked = async |change: &dyn Fn(&mut Value)| {
        let answer = post(server.address, PATHS[0], body(|b| change(b))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        server.provider.take_requests().remove(0)
    };

    let plain = asked(&|_| {}).await;
    let (prefix, suffix) = ("def add(a, b):\n    return ".to_owned(), "\n".to_owned());
    assert_eq!(plain.input, Input::Fim { prefix, suffix });
    assert_eq!(plain.file_name.as_deref(), Some("src/add.py"));
    assert_eq!(plain.language.map(Language::name), Some("python"));
    assert_eq!(plain.sampling, SamplingParams::greedy());
    assert_eq!(
        (plain.num_choices, plain.max_tokens, plain.stop, plain.model),
        (1, None, None, None)
    );

    let by_editor = asked(&|b| {
        b["current_file"]["file_name"] = json!("  notes ");
        b["current_file"]["language_identifier"] = json!("rust");
    });
    let by_editor = by_editor.await;
    assert_eq!(by_editor.file_name.as_deref(), Some("notes"));
    assert_eq!(by_editor.language.map(Language::name), Some("rust"));

    let with_context = asked(&|b| {
        b["context"] = json!([
            {"type": "file", "name": "b.py", "content": "x = 1", "resolution_strategy": "open_tabs"},
            {"type": "file", "name": "empty.py", "content": ""},
            {"content": "y = 2"},
        ]);
    });
    let item =
        |name: &str, content: &str| ContextItem { name: name.into(), content: content.into() };
    assert_eq!(with_context.await.context, [item("b.py", "x = 1"), item("", "y = 2")]);

    let several = asked(&|b| b["choices_count"] = json!(3)).await;
    assert_eq!(several.num_choices, 3);
    assert!(several.sampling.temperature > 0.0);
    assert_eq!(asked(&|b| b["choices_count"] = json!(400)).await.num_choices, 4);
    assert_eq!(asked(&|b| b["choices_count"] = json!(0)).await.num_choices, 1);
}

type Change<'a> = &'a dyn Fn(&mut Value);

/// What GitLab and its language server send, and what careless clients do.
#[tokio::test]
async fn takes_what_clients_send() {
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), |config| {
        config.gateway.has_custom_models = true;
    })
    .await;
    let rows: [(&str, Change<'_>); 12] = [
        ("no version", &|b| drop(b.as_object_mut().unwrap().remove("prompt_version"))),
        ("null version", &|b| b["prompt_version"] = json!(null)),
        ("a float for a version", &|b| b["prompt_version"] = json!(1.0)),
        ("version 2", &|b| b["prompt_version"] = json!(2)),
        ("a prompt in version 2", &|b| {
            b["prompt_version"] = json!(2);
            b["prompt"] = json!("ignored");
        }),
        ("self-hosted model", &|b| {
            b["model_provider"] = json!("litellm");
            b["model_name"] = json!("codegemma");
            b["model_endpoint"] = json!("http://localhost:4000/");
            b["model_api_key"] = json!("key");
            b["model_identifier"] = json!("provider/codegemma_2b");
        }),
        ("unknown provider and null name", &|b| {
            b["model_provider"] = json!("somebody");
            b["model_name"] = json!(null);
        }),
        ("telemetry", &|b| b["telemetry"] = json!([{"requests": 1, "accepts": 1, "errors": 0}])),
        ("language server", &|b| {
            b["project_path"] = json!("grp/proj");
            b["project_id"] = json!(-1);
            b["choices_count"] = json!(1);
            b["intent"] = json!("completion");
            b["context"] = json!([]);
        }),
        ("role", &|b| b["role_arn"] = json!("arn")),
        ("nothing around the cursor", &|b| {
            b["current_file"]["content_above_cursor"] = json!("");
            b["current_file"]["content_below_cursor"] = json!("");
        }),
        ("no name, CRLF, NUL, a sentinel", &|b| {
            b["current_file"]["file_name"] = json!("");
            b["current_file"]["content_above_cursor"] = json!("a\r\n\u{0}<|fim_middle|>e\u{301}");
        }),
    ];
    for (name, change) in rows {
        let answer = post(server.address, PATHS[1], body(|b| change(b))).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn ignores_headers_it_does_not_know() {
    let server = TestServer::start(sum()).await;
    let headers = [
        "Content-Type:  application/json",
        "Authorization: Bearer ",
        "X-Gitlab-Authentication-Type: oidc",
        "X-Gitlab-Realm: self-managed",
        "x-gitlab-enabled-feature-flags: a,b",
        "X-Gitlab-Rails-Send-Start: yesterday",
    ];
    let bytes = client::request("POST", PATHS[0], &headers, body(|_| {}).as_bytes());
    assert_eq!(client::send(server.address, &bytes).await.status, 200);
}
