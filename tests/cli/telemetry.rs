//! Stored telemetry as an operator has it: through crashes and restarts, in reports, in refusals at the start.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{collector::Collector, lacuna, serve::Server};

const GAP: &str = r#"{"prompt":"def f(","suffix":"\n","max_tokens":2,"ignore_eos":true}"#;

fn start(store: &str) -> Server {
    let mut server =
        Server::start_with(&["--metrics-address", "off"], &[("LACUNA_TELEMETRY_STORE", store)]);
    server.line("serving");
    server
}

/// Tells events on a connection, and returns the body of the answer; `None` where none came.
fn tell(stream: &mut TcpStream, body: &str) -> Option<String> {
    let length = body.len();
    let head = format!(
        "POST /v1/telemetry/events HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        // Its length is told, and its answer is an object without another in it.
        if text.ends_with('}') && text.contains("\r\n\r\n") {
            assert!(text.starts_with("HTTP/1.1 200"), "{text}");
            return text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        }
    }
}

fn events(ids: &[String]) -> String {
    let event = |id: &String| format!(r#"{{"type":"shown","completion_id":"{id}"}}"#);
    let events: Vec<String> = ids.iter().map(event).collect();
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}

/// Returns the ids of all events, by a reader of its own.
fn stored(path: &str) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut question = connection.prepare("SELECT completion_id FROM lacuna_events").unwrap();
    let ids = question.query_map([], |row| row.get(0)).unwrap();
    ids.map(Result::unwrap).collect()
}

/// Tells events over several connections until the process is killed among them; returns the ids that were answered.
fn tell_until_killed(server: &Server, life: usize) -> Vec<String> {
    const CONNECTIONS: usize = 8;
    const EVENTS: usize = 100;
    const BEFORE_THE_END: usize = 3000;
    let acknowledged: Mutex<Vec<String>> = Mutex::default();
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                for round in 0.. {
                    let id = |n| format!("{life}-{connection}-{round}-{n}");
                    let ids: Vec<String> = (0..EVENTS).map(id).collect();
                    let Some(_) = tell(&mut stream, &events(&ids)) else { return };
                    let mut all = acknowledged.lock().unwrap();
                    let was_enough = all.len() >= BEFORE_THE_END;
                    all.extend(ids);
                    let is_enough = all.len() >= BEFORE_THE_END;
                    drop(all);
                    // The others go on meanwhile, so that it dies in the middle of what they tell.
                    if is_enough && !was_enough {
                        server.signal("KILL");
                    }
                }
            });
        }
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn no_acknowledged_event_is_lost_when_the_process_is_killed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("telemetry.db");
    let path = path.to_str().unwrap();
    let mut acknowledged = Vec::new();
    for life in 0..4 {
        // Each goes on with what is there.
        let mut server = start(path);
        acknowledged.extend(tell_until_killed(&server, life));
        assert!(!server.ended().success());
        let found = stored(path);
        let once: BTreeSet<&String> = found.iter().collect();
        assert_eq!(once.len(), found.len(), "an event is there twice");
        let num_lost = acknowledged.iter().filter(|id| !once.contains(id)).count();
        assert_eq!(num_lost, 0, "of {} in life {life}", acknowledged.len());
    }
    // Who is not sure whether it was heard may say it again.
    let server = start(path);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let answer = tell(&mut stream, &events(&acknowledged[..100])).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["stored"], &answer["duplicates"]), (&0.into(), &100.into()));
}

