//! The line of every HTTP request: of those that complete nothing too, with bounds on what a client writes into it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::Value;

use crate::serve::Server;

/// Stands for a secret in a query or a header that is not named in the docs.
const SECRET: &str = "S3cretOfTheTest";

/// Returns the lines of requests that a server leaves until its end.
fn lines(mut server: Server) -> Vec<Value> {
    server.signal("TERM");
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    assert!(!log.contains(SECRET), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["target"] == "lacuna::access").collect()
}

fn start(arguments: &[&str]) -> Server {
    let mut server = Server::start(arguments);
    server.line("serving");
    server
}

#[test]
fn what_completes_nothing_leaves_a_line_too() {
    let server = start(&["--max-body-size", "1KiB"]);
    let long = format!("/{}", "x".repeat(1000));
    let rows = [
        ("/v1/models", 200),
        ("/nowhere", 404),
        ("//v1//models/", 200),
        ("/v1/completions", 405),
        (long.as_str(), 404),
    ];
    for (path, status) in rows {
        let answer = server.get(&format!("{path}?key={SECRET}"));
        assert_eq!(&answer[9..12], status.to_string(), "{path}");
    }
    let lines = lines(server);
    assert_eq!(lines.len(), rows.len(), "{lines:#?}");
    for ((path, status), line) in rows.into_iter().zip(&lines) {
        assert_eq!((&line["method"], &line["status_code"]), (&"GET".into(), &status.into()));
        assert_eq!(line["path"], path[..path.len().min(256)], "as the client wrote it, bounded");
        assert_eq!(line["http_version"], "1.1");
        assert!(
            line["duration_s"].as_f64().unwrap()
                >= line["response_start_duration_s"].as_f64().unwrap()
        );
        for absent in ["endpoint", "outcome", "client_ip", "client_port", "trace_id"] {
            assert_eq!(line.get(absent), None, "{line}");
        }
    }
}

#[test]
fn headers_are_told_as_the_gateway_tells_them_and_bounded() {
    let server = start(&["--log-client-addresses"]);
    let long = "7,".repeat(1000);
    let headers = format!(
        "User-Agent: editor/1\r\nX-Gitlab-Realm: saas\r\nX-Gitlab-Host-Name: gitlab.example.com\r\n\
         X-Gitlab-Instance-Id: one\r\nX-Gitlab-Global-User-Id: {SECRET}\r\nX-Gitlab-Is-Team-Member: true\r\n\
         X-Gitlab-Rails-Send-Start: 1.5\r\nX-Gitlab-Feature-Enablement-Type: duo_pro\r\n\
         X-Gitlab-Saas-Duo-Pro-Namespace-Ids: {long}\r\nX-Gitlab-Version: 17.5\u{e9}\r\n\
         X-Something-Else: {SECRET}\r\nCookie: {SECRET}\r\nX-Request-Id: r-1\r\n"
    );
    let body = r#"{"prompt":"a","suffix":"b","max_tokens":2}"#;
    assert!(server.answer_to("/v1/completions", &headers, body).starts_with("HTTP/1.1 200"));
    let lines = lines(server);
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    for (field, value) in [
        ("correlation_id", "r-1"),
        ("user_agent", "editor/1"),
        ("gitlab_realm", "saas"),
        ("gitlab_host_name", "gitlab.example.com"),
        ("gitlab_instance_id", "one"),
        ("is_gitlab_team_member", "true"),
        ("gitlab_feature_enablement_type", "duo_pro"),
        ("gitlab_saas_duo_pro_namespace_ids", &long[..256]),
        ("client_ip", "127.0.0.1"),
        ("endpoint", "openai.completions"),
        ("model_name", "demo"),
        ("model_engine", "lacuna"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert!(line["duration_request"].as_f64().unwrap() > 1e9, "{line}");
    assert!(line["client_port"].as_u64().unwrap() > 0);
    assert_eq!(line["user"].as_str().unwrap().len(), 16);
    assert_eq!(line.get("gitlab_version"), None, "it cannot be printed: {line}");
}

#[test]
fn probes_leave_lines_and_requests_leave_none_where_that_is_wanted() {
    let rows: [(&[&str], usize); 4] = [
        (&[], 1),
        (&["--log-access", "all"], 4),
        (&["--log-access", "off"], 0),
        (&["--log", "info,lacuna::access=warn"], 0),
    ];
    for (arguments, num) in rows {
        let server = start(arguments);
        for path in ["/health", "/monitoring/healthz", "/monitoring/ready/", "/v1/models"] {
            assert!(server.get(path).starts_with("HTTP/1.1 200"), "{path}");
        }
        assert_eq!(lines(server).len(), num, "{arguments:?}");
    }
}

#[test]
fn a_stream_is_told_of_at_its_end_and_who_leaves_is_too() {
    let mut server = start(&[]);
    let body = r#"{"prompt":"a","suffix":"b","max_tokens":64,"ignore_eos":true,"stream":true}"#;
    assert!(server.answer("/v1/completions", body).contains("[DONE]"));
    let line = server.line("request");
    let of = |field: &str| line[field].as_f64().unwrap();
    assert!(of("response_start_duration_s") <= of("first_chunk_duration_s"), "{line}");
    assert!(of("first_chunk_duration_s") < of("duration_s"), "{line}");
    assert_eq!((&line["outcome"], &line["completion_tokens"]), (&"ok".into(), &64.into()));

    let long = body.replace("64", "1000");
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let length = long.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{long}"
    )
    .unwrap();
    // The answer has begun: the request is under way.
    stream.read_exact(&mut [0; 12]).unwrap();
    drop(stream);
    let line = server.line("request");
    assert_eq!((&line["outcome"], &line["status_code"]), (&"cancelled".into(), &200.into()));
    assert_eq!(line.get("finish_reason"), None, "{line}");
}
