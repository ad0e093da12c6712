//! Tests of what goes out, to the byte, and of a queue whose collector is away.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    config::{Config, Environment, RawConfig},
    export::{
        Count, Fate, envelope, otlp, reports,
        traces::{self, Pace},
    },
    telemetry::ErrorReport,
    trace::{FinishedSpan, SpanContext, SpanEvent, SpanKind, Value},
};

fn at(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_000 + nanoseconds)
}

fn spans() -> [FinishedSpan; 2] {
    let context = |span_id| SpanContext {
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span_id,
        is_sampled: true,
    };
    let root = FinishedSpan {
        context: context(0xb7),
        parent_id: None,
        name: "POST /v1/completions".into(),
        kind: SpanKind::Server,
        began: at(0),
        ended: at(2_500_000_000),
        attributes: vec![
            ("http.response.status_code", Value::Integer(200)),
            ("below", Value::Integer(-1)),
            ("zero", Value::Integer(0)),
            ("share", Value::Float(0.25)),
            ("no", Value::Bool(false)),
            ("yes", Value::Bool(true)),
            ("empty", Value::from("")),
            ("long", Value::from("\u{e9}".repeat(100))),
        ],
        events: Vec::new(),
        is_error: false,
    };
    let event = SpanEvent {
        name: "first text",
        at: at(2),
        attributes: vec![("choice", Value::Integer(300))],
    };
    let child = FinishedSpan {
        context: context(u64::MAX),
        parent_id: Some(0xb7),
        name: "chat demo".into(),
        kind: SpanKind::Client,
        began: at(1),
        ended: at(3),
        attributes: Vec::new(),
        events: vec![event],
        is_error: true,
    };
    [root, child]
}

#[test]
fn spans_are_written_as_opentelemetrys_own_library_writes_them() {
    let golden = include_bytes!("../../tests/golden/otlp.bin");
    assert_eq!(otlp::request("lacuna", "1.2.3", &spans()), golden);
}

