//! What comes first: who may is asked before what it costs, and only who has a place is worked for. And what a request
//! may do without.

use lacuna::completion::{PostProcessing, Step as PostStep};
use serde_json::json;

use crate::support::{
    TestServer,
    client::{self, Answer},
    provider::{Script, ScriptedProvider, sum},
    within,
};

async fn post(server: &TestServer, path: &str, headers: &[&str], body: &str) -> Answer {
    let request = client::request("POST", path, headers, body.as_bytes());
    within("an answer", client::send(server.address, &request)).await
}

fn generation(prompt_id: &str) -> String {
    let payload = json!({"file_name": "a.py", "content_above_cursor": "# list all files\n", "content_below_cursor": "", "prompt_id": prompt_id});
    json!({"prompt_components": [{"type": "code_editor_generation", "payload": payload}]})
        .to_string()
}

#[tokio::test]
async fn a_full_house_looks_at_no_prompt() {
    let server =
        TestServer::start_with(Script::Queue, |config| config.concurrent_requests_max = 1).await;
    let held = client::request("POST", "/v1/completions", &[], br#"{"prompt":"a"}"#);
    let mut connection = client::Connection::open(server.address).await;
    connection.send(&held).await;
    server.provider.wait_for_open(1).await;
    let file =
        json!({"file_name": "a.py", "content_above_cursor": "a", "content_below_cursor": ""});
    let rows = [
        // Each of these is refused where there is room: a prompt that is not there, an input that is missing.
        ("/v4/code/suggestions", generation("not/there")),
        (
            "/v2/code/generations",
            json!({"current_file": file, "prompt_id": "not/there"}).to_string(),
        ),
        ("/v1/prompts/code_suggestions/generations", r#"{"inputs":{}}"#.to_owned()),
        ("/v1/completions", r#"{"prompt":"a","n":0}"#.to_owned()),
    ];
    for (path, body) in rows {
        let answer = post(&server, path, &[], &body).await;
        assert_eq!(answer.status, 429, "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_request_may_do_without_steps() {
    let server = TestServer::start_gateway(ScriptedProvider::new(sum()), |_| {}).await;
    let file = json!({"file_name": "a.py", "content_above_cursor": "a = 1\nb = ", "content_below_cursor": ""});
    let body = json!({"prompt_version": 1, "current_file": file}).to_string();
    let rows = [
        (&[][..], vec![]),
        (&["x-lacuna-postprocess: all,-scope"], vec![PostStep::Scope]),
        (&["x-lacuna-postprocess: none"], PostStep::ALL.to_vec()),
        (&["x-gitlab-enabled-feature-flags: postprocess_without_scope"], vec![PostStep::Scope]),
    ];
    for (headers, expected) in rows {
        let answer = post(&server, "/v2/code/completions", headers, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let asked = server.provider.take_requests().remove(0);
        assert_eq!(asked.postprocessing, PostProcessing::Completion { without: expected });
    }
    let wrong = ["x-lacuna-postprocess: scopes"];
    for (path, body, status) in [
        ("/v2/code/completions", body.as_str(), 422),
        ("/v4/code/suggestions", &generation("code_suggestions/generations"), 422),
        ("/v1/completions", r#"{"prompt":"a"}"#, 400),
    ] {
        let answer = post(&server, path, &wrong, body).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains("the nearest is scope"), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_a_request_does_without_stays_in_its_answer() {
    let said = |headers: &'static [&'static str]| async move {
        let script = Script::Play(vec![
            crate::support::provider::end(
                0,
                "```py\na\n```",
                lacuna::completion::FinishReason::Stop,
            ),
            crate::support::provider::Step::Done(crate::support::provider::USAGE),
        ]);
        let server = TestServer::start(script).await;
        let body = generation("code_suggestions/generations");
        let answer = post(&server, "/v4/code/suggestions", headers, &body).await;
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(said(&[]).await, "a");
    assert_eq!(said(&["x-lacuna-postprocess: none"]).await, "```py\na\n```");
}
