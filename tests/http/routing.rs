//! Routes behind the dialects: who asks reaches them, and who may look after them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lacuna::{
    auth::{Clock, Guard},
    completion::{FinishReason, Task},
    config::{
        ApiKeyConfig, AuthConfig, Config, Environment, Proxies, RawConfig, RouteConfig, RouteMatch,
        RouteTarget,
    },
    flags::pseudonym,
    provider::{Provider, ProviderError, ProviderErrorKind},
    routing::{NamedProvider, NoObserver, Router},
    service::{CompletionService, ServedModels},
};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::support::{
    self, NUM_SEQUENCES_MAX, TestParts, TestServer,
    client::{self, Answer, get, post},
    provider::{Script, ScriptedProvider, Step, USAGE, chunk, end},
};

const GITLAB: &str = "/v2/code/completions";
const GENERATIONS: &str = "/v2/code/generations";

/// Says its own name.
fn naming(name: &str) -> Script {
    Script::Play(vec![chunk(0, name), end(0, "", FinishReason::Stop), Step::Done(USAGE)])
}

fn route(name: &str, when: RouteMatch, targets: &[&str]) -> RouteConfig {
    let target =
        |name: &&str| RouteTarget { name: (*name).to_owned(), weight: 0, except: Vec::new() };
    RouteConfig {
        name: name.to_owned(),
        when,
        targets: targets.iter().map(target).collect(),
        pins: Vec::new(),
        shadow: None,
    }
}

async fn ask(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let headers: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    client::send(address, &client::request(method, path, &headers, body.as_bytes())).await
}

struct Routed {
    server: TestServer,
    small: Arc<ScriptedProvider>,
    router: Arc<Router>,
}

/// Serves `org/scripted` and `small` with these routes.
async fn start(large: Script, routes: Vec<RouteConfig>, guard: Arc<Guard>) -> Routed {
    let small = Arc::new(ScriptedProvider::named("small", naming("S")));
    let large = Arc::new(ScriptedProvider::new(large));
    let (models, router) = routed(&[large.clone(), small.clone()], routes);
    let own = Arc::clone(&router);
    let models = Box::new(move |_: &_| (models, Some(own)));
    let parts = TestParts { models, guard, ..TestParts::default() };
    let server = TestServer::start_parts(large, parts).await;
    Routed { server, small, router }
}

/// Serves the providers under their own names, behind these routes.
fn routed(all: &[Arc<dyn Provider>], routes: Vec<RouteConfig>) -> (ServedModels, Arc<Router>) {
    let named = |provider: &Arc<dyn Provider>| NamedProvider {
        name: provider.model().name.clone(),
        provider: Arc::clone(provider),
    };
    let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let providers = all.iter().map(named).collect();
    let router = Router::new(&config.routing, routes, providers, Arc::new(NoObserver));
    let service = |provider: &Arc<dyn Provider>| {
        CompletionService::new(Arc::clone(provider), support::limits(), NUM_SEQUENCES_MAX)
    };
    let mut models = ServedModels::new(service(&all[0]));
    all[1..].iter().for_each(|provider| models.push(service(provider)));
    let models = models.with_providers(|name, own| router.routed(name, Arc::clone(own)));
    (models, router)
}

fn gap() -> String {
    json!({"current_file": {
        "file_name": "a.go", "content_above_cursor": "a", "content_below_cursor": "",
    }})
    .to_string()
}