fn report(message: &str, fields: &[(&'static str, &str)]) -> ErrorReport {
    ErrorReport {
        at: at(500_000_000),
        target: "lacuna::telemetry::logs".to_owned(),
        message: message.to_owned(),
        fields: fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
    }
}

/// Returns the lines of an envelope.
fn lines(report: &ErrorReport) -> [serde_json::Value; 3] {
    let bytes = envelope::of(report, "staging");
    let text = String::from_utf8(bytes).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    let parsed: Vec<serde_json::Value> = parsed.collect();
    assert_eq!(parsed[1]["length"], lines[2].len());
    parsed.try_into().unwrap()
}

#[test]
fn a_panic_is_an_exception_with_its_place() {
    let place = "/home/somebody/lacuna/src/service/mod.rs:12:5";
    let fields = [("correlation_id", "r-1"), ("thread", "engine"), ("place", place), ("what", "a")];
    let [head, item, mut event] = lines(&report("panic", &fields));
    assert_eq!(item["type"], "event");
    assert_eq!(head["event_id"], event["event_id"]);
    assert_eq!(event["event_id"].as_str().unwrap().len(), 32);
    event.as_object_mut().unwrap().remove("event_id");
    let version = env!("CARGO_PKG_VERSION");
    let frame = serde_json::json!({
        "filename": "src/service/mod.rs", "lineno": 12, "colno": 5, "in_app": true
    });
    let expected = serde_json::json!({
        "timestamp": 1_700_000_000.5,
        "platform": "native",
        "level": "fatal",
        "logger": "lacuna::telemetry::logs",
        "release": format!("lacuna@{version}"),
        "environment": "staging",
        "tags": { "correlation_id": "r-1", "thread": "engine" },
        "sdk": { "name": "lacuna", "version": version },
        "exception": { "values": [{
            "type": "panic",
            "value": "a",
            "mechanism": { "type": "panic", "handled": false },
            "stacktrace": { "frames": [frame] },
        }]},
    });
    assert_eq!(event, expected);
    let [_, _, other] = lines(&report("panic", &[("place", "nowhere")]));
    assert_eq!(other["exception"]["values"][0]["stacktrace"]["frames"], serde_json::json!([]));
}

#[test]
fn an_error_has_its_message_and_ids_differ() {
    let [_, _, one] = lines(&report("engine failed", &[("error", "the device failed")]));
    let [_, _, two] = lines(&report("engine failed", &[]));
    assert_eq!(
        (&one["level"], &one["logentry"]["formatted"]),
        (&"error".into(), &"engine failed".into())
    );
    assert_eq!(one["extra"]["error"], "the device failed");
    assert_ne!(one["event_id"], two["event_id"]);
}

/// Counts what becomes of things.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<[u64; 3]>>);

impl Counts {
    fn count(&self) -> Count {
        let counts = self.clone();
        Arc::new(move |fate, num| counts.0.lock().unwrap()[fate as usize] += num)
    }

    fn of(&self, fate: Fate) -> u64 {
        self.0.lock().unwrap()[fate as usize]
    }
}

fn config(name: &str, value: &str) -> Config {
    let environment = Environment::from_variables([(name.to_owned(), value.to_owned())]);
    Config::load(&RawConfig::default(), &environment, None).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_costs_a_request_nothing_and_what_is_lost_is_counted() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let config = config("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let counts = Counts::default();
    let started = traces::start(&config.traces, &config.hub.proxies, counts.count()).unwrap();
    let (tracer, exporter) = started.unwrap();
    // More than the queue and a batch hold; nobody answers, nor waits.
    (0..4000).for_each(|_| drop(tracer.begin("root", None)));
    assert_eq!(counts.of(Fate::Dropped), 4000 - 2048);
    assert_eq!((counts.of(Fate::Sent), counts.of(Fate::Failed)), (0, 0));
    // The end waits for so long and no longer.
    let began = tokio::time::Instant::now();
    exporter.finish().await;
    assert!(began.elapsed() <= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_batch_that_is_refused_for_now_is_sent_again_and_one_that_is_wrong_is_not() {
    for (statuses, sent, failed) in [
        (vec![503, 429, 200], 3, 0),
        (vec![503, 503, 503, 200], 0, 3),
        (vec![400, 200], 0, 3),
        (vec![200], 3, 0),
    ] {
        let num_tries = if sent > 0 { statuses.len() } else { (statuses.len() - 1).max(1) };
        let (endpoint, bodies) = scripted(statuses).await;
        let config = config("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
        let counts = Counts::default();
        let moment = Duration::from_millis(1);
        let pace = Pace { batch_delay: moment, retry_delay: moment };
        let proxies = &config.hub.proxies;
        let started = traces::start_at(pace, &config.traces, proxies, counts.count()).unwrap();
        let (tracer, exporter) = started.unwrap();
        (0..3).for_each(|_| drop(tracer.begin("root", None)));
        while counts.of(Fate::Sent) + counts.of(Fate::Failed) < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!((counts.of(Fate::Sent), counts.of(Fate::Failed)), (sent, failed));
        assert_eq!(bodies.lock().unwrap().len(), num_tries);
        exporter.finish().await;
    }
}

#[tokio::test]
async fn reports_are_so_many_a_minute_and_pause_when_they_are_told_to() {
    for (statuses, num, sent, dropped) in
        [(vec![200; 20], 12, 10, 2), (vec![429; 20], 12, 0, 11), (vec![500; 20], 3, 0, 0)]
    {
        let (endpoint, bodies) = scripted(statuses).await;
        let dsn = endpoint.replace("http://", "http://abc@") + "/7";
        let config = config("SENTRY_DSN", &dsn);
        let counts = Counts::default();
        let (layer, pending) = reports::queue(&config.reports).unwrap();
        let proxies = &config.hub.proxies;
        let exporter = reports::start(&config.reports, proxies, pending, counts.count()).unwrap();
        let subscriber =
            tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("of no interest");
            tracing::error!(target: "other::crate", "of no interest here");
            for _ in 0..num {
                tracing::error!(correlation_id = "r-1", prompt = "s3cret", "internal error");
            }
        });
        exporter.unwrap().finish().await;
        assert_eq!((counts.of(Fate::Sent), counts.of(Fate::Dropped)), (sent, dropped));
        let bodies = bodies.lock().unwrap();
        assert!(bodies[0].starts_with("POST /api/7/envelope/ HTTP/1.1"), "{}", bodies[0]);
        assert!(
            bodies[0].contains("sentry_key=abc") && bodies[0].contains(r#""correlation_id":"r-1""#)
        );
        assert!(bodies.iter().all(|body| !body.contains("s3cret")), "{bodies:?}");
    }
}

/// Answers requests with these statuses, one after the other, and keeps what it was sent.
async fn scripted(statuses: Vec<u16>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&bodies);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let length = loop {
                let mut piece = [0; 4096];
                let num = stream.read(&mut piece).await.unwrap();
                request.extend_from_slice(&piece[..num]);
                let text = String::from_utf8_lossy(&request).to_lowercase();
                let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next();
                break request.windows(4).position(|it| it == b"\r\n\r\n").unwrap()
                    + 4
                    + length.unwrap().parse::<usize>().unwrap();
            };
            while request.len() < length {
                let mut piece = [0; 4096];
                let num = stream.read(&mut piece).await.unwrap();
                request.extend_from_slice(&piece[..num]);
            }
            kept.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            let head =
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    (endpoint, bodies)
}
