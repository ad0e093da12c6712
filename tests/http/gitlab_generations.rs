//! Whole code in the gateway's dialect: which prompt asks, what it is given, what is left of the answer; prompts by name.

use lacuna::{
    completion::{ChatRole, FinishReason, Input},
    provider::{ProviderError, ProviderErrorKind},
};
use serde_json::{Value, json};

use crate::support::{
    TestServer,
    client::post,
    provider::{Script, ScriptedProvider, Step, USAGE, chunk, end, sum},
};

const PROMPT: &str = "code_suggestions/generations";

fn generation(change: impl FnOnce(&mut Value)) -> String {
    let mut payload = json!({
        "file_name": "main.py",
        "content_above_cursor": "import os\n# list all files below a folder\n",
        "content_below_cursor": "\nprint(1)\n",
        "model_provider": "anthropic",
    });
    change(&mut payload);
    json!({"prompt_components": [{"type": "code_editor_generation", "payload": payload}]})
        .to_string()
}

/// Says what a model that likes to talk says.
fn talk() -> Script {
    Script::Play(vec![
        chunk(0, "```py"),
        chunk(0, "thon\nfor a in"),
        chunk(0, " b:\n"),
        chunk(0, "    c\n``"),
        chunk(0, "`\nThis loop"),
        end(0, " does it.", FinishReason::Stop),
        Step::Done(USAGE),
    ])
}

/// Returns what the first model was told, all turns in one.
fn told(server: &TestServer) -> String {
    let asked = server.provider.take_requests().remove(0);
    let Input::Chat(messages) = asked.input else { panic!("{:?}", asked.input) };
    assert_eq!(messages.last().unwrap().role, ChatRole::User);
    messages.into_iter().map(|message| message.content).collect()
}

