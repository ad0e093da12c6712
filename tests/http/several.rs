//! Several models in one server: each by its name and its aliases, the first where none is named.

use std::sync::Arc;

use lacuna::{
    completion::FinishReason,
    provider::{ProviderError, ProviderErrorKind},
    service::{CompletionService, ServedModel, ServedModels},
};
use serde_json::{Value, json};

use crate::{
    demo::DemoServer,
    support::{
        self, NUM_SEQUENCES_MAX, TestServer,
        client::{Connection, get, post, request},
        provider::{Script, ScriptedProvider, Step, USAGE, chunk, end},
    },
};

const OPENAI: &str = "/v1/completions";
/// Stands for a user's text.
const MARKER: &str = "m4rk3r";
const GITLAB: &str = "/v2/code/completions";

/// Says its own name.
fn naming(name: &str) -> Script {
    Script::Play(vec![chunk(0, name), end(0, "", FinishReason::Stop), Step::Done(USAGE)])
}

/// Serves `large` (also `codestral-latest` and `org/large`) and `small` (also `tab`).
async fn start(large: Script, small: Script) -> (TestServer, [Arc<ScriptedProvider>; 2]) {
    let small = Arc::new(ScriptedProvider::named("small", small));
    let other = Arc::clone(&small);
    let service = |provider: &Arc<ScriptedProvider>| {
        CompletionService::new(provider.clone(), support::limits(), NUM_SEQUENCES_MAX)
    };
    let served = move |provider: &Arc<ScriptedProvider>, aliases: &[&str]| ServedModel {
        aliases: aliases.iter().map(|&name| name.into()).collect(),
        ..service(provider).into()
    };
    let models = move |large: &Arc<ScriptedProvider>| {
        let mut models = ServedModels::new(served(large, &["codestral-latest", "org/large"]));
        models.push(served(&other, &["tab"]));
        models
    };
    let server = TestServer::start_models(ScriptedProvider::new(large), models).await;
    let large = Arc::clone(&server.provider);
    (server, [large, small])
}

fn gitlab(names: &Value) -> String {
    let mut body = json!({"current_file": {
        "file_name": "a.py", "content_above_cursor": "a", "content_below_cursor": "",
    }});
    body.as_object_mut().unwrap().extend(names.as_object().unwrap().clone());
    body.to_string()
}

#[tokio::test]
async fn a_request_gets_the_model_that_it_names() {
    let (server, _) = start(naming("L"), naming("S")).await;
    let rows = [
        (json!({}), "L", "org/scripted"),
        (json!({"model": null}), "L", "org/scripted"),
        (json!({"model": ""}), "L", "org/scripted"),
        (json!({"model": "org/scripted"}), "L", "org/scripted"),
        (json!({"model": "codestral-latest"}), "L", "org/scripted"),
        (json!({"model": "org/large"}), "L", "org/scripted"),
        (json!({"model": "small"}), "S", "small"),
        (json!({"model": "tab"}), "S", "small"),
    ];
    for (mut body, text, model) in rows {
        body["prompt"] = "a".into();
        let answer = post(server.address, OPENAI, body.to_string()).await.json();
        assert_eq!(answer["choices"][0]["text"], text, "{body}");
        assert_eq!(answer["model"], model, "{body}");
    }
}

#[tokio::test]
async fn gitlab_finds_a_model_by_what_its_instance_was_told_else_the_first() {
    let (server, _) = start(naming("L"), naming("S")).await;
    let rows = [
        (json!({}), "L"),
        (json!({"model_name": "codestral"}), "L"),
        (json!({"model_name": " small "}), "S"),
        (json!({"model_name": "codestral", "model_identifier": "custom_openai/small"}), "S"),
        (json!({"model_name": "small", "model_identifier": "org/large"}), "L"),
        (json!({"model_name": "tab", "model_identifier": "custom_openai/other"}), "S"),
    ];
    for (names, text) in rows {
        let answer = post(server.address, GITLAB, gitlab(&names)).await.json();
        assert_eq!(answer["choices"][0]["text"], text, "{names}");
        let name = if text == "S" { "small" } else { "org/scripted" };
        assert_eq!(answer["model"]["name"], name, "{names}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_not_found_and_the_known_ones_are_named() {
    let (server, providers) = start(naming("L"), naming("S")).await;
    for body in [json!({"model": "other", "prompt": "a"}), json!({"model": "Small", "prompt": "a"})]
    {
        let answer = post(server.address, OPENAI, body.to_string()).await;
        let expected = json!({"error": {
            "message": "`model` is not served here; `org/scripted`, `codestral-latest`, `org/large`, `small`, `tab` are",
            "type": "invalid_request_error", "param": "model", "code": "model_not_found",
        }});
        assert_eq!((answer.status, answer.json()), (404, expected));
    }
    assert_eq!(get(server.address, "/v1/models/other").await.status, 404);
    assert!(providers.iter().all(|provider| provider.take_requests().is_empty()));
}

#[tokio::test]
async fn a_model_that_cannot_chat_names_those_that_can() {
    let service = |provider: ScriptedProvider| {
        CompletionService::new(Arc::new(provider), support::limits(), NUM_SEQUENCES_MAX)
    };
    let mute = |name| service(ScriptedProvider::named(name, naming("M")).without_chat());
    let named = |service: CompletionService, alias: &str| ServedModel {
        aliases: vec![alias.to_owned()],
        ..service.into()
    };
    let mut models = ServedModels::new(named(mute("base"), "tab"));
    models.push(named(service(ScriptedProvider::named("talker", naming("T"))), "gpt"));
    models.push(mute("other"));
    let unused = ScriptedProvider::new(naming("L"));
    let server = TestServer::start_models(unused, |_| models).await;
    let ask = async |model: &str| {
        let body = json!({"model": model, "messages": [{"role": "user", "content": MARKER}]});
        post(server.address, "/v1/chat/completions", body.to_string()).await
    };
    for model in ["", "tab", "other"] {
        let answer = ask(model).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (400, &json!("messages")), "{model}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("which this one lacks, and which `talker` has here; "),
            "{message}"
        );
        assert!(!message.contains(MARKER), "{message}");
    }
    assert_eq!(ask("talker").await.status, 200);
}

#[tokio::test]
async fn every_name_is_listed_and_an_alias_says_of_which_model() {
    let (server, _) = start(naming("L"), naming("S")).await;
    let list = get(server.address, "/v1/models").await.json();
    let listed: Vec<(&str, Option<&str>)> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (model["id"].as_str().unwrap(), model["root"].as_str()))
        .collect();
    let expected = [
        ("org/scripted", None),
        ("codestral-latest", Some("org/scripted")),
        ("org/large", Some("org/scripted")),
        ("small", None),
        ("tab", Some("small")),
    ];
    assert_eq!(listed, expected);
    for (index, (name, _)) in expected.iter().enumerate() {
        let one = get(server.address, &format!("/v1/models/{name}")).await;
        assert_eq!((one.status, &one.json()), (200, &list["data"][index]), "{name}");
    }
}

