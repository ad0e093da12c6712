//! `lacuna serve` while its model loads, and where it never does: the routes have somebody else.

use crate::{TempFile, demo_model::DemoModel, serve::Server};

const GAP: &str = r#"{"model": "large", "prompt": "a = 1\nb = ", "suffix": "\n", "max_tokens": 4}"#;

/// Settings of a model `large`, behind which another server stands.
fn settings(name: &str, model: &DemoModel, away: &Server, more: &str) -> TempFile {
    let (folder, address) = (model.path(), away.address());
    let text = format!(
        r#"
        {more}
        [model]
        source = "{folder}"
        served_name = "large"
        [routing]
        completion_deadline = "30s"
        [[providers]]
        name = "away"
        protocol = "openai-completions"
        url = "http://{address}/v1"
        model = "demo"
        fim = "suffix"
        [[routes]]
        name = "all"
          [[routes.targets]]
          target = "large"
          [[routes.targets]]
          target = "away"
        "#
    );
    TempFile::new(name, text.as_bytes())
}

fn away() -> Server {
    let mut away = Server::start(&["--metrics-address", "off"]);
    away.line("serving");
    away
}

/// Returns the model in the line of the next completion.
fn answered_by(server: &mut Server) -> String {
    loop {
        let line = server.line("request");
        if let Some(model) = line["model_name"].as_str() {
            return model.to_owned();
        }
    }
}

#[test]
fn another_answers_while_the_model_loads_and_the_model_once_it_has() {
    let (model, away) = (DemoModel::endless("fallback"), away());
    let file = settings("fallback.toml", &model, &away, "");
    let mut server = Server::start(&["--config", file.path(), "--metrics-address", "off"]);
    assert!(server.get("/monitoring/ready").starts_with("HTTP/1.1 200 "));
    assert!(!server.get("/v1/models/large").contains("capabilities"), "nothing is known of it");
    let answer = server.answer("/v1/completions", GAP);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"text\":"), "{answer}");
    assert_eq!(answered_by(&mut server), "away");

    model.end();
    server.line("serving");
    assert!(server.get("/v1/models/large").contains("\"fim\":true"));
    assert!(server.answer("/v1/completions", GAP).starts_with("HTTP/1.1 200 "));
    assert_eq!(answered_by(&mut server), "large");
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));
}

/// One model that does not load takes none with it, and another of this machine may be the one that answers.
#[test]
fn a_model_that_does_not_load_leaves_the_others_alone() {
    let model = DemoModel::new("sibling");
    std::fs::remove_file(model.0.join("tokenizer.json")).unwrap();
    let folder = model.path();
    for (first, second) in [(folder, "demo"), ("demo", folder)] {
        let [first_name, second_name] =
            [first, second].map(|source| if source == "demo" { "small" } else { "large" });
        let text = format!(
            r#"
            [[models]]
            source = "{first}"
            served_name = "{first_name}"
            [[models]]
            source = "{second}"
            served_name = "{second_name}"
            [[routes]]
            name = "all"
            models = ["large"]
              [[routes.targets]]
              target = "large"
              [[routes.targets]]
              target = "small"
            "#
        );
        let file = TempFile::new("sibling.toml", text.as_bytes());
        let mut server = Server::start(&["--config", file.path(), "--metrics-address", "off"]);
        assert_eq!(server.line_of("a model could not be loaded")["model"], "large");
        assert_eq!(server.line("serving")["model"], "small", "what is not there is not named");
        assert!(!server.get("/v1/models/large").contains("capabilities"));
        let answer = server.answer("/v1/completions", GAP);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(answered_by(&mut server), "small");
    }
}

#[test]
fn another_answers_where_the_model_does_not_load_unless_the_process_is_to_end() {
    let (model, away) = (DemoModel::new("broken"), away());
    std::fs::remove_file(model.0.join("tokenizer.json")).unwrap();
    let file = settings("broken.toml", &model, &away, "");
    let mut server = Server::start(&["--config", file.path(), "--metrics-address", "off"]);
    let told = server.line_of("a model could not be loaded");
    assert_eq!(told["level"], "ERROR");
    assert!(told["reason"].as_str().unwrap().contains("tokenizer"), "{told}");
    server.line("serving");
    for _ in 0..2 {
        let answer = server.answer("/v1/completions", GAP);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));

    let file = settings("exit.toml", &model, &away, "server.engine_failure = \"exit\"");
    let mut server = Server::start(&["--config", file.path(), "--metrics-address", "off"]);
    assert_eq!(server.ended().code(), Some(1));
}