#[tokio::test]
async fn who_asks_and_what_for_reaches_the_routes() {
    let only = |users: &[&str], groups: &[&str], tasks: &[Task]| RouteMatch {
        users: users.iter().map(|&id| id.to_owned()).collect(),
        groups: groups.iter().map(|&id| id.to_owned()).collect(),
        tasks: tasks.to_vec(),
        ..RouteMatch::default()
    };
    let realm = RouteMatch { realms: vec!["saas".to_owned()], ..RouteMatch::default() };
    let flag = RouteMatch { flags: vec!["new".to_owned()], ..RouteMatch::default() };
    let language = RouteMatch { languages: vec!["go".to_owned()], ..RouteMatch::default() };
    let rows = [
        (only(&["ada"], &[], &[]), GITLAB, ("X-Gitlab-Global-User-Id", "ada"), true),
        (only(&["ada"], &[], &[]), GITLAB, ("X-Gitlab-Global-User-Id", "bob"), false),
        (only(&[], &["7"], &[]), GITLAB, ("X-Gitlab-Namespace-Id", "7"), true),
        (only(&[], &["7"], &[]), GITLAB, ("X-Gitlab-Namespace-Id", "8"), false),
        (realm.clone(), GITLAB, ("X-Gitlab-Realm", "saas"), true),
        (realm, GITLAB, ("X-Gitlab-Realm", "self-managed"), false),
        (flag.clone(), GITLAB, ("X-Gitlab-Enabled-Feature-Flags", "old,new"), true),
        (flag, GITLAB, ("X-Gitlab-Enabled-Feature-Flags", "old"), false),
        (language, GITLAB, ("X-Nothing", "a"), true),
        (only(&[], &[], &[Task::Generation]), GITLAB, ("X-Nothing", "a"), false),
        (only(&[], &[], &[Task::Generation]), GENERATIONS, ("X-Nothing", "a"), true),
        (only(&[], &[], &[Task::Completion]), GENERATIONS, ("X-Nothing", "a"), false),
    ];
    for (when, path, (name, value), is_routed) in rows {
        let routes = vec![route("r", when.clone(), &["small"])];
        let routed = start(naming("L"), routes, support::open_guard()).await;
        let headers = [(name, value)];
        let response = ask(routed.server.address, ("POST", path), &headers, &gap()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let text = response.json()["choices"][0]["text"].as_str().unwrap().to_owned();
        assert_eq!(text.trim() == "S", is_routed, "{when:?} {value}: {text}");
        assert_eq!(routed.small.take_requests().len(), usize::from(is_routed));
    }
}

/// Nobody has seen the first half of an answer that comes whole.
#[tokio::test]
async fn what_fails_midway_is_begun_again_where_nothing_was_handed_on() {
    let cut = ProviderError::new(ProviderErrorKind::UpstreamMalformed, "cut off");
    let half = || Script::Play(vec![chunk(0, "half"), Step::Fail(cut.clone())]);
    let chat = json!({"messages": [{"role": "user", "content": "a"}]});
    let texts = json!({"prompt": ["a", "b"], "max_tokens": 5});
    let rows = [
        (GITLAB, gap(), "/choices/0/text"),
        ("/v1/completions", texts.to_string(), "/choices/1/text"),
        ("/v1/chat/completions", chat.to_string(), "/choices/0/message/content"),
    ];
    for (path, body, place) in rows {
        let routes = vec![route("r", RouteMatch::default(), &["org/scripted", "small"])];
        let routed = start(half(), routes, support::open_guard()).await;
        let response = post(routed.server.address, path, &body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(response.json().pointer(place).unwrap(), "S", "{path}");
        let again = &routed.small.take_requests()[0];
        let failed_at = &again.asker.failed_at;
        assert!(failed_at.is_empty(), "the router alone looks at {failed_at:?}");
        let first = &routed.server.provider.take_requests()[0];
        assert!(first.deadline.is_some() && again.deadline == first.deadline, "{path}");
        let metrics = routed.server.metrics();
        assert!(metrics.contains("outcome=\"ok\"") && !metrics.contains("upstream_malformed"));
    }
    // Two who fail leave the first one's failure; a client that saw text keeps it.
    let routes = vec![route("r", RouteMatch::default(), &["org/scripted"])];
    let routed = start(half(), routes, support::open_guard()).await;
    let response = post(routed.server.address, "/v1/completions", r#"{"prompt": "a"}"#).await;
    assert_eq!((response.status, routed.server.provider.take_requests().len()), (502, 1));
    let routes = vec![route("r", RouteMatch::default(), &["org/scripted", "small"])];
    let routed = start(half(), routes, support::open_guard()).await;
    let streaming = r#"{"prompt": "a", "stream": true}"#;
    let response = post(routed.server.address, "/v1/completions", streaming).await;
    assert!(response.text().contains("half") && response.text().contains("\"error\""));
    assert_eq!(routed.small.take_requests().len(), 0);
}

#[tokio::test]
async fn a_failure_counts_as_that_of_who_failed() {
    let failing = Script::Refuse(ProviderError::new(ProviderErrorKind::UpstreamFailed, "no"));
    let routes = vec![route("r", RouteMatch::default(), &["org/scripted"])];
    let routed = start(failing, routes, support::open_guard()).await;
    let body = r#"{"prompt": "a", "model": "small"}"#;
    assert_eq!(post(routed.server.address, "/v1/completions", body).await.status, 502);
    let metrics = routed.server.metrics();
    let counted = |model: &str| {
        metrics.lines().any(|line| {
            line.starts_with("lacuna_requests_total") && line.contains(&format!("=\"{model}\""))
        })
    };
    assert_eq!((counted("org/scripted"), counted("small")), (true, false), "{metrics}");
}

#[tokio::test]
async fn chats_are_generations_and_a_failure_goes_elsewhere_unseen() {
    let tasks = vec![Task::Generation];
    let when = RouteMatch { tasks, ..RouteMatch::default() };
    let failing = Script::Refuse(ProviderError::new(ProviderErrorKind::UpstreamFailed, "no"));
    let routes = vec![route("r", when, &["org/scripted", "small"])];
    let routed = start(failing, routes, support::open_guard()).await;
    let chat = json!({"messages": [{"role": "user", "content": "a"}]}).to_string();
    let response = post(routed.server.address, "/v1/chat/completions", &chat).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["choices"][0]["message"]["content"], "S");
    let text = json!({"prompt": "a"}).to_string();
    let response = post(routed.server.address, "/v1/completions", &text).await;
    assert_eq!(response.status, 502, "no route is for it");
}

#[tokio::test]
async fn a_client_says_how_long_it_waits() {
    // Without a route the server allows a minute.
    let routed = start(naming("L"), Vec::new(), support::open_guard()).await;
    let text = json!({"prompt": "a"}).to_string();
    for (path, body) in [("/v1/completions", text), (GITLAB, gap())] {
        for (wait, is_shorter) in [("20000", true), ("90000", false), ("soon", false)] {
            let headers = [("X-Lacuna-Timeout-Ms", wait)];
            let response = ask(routed.server.address, ("POST", path), &headers, &body).await;
            assert_eq!(response.status, 200, "{}", response.text());
            let request = routed.server.provider.take_requests().remove(0);
            let left = request.deadline.unwrap().saturating_duration_since(Instant::now());
            assert_eq!(left <= Duration::from_secs(20), is_shorter, "{path} {wait}: {left:?}");
        }
    }
}

/// Lets in who has one of two keys, of which one may administer.
fn keys() -> (Arc<Guard>, [&'static str; 2]) {
    const ADMIN: &str = "lacuna-admin-0123456789abcdef";
    const USER: &str = "lacuna-user-0123456789abcdef";
    let key = |name: &str, key: &str, scope: &str| ApiKeyConfig {
        name: name.to_owned(),
        digest: digest(&SHA256, key.as_bytes()).as_ref().try_into().unwrap(),
        scopes: vec![scope.to_owned()],
        requests_per_minute: None,
        concurrent_requests: None,
    };
    let api_keys = vec![key("root", ADMIN, "admin"), key("ada", USER, "complete_code")];
    let config = AuthConfig { api_keys, ..AuthConfig::open() };
    let guard = Guard::new(config, &Proxies::default(), Clock::system()).unwrap();
    (Arc::new(guard), [ADMIN, USER])
}

#[tokio::test]
async fn keys_are_known_to_routes_by_their_names() {
    let (guard, [_, user]) = keys();
    let when = RouteMatch { users: vec!["ada".to_owned()], ..RouteMatch::default() };
    let routed = start(naming("L"), vec![route("r", when, &["small"])], guard).await;
    let key = format!("Bearer {user}");
    let headers = [("Authorization", key.as_str())];
    let body = json!({"prompt": "a"}).to_string();
    let address = routed.server.address;
    let response = ask(address, ("POST", "/v1/completions"), &headers, &body).await;
    assert_eq!(response.json()["choices"][0]["text"], "S", "{}", response.text());
    let asker = routed.small.take_requests().remove(0).asker;
    assert_eq!(asker.user, Some(pseudonym("ada")), "and no more is told of them");
}

#[tokio::test]
async fn targets_are_looked_after_with_a_key_that_says_so() {
    let (guard, [admin, user]) = keys();
    let routes = vec![route("r", RouteMatch::default(), &["org/scripted", "small"])];
    let routed = start(naming("L"), routes, guard).await;
    let address = routed.server.address;
    let asked = async |method: &str, path: &str, key: Option<&str>, body: &str| {
        let key = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<(&str, &str)> =
            key.iter().map(|key| ("Authorization", key.as_str())).collect();
        let response = ask(address, (method, path), &headers, body).await;
        (response.status, response.json())
    };
    for (key, status) in [(None, 401), (Some("wrong"), 401), (Some(user), 403), (Some(admin), 200)]
    {
        let (found, answer) = asked("GET", "/admin/targets", key, "").await;
        assert_eq!(found, status, "{answer}");
    }
    let (_, seen) = asked("GET", "/admin/targets", Some(admin), "").await;
    assert_eq!(seen["targets"][0]["name"], "org/scripted");
    assert_eq!(seen["targets"][0]["breaker"], "closed");
    assert_eq!(seen["routes"][0]["weights"], json!({"org/scripted": 0, "small": 0}));
    let rows = [
        ("/admin/targets/org%2Fscripted/drain", 200, ("open", "drained", json!("drained"))),
        ("/admin/targets/org%2Fscripted/open", 200, ("open", "open", json!("forced"))),
        ("/admin/targets/org%2Fscripted/close", 200, ("closed", "closed", Value::Null)),
        ("/admin/targets/org%2Fscripted/auto", 200, ("closed", "auto", Value::Null)),
        ("/admin/targets/org%2Fscripted/break", 404, ("closed", "auto", Value::Null)),
        ("/admin/targets/other/open", 404, ("closed", "auto", Value::Null)),
    ];
    for (path, status, (breaker, manual, cause)) in rows {
        assert_eq!(asked("POST", path, Some(user), "").await.0, 403, "{path}");
        let (found, answer) = asked("POST", path, Some(admin), "").await;
        assert_eq!(found, status, "{path}: {answer}");
        let (_, seen) = asked("GET", "/admin/targets", Some(admin), "").await;
        let target = &seen["targets"][0];
        assert_eq!((&target["breaker"], &target["override"]), (&json!(breaker), &json!(manual)));
        assert_eq!(target["cause"], cause, "{path}");
        let (found, status) = asked("GET", "/admin/status", Some(admin), "").await;
        assert_eq!((found, &status["targets"]), (200, &seen["targets"]), "{path}");
        assert_eq!(asked("GET", "/admin/status", Some(user), "").await.0, 403);
    }
    let weights = "/admin/routes/r/weights";
    let rows = [
        (weights, json!({"weights": {"small": 100}}), 200),
        (weights, json!({"weights": {"small": 99}}), 400),
        (weights, json!({"weights": {"small": -1}}), 400),
        (weights, json!({"weights": {"other": 100}}), 400),
        (weights, json!({"weights": []}), 400),
        ("/admin/routes/s/weights", json!({"weights": {"small": 100}}), 400),
    ];
    for (path, body, status) in rows {
        let (found, answer) = asked("POST", path, Some(admin), &body.to_string()).await;
        assert_eq!(found, status, "{body}: {answer}");
    }
    let shares: Vec<u32> =
        routed.router.table().routes().next().unwrap().targets.iter().map(|it| it.weight).collect();
    assert_eq!(shares, [0, 100]);
    assert_eq!(asked("GET", weights, Some(admin), "").await.0, 405);
}

#[tokio::test]
async fn an_open_server_has_no_administrators() {
    let routes = vec![route("r", RouteMatch::default(), &["small"])];
    let routed = start(naming("L"), routes, Arc::new(open())).await;
    assert_eq!(get(routed.server.address, "/admin/targets").await.status, 403);
    let path = "/admin/targets/small/open";
    assert_eq!(post(routed.server.address, path, "").await.status, 403);
}

fn open() -> Guard {
    Guard::new(AuthConfig::open(), &Proxies::default(), Clock::system()).unwrap()
}