#[tokio::test]
async fn a_server_is_ready_when_all_its_models_are() {
    for (large, small, status) in [
        (naming("L"), naming("S"), 200),
        (Script::Starting, naming("S"), 503),
        (naming("L"), Script::Starting, 503),
    ] {
        let (server, _) = start(large, small).await;
        for path in ["/monitoring/ready", "/health"] {
            assert_eq!(get(server.address, path).await.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_model_that_refuses_leaves_the_others_alone() {
    let full = ProviderError::new(ProviderErrorKind::Overloaded, "the queue is full");
    let (server, _) = start(Script::Refuse(full), naming("S")).await;
    for (model, status) in [("org/scripted", 429), ("small", 200), ("", 429), ("tab", 200)] {
        let body = json!({"model": model, "prompt": "a"}).to_string();
        assert_eq!(post(server.address, OPENAI, body).await.status, status, "{model}");
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_answers_of_all_models() {
    let gated = |name| {
        Script::Play(vec![
            chunk(0, name),
            Step::Gate,
            end(0, "!", FinishReason::Stop),
            Step::Done(USAGE),
        ])
    };
    let (mut server, providers) = start(gated("L"), gated("S")).await;
    let mut running = Vec::new();
    for (name, provider) in ["org/scripted", "small"].into_iter().zip(&providers) {
        let mut connection = Connection::open(server.address).await;
        let body = json!({"model": name, "prompt": "a"}).to_string();
        connection.send(&request("POST", OPENAI, &[], body.as_bytes())).await;
        provider.wait_for_open(1).await;
        running.push(connection);
    }
    server.begin_drain();
    for provider in &providers {
        provider.open_gate();
    }
    for (mut connection, text) in running.into_iter().zip(["L!", "S!"]) {
        assert_eq!(connection.answer().await.json()["choices"][0]["text"], text);
    }
    assert_eq!(server.drained().await.num_cut, 0);
}

/// The embedded model twice; the second has a short context and computes one sequence at a time.
const TWO: &str = "[[models]]\nsource = \"demo\"\naliases = [\"codestral-latest\"]\nkv_cache_memory = \"64MiB\"\n\
    [[models]]\nsource = \"demo\"\nserved_name = \"small\"\naliases = [\"tab\"]\nmax_context_tokens = 256\n\
    max_num_seqs = 1\nmax_num_queued = 16\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_answer_and_one_that_is_full_leaves_the_other_its_queue() {
    let server = DemoServer::start_file(TWO).await;
    let text = async |model: &str, answering: &str| {
        let body = json!({"model": model, "prompt": "def f(", "max_tokens": 8}).to_string();
        let answer = post(server.address, OPENAI, body).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        assert_eq!(answer.json()["model"], answering, "{model}");
        answer.json()["choices"][0]["text"].clone()
    };
    let demo = text("demo", "demo").await;
    for (model, answering) in
        [("", "demo"), ("codestral-latest", "demo"), ("small", "small"), ("tab", "small")]
    {
        assert_eq!(text(model, answering).await, demo);
    }
    let models = get(server.address, "/v1/models").await.json();
    let contexts: Vec<_> = models["data"].as_array().unwrap().iter().collect();
    let contexts: Vec<_> =
        contexts.iter().map(|model| model["capabilities"]["max_context"].as_u64()).collect();
    assert_eq!(contexts, [2048, 2048, 256, 256].map(Some));

    // One is computed, the others wait; each of them for as long as its context allows.
    let long =
        json!({"model": "tab", "prompt": "a", "max_tokens": 200, "n": 16, "ignore_eos": true});
    let long = long.to_string();
    let mut busy = Connection::open(server.address).await;
    busy.send(&request("POST", OPENAI, &[], long.as_bytes())).await;
    support::within("the queue", async {
        while server.engines[1].stats().num_waiting < 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = post(server.address, OPENAI, long).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].as_str()),
        (429, Some("rate_limit_exceeded"))
    );
    let others = futures_util::future::join_all((0..20).map(|_| text("demo", "demo"))).await;
    assert!(others.iter().all(|other| *other == demo));
    drop(busy);
    server.idle().await;
}
