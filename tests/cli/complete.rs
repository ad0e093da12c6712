//! `lacuna complete`: places, files and servers that cannot be used, and one that answers.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use crate::{TempFile, lacuna, trained::Trained};

#[test]
fn places_outside_of_the_file_are_refused() {
    let file = TempFile::new("place.py", "é = 1\nb\n".as_bytes());
    let at = |line, column| {
        lacuna(
            &[
                "complete",
                file.path(),
                "--line",
                line,
                "--column",
                column,
                "--url",
                "http://127.0.0.1:1",
            ],
            &[],
        )
    };
    at("4", "1").is_refused_with("--line must be between 1 and 3, got 4");
    at("1", "7").is_refused_with("--column must be between 1 and 6 on line 1, got 7");
    at("0", "1").is_refused_with("--line must be between 1 and 3, got 0");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let run = lacuna(&["complete", "/nowhere/a.py", "--line", "1", "--column", "1"], &[]);
    run.is_refused_with("cannot read /nowhere/a.py: No such file or directory (os error 2)");
    let file = TempFile::new("latin1.py", b"# caf\xe9\n");
    let run = lacuna(&["complete", file.path(), "--line", "1", "--column", "1"], &[]);
    run.is_refused_with(&format!(
        "{} must be UTF-8: invalid utf-8 sequence of 1 bytes from index 5",
        file.path()
    ));
}

#[test]
fn an_adapter_answers_where_it_is_asked_for() {
    let trained = Trained::new(5);
    let adapters = format!("review={}", trained.path().display());
    let file = TempFile::new("adapted.py", b"def add(a, b):\n    \n");
    let complete = |more: &[&str]| {
        let place = ["complete", file.path(), "--line", "2", "--column", "5", "--max-tokens", "16"];
        lacuna(&[&place[..], &["--adapters", &adapters], more].concat(), &[])
    };
    let [plain, adapted] = [&[][..], &["--adapter", "review"]].map(complete);
    assert_eq!((plain.code, adapted.code), (Some(0), Some(0)), "{plain:?} {adapted:?}");
    assert_ne!(plain.stdout, adapted.stdout);
    complete(&["--adapter", "other"]).is_refused_with(
        "--adapter must be one of `model.adapters` (--adapters), which names review",
    );
}

#[test]
fn a_server_that_cannot_be_used_is_said() {
    let file = TempFile::new("server.py", b"a = \n");
    let ask = |url: &str| {
        lacuna(&["complete", file.path(), "--line", "1", "--column", "5", "--url", url], &[])
    };
    ask("https://a.example").is_refused_with(
        "--url must begin with http://, for this release speaks no TLS, got https://a.example",
    );
    // A port that was free a moment ago: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = ask(&format!("http://{address}"));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.starts_with(&format!("error: cannot reach {address}: ")), "{run:?}");
}

#[test]
fn the_answer_of_a_server_is_printed_to_the_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while !request.ends_with(b"}") {
            let len = stream.read(&mut chunk).unwrap();
            assert_ne!(len, 0, "the request was cut off");
            request.extend_from_slice(&chunk[..len]);
        }
        let body = r#"{"choices":[{"text":"len(x)\n  é"}]}"#;
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let file = TempFile::new("answer.py", b"n = \r\nprint(n)\r\n");
    let arguments = [
        "complete",
        file.path(),
        "--line",
        "1",
        "--column",
        "5",
        "--max-tokens",
        "7",
        "--model",
        "any name",
    ];
    let run = lacuna(&[&arguments[..], &["--url", &url]].concat(), &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "len(x)\n  é"), "{run:?}");
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{request}");
    let body = request.split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "prompt": "n = ", "suffix": "\r\nprint(n)\r\n", "temperature": 0, "max_tokens": 7, "model": "any name",
    });
    assert_eq!(body, expected);
}

/// The whole way, from a file to tokens and back, on the kernels of a GPU.
#[cfg(feature = "cuda-emulator")]
#[test]
fn the_emulated_gpu_completes_as_the_cpu_does() {
    let file = TempFile::new(
        "point.py",
        b"class Point:\n    def __init__(self, x, y):\n        self.x = x\n        self.\n",
    );
    let on = |device: &str| {
        let arguments = ["complete", file.path(), "--line", "4", "--column", "14"];
        lacuna(&arguments, &[("LACUNA_DEVICE", device)])
    };
    let (emulated, cpu) = (on("emulated"), on("cpu"));
    assert_eq!((emulated.code, cpu.code), (Some(0), Some(0)), "{emulated:?} {cpu:?}");
    assert!(!cpu.stdout.trim().is_empty());
    assert_eq!(emulated.stdout, cpu.stdout);
}

#[test]
fn two_ranks_complete_as_one_does() {
    let file = TempFile::new("ranks.py", b"def add(a, b):\n    \n\nprint(add(1, 2))\n");
    let complete = |num_ranks| {
        let arguments = ["complete", file.path(), "--line", "2", "--column", "5"];
        let options = ["--device", "cpu", "--tensor-parallel-size", num_ranks];
        let run = lacuna(&[&arguments[..], &options[..]].concat(), &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    };
    let text = complete("2");
    assert!(!text.trim().is_empty());
    assert_eq!(text, complete("1"));
}