#[test]
fn a_report_is_read_while_the_server_writes_and_all_is_written_when_it_ends() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("telemetry.db");
    let path = path.to_str().unwrap();
    let report = |more: &[&str]| {
        let arguments = [&["report", "--telemetry-store", path], more].concat();
        lacuna(&arguments, &[])
    };
    let run = report(&[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let missing = format!("error: there is no telemetry store at {path}: check the path");
    assert!(run.stderr.starts_with(&missing), "{}", run.stderr);

    let mut server = start(path);
    let run = report(&[]);
    assert!(run.stdout.starts_with("Nothing from "), "{run:?}");
    let answer = server.answer("/v1/completions", GAP);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let id = serde_json::from_str::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    tell(&mut stream, &events(std::slice::from_ref(&id))).unwrap();
    let json = |run: crate::Run| -> Value { serde_json::from_str(&run.stdout).unwrap() };
    let by_model = json(report(&["--format", "json", "--by", "model"]));
    assert_eq!(by_model["groups"][0]["name"], "demo", "{by_model}");
    assert_eq!(by_model["groups"][0]["shown"], 1);
    assert!(by_model["total"]["latency_p95_ms"].as_f64().unwrap() > 0.0, "{by_model}");
    // The last completion ends with the server, and is in the store when it has ended.
    drop(stream);
    server.answer("/v1/completions", GAP);
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0));
    let all = json(report(&["--format", "json", "--days", "2"]));
    assert_eq!(
        (&all["total"]["requests"], &all["total"]["acceptance_rate"]),
        (&2.into(), &0.0.into())
    );
    let csv = report(&["--format", "csv", "--by", "day"]).stdout;
    assert!(csv.starts_with("day,requests,unique_users,"), "{csv}");
    assert!(csv.lines().last().unwrap().starts_with("\"\",2,"), "{csv}");
    let none = report(&["--from", "2001-01-01", "--to", "2001-12-31"]).stdout;
    assert!(none.starts_with("Nothing from 2001-01-01 to 2001-12-31"), "{none}");
}

#[test]
fn what_cannot_be_reported_is_said() {
    let run = lacuna(&["report"], &[]);
    run.is_refused_with("no telemetry is kept: `telemetry.store` (--telemetry-store, LACUNA_TELEMETRY_STORE) is off; name a file or a database there and start the server with it");
    let run = lacuna(
        &["report", "--telemetry-store", "x", "--from", "2026-02-02", "--to", "2026-02-01"],
        &[],
    );
    run.is_refused_with("the first day must not be after the last, got 2026-02-02 and 2026-02-01");
    for arguments in [
        &["--from", "yesterday"][..],
        &["--by", "user"],
        &["--days", "0"],
        &["--days", "3", "--to", "2026-01-01"],
    ] {
        let run = lacuna(&[&["report", "--telemetry-store", "x"], arguments].concat(), &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(crate::USAGE), ""), "{run:?}");
    }
}

#[test]
fn a_store_that_cannot_be_used_ends_the_start_and_its_password_is_shown_nowhere() {
    let folder = TempDir::new().unwrap();
    let notes = folder.path().join("notes.txt");
    std::fs::write(&notes, "notes of somebody, for whom it would be a pity if they were gone")
        .unwrap();
    let run = lacuna(&["--port", "0", "--telemetry-store", notes.to_str().unwrap()], &[]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("`telemetry.store`: the telemetry store cannot be used"),
        "{}",
        run.stderr
    );

    let url = "postgres://ada:s3cret@127.0.0.1:port/db";
    let variable = [("LACUNA_TELEMETRY_STORE", url)];
    for command in [&["check-config"][..], &["--port", "0"], &["report"], &["print-config"]] {
        let run = lacuna(command, &variable);
        let is_print = command == ["print-config"];
        assert_eq!(run.code == Some(0), is_print, "{command:?} {run:?}");
        assert!(!run.stderr.contains("s3cret") && !run.stdout.contains("s3cret"), "{run:?}");
        assert!(is_print == run.stdout.contains("postgres://ada:***@127.0.0.1:port/db"), "{run:?}");
    }
    // A server that is away is no reason not to serve: completions come back without it.
    let server = start("postgres://ada:s3cret@127.0.0.1:1/db");
    let refused = server.answer("/v1/telemetry/events", r#"{"type":"shown","completion_id":"a"}"#);
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 5"), "{refused}");
    assert!(server.answer("/v1/completions", GAP).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_path_that_cannot_be_a_store_is_said_with_what_is_wrong_with_it() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("notes.txt"), "these are notes of somebody, and not a database").unwrap();
    std::fs::write(at("new.db"), "").unwrap();
    let (none, own) = (at("none"), folder.path().to_str().unwrap());
    let serve = ["serve", "--port", "0"];
    let rows: [(&[&str], String, String); 5] = [
        (
            &serve,
            format!("{none}/t.db"),
            format!(
                "`telemetry.store`: the telemetry store cannot be used: {none}/t.db cannot be made, for there is no folder {none}: make it"
            ),
        ),
        (&serve, own.to_owned(), format!("{own} is a folder: name a file in it")),
        (&["report"], own.to_owned(), format!("{own} is a folder: name a file in it")),
        (&["report"], at("notes.txt"), format!("{} is no database of SQLite", at("notes.txt"))),
        (&["report"], at("new.db"), "no server has written to it yet".to_owned()),
    ];
    for (command, store, why) in rows {
        let run = lacuna(&[command, &["--telemetry-store", &store][..]].concat(), &[]);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(&why), "{why} is not in: {}", run.stderr);
        assert!(!run.stderr.contains("Error code"), "{}", run.stderr);
    }
}