/// Returns the texts of a stream's events.
fn contents(text: &str) -> Vec<String> {
    let events = text.split("\r\n\r\n").filter(|event| event.contains("content_chunk"));
    let data = events.map(|event| event.split_once("data: ").unwrap().1);
    let data = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
    data.map(|data| data["choices"][0]["delta"]["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_model_that_talks_is_asked_in_words_and_its_markdown_goes() {
    let server = TestServer::start(talk()).await;
    let enhancer = json!({
        "examples_array": [{"example": "an example", "response": "its answer", "trigger_type": "comment"}],
        "related_files": ["file one"],
        "related_snippets": ["snippet one"],
        "libraries": ["requests"],
        "user_instruction": "",
    });
    for path in ["/v3/code/completions", "/v4/code/suggestions"] {
        let body = generation(|p| p["prompt_enhancer"] = enhancer.clone());
        let answer = post(server.address, path, body).await;
        assert_eq!(answer.json()["choices"][0]["text"], "for a in b:\n    c", "{path}");
        assert_eq!(answer.header("x-lacuna-prompt"), Some(&*format!("{PROMPT}/base/1.0.0")));
        let told = told(&server);
        let words = [
            "list all files below a folder",
            "import os",
            "print(1)",
            "main.py",
            "python",
            "an example",
            "its answer",
            "file one",
            "snippet one",
            "requests",
        ];
        for word in words {
            assert!(told.contains(word), "{word} is not in\n{told}");
        }
    }
}

#[tokio::test]
async fn code_is_streamed_line_by_line_and_what_explains_it_is_not_waited_for() {
    let server = TestServer::start(talk()).await;
    let body = generation(|p| p["stream"] = json!(true));
    let answer = post(server.address, "/v4/code/suggestions", &body).await;
    let text = answer.text();
    assert_eq!(contents(text), ["for a in b:\n", "    c"]);
    assert!(text.contains(r#""engine":"agent","name":"Code generation""#), "{text}");
    assert!(text.ends_with("event: stream_end\r\ndata: null\r\n\r\n"), "{text}");
    let bare = post(server.address, "/v3/code/completions", &body).await;
    assert_eq!((bare.text(), bare.is_whole), ("for a in b:\n    c", true));
}

#[tokio::test]
async fn a_model_that_fills_gaps_streams_whole_lines_of_code_and_pieces_of_a_completion() {
    let script = Script::Play(vec![
        chunk(0, "a "),
        chunk(0, "= 1\nb"),
        chunk(0, " = 2\nc"),
        end(0, " = 3", FinishReason::Stop),
        Step::Done(USAGE),
    ]);
    let provider = ScriptedProvider::new(script).without_chat();
    let server = TestServer::start_gateway(provider, |_| {}).await;
    let body = generation(|p| p["stream"] = json!(true));
    let answer = post(server.address, "/v4/code/suggestions", &body).await;
    assert_eq!(contents(answer.text()), ["a = 1\n", "b = 2\n", "c = 3"]);
    let body = body.replace("code_editor_generation", "code_editor_completion");
    let answer = post(server.address, "/v4/code/suggestions", &body).await;
    assert_eq!(contents(answer.text()), ["a ", "= 1\nb", " = 2\nc", " = 3"]);
}

#[tokio::test]
async fn code_begins_on_a_line_of_its_own() {
    let rows = [
        ("# list all files", "\nfor a in b:\n    c"),
        ("# list all files\n    ", "for a in b:\n    c"),
    ];
    for (above, expected) in rows {
        let server = TestServer::start(talk()).await;
        let body = |is_streaming: bool| {
            generation(|p| {
                p["content_above_cursor"] = json!(above);
                p["stream"] = json!(is_streaming);
            })
        };
        let whole = post(server.address, "/v3/code/completions", body(false)).await;
        assert_eq!(whole.json()["choices"][0]["text"], expected);
        assert_eq!(post(server.address, "/v3/code/completions", body(true)).await.text(), expected);
    }
}

#[tokio::test]
async fn the_prompt_is_that_of_the_models_family() {
    let rows = [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen"),
        ("mistralai/Codestral-22B-v0.1", "codestral"),
        ("meta-llama/Llama-3.1-8B", "llama"),
        ("coder", "base"),
    ];
    for (name, family) in rows {
        let server = TestServer::start_gateway(ScriptedProvider::named(name, talk()), |_| {}).await;
        let answer = post(server.address, "/v4/code/suggestions", generation(|_| {})).await;
        assert_eq!(
            answer.header("x-lacuna-prompt"),
            Some(&*format!("{PROMPT}/{family}/1.0.0")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_model_without_words_fills_the_gap_under_the_instruction() {
    let provider = || ScriptedProvider::new(sum()).without_chat();
    let rows = [
        (json!({}), "import os\n# list all files below a folder\n"),
        (
            json!({"user_instruction": "sort them"}),
            "import os\n# list all files below a folder\n# sort them\n",
        ),
    ];
    for (enhancer, expected) in rows {
        let server = TestServer::start_gateway(provider(), |_| {}).await;
        let body = generation(|p| p["prompt_enhancer"] = enhancer);
        let answer = post(server.address, "/v4/code/suggestions", body).await;
        assert_eq!(answer.json()["choices"][0]["text"], "a + b");
        assert_eq!(answer.header("x-lacuna-prompt"), Some(&*format!("{PROMPT}/fim/1.0.0")));
        let asked = server.provider.take_requests().remove(0);
        let suffix = "\nprint(1)\n".to_owned();
        assert_eq!(asked.input, Input::Fim { prefix: expected.to_owned(), suffix });
    }
}

#[tokio::test]
async fn a_completion_becomes_a_generation_where_the_client_says_so() {
    let server = TestServer::start(sum()).await;
    let body = |intent: Option<&str>, above: &str| {
        let mut payload = json!({"file_name": "a.py", "content_above_cursor": above, "content_below_cursor": "\nf = 6\n"});
        if let Some(intent) = intent {
            payload["intent"] = json!(intent);
        }
        json!({"prompt_components": [{"type": "code_editor_completion", "payload": payload}]})
            .to_string()
    };
    let code = "a = 1\nb = 2\nc = 3\nd = 4\n";
    let comment = format!("{code}# add all of them\n");
    let rows = [
        (None, comment.as_str(), false),
        (Some("completion"), &comment, false),
        (Some("generation"), code, true),
        (Some("auto"), &comment, true),
        (Some("auto"), code, false),
    ];
    for (intent, above, is_generation) in rows {
        assert_eq!(
            post(server.address, "/v4/code/suggestions", body(intent, above)).await.status,
            200
        );
        let asked = server.provider.take_requests().remove(0);
        assert_eq!(matches!(asked.input, Input::Chat(_)), is_generation, "{intent:?} {above}");
    }
}

#[tokio::test]
async fn the_older_generations_take_a_prompt_or_make_one() {
    let server = TestServer::start(talk()).await;
    let file = json!({"file_name": "a.py", "content_above_cursor": "# list all files\n", "content_below_cursor": ""});
    let bodies = [
        (json!({"prompt_version": 1, "current_file": file}), Some(format!("{PROMPT}/base/1.0.0"))),
        (json!({"prompt_version": 2, "prompt": "Write it.", "current_file": file}), None),
        (
            json!({"prompt_version": 3, "prompt": [{"role": "user", "content": "Write it."}], "current_file": file}),
            None,
        ),
        (
            json!({"prompt_version": 2, "prompt": "Write it.", "prompt_id": PROMPT, "current_file": file}),
            Some(format!("{PROMPT}/base/1.0.0")),
        ),
    ];
    for (body, prompt) in bodies {
        let answer = post(server.address, "/v2/code/generations", body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.json()["choices"][0]["text"], "for a in b:\n    c");
        assert_eq!(answer.header("x-lacuna-prompt"), prompt.as_deref());
        let told = told(&server);
        assert_eq!(told == "Write it.", prompt.is_none(), "{told}");
    }
}

#[tokio::test]
async fn a_prompt_that_is_not_there_is_not_found() {
    let server = TestServer::start(sum()).await;
    let there_are = "there are code_suggestions/generations/base/1.0.0\"";
    let rows = [
        (generation(|p| p["prompt_id"] = json!("chat/agent")), "lacuna prompts list"),
        (generation(|p| p["prompt_version"] = json!("2.0.0")), there_are),
        (generation(|p| p["prompt_version"] = json!("newest")), there_are),
    ];
    for (body, words) in rows {
        let answer = post(server.address, "/v4/code/suggestions", &body).await;
        assert_eq!(answer.status, 404, "{body}");
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let version = generation(|p| p["prompt_version"] = json!("1.0.0"));
    assert_eq!(post(server.address, "/v4/code/suggestions", version).await.status, 200);
}

const CHECK: &str = "/v1/prompts/model_configuration/check";

#[tokio::test]
async fn gitlabs_test_of_a_model_gets_its_text_or_its_failure() {
    let server = TestServer::start(sum()).await;
    let answer = post(server.address, CHECK, r#"{"inputs":{}}"#).await;
    assert_eq!((answer.status, answer.text()), (200, r#""a + b""#));
    assert_eq!(answer.header("x-lacuna-prompt"), Some("model_configuration/check/base/1.0.0"));
    let answer = post(
        server.address,
        "/v2/prompts/model_configuration/check",
        r#"{"inputs":{},"prompt_version":"^1.0.0"}"#,
    )
    .await;
    let usage = json!({"input_tokens": 11, "output_tokens": 2, "total_tokens": 13});
    assert_eq!(answer.json(), json!({"content": "a + b", "usage": usage}));
    let answer = post(server.address, CHECK, r#"{"inputs":{},"stream":true}"#).await;
    assert_eq!(answer.text(), "a + b");

    let rows = [
        ("/v1/prompts/chat/agent", r#"{"inputs":{}}"#, 404, "no prompt of this name"),
        (CHECK, r#"{"prompt_version":"^9"}"#, 404, "no prompt of this name"),
        (CHECK, r#"{"inputs":[]}"#, 422, "`inputs`"),
        ("/v1/prompts/code_suggestions/generations", r#"{"inputs":{}}"#, 422, "needs `prefix`"),
        (CHECK, r#"{"model_metadata":{"endpoint":"http://secret"}}"#, 422, "is not taken"),
    ];
    for (path, body, status, words) in rows {
        let answer = post(server.address, path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
        assert!(answer.text().contains(words), "{}", answer.text());
    }
    let error = ProviderError::new(ProviderErrorKind::Unavailable, "the engine is gone");
    let broken = TestServer::start(Script::Refuse(error)).await;
    let answer = post(broken.address, CHECK, r#"{"inputs":{}}"#).await;
    assert_eq!((answer.status, answer.text()), (421, r#"{"detail":"503: the engine is gone"}"#));
    let gaps = TestServer::start_gateway(ScriptedProvider::new(sum()).without_chat(), |_| {}).await;
    let answer = post(gaps.address, CHECK, r#"{"inputs":{}}"#).await;
    assert_eq!(answer.header("x-lacuna-prompt"), Some("model_configuration/check/fim/1.0.0"));
    // It is the version that is not there, not a prompt for such a model.
    let answer = post(gaps.address, CHECK, r#"{"inputs":{},"prompt_version":"^9"}"#).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
}
