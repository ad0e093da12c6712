//! `lacuna serve` as a supervisor sees it: probes from the start, signals, exit codes.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
};

use crate::{TempFile, demo_model::DemoModel, trained::Trained};

/// Stands for a user's source text; no log line may hold it.
const MARKER: &str = "m4rk3r";

/// A running server that ends with its value.
pub(crate) struct Server {
    child: Child,
    pub(super) log: BufReader<ChildStderr>,
    pub(super) address: String,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    pub(super) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
            .args(["serve", "--port", "0", "--log-format", "json"])
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, log, address: String::new() };
        server.address = String::from(server.line("listening")["address"].as_str().unwrap());
        server
    }

    /// Reads the log up to the line with this message.
    pub(crate) fn line(&mut self, message: &str) -> serde_json::Value {
        self.line_where(message, |found| found == message)
    }

    /// Reads the log up to a line whose message has these words.
    pub(crate) fn line_of(&mut self, words: &str) -> serde_json::Value {
        self.line_where(words, |found| found.contains(words))
    }

    fn line_where(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the log has no {what}");
            assert!(!line.contains(MARKER), "source text in the log: {line}");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"].as_str().is_some_and(&is_it) {
                return line;
            }
        }
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Posts and returns the answer's status.
    fn post(&self, path: &str, body: &str) -> u16 {
        self.answer(path, body)[9..12].parse().unwrap()
    }

    /// Posts and returns the answer.
    pub(crate) fn answer(&self, path: &str, body: &str) -> String {
        self.answer_to(path, "", body)
    }

    /// Posts with further header lines and returns the answer.
    pub(super) fn answer_to(&self, path: &str, headers: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn answers_probes_and_ends_by_a_signal_while_the_model_loads() {
    let model = DemoModel::endless("loading");
    for name in ["TERM", "INT"] {
        let mut server = Server::start(&["--model", model.path()]);
        let ready = server.get("/monitoring/ready");
        let is_not = "\"ready\":false}";
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with(is_not), "{ready}");
        assert!(server.get("/monitoring/healthz").starts_with("HTTP/1.1 200 "));
        server.signal(name);
        assert_eq!(server.ended().code(), Some(0));
        let mut greeting = String::new();
        server.child.stdout.take().unwrap().read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "", "it never served");
    }
}

#[test]
fn a_second_signal_ends_the_drain() {
    let mut server = Server::start(&["--drain-timeout", "1h"]);
    server.line("serving");
    // A request whose body never comes holds the drain up.
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream
        .write_all(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    // The server asks for the body: the request is under way.
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    server.signal("TERM");
    assert_eq!(server.line("draining")["num_connections"], 1);
    server.signal("INT");
    server.line("a second signal: running requests are cut");
    assert_eq!(server.ended().code(), Some(0));
}

#[test]
fn a_model_that_does_not_load_ends_the_process() {
    let model = DemoModel::new("absent");
    std::fs::remove_file(model.0.join("tokenizer.json")).unwrap();
    let mut server = Server::start(&["--model", model.path()]);
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn a_chat_template_that_cannot_be_used_is_told_with_its_model() {
    let model = DemoModel::new("template");
    std::fs::write(model.0.join("chat_template.jinja"), "{% for %}").unwrap();
    let mut server = Server::start(&["--model", model.path(), "--served-model-name", "coder"]);
    let told = server.line("/v1/chat/completions will not answer");
    assert_eq!((&told["level"], &told["model"]), (&"WARN".into(), &"coder".into()));
    assert!(told["error"].as_str().unwrap().contains("line 1"), "{told}");
    server.line("serving");
}

#[test]
fn several_models_are_served_together_or_not_at_all() {
    let file = |second: &str| {
        let text = format!(
            "[[models]]\nsource = \"demo\"\nkv_cache_memory = \"64MiB\"\n[[models]]\nserved_name = \"b\"\n{second}"
        );
        TempFile::new(&format!("served-{}.toml", second.len()), text.as_bytes())
    };
    let two = file("source = \"demo\"\naliases = [\"tab\"]\n");
    let mut server = Server::start(&["--config", two.path()]);
    for name in ["demo", "b"] {
        assert_eq!(server.line("loaded")["model"], name);
    }
    assert_eq!(server.line("serving")["model"], "demo, b");
    assert!(server.get("/monitoring/ready").starts_with("HTTP/1.1 200 "));
    for (model, status) in [("demo", 200), ("b", 200), ("tab", 200), ("c", 404)] {
        let body = format!(r#"{{"model":"{model}","prompt":"a","max_tokens":1}}"#);
        assert_eq!(server.post("/v1/completions", &body), status, "{model}");
    }
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));

    let rows = [
        ("source = \"/no/such/model\"\n", "the model `b`: there is no folder or regular file"),
        (
            "source = \"demo\"\nmax_context_tokens = 4096\n",
            "the model `b`: `models[1].max_context_tokens` must be auto, or at most the model's own context (2048), got 4096",
        ),
        (
            "source = \"demo\"\nfim_middle = \"<mid>\"\n",
            "the model `b`: `models[1].fim_middle` must be one control token of the model's tokenizer, got",
        ),
        (
            "source = \"demo\"\nkv_cache_memory = \"16TiB\"\n",
            "once loaded and `models[1].kv_cache_memory` asks for 17592186044416, and",
        ),
    ];
    for (second, message) in rows {
        let file = file(second);
        let mut server = Server::start(&["--config", file.path()]);
        let mut rest = String::new();
        server.log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(message), "{rest}");
        assert!(!rest.contains("\"loaded\""), "nothing is loaded before all is planned: {rest}");
        assert_eq!(server.ended().code(), Some(1));
    }
}

