//! `lacuna bench`: results, refusals, and a server that is not there.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use crate::{Run, TempFile, USAGE, lacuna};

fn bench(arguments: &[&str]) -> Run {
    lacuna(&[&["bench"], arguments].concat(), &[])
}

#[test]
fn the_engine_is_measured() {
    let arguments = ["engine", "--model", "demo", "--prompt-tokens", "64", "--gen-tokens", "8"];
    let few =
        ["--batch", "1,3", "--repeat", "2", "--threads", "1", "--max-num-batched-tokens", "32"];
    let besides = ["--prefill", "40", "--format", "json"];
    let run = bench(&[&arguments[..], &few, &besides].concat());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&report["schema"], &report["bench"]), (&1.into(), &"engine".into()));
    let circumstances = &report["run"];
    assert_eq!(circumstances["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(circumstances["is_complete"], true);
    for member in ["commit", "date", "command", "simd"] {
        assert!(!circumstances[member].as_str().unwrap().is_empty(), "{member}");
    }
    let result = &report["result"];
    assert_eq!((&result["model"]["name"], &result["num_threads"]), (&"demo".into(), &1.into()));
    assert!(result["load_seconds"].as_f64().unwrap() > 0.0);
    assert!(result["bandwidth"]["bytes_per_second"]["max"].as_f64().unwrap() > 1e8);
    let batches = result["batches"].as_array().unwrap();
    for (batch, num_sequences) in batches.iter().zip([1, 3]) {
        assert_eq!(batch["batch"], num_sequences);
        let (prefill, decode) = (&batch["prefill"], &batch["decode"]);
        assert_eq!(
            (&prefill["num_tokens"], &prefill["num_steps"]),
            (&(64 * num_sequences).into(), &(2 * num_sequences).into())
        );
        assert_eq!(decode["num_tokens"], 8 * num_sequences);
        assert_eq!(decode["tokens_per_second"]["samples"].as_array().unwrap().len(), 2);
        assert!(decode["bandwidth_fraction"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(batches.len(), 2);
    let [prefill] = &result["prefills"].as_array().unwrap()[..] else { panic!("{report}") };
    let numbers = (&prefill["prompt_tokens"], &prefill["prefill"]["num_steps"]);
    assert_eq!(numbers, (&40.into(), &2.into()));
    assert!(prefill["cached"]["step_seconds"]["median"].as_f64().unwrap() > 0.0);
    assert!(result["ready_seconds"].as_f64() > result["load_seconds"].as_f64());
    assert!(result["device_memory"].is_null(), "a CPU computes in the host's memory");
    let command = circumstances["command"].as_str().unwrap();
    assert!(command.contains(" --batch 1,3 --prefill 40 --repeat 2 "), "{command}");
}

#[test]
fn random_weights_compute_like_others_and_tables_fit_a_terminal() {
    let arguments = ["engine", "--random-weights", "demo", "--prompt-tokens", "16"];
    let few = ["--gen-tokens", "2", "--batch", "1", "--repeat", "1"];
    let run = bench(&[&arguments[..], &few, &["--prefill", "20"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("\n20 "), "{}", run.stdout);
    assert!(run.stdout.contains("demo (random weights), bf16, 8."), "{}", run.stdout);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 100), "{}", run.stdout);

    let quantized = ["--quantize", "int8", "--threads", "1", "--format", "json"];
    let run = bench(&[&arguments[..], &few, &quantized].concat());
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["result"]["model"]["weight_format"], "int8");
    let command = report["run"]["command"].as_str().unwrap();
    assert!(command.ends_with("--threads 1 --quantize int8"), "{command}");

    let slow = ["--cpu-simd", "scalar", "--kv-cache-dtype", "f32", "--format", "json"];
    let run = bench(&[&arguments[..], &few, &slow].concat());
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["run"]["simd"], "scalar");
    assert_eq!(report["result"]["model"]["kv_cache_dtype"], "f32");
    let command = report["run"]["command"].as_str().unwrap();
    assert!(command.ends_with(" --kv-cache-dtype f32 --cpu-simd scalar"), "{command}");
}

#[test]
fn the_memory_is_measured_into_a_file() {
    let file = TempFile::new("bandwidth.json", b"");
    let run = bench(&[
        "bandwidth",
        "--mib",
        "4",
        "--threads",
        "1,2",
        "--format",
        "json",
        "--output",
        file.path(),
    ]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    let report: Value = serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap();
    assert_eq!(report["run"]["command"], "lacuna bench bandwidth --threads 1,2 --mib 4");
    let threads = report["result"]["threads"].as_array().unwrap();
    assert_eq!((threads.len(), &threads[1]["num_threads"]), (2, &2.into()));
}

#[test]
fn every_operator_of_a_shape_is_measured() {
    let small = ["--shape", "demo", "--batch", "1", "--prefill", "8", "--context", "32"];
    let quick = ["--rotate-mib", "1", "--min-ms", "1", "--repeat", "2", "--threads", "1"];
    let run = bench(&[&["kernels", "--format", "json"], &small[..], &quick].concat());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let result = &report["result"];
    assert!(result["ceilings"]["flops_per_second"].as_f64().unwrap() > 1e8);
    for operator in result["operators"].as_array().unwrap() {
        assert_eq!(operator["seconds"]["samples"].as_array().unwrap().len(), 2);
        assert!(operator["fraction"].as_f64().unwrap() > 0.0, "{operator}");
    }
    let one = ["--only", "attention 1 decodes"];
    let run = bench(&[&["kernels", "--format", "json"], &small[..], &quick, &one].concat());
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let operators = report["result"]["operators"].as_array().unwrap();
    assert!(operators.len() == 1 && operators[0]["operator"] == "attention", "{operators:?}");
    let command = report["run"]["command"].as_str().unwrap();
    assert!(command.contains(r#" --only "attention 1 decodes" "#), "{command}");
    let run = bench(&[&["kernels", "--only", "attend"], &small[..], &quick].concat());
    assert_eq!(run.code, Some(USAGE), "{run:?}");
    assert!(run.stderr.contains("name, got attend"), "{run:?}");
    let run = bench(&[&["kernels"], &small[..], &quick].concat());
    assert!(run.stdout.contains("feed_forward: gate, up"), "{}", run.stdout);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 100), "{}", run.stdout);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let empty = TempFile::new("empty.rs", b"\n  \n");
    let long = ["engine", "--prompt-tokens", "2000", "--gen-tokens", "100"];
    let url = ["--url", "http://127.0.0.1:1"];
    let line_start = ["keystrokes", "--client", "line-start", empty.path(), url[0], url[1]];
    let rows: &[(&[&str], &str)] = &[
        (&["kernels", "--shape", "gpt"], "--shape must be one of demo, qwen2.5-coder-0.5b"),
        (
            &["engine", "--random-weights", "gpt"],
            "--random-weights must be one of demo, qwen2.5-coder-0.5b",
        ),
        (&long, "--prompt-tokens and --gen-tokens must be at most 2048 together"),
        (&["engine", "--model", "demo", "--prefill", "9,3000"], "--prefill must be at most 2048"),
        (&["serve", "--url", "https://a.example"], "speaks no TLS"),
        (&["keystrokes", empty.path(), url[0], url[1]], "the file has no text from line 2 on"),
        (
            &["keystrokes", empty.path(), "--start", "9", url[0], url[1]],
            "--start must be a line between 1 and 2",
        ),
        (&["serve", url[0], url[1], "--prompt-file", empty.path()], "has no text"),
        (&["keystrokes", "/nowhere.rs", url[0], url[1]], "cannot read /nowhere.rs"),
        (&line_start, "--client line-start needs --dialect infill"),
        (&["bandwidth", "--output", "/nowhere/a.json"], "cannot write to /nowhere/a.json"),
        (&["serve", url[0], url[1], "--rate", "0"], "from 0.001"),
        (&["serve", url[0], url[1], "--clients", "0"], "0 is not in 1..=4096"),
        (&["engine", "--batch", "1,0"], "0 is not in 1..=1024"),
        (&["engine", "--model", "demo", "--random-weights", "demo"], "cannot be used with"),
        (&["keystrokes", empty.path()], "--url"),
    ];
    for (arguments, message) in rows {
        let run = bench(arguments);
        assert_eq!(run.code, Some(USAGE), "{run:?}");
        assert!(run.stderr.contains(message), "{message} is not in {}", run.stderr);
    }
}

#[test]
fn a_server_that_is_away_is_said_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let file = TempFile::new("typed.rs", b"fn a() {}\n");
    for arguments in [vec!["serve"], vec!["serve", "--rate", "5"], vec!["keystrokes", file.path()]]
    {
        let run = bench(&[&arguments[..], &["--url", &url]].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert!(run.stderr.starts_with(&format!("error: cannot reach {address}: ")), "{run:?}");
    }
}

/// An answer of one token.
const ONE_TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
/// A refusal that may pass.
const BUSY: &str =
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Reads a request and answers it; without an answer waits for the client to go.
fn answer(mut stream: TcpStream, bytes: &str) {
    let (mut request, mut chunk) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"}") {
        let len = stream.read(&mut chunk).unwrap();
        if len == 0 && bytes.is_empty() {
            return;
        }
        assert_ne!(len, 0, "the request was cut off");
        request.extend_from_slice(&chunk[..len]);
    }
    stream.write_all(bytes.as_bytes()).unwrap();
    while bytes.is_empty() && stream.read(&mut chunk).is_ok_and(|len| len > 0) {}
}

/// Answers the first request with one token, and takes the second without a word.
fn answer_one(listener: &TcpListener, second_came: &mpsc::Sender<()>) {
    answer(listener.accept().unwrap().0, ONE_TOKEN);
    let (second, _) = listener.accept().unwrap();
    second_came.send(()).unwrap();
    answer(second, "");
}

/// Measures a server that gives these answers, a connection each.
fn bench_against(answers: &[&'static str], arguments: &[&str]) -> Run {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = answers.to_vec();
    let server = thread::spawn(move || {
        for bytes in answers {
            answer(listener.accept().unwrap().0, bytes);
        }
    });
    let run = bench(&[arguments, &["--url", &url, "--format", "json"]].concat());
    server.join().unwrap();
    run
}

#[test]
fn what_was_measured_before_a_signal_is_written() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(["bench", "serve", "--url", &url, "--requests", "2", "--format", "json"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (second_came, came) = mpsc::channel();
    let server = thread::spawn(move || answer_one(&listener, &second_came));
    came.recv().unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    server.join().unwrap();
    let run = Run::of(output);
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (Some(1), "error: stopped early: the result is a part\n")
    );
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["run"]["is_complete"], false);
    let result = &report["result"];
    assert_eq!(
        (&result["requests"]["succeeded"], &result["tokens"]["completion"]),
        (&1.into(), &1.into())
    );
    assert_eq!(result["tokens"]["counted_by"], "pieces");
}

#[test]
fn failures_are_written_and_are_an_exit_code() {
    let file = TempFile::new("failures.rs", b"fn a() {}\n");
    let serve = ["serve", "--requests", "3"];
    let keys = ["keystrokes", "--keys", "3", "--start", "1", file.path()];
    let fast = [&keys[..], &["--interval-ms", "40"]].concat();
    let rows: [(&[&str], [&'static str; 3], &str); 6] = [
        (&serve, [ONE_TOKEN; 3], ""),
        (&serve, [ONE_TOKEN, BUSY, ONE_TOKEN], "1 of 3 requests failed: status_503 1"),
        (&serve, [BUSY; 3], "3 of 3 requests failed: status_503 3"),
        (&keys, [ONE_TOKEN; 3], ""),
        (&keys, [BUSY, ONE_TOKEN, BUSY], "2 of 3 keys failed: status_503 2"),
        (
            &fast,
            [""; 3],
            "none of 3 keys was answered before the next; a longer --interval-ms waits",
        ),
    ];
    for (arguments, answers, message) in rows {
        let run = bench_against(&answers, arguments);
        let stderr = if message.is_empty() { String::new() } else { format!("error: {message}\n") };
        assert_eq!((run.code, &run.stderr), (Some(i32::from(!message.is_empty())), &stderr));
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(report["result"]["samples"].as_array().unwrap().len(), 3, "{arguments:?}");
    }
    for command in ["serve", "keystrokes"] {
        let help = bench(&[command, "--help"]).stdout;
        assert!(help.contains("Exit codes: 0 all were answered; 1 some or all failed"), "{help}");
    }
}

/// A folder that goes away with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lacuna-cli-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const QUICK: [&str; 6] = ["--threads", "1", "--mib", "1", "--format", "json"];

#[test]
fn an_earlier_result_stays_until_the_new_one_is_whole() {
    let folder = Folder::new("earlier");
    let result = folder.path("result.json");
    fs::write(&result, "earlier").unwrap();
    fs::set_permissions(&result, fs::Permissions::from_mode(0o640)).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    for output in [&result, &folder.path("new.json")] {
        let run = bench(&["serve", "--url", &url, "--output", output]);
        assert_eq!(run.code, Some(1), "{run:?}");
    }
    assert_eq!(folder.names(), ["result.json"]);
    assert_eq!(fs::read_to_string(&result).unwrap(), "earlier");

    // A file that may hold nothing is what a full disk looks like.
    let full = "ulimit -f 0; trap '' 25; exec \"$0\" bench bandwidth \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", full, env!("CARGO_BIN_EXE_lacuna")]).args(QUICK);
    let run = Run::of(command.args(["--output", &result]).output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.starts_with(&format!("error: cannot write to {result}: ")), "{run:?}");
    assert_eq!(folder.names(), ["result.json"]);
    assert_eq!(fs::read_to_string(&result).unwrap(), "earlier");

    let run = bench(&[&["bandwidth", "--output", &result], &QUICK[..]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(folder.names(), ["result.json"]);
    assert_eq!(fs::metadata(&result).unwrap().permissions().mode() & 0o777, 0o640);
    serde_json::from_slice::<Value>(&fs::read(&result).unwrap()).unwrap();
}

#[test]
fn pipes_and_links_are_written_to_where_they_are() {
    let folder = Folder::new("in-place");
    let (file, link, pipe) = (folder.path("file"), folder.path("link"), folder.path("pipe"));
    fs::write(&file, "earlier, and longer than the result ".repeat(1000)).unwrap();
    symlink(&file, &link).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    let mut results = Vec::new();
    for output in [&link, &pipe, "/dev/stdout"] {
        let run = bench(&[&["bandwidth", "--output", output], &QUICK[..]].concat());
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        results.push(run.stdout.into_bytes());
    }
    results.extend([fs::read(&file).unwrap(), reader.join().unwrap()]);
    for (result, is_empty) in results.iter().zip([true, true, false, false, false]) {
        assert_eq!(result.is_empty(), is_empty);
        assert!(is_empty || serde_json::from_slice::<Value>(result).is_ok());
    }
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(folder.names(), ["file", "link", "pipe"]);

    for output in [folder.path("folder/"), folder.path(".")] {
        let run = bench(&["bandwidth", "--output", &output]);
        assert_eq!(run.code, Some(USAGE), "{run:?}");
    }
}
