//! Events of completions over HTTP: what is taken, what is refused and how, and what comes of it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lacuna::{
    auth::{Clock, Guard, draw_api_key},
    config::{Config, Environment, Proxies, RawConfig},
    telemetry::{
        metrics::Metrics,
        store::{Address, By, Day, Period, Report, Store, StoreOptions, unix_ms},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    self, TestParts, TestServer,
    client::{self, post},
    provider::{ScriptedProvider, sum},
};

const EVENTS: &str = "/v1/telemetry/events";
const GAP: &str = r#"{"prompt":"a = ","suffix":"\n"}"#;

/// A store in a folder of its own.
struct Kept {
    store: Store,
    path: PathBuf,
    _folder: TempDir,
}

impl Kept {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("telemetry.db");
        let options = StoreOptions {
            address: Address::Sqlite(path.clone()),
            retention: Duration::from_hours(24),
            bytes_max: 64 << 20,
            clock: Arc::new(unix_ms),
        };
        let store = tokio::task::spawn_blocking(|| Store::open(options, &Metrics::default()));
        Self { store: store.await.unwrap().unwrap(), path, _folder: folder }
    }

    /// Ends the store, and returns what it has of these days.
    async fn report(self, by: By) -> Report {
        self.store.close().await;
        let today = Day::of(unix_ms());
        let period = Period { first: Day(today.0 - 1), last: today };
        Report::read(&Address::Sqlite(self.path), period, Some(by)).unwrap()
    }
}

/// Starts a server that keeps what it serves.
async fn keeping(kept: &Kept, guard: Arc<Guard>) -> TestServer {
    let parts = TestParts { store: Some(kept.store.clone()), guard, ..TestParts::default() };
    TestServer::start_parts(Arc::new(ScriptedProvider::new(sum())), parts).await
}

async fn tell(server: &TestServer, headers: &[&str], body: &Value) -> client::Answer {
    let request = client::request("POST", EVENTS, headers, body.to_string().as_bytes());
    client::send(server.address, &request).await
}

#[tokio::test]
async fn completions_and_what_became_of_them_are_joined_by_their_ids() {
    let kept = Kept::new().await;
    let server = keeping(&kept, support::open_guard()).await;
    let headers = [
        "X-Gitlab-Global-User-Id: ada",
        "X-Gitlab-Client-Name: Visual Studio Code",
        "X-Request-Id: of-gitlab",
    ];
    let openai = client::request("POST", "/v1/completions", &headers[..2], GAP.as_bytes());
    let openai = client::send(server.address, &openai).await.json();
    let id = openai["id"].as_str().unwrap();
    let gap = r#"{"current_file":{"file_name":"a.py","content_above_cursor":"a","content_below_cursor":""},"telemetry":[{"model_name":"org/scripted","lang":"python","requests":4,"accepts":1,"errors":0}]}"#;
    let gitlab = client::request("POST", "/v2/code/completions", &headers, gap.as_bytes());
    assert_eq!(client::send(server.address, &gitlab).await.status, 200);

    let several = json!({"events": [
        {"type": "shown", "completion_id": id, "timestamp": 1e9},
        {"type": "accepted", "completion_id": id, "choice_index": 0, "elapsed_ms": 12.5, "accepted_chars": 3},
        {"type": "shown", "completion_id": "of-gitlab"},
        {"type": "rejected", "completion_id": "of-gitlab", "more": true},
    ]});
    let answer = tell(&server, &headers[..2], &several).await;
    assert_eq!(answer.json(), json!({"enabled": true, "stored": 4, "duplicates": 0}));
    let one = json!({"type": "shown", "completion_id": id.strip_prefix("cmpl-").unwrap()});
    let answer = tell(&server, &headers[..2], &one).await;
    assert_eq!(answer.json(), json!({"enabled": true, "stored": 0, "duplicates": 1}));

    let report = kept.report(By::Language).await;
    // A week before now is not among these days, and the clock of a client is believed so far.
    assert_eq!((report.total.requests, report.total.users, report.total.shown), (2, 1, 1));
    assert_eq!(report.total.told, [4, 1, 0]);
    let [unknown, python] = report.groups.as_slice() else { panic!("{report:?}") };
    assert_eq!((unknown.figures.accepted, unknown.figures.requests), (1, 1));
    assert_eq!((python.name.as_str(), python.figures.rejected), ("python", 1));
}

#[tokio::test]
async fn tabbys_clients_are_understood() {
    let kept = Kept::new().await;
    let server = keeping(&kept, support::open_guard()).await;
    let id = post(server.address, "/v1/completions", GAP).await.json()["id"].clone();
    for kind in ["view", "select", "view", "dismiss", "chat_completion"] {
        let body = json!({"type": kind, "completion_id": id, "choice_index": 0, "view_id": "view-1", "elapsed": 1200});
        let answer = post(server.address, "/v1/events?select_kind=line", &body.to_string()).await;
        assert_eq!((answer.status, answer.text()), (200, ""), "{kind}");
    }
    for wrong in [r#"{"completion_id":"a"}"#, r#"{"type":"view"}"#, "[]"] {
        assert_eq!(post(server.address, "/v1/events", wrong).await.status, 400, "{wrong}");
    }
    // What is passed over has members of its own.
    let other = r#"{"type":"completion","segments":{}}"#;
    assert_eq!(post(server.address, "/v1/events", other).await.status, 200);
    let total = kept.report(By::Model).await.total;
    assert_eq!([total.shown, total.accepted, total.rejected], [1, 1, 1]);
}