#[test]
fn adapters_are_served_by_their_names_beside_their_model() {
    let trained = [3, 4].map(Trained::new);
    let [first, second] = trained.each_ref().map(|trained| trained.path().to_str().unwrap());
    let adapters = format!("review={first},docs={second}");
    let mut server = Server::start(&["--adapters", &adapters, "--served-model-aliases", "tab"]);
    assert_eq!(server.line("adapter")["adapter"], "review");
    server.line("serving");
    let body = server.get("/v1/models");
    let models: serde_json::Value =
        serde_json::from_str(body.split_once("\r\n\r\n").unwrap().1).unwrap();
    let word = |index: usize, key: &str| models["data"][index][key].clone();
    let rows: Vec<_> =
        (0..4).map(|index| ["id", "root", "parent"].map(|key| word(index, key))).collect();
    let null = || serde_json::Value::Null;
    let expected = [
        ["demo".into(), null(), null()],
        ["tab".into(), "demo".into(), null()],
        ["review".into(), null(), "demo".into()],
        ["docs".into(), null(), "demo".into()],
    ];
    assert_eq!(rows, expected);
    let text = |model: &str| {
        let body = format!(
            r#"{{"model":"{model}","prompt":"def add(a, b):\n","max_tokens":24,"temperature":0}}"#
        );
        let answer = server.answer("/v1/completions", &body);
        let json: serde_json::Value =
            serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(json["model"], if model == "tab" { "demo" } else { model });
        json["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let [plain, alias, review, docs] = ["demo", "tab", "review", "docs"].map(text);
    assert_eq!(plain, alias);
    assert!(plain != review && plain != docs && review != docs, "{plain} {review} {docs}");
    let gitlab = server.answer(
        "/v2/code/completions",
        r#"{"model_name":"docs","current_file":{"file_name":"a.py","content_above_cursor":"a","content_below_cursor":""}}"#,
    );
    assert!(gitlab.contains(r#""name":"docs""#), "{gitlab}");
    assert_eq!(text("review"), review);
}

#[test]
fn an_adapter_that_is_none_ends_the_process_with_its_name() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    let mut server = Server::start(&["--adapters", &format!("review={model}")]);
    let mut rest = String::new();
    server.log.read_to_string(&mut rest).unwrap();
    let message = "the adapter `review`: ";
    assert!(rest.contains(message) && rest.contains("is no adapter, for it has no"), "{rest}");
    assert_eq!(server.ended().code(), Some(1));
}

#[test]
fn every_request_leaves_one_line() {
    let mut server = Server::start(&["--max-body-size", "1KiB"]);
    server.line("serving");
    let large = "x".repeat(2000);
    let file = r#"{"current_file":{"file_name":"a.py","content_above_cursor":"a = ","content_below_cursor":""}}"#;
    let (openai, gitlab) = ("/v1/completions", "/v2/completions");
    // Path, body, status, outcome, prompts.
    let rows = [
        (openai, r#"{"prompt":["ab","cde"],"max_tokens":2}"#, 200, "ok", 2),
        (openai, r#"{"prompt":["ab","cde"],"max_tokens":2,"stream":true}"#, 200, "ok", 2),
        (openai, "{", 400, "invalid_request", 0),
        (openai, r#"{"prompt":"a","max_tokens":100000}"#, 400, "invalid_request", 1),
        (openai, r#"{"prompt":"a","model":"other"}"#, 404, "unknown_model", 0),
        (openai, large.as_str(), 413, "body_too_large", 0),
        (gitlab, file, 200, "ok", 1),
        (gitlab, "[]", 422, "invalid_request", 0),
        (gitlab, large.as_str(), 413, "body_too_large", 0),
    ];
    for (path, body, status, outcome, num_prompts) in rows {
        assert_eq!(server.post(path, body), status, "{body}");
        // Were there a second line of the request before, it would be read here and differ.
        let line = server.line("request");
        assert_eq!(line["outcome"], outcome, "{line}");
        assert_eq!(line["num_prompts"], num_prompts, "{line}");
        let endpoint = if path == openai { "openai.completions" } else { "gitlab.completions" };
        assert_eq!(line["endpoint"], endpoint);
        if num_prompts == 2 {
            assert_eq!((&line["prefix_chars"], &line["completion_tokens"]), (&5.into(), &4.into()));
        }
    }
    server.signal("TERM");
    let mut rest = String::new();
    server.log.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("lacuna::access"), "{rest}");
}

#[test]
fn who_is_refused_leaves_the_line_of_every_request() {
    let folder = tempfile::TempDir::new().unwrap();
    let keys = folder.path().join("keys");
    let hash = |key: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
        digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    };
    let line = format!(
        "ada:{} scopes=complete_code requests_per_minute=2\ngrace:{} scopes=generate_code\n",
        hash("key-of-ada"),
        hash("key-of-grace")
    );
    std::fs::write(&keys, line).unwrap();
    let mut server = Server::start(&["--api-keys-file", keys.to_str().unwrap()]);
    server.line("serving");
    let ada = "x-api-key: key-of-ada\r\n";
    let (openai, gitlab) = ("/v1/completions", "/v2/code/completions");
    let rows = [
        (gitlab, "", "401", "unauthenticated", None, "gitlab.completions"),
        ("/v1/models/x", "", "401", "unauthenticated", None, "other"),
        (
            gitlab,
            "x-api-key: key-of-grace\r\n",
            "403",
            "unauthorised",
            Some("grace"),
            "gitlab.completions",
        ),
        (gitlab, ada, "422", "invalid_request", Some("ada"), "gitlab.completions"),
        (openai, ada, "400", "invalid_request", Some("ada"), "openai.completions"),
        (openai, ada, "429", "rate_limited", Some("ada"), "openai.completions"),
    ];
    for (path, headers, status, outcome, key_name, endpoint) in rows {
        let answer = server.answer_to(path, headers, "[]");
        assert_eq!(&answer[9..12], status, "{path} {headers}");
        let line = server.line("request");
        assert_eq!((&line["outcome"], &line["endpoint"]), (&outcome.into(), &endpoint.into()));
        assert_eq!(line["key_name"].as_str(), key_name, "{line}");
        assert_eq!(line["status_code"].to_string(), status);
        let is_let_in = ["400", "422"].contains(&status);
        assert_eq!(line.get("auth_error_details").is_none(), is_let_in, "{line}");
    }
}

#[test]
fn settings_under_which_nothing_could_be_served_are_refused() {
    let rows = [
        (
            ["--max-choices", "8", "--max-num-queued", "4"],
            "`completion.max_choices` must be at most `engine.max_num_queued`, which is 4, got 8",
        ),
        (
            ["--max-tokens-default", "64", "--max-context-tokens", "64"],
            "`completion.max_tokens_default` must leave 16 tokens",
        ),
        (
            ["--tensor-parallel-size", "3", "--device", "cpu"],
            "`tensor_parallel_size` must be 1 or 2: a divisor of `num_key_value_heads` (2)",
        ),
    ];
    for (arguments, message) in rows {
        let mut server = Server::start(&arguments);
        let mut rest = String::new();
        server.log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(message), "{rest}");
        assert_eq!(server.ended().code(), Some(1));
    }
}

#[cfg(feature = "cuda-emulator")]
#[test]
fn a_gpu_refuses_what_it_cannot_compute_before_it_serves() {
    for (option, value, message) in [
        ("--kv-cache-dtype", "f32", "elements of the cache must be f16 on a GPU, got f32"),
        ("--block-size", "12", "`block_size` must be a multiple of 8 on a GPU, got 12"),
        ("--kv-cache-memory", "9GiB", "`engine.kv_cache_memory` asks for 9663676416"),
    ] {
        let mut server = Server::start(&["--device", "emulated", option, value]);
        let mut rest = String::new();
        server.log.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(message), "{rest}");
        assert_eq!(server.ended().code(), Some(1));
    }
}

#[test]
fn no_log_line_holds_source_text() {
    let mut server = Server::start(&["--log", "trace"]);
    server.line("serving");
    let gap = format!(
        r#"{{"prompt":"{MARKER} = ","suffix":"{MARKER}","max_tokens":4,"logprobs":1,"stop":"{MARKER}"}}"#
    );
    let file = format!(
        r#"{{"current_file":{{"file_name":"{MARKER}.py","content_above_cursor":"{MARKER}","content_below_cursor":""}},
            "context":[{{"type":"file","name":"{MARKER}","content":"{MARKER}"}}]}}"#
    );
    let rows = [
        ("/v1/completions", gap.clone(), 200),
        ("/v1/completions", gap.replace(":4,", ":\"4\","), 400),
        ("/v1/completions", format!(r#"{{"prompt":"{MARKER}"#), 400),
        ("/v1/completions", format!(r#"{{"prompt":{{"{MARKER}":1}}}}"#), 400),
        ("/v2/code/completions", file.clone(), 200),
        ("/v2/code/completions", file.replace("[{", "[[{"), 422),
    ];
    for (path, body, status) in rows {
        assert_eq!(server.post(path, &body), status, "{body}");
        server.line("request");
    }
    server.signal("TERM");
    server.line("draining");
    let mut rest = String::new();
    server.log.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains(MARKER), "{rest}");
}

#[test]
fn what_is_bypassed_and_what_means_nothing_is_told() {
    let model = DemoModel::endless("bypassed");
    let variables = [("AIGW_AUTH__BYPASS_EXTERNAL", "true"), ("AIGW_LOGGING__LEVEL", MARKER)];
    // This one ends by itself, so that its log can be read from the beginning.
    let run = crate::lacuna(&["--port", "0", "--model", "./absent"], &variables);
    let told =
        "variables of GitLab's AI Gateway that mean nothing here unused=\"AIGW_LOGGING__LEVEL\"";
    assert!(run.stderr.contains(told) && !run.stderr.contains(MARKER), "{}", run.stderr);
    let mut server = Server::start_with(&["--model", model.path()], &variables);
    let bypassed = server.line("authentication is bypassed");
    assert_eq!(
        (&bypassed["level"], &bypassed["switch"]),
        (&"WARN".into(), &"auth.bypass_external".into())
    );
}

#[test]
fn tokens_and_keys_are_not_logged() {
    let model = DemoModel::endless("secrets");
    let key = format!("ada:{}", "0f".repeat(32));
    let arguments = ["--model", model.path(), "--log", "trace"];
    let mut server = Server::start_with(&arguments, &[("LACUNA_API_KEYS", &key)]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(
        stream,
        "GET /v1/models HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {MARKER}\r\nx-api-key: {MARKER}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(server.line("refused")["auth_error"], "unknown_api_key");
}
