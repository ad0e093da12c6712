//! Requests as they are written, for each protocol: a file each, of a gap, of a text and of a conversation.

use std::{collections::BTreeMap, fs, path::Path};

use lacuna::completion::{CompletionRequest, ContextItem, Input, Language, SamplingParams};
use serde_json::{Value, json};

use crate::{
    rows::ROWS,
    stub::{Act, Stub},
    support::{chat, complete, gap, provider, request},
};

/// What no golden file is to hold: addresses, which change, and what every client writes.
const PASSED_OVER: &[&str] = &["host", "content-length", "accept", "user-agent", "content-type"];

fn requests() -> Vec<(&'static str, &'static str, CompletionRequest)> {
    let other = ContextItem { name: "shop/tax.py".to_owned(), content: "RATE = 0.2\n".to_owned() };
    let whole_sampling = SamplingParams {
        temperature: 0.5,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.05,
        repetition_penalty: 1.1,
        presence_penalty: 0.3,
        frequency_penalty: 0.4,
        logit_bias: Vec::new(),
        seed: Some(7),
    };
    vec![
        ("gap", "", gap("def add(a, b):\n    return ", "\n")),
        (
            "gap of several files, all that can be said",
            "headers = { x-team = \"editors\" }",
            CompletionRequest {
                context: vec![other],
                language: Language::detect("sum.py", None),
                sampling: whole_sampling,
                correlation_id: Some("abc-123".to_owned()),
                stop: Some(["a", "b", "c", "d", "e"].map(str::to_owned).to_vec()),
                logprobs: Some(2),
                ..gap("x <|fim_prefix|> y\n", "z [PREFIX]\n")
            },
        ),
        ("text", "", request(Input::Text("def add(".to_owned()))),
        ("whole", "streaming = false", gap("a", "")),
        ("conversation", "", chat()),
    ]
}

#[tokio::test]
async fn requests_are_written_as_the_golden_files_have_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/providers/golden");
    for row in ROWS {
        let whole = (row.whole)(1);
        let stub = Stub::start(move |asked| {
            if asked.path.starts_with("/computeMetadata/") {
                return Act::json(&json!({"access_token": "ya29", "expires_in": 3600}));
            }
            Act::json(&whole)
        })
        .await;
        let mut written = BTreeMap::new();
        for (name, more, request) in requests() {
            let far = provider(row, &stub, more);
            if complete(&far, request).await.is_err() {
                written.insert(name, Value::Null);
                continue;
            }
            let asked = stub.asked().pop().unwrap();
            let mut headers = asked.headers.clone();
            headers.retain(|name, _| !PASSED_OVER.contains(&name.as_str()));
            let body = asked.body();
            written.insert(name, json!({"path": asked.path, "headers": headers, "body": body}));
        }
        let written = serde_json::to_value(written).unwrap();
        let path = folder.join(format!("{}.json", row.protocol));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let golden: Value = serde_json::from_str(&text).unwrap_or_default();
        assert!(written == golden, "{} is not what is written:\n{written:#}", path.display());
    }
}
