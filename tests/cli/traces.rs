//! Traces as a collector gets them: their tree, what is in them and what is not, and a collector that is away.

use std::io::Read as _;

use crate::{
    TempFile,
    collector::{Collector, Span},
    serve::Server,
};

const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const GAP: &str =
    r#"{"prompt":"SourceOfTheUser = ","suffix":"\nMoreOfIt","max_tokens":4,"ignore_eos":true}"#;
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Who asks, with a name and a key that no span may have.
const HEADERS: &str = "X-Request-Id: of-the-trace\r\nX-Gitlab-Global-User-Id: UserOfTheTest\r\nAuthorization: Bearer KeyOfTheTest\r\n";

fn traced(collector: &Collector, arguments: &[&str]) -> Server {
    let endpoint = format!("http://{}", collector.address);
    let mut all = vec!["--otlp-endpoint", &endpoint];
    all.extend(arguments);
    let mut server = Server::start_with(&all, &[("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=ours")]);
    server.line("serving");
    server
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no span {name}: {spans:#?}"));
    assert!(found.next().is_none(), "two spans {name}: {spans:#?}");
    span
}

fn end(mut server: Server) -> String {
    server.signal("TERM");
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    log
}

#[test]
fn a_request_is_a_tree_of_spans_without_its_text() {
    let collector = Collector::start(TAKEN);
    let server = traced(&collector, &["--postprocess-openai", "true"]);
    let headers = format!("{HEADERS}traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n");
    let answer = server.answer_to("/v1/completions?SecretOfTheQuery", &headers, GAP);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A probe is no trace.
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    let log = end(server);
    let spans = collector.spans(4);
    let root = named(&spans, "POST /v1/completions");
    assert_eq!((root.parent_id.as_str(), root.kind), ("b7ad6b7169203331", 2));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/completions"),
        ("url.path", "/v1/completions"),
        ("http.response.status_code", "200"),
        ("lacuna.correlation_id", "of-the-trace"),
        ("lacuna.endpoint", "openai.completions"),
        ("lacuna.outcome", "ok"),
    ] {
        assert_eq!(root.attributes.get(key).map(String::as_str), Some(value), "{root:#?}");
    }
    let provider = named(&spans, "text_completion demo");
    for (key, value) in [
        ("gen_ai.operation.name", "text_completion"),
        ("gen_ai.request.model", "demo"),
        ("gen_ai.provider.name", "lacuna"),
        ("gen_ai.request.max_tokens", "4"),
        ("gen_ai.usage.output_tokens", "4"),
    ] {
        assert_eq!(provider.attributes.get(key).map(String::as_str), Some(value), "{provider:#?}");
    }
    assert_eq!(provider.events, ["first text", "choice ended"]);
    named(&spans, "admit");
    let steps = named(&spans, "post-process");
    assert!(steps.times[0] >= provider.times[0] && steps.times[0] <= steps.times[1], "{spans:#?}");
    for span in &spans {
        assert_eq!((span.trace_id.as_str(), span.is_error), (TRACE, false), "{span:#?}");
        assert!(span.parent_id == root.id || span == root, "{span:#?}");
        assert!(span.times[0] >= root.times[0] && span.times[1] <= root.times[1], "{spans:#?}");
    }
    let heard = collector.wait(|heard| !heard.is_empty());
    assert_eq!(heard[0].path, "/v1/traces");
    assert_eq!(heard[0].headers["content-type"], "application/x-protobuf");
    assert_eq!(heard[0].headers["x-tenant"], "ours");
    for text in ["SourceOfTheUser", "MoreOfIt", "UserOfTheTest", "KeyOfTheTest", "SecretOfTheQuery"]
    {
        let is_there = |heard: &[u8]| String::from_utf8_lossy(heard).contains(text);
        assert!(heard.iter().all(|heard| !is_there(&heard.body)), "{text}");
        assert!(!log.contains(text), "{log}");
    }
    assert!(log.contains(&format!(r#""trace_id":"{TRACE}""#)), "{log}");
}

#[test]
fn a_request_that_fails_over_shows_every_try_and_tells_the_service_elsewhere() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 140\r\n\r\n";
    let body = r#"{"choices":[{"index":0,"text":"x","finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}"#;
    let answer: &'static str = format!("{ANSWER}{body:<140}").leak();
    let (collector, service) = (Collector::start(TAKEN), Collector::start(answer));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let provider = |name: &str, address| {
        format!(
            "[[providers]]\nname = \"{name}\"\nprotocol = \"openai-completions\"\nurl = \"http://{address}/v1\"\nmodel = \"m\"\nserved_as = \"{name}\"\nfim = \"suffix\"\n"
        )
    };
    let route = "[[routes]]\nname = \"all\"\n[[routes.targets]]\ntarget = \"gone\"\nweight = 100\n[[routes.targets]]\ntarget = \"there\"\nweight = 0\n";
    let text = provider("gone", gone) + &provider("there", service.address) + route;
    let file = TempFile::new("traces.toml", text.as_bytes());
    let server = traced(&collector, &["--config", file.path()]);
    let answer = server.answer_to("/v1/completions", HEADERS, GAP);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""text":"x""#), "{answer}");
    end(server);
    let spans = collector.spans(7);
    let root = named(&spans, "POST /v1/completions");
    let route = named(&spans, "route");
    assert_eq!((root.parent_id.as_str(), route.parent_id.as_str()), ("", root.id.as_str()));
    assert_eq!(route.attributes["lacuna.route"], "all");
    let tries = [("gone", "upstream_unreachable", true), ("there", "ok", false)];
    for (target, outcome, is_error) in tries {
        let is_of =
            |span: &&Span| span.name == "attempt" && span.attributes["lacuna.target"] == target;
        let attempt = spans.iter().find(is_of).unwrap_or_else(|| panic!("{target}: {spans:#?}"));
        assert_eq!(attempt.parent_id, route.id, "{spans:#?}");
        assert_eq!(
            (attempt.attributes["lacuna.outcome"].as_str(), attempt.is_error),
            (outcome, is_error)
        );
        let call = named(&spans, &format!("text_completion {target}"));
        assert_eq!((call.parent_id.as_str(), call.kind), (attempt.id.as_str(), 3));
        assert_eq!(call.is_error, is_error, "{call:#?}");
        if !is_error {
            let asked = service.wait(|heard| !heard.is_empty());
            let expected = format!("00-{}-{}-01", call.trace_id, call.id);
            assert_eq!(asked[0].headers["traceparent"], expected);
            assert_eq!(asked[0].headers["x-request-id"], "of-the-trace");
        }
    }
}

#[test]
fn a_share_of_nothing_sends_what_its_caller_has_decided_for() {
    let collector = Collector::start(TAKEN);
    let server = traced(&collector, &["--traces-sample-ratio", "0"]);
    let path = "/v1/models";
    server.get(path);
    server.answer_to(path, "traceparent: no trace\r\n", "");
    server.answer_to(path, &format!("traceparent: 00-{TRACE}-b7ad6b7169203331-00\r\n"), "");
    server.answer_to(path, &format!("traceparent: 00-{TRACE}-b7ad6b7169203332-01\r\n"), "");
    end(server);
    let spans = collector.spans(1);
    let roots: Vec<&Span> = spans.iter().filter(|span| span.kind == 2).collect();
    assert!(roots.len() == 1 && roots[0].parent_id == "b7ad6b7169203332", "{spans:#?}");
}

#[test]
fn a_collector_that_is_away_holds_up_neither_requests_nor_the_end() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{gone}");
    let mut server = Server::start_with(&["--otlp-endpoint", &endpoint], &[]);
    server.line("serving");
    for _ in 0..3 {
        assert!(server.answer("/v1/completions", GAP).starts_with("HTTP/1.1 200"));
    }
    let log = end(server);
    assert!(log.contains("the collector takes no traces") && log.contains("stopped"), "{log}");
    assert_eq!(log.matches("the collector takes no traces").count(), 1, "{log}");
}
