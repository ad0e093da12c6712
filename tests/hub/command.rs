//! The commands, as a shell sees them: `lacuna models`, and a server that pulls its model.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tokio::task::block_in_place;

use crate::fixture::{COMMIT, Hub, TOKEN, Trouble, hash, weights};
use crate::gguf_writer::{self, Value as GgufValue};

/// Returns a run of `lacuna` that finds the hub, and nothing else.
fn lacuna(hub: &Hub, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    command
        .args(arguments)
        .env_clear()
        .env("HF_HOME", hub.home.path())
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_TOKEN", TOKEN)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "{stdout}{stderr}");
        Self { code: output.status.code(), stdout, stderr }
    }
}

fn run(hub: &Hub, arguments: &[&str]) -> Run {
    block_in_place(|| lacuna(hub, arguments).output()).unwrap().into()
}

/// Runs what must succeed and returns its output.
#[track_caller]
fn output(hub: &Hub, arguments: &[&str]) -> String {
    let run = run(hub, arguments);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout
}

/// A hub that has the embedded model, as a repository with its card.
async fn with_demo() -> Hub {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    let names = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
    let files: Vec<_> =
        names.iter().map(|name| (*name, fs::read(format!("{folder}/{name}")).unwrap())).collect();
    let mut files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    files.push(("README.md", b"---\nlicense: mit\n---\n"));
    Hub::start(&files).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_prints_the_path_and_cached_lists_it() {
    let hub = Hub::with_model().await;
    let pulled = run(&hub, &["models", "pull", "org/name"]);
    assert_eq!(pulled.code, Some(0), "{}", pulled.stderr);
    let snapshot = hub.cached(&format!("snapshots/{COMMIT}"));
    assert_eq!(pulled.stdout, format!("{}\n", snapshot.display()));
    let has = |word: &str| pulled.stderr.contains(word);
    assert!(has("num_bytes_missing=1000010") && has("percent=100"), "{}", pulled.stderr);

    let table = output(&hub, &["models", "cached"]);
    assert!(table.contains("org/name  976.57 KiB  0123456789ab  main\n"), "{table}");
    let json: Value = serde_json::from_str(&output(&hub, &["models", "cached", "--json"])).unwrap();
    assert_eq!(json[0]["snapshots"][0]["files"].as_array().unwrap().len(), 3);
    let elsewhere = hub.home.path().join("empty");
    let elsewhere = elsewhere.to_str().unwrap();
    let none = output(&hub, &["models", "cached", "--hub-cache", elsewhere]);
    assert_eq!(none, format!("no models in {elsewhere}\n"));
    let homeless =
        block_in_place(|| lacuna(&hub, &["models", "cached"]).env_remove("HF_HOME").output());
    let homeless = Run::from(homeless.unwrap());
    assert_eq!(homeless.code, Some(1));
    assert!(homeless.stderr.contains("set HOME, HF_HOME or `hub.cache`"), "{}", homeless.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_is_told_by_code_and_message() {
    let hub = Hub::with_model().await;
    for name in ["./models", "demo", "org", "org/name@"] {
        let run = run(&hub, &["models", "pull", name]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(64), ""), "{name}: {}", run.stderr);
        // It was no option.
        let says = "error: the model's name must be org/name[@revision][:FILE], got ";
        assert_eq!(run.stderr, format!("{says}{name}\n"));
    }
    let inspected = run(&hub, &["models", "inspect", "org"]);
    assert_eq!(inspected.code, Some(64));
    let says = "error: the model's name must be demo, an existing folder, a GGUF file, or org/name with an optional \
                @revision and :FILE, got org\n";
    assert_eq!(inspected.stderr, says);
    hub.behaviour().listing = Some((403, "GatedRepo", ""));
    for command in [&["models", "pull", "org/name"][..], &["models", "inspect", "org/name"]] {
        let run = run(&hub, command);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("error: `org/name` is gated: accept"), "{}", run.stderr);
    }
    hub.seen();
    let offline = run(&hub, &["models", "pull", "--offline", "org/name"]);
    assert_eq!(offline.code, Some(1));
    assert!(offline.stderr.contains("`hub.offline`"), "{}", offline.stderr);
    assert_eq!(hub.seen(), []);
    hub.behaviour().listing = None;
    let path = output(&hub, &["models", "pull", "org/name"]);
    let again = run(&hub, &["models", "pull", "--offline", "org/name"]);
    assert_eq!((again.code, again.stdout), (Some(0), path));
    assert!(again.stderr.contains("it is there already, of commit"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_what_the_next_pull_goes_on_with() {
    let hub = Hub::with_model().await;
    hub.trouble([Trouble::Stall(600_000)]);
    let mut child = lacuna(&hub, &["models", "pull", "org/name"]).spawn().unwrap();
    let part = hub.cached(&format!("blobs/{}.incomplete", hash("model.safetensors", &weights())));
    block_in_place(|| {
        // A log line after the first bytes, of which the rest never follows.
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("percent=") && !line.contains("percent=0")));
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let stderr: Vec<_> = lines.collect();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{stderr:?}");
        let says = "`lacuna models pull org/name@main` goes on from there";
        assert!(stderr.iter().any(|line| line.contains(says)), "{stderr:?}");
    });
    let kept = fs::metadata(&part).unwrap().len();
    assert!((1..=600_000).contains(&kept), "{kept}");
    hub.seen();
    output(&hub, &["models", "pull", "org/name"]);
    let range = format!("bytes={kept}-");
    assert!(hub.seen().iter().any(|request| request.range.as_ref() == Some(&range)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_may_not_grow_is_told_and_what_came_of_it_is_kept() {
    let hub = Hub::with_model().await;
    // A shell counts blocks of 512 or 1024 bytes, either of which are fewer than the file's; a write past them would else
    // end the process by a signal.
    let limited = "trap '' XFSZ && ulimit -f 900 && exec \"$0\" \"$@\"";
    let mut command = lacuna(&hub, &[]);
    let limited = block_in_place(|| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", limited, env!("CARGO_BIN_EXE_lacuna"), "models", "pull", "org/name"]);
        shell.env_clear();
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap());
        }
        shell.output().unwrap()
    });
    command.args(["models", "pull", "org/name"]);
    let limited = Run::from(limited);
    assert_eq!((limited.code, limited.stdout.as_str()), (Some(1), ""), "{}", limited.stderr);
    let part = hub.cached(&format!("blobs/{}.incomplete", hash("model.safetensors", &weights())));
    let says = format!("error: {} cannot become larger: the file system", part.display());
    assert!(limited.stderr.contains(&says), "{}", limited.stderr);
    let kept = fs::metadata(&part).unwrap().len();
    assert!((1..=900 * 1024).contains(&kept), "{kept}");
    hub.seen();
    let again = Run::from(block_in_place(|| command.output()).unwrap());
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    let range = format!("bytes={kept}-");
    assert!(hub.seen().iter().any(|request| request.range.as_ref() == Some(&range)), "{range}");
}

/// A server that ends with its value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_pulls_its_model_and_needs_no_hub_afterwards() {
    let hub = with_demo().await;
    block_in_place(|| {
        let arguments = ["serve", "--model", "org/name", "--port", "0"];
        let mut server = Server(lacuna(&hub, &arguments).spawn().unwrap());
        let greeting = BufReader::new(server.0.stdout.take().unwrap()).lines().next();
        assert!(greeting.unwrap().unwrap().contains("org/name"));
    });
    hub.seen();
    let file = hub.home.path().join("main.rs");
    fs::write(&file, "fn main() {\n    prin\n}\n").unwrap();
    let file = file.to_str().unwrap();
    let place = ["complete", file, "--line", "2", "--column", "9", "--model", "org/name"];
    let completed = output(&hub, &[&place[..], &["--max-tokens", "4"]].concat());
    assert!(!completed.is_empty());
    assert_eq!(hub.seen(), [], "the model is there, so nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_models_all_are_asked_about_before_the_first_is_pulled() {
    let hub = with_demo().await;
    let file = hub.home.path().join("lacuna.toml");
    let tables = "[[models]]\nsource = \"org/name\"\n[[models]]\nsource = \"org/name@absent\"\n";
    fs::write(&file, format!("{tables}served_name = \"second\"\n")).unwrap();
    let refused = run(&hub, &["serve", "--config", file.to_str().unwrap(), "--port", "0"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("absent"), "{}", refused.stderr);
    let paths: Vec<String> = hub.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/api/models/org/name/revision/absent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_loads_a_model_pulls_it_unless_it_is_offline() {
    let hub = with_demo().await;
    let place = ["complete", "-", "--line", "1", "--column", "1", "--model", "org/name"];
    let offline = run(&hub, &[&place[..], &["--offline"]].concat());
    assert_eq!(offline.code, Some(1));
    assert!(offline.stderr.contains("turn that off, or copy the cache"), "{}", offline.stderr);
    assert_eq!(hub.seen(), []);
    let online = run(&hub, &[&place[..], &["--max-tokens", "1"]].concat());
    assert_eq!(online.code, Some(0), "{}", online.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_reads_headers_and_says_where_the_model_fits() {
    let hub = with_demo().await;
    let text = output(&hub, &["models", "inspect", "org/name"]);
    let of_network = hub.seen().into_iter().filter(|request| !request.is_endpoint);
    let ranges: Vec<_> = of_network.map(|request| request.range.unwrap()).collect();
    assert_eq!(ranges, ["bytes=0-65535"]);
    assert!(!hub.cached("").exists(), "nothing was cached");
    for line in [
        format!("model         org/name, commit {COMMIT}"),
        "architecture  Qwen2ForCausalLM".to_owned(),
        "licence       mit".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    output(&hub, &["models", "pull", "org/name"]);
    let json = |name: &str| -> Value {
        serde_json::from_str(&output(&hub, &["models", "inspect", "--json", name])).unwrap()
    };
    let (cached, demo) = (json("org/name"), json("demo"));
    let folder = json(hub.cached(&format!("snapshots/{COMMIT}")).to_str().unwrap());
    for (key, value) in demo.as_object().unwrap() {
        if !["model", "licence", "fim"].contains(&key.as_str()) {
            assert_eq!((&cached[key], &folder[key]), (value, value), "{key}");
        }
    }
    assert_eq!(cached["licence"], "mit");
    assert_eq!(cached["fim"]["family"], "qwen2.5-coder");
    assert_eq!(demo["fim"]["family"], "lacuna-demo");
    assert_eq!(cached["num_parameters"].as_u64().map(|count| count / 1_000_000), Some(8));
    let cards = cached["cards"].as_array().unwrap();
    assert_eq!(cards.len(), 5);
    assert!(cards.iter().all(|card| card["context_tokens_stored"] == cached["context_tokens"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn inspect_fetches_as_much_of_a_gguf_file_as_its_header_takes() {
    let mut writer = gguf_writer::demo_bf16();
    let first = Some("bytes=0-8388607");
    // Behind the second request the file is whole.
    for (has_long_header, ranges) in [(false, &[first][..]), (true, &[first, None])] {
        if has_long_header {
            writer.set("general.description", GgufValue::Text("x".repeat(9 << 20)));
        }
        let file = writer.finish();
        let hub = Hub::start(&[("coder-bf16.gguf", &file), ("coder-q4_0.gguf", b"other")]).await;
        let json = output(&hub, &["models", "inspect", "--json", "org/name:BF16"]);
        let found: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(found["weights"][0]["cpu"]["types"], "bf16");
        let seen = hub.seen();
        let of_network = seen.iter().filter(|request| !request.is_endpoint);
        let asked: Vec<_> = of_network.map(|request| request.range.as_deref()).collect();
        assert_eq!(asked, ranges);
    }
    // What no more bytes would mend is refused at once.
    writer.set("general.architecture", GgufValue::Text("bert".to_owned()));
    writer.set("general.description", GgufValue::Text("short".to_owned()));
    let mut file = writer.finish();
    file.resize(file.len().max(40 << 20), 0);
    let hub = Hub::start(&[("bert.gguf", &file)]).await;
    let refused = run(&hub, &["models", "inspect", "org/name"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("bert"), "{}", refused.stderr);
    let seen = hub.seen();
    let of_network = seen.iter().filter(|request| !request.is_endpoint);
    let asked: Vec<_> = of_network.map(|request| request.range.as_deref()).collect();
    assert_eq!(asked, [first]);
}
