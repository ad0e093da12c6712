//! `lacuna serve` over providers elsewhere, from the file of settings to an answer.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread::JoinHandle,
};

use serde_json::{Value, json};

use crate::{TempFile, lacuna, serve::Server};

/// A service that answers one request like an Ollama, and then ends; gives what it was asked.
fn service() -> (SocketAddr, JoinHandle<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut num_bytes) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(length) = line.to_lowercase().strip_prefix("content-length: ") {
                num_bytes = length.trim().parse().unwrap();
            }
            head.push_str(&line.to_lowercase());
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; num_bytes];
        reader.read_exact(&mut body).unwrap();
        let answer = json!({"response": "a + b", "done": true, "done_reason": "stop"}).to_string();
        let length = answer.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}"
        )
        .unwrap();
        (head, serde_json::from_slice(&body).unwrap())
    });
    (address, serving)
}

fn settings(name: &str, more: &str) -> TempFile {
    let text = format!(
        "[model]\nsource = \"none\"\n[[providers]]\nname = \"far\"\nserved_as = \"coder\"\nprotocol = \"ollama\"\nmodel = \"m\"\n{more}\n"
    );
    TempFile::new(name, text.as_bytes())
}

#[test]
fn a_provider_answers_under_its_name_without_a_model_here() {
    let (address, service) = service();
    let file = settings("far.toml", &format!("url = \"http://{address}\""));
    let mut server = Server::start(&["--config", file.path()]);
    assert_eq!(server.line("serving")["model"], "coder");
    assert!(server.get("/monitoring/ready").starts_with("HTTP/1.1 200 "));
    assert!(server.get("/v1/models").contains("\"id\":\"coder\""));
    let body = json!({"model": "coder", "prompt": "def add(a, b): return ", "suffix": "\n"});
    let answer = server.answer("/v1/completions", &body.to_string());
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"text\":\"a + b\""),
        "{answer}"
    );
    let (head, asked) = service.join().unwrap();
    assert_eq!((&asked["model"], &asked["suffix"]), (&json!("m"), &json!("\n")));
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    assert!(head.contains(&format!("x-request-id: {id}\r\n")), "{head}");
    // The service has ended: who asks again is told whose fault it is, and nothing of the text.
    let answer = server.answer("/v1/completions", &body.to_string());
    assert!(answer.contains("the provider `far` cannot be reached"), "{answer}");
    assert!(!answer.contains("def add"), "{answer}");
}

#[test]
fn a_table_that_cannot_be_used_is_refused_before_anything_starts() {
    let file = settings("bad.toml", "family = \"klingon\"");
    let rule = "`providers[0].family` must be one of qwen2.5-coder,";
    for arguments in [["check-config", file.path()].as_slice(), &["--config", file.path()]] {
        let run = lacuna(arguments, &[]);
        assert_eq!(run.code, Some(64), "{run:?}");
        assert!(run.stderr.contains(rule), "{run:?}");
    }
    // What only a protocol can tell stands in the file too.
    let file = TempFile::new("smoke.toml", b"[model]\nsource = \"none\"\n[[providers]]\nname = \"a\"\nmodel = \"m\"\nprotocol = \"smoke\"\n");
    for arguments in [["check-config", file.path()].as_slice(), &["--config", file.path()]] {
        let run = lacuna(arguments, &[]);
        assert_eq!(run.code, Some(64), "{run:?}");
        let place = format!("(at {}:6:1)", file.path());
        assert!(
            run.stderr.contains("`providers[0].protocol` must be") && run.stderr.contains(&place),
            "{run:?}"
        );
    }
    let good = settings("good.toml", "");
    let run = lacuna(&["check-config", good.path()], &[]);
    assert_eq!(run.stdout, format!("{}: ok\n", good.path()), "{run:?}");
}