#[tokio::test]
async fn a_server_without_a_store_takes_events_and_says_that_it_keeps_none() {
    let server = TestServer::start(sum()).await;
    let event = json!({"type": "shown", "completion_id": "cmpl-1"});
    let answer = tell(&server, &[], &event).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({"enabled": false, "stored": 0, "duplicates": 0}));
    let tabby = r#"{"type":"view","completion_id":"cmpl-1"}"#;
    assert_eq!(post(server.address, "/v1/events", tabby).await.status, 200);
    // What is wrong is said all the same, so that a client is found out before there is a store.
    assert_eq!(
        tell(&server, &[], &json!({"type": "seen", "completion_id": "a"})).await.status,
        400
    );
}

#[tokio::test]
async fn what_is_no_event_is_refused_by_its_field_and_nothing_of_it_is_kept() {
    let kept = Kept::new().await;
    let server = keeping(&kept, support::open_guard()).await;
    let good = json!({"type": "shown", "completion_id": "a"});
    let many = vec![good.clone(); 101];
    let long = "x".repeat(161);
    let rows = [
        (json!({}), Some("type")),
        (json!({"type": "seen", "completion_id": "a"}), Some("type")),
        (json!({"type": "shown"}), Some("completion_id")),
        (json!({"type": "shown", "completion_id": "two words"}), Some("completion_id")),
        (json!({"type": "shown", "completion_id": long}), Some("completion_id")),
        (json!({"type": "shown", "completion_id": "a", "choice_index": -1}), Some("choice_index")),
        (
            json!({"type": "shown", "completion_id": "a", "choice_index": 1024}),
            Some("choice_index"),
        ),
        (json!({"type": "shown", "completion_id": "a", "timestamp": "now"}), Some("timestamp")),
        (
            json!({"events": [good, {"type": "m4rk3r", "completion_id": "a"}]}),
            Some("events[1].type"),
        ),
        (json!({"type": "shown", "completion_id": "a", "elapsed_ms": -1}), Some("elapsed_ms")),
        (
            json!({"type": "shown", "completion_id": "a", "accepted_chars": -0.5}),
            Some("accepted_chars"),
        ),
        (
            json!({"events": [good, {"type": "shown", "completion_id": "a", "accepted_lines": -7}]}),
            Some("events[1].accepted_lines"),
        ),
        (json!({"events": many}), Some("events")),
        (json!({"events": [], "type": "shown"}), Some("events")),
        (json!({"events": [], "choice_index": 5000}), Some("events")),
        (json!({"events": ["shown"]}), Some("events[0]")),
        (json!(["shown"]), None),
    ];
    for (body, field) in rows {
        let answer = tell(&server, &[], &body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["param"].as_str()), (400, field), "{body}");
        assert!(!answer.text().contains("m4rk3r"), "{}", answer.text());
    }
    let odd = json!({"events": [{"type": "shown", "completion_id": "a", "elapsed_ms": 1e12, "accepted_chars": 0, "timestamp": -1e300}]});
    assert_eq!(tell(&server, &[], &odd).await.status, 200);
    assert_eq!(tell(&server, &[], &json!({"events": []})).await.status, 200);
    kept.store.close().await;
    // The store is gone: refused, with when to come again. A completion is not the worse for it.
    let answer = tell(&server, &[], &good).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(post(server.address, "/v1/completions", GAP).await.status, 200);
}

#[tokio::test]
async fn the_description_says_what_is_refused() {
    let server = TestServer::start(sum()).await;
    let answer = client::get(server.address, "/openapi.json").await.json();
    for name in ["telemetry.Event", "telemetry.Events"] {
        let properties = &answer["components"]["schemas"][name]["properties"];
        for member in ["elapsed_ms", "accepted_chars", "accepted_lines"] {
            assert_eq!(properties[member]["minimum"], 0, "{name}.{member}: {properties}");
        }
    }
}

#[tokio::test]
async fn who_may_complete_may_tell_and_keys_are_users() {
    let kept = Kept::new().await;
    let (key, hash) = draw_api_key().unwrap();
    let (other, other_hash) = draw_api_key().unwrap();
    let keys = format!("grace.hopper:{hash};eve:{other_hash} scopes=admin");
    let environment = Environment::from_variables([("LACUNA_API_KEYS".to_owned(), keys)]);
    let config = Config::load(&RawConfig::default(), &environment, None).unwrap();
    let guard = Guard::new(config.auth, &Proxies::default(), Clock::system()).unwrap();
    let server = keeping(&kept, Arc::new(guard)).await;
    let bearer = |key: &str| format!("Authorization: Bearer {key}");
    let (key, other) = (bearer(&key), bearer(&other));
    for path in [EVENTS, "/v1/events"] {
        let body = br#"{"type":"shown","completion_id":"a"}"#;
        for (headers, status) in [(&[][..], 401), (&[other.as_str()], 403)] {
            let request = client::request("POST", path, headers, body);
            assert_eq!(client::send(server.address, &request).await.status, status, "{path}");
        }
    }
    let complete = client::request("POST", "/v1/completions", &[&key], GAP.as_bytes());
    let id = client::send(server.address, &complete).await.json()["id"].clone();
    let event = json!({"type": "accepted", "completion_id": id});
    let answer = tell(&server, &[&key], &event).await;
    assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(1)));
    kept.store.close().await;
    let bytes = std::fs::read(&kept.path).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    // What was asked is there, and who asked it is not.
    assert!(has(b"openai.completions") && !has(b"hopper") && !has(b"a = "));
    let report = kept.report(By::Model).await;
    assert_eq!((report.total.users, report.groups[0].figures.accepted), (1, 1));
}