#[test]
fn the_report_s_help_has_its_own_default_and_no_setting_s() {
    let help = lacuna(&["report", "--help"], &[]).stdout;
    let format = help.split_once("--format").unwrap().1;
    assert!(format.contains("[default: table]"), "{help}");
    assert!(!format.contains("[default: text]"), "{help}");
}

#[test]
fn what_the_documents_say_first_works() {
    let read = |name: &str| {
        let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    };
    // Every command has a row.
    let help = lacuna(&["--help"], &[]).stdout;
    let commands = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let indented =
        commands.lines().filter(|line| line.starts_with("  ") && !line[2..].starts_with(' '));
    let names: Vec<&str> = indented.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"report"), "{names:?}");
    let readme = read("README.md");
    let rows: Vec<&str> = readme.lines().filter(|line| line.starts_with("| `lacuna")).collect();
    for name in names.into_iter().filter(|name| *name != "help") {
        let word = format!("`lacuna {name}");
        assert!(rows.iter().any(|row| row.contains(&word)), "{name} has no row: {rows:#?}");
    }
    // The report of the first block finds the store that its first line names.
    let guide = read("docs/telemetry.md");
    let block = guide.split_once("```sh\n").unwrap().1.split_once("```").unwrap().0;
    let exported = block.lines().filter_map(|line| line.strip_prefix("export "));
    let variables: Vec<(&str, &str)> =
        exported.filter_map(|line| line.split_whitespace().next()?.split_once('=')).collect();
    let report = block.lines().find_map(|line| line.strip_prefix("lacuna report ")).unwrap();
    let options = report.split('#').next().unwrap().split_whitespace();
    let arguments: Vec<&str> = std::iter::once("report").chain(options).collect();
    let run = lacuna(&arguments, &variables);
    let store = variables.iter().find(|(name, _)| *name == "LACUNA_TELEMETRY_STORE").unwrap().1;
    assert!(run.stderr.contains(&format!("there is no telemetry store at {store}")), "{run:?}");
}

#[test]
fn a_collector_that_takes_no_traces_is_named_with_the_cause_and_no_secret() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let busy = Collector::start("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let rows =
        [(gone, "connection refused"), (busy.address.to_string(), "it answers with status 403")];
    for (address, cause) in rows {
        let endpoint = format!("http://{address}/s3cret");
        let headers = [("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret")];
        let mut server = Server::start_with(&["--otlp-endpoint", &endpoint], &headers);
        server.line("serving");
        for _ in 0..3 {
            assert!(server.answer("/v1/completions", GAP).starts_with("HTTP/1.1 200"));
        }
        server.signal("TERM");
        let mut log = String::new();
        server.log.read_to_string(&mut log).unwrap();
        let said: Vec<&str> =
            log.lines().filter(|line| line.contains("the collector takes no traces")).collect();
        assert_eq!(said.len(), 1, "{log}");
        assert!(said[0].contains(&address) && said[0].contains(cause), "{}", said[0]);
        assert!(!log.contains("s3cret"), "{log}");
    }
}
