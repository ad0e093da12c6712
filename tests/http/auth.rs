//! Who is let in, as clients see it: the texts and shapes of refusals, API keys, limits.

use std::{num::NonZeroU32, sync::Arc};

use lacuna::{
    auth::Guard,
    completion::FinishReason,
    config::{ApiKeyConfig, AuthConfig},
};
use serde_json::{Value, json};

use crate::support::{
    PATIENCE, TestServer,
    client::{self, Answer, Connection},
    issuer::{OF_GITLAB, ONE, SERVICE, TWO, TestClock, bearer, guard, signs_with},
    provider::{Script, Step, USAGE, chunk, end, sum},
};

const GITLAB: &str = "/v2/code/completions";
const OPENAI: &str = "/v1/completions";
const OWN_KEY: &str = "gitlab-ai-gateway_signing_key";

async fn post(server: &TestServer, path: &str, headers: &[&str]) -> Answer {
    let body = json!({
        "prompt": "a", "prompt_version": 1,
        "current_file": {
            "file_name": "a.py", "content_above_cursor": "a", "content_below_cursor": "",
        },
    });
    let request = client::request("POST", path, headers, body.to_string().as_bytes());
    client::send(server.address, &request).await
}

async fn start(guard: Arc<Guard>) -> TestServer {
    TestServer::start_guarded(sum(), guard).await
}

/// What a token of ours for Ada says.
fn claims(clock: &TestClock) -> Value {
    json!({
        "iss": SERVICE, "sub": "ada", "aud": SERVICE, "exp": clock.now() + 3600,
        "gitlab_realm": "self-managed", "gitlab_instance_id": "instance",
        "scopes": ["complete_code"],
    })
}

fn key(name: &str, key: &str) -> ApiKeyConfig {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, key.as_bytes()).as_ref());
    ApiKeyConfig {
        name: name.to_owned(),
        digest,
        scopes: vec!["complete_code".to_owned(), "generate_code".to_owned()],
        requests_per_minute: None,
        concurrent_requests: None,
    }
}

fn with_keys(change: impl FnOnce(&mut AuthConfig)) -> Arc<Guard> {
    guard(&TestClock::new(), |config| {
        config.api_keys = vec![key("ada", "key of ada"), key("grace", "key-of-grace")];
        change(config);
    })
}

#[tokio::test]
async fn refusals_have_the_gateway_s_texts() {
    let clock = TestClock::new();
    let server = start(guard(&clock, |config| signs_with(config, ONE))).await;
    let good = bearer(OWN_KEY, ONE, &claims(&clock));
    let forged = bearer(OWN_KEY, TWO, &claims(&clock));
    let huge = format!("Authorization: Bearer {}", "x".repeat(32 << 10));
    let [kind, realm, instance, user] = OF_GITLAB;
    let rows: &[(&[&str], &str)] = &[
        (&[], "No authorization header presented"),
        (&["Authorization: invalid"], "Invalid authorization header"),
        (&["Authorization: Bearer "], "Invalid authorization header"),
        (&["Authorization: Bearer \u{e4}"], "Invalid authorization header"),
        (
            &[&good, realm, instance, user],
            "Invalid authentication token type - only OIDC is supported",
        ),
        (&[&forged, kind, realm, instance, user], "Forbidden by auth provider"),
        (&[&huge, kind, realm, instance, user], "Forbidden by auth provider"),
        (&["Authorization: Bearer x", kind], "Forbidden by auth provider"),
        (
            &[&good, kind, "X-Gitlab-Realm: saas", instance, user],
            "Header mismatch 'X-Gitlab-Realm'",
        ),
        (
            &[&good, kind, realm, "X-Gitlab-Instance-Id: other", user],
            "Header mismatch 'X-Gitlab-Instance-Id'",
        ),
        (&[&good, kind, realm, instance], "Header mismatch 'X-Gitlab-Global-User-Id'"),
    ];
    for (headers, text) in rows {
        for path in [GITLAB, "/v2/completions", "/v4/unknown", "/"] {
            let answer = post(&server, path, headers).await;
            assert_eq!((answer.status, answer.json()), (401, json!({ "error": text })), "{path}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(answer.header("x-request-id").is_some());
        }
        let answer = post(&server, OPENAI, headers).await;
        let error = json!({"error": {
            "message": text, "type": "invalid_request_error", "param": null, "code": "invalid_api_key",
        }});
        assert_eq!((answer.status, answer.json()), (401, error));
    }
    for path in [GITLAB, OPENAI] {
        assert_eq!(post(&server, path, &[&good, kind, realm, instance, user]).await.status, 200);
    }
}

#[tokio::test]
async fn probes_need_nothing() {
    let server = start(with_keys(|_| {})).await;
    for path in ["/health", "/monitoring/healthz", "/monitoring/ready", "//health/"] {
        assert_eq!(client::get(server.address, path).await.status, 200, "{path}");
    }
    for path in ["/v1/models", "/v1/models/org/scripted", "/unknown", "/healthz", "/health/x"] {
        assert_eq!(client::get(server.address, path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_caller_needs_the_endpoint_s_scope() {
    let clock = TestClock::new();
    let server = start(guard(&clock, |config| {
        signs_with(config, ONE);
        config.api_keys = vec![
            ApiKeyConfig { scopes: vec!["duo_chat".to_owned()], ..key("bot", "other") },
            ApiKeyConfig { scopes: vec!["generate_code".to_owned()], ..key("gen", "generates") },
            ApiKeyConfig { scopes: vec!["complete_code".to_owned()], ..key("com", "completes") },
            key("ada", "all"),
        ];
    }))
    .await;
    let mut none = claims(&clock);
    none["scopes"] = json!([]);
    let (user, bare) = (bearer(OWN_KEY, ONE, &claims(&clock)), bearer(OWN_KEY, ONE, &none));
    let [kind, realm, instance, id] = OF_GITLAB;
    let of_user = [user.as_str(), kind, realm, instance, id];
    let of_nobody = [bare.as_str(), kind, realm, instance, id];
    let completions = "Unauthorized to access code completions";
    let suggestions = "Unauthorized to access code suggestions";
    let rows: &[(&str, &[&str], Option<&str>)] = &[
        (GITLAB, &of_user, None),
        (GITLAB, &of_nobody, Some(completions)),
        (GITLAB, &["x-api-key: other"], Some(completions)),
        (GITLAB, &["x-api-key: generates"], Some(completions)),
        (GITLAB, &["x-api-key: all"], None),
        ("/v2/code/generations", &of_user, Some("Unauthorized to access code generations")),
        ("/v3/code/completions", &of_user, Some(suggestions)),
        ("/v4/code/suggestions", &of_user, Some(suggestions)),
        ("/v4/code/suggestions", &["x-api-key: other"], Some(suggestions)),
    ];
    for (path, headers, detail) in rows {
        let answer = post(&server, path, headers).await;
        match detail {
            None => assert_eq!(answer.status, 200, "{path}"),
            Some(detail) => {
                let expected = (403, json!({ "detail": detail }));
                assert_eq!((answer.status, answer.json()), expected, "{path}");
            }
        }
    }
    let file = json!({
        "file_name": "a.py", "content_above_cursor": "a = ", "content_below_cursor": "",
    });
    for (r#type, key, status) in [
        ("code_editor_completion", "all", 200),
        ("code_editor_completion", "generates", 403),
        ("code_editor_generation", "generates", 200),
        ("code_editor_generation", "completes", 403),
    ] {
        let mut file = file.clone();
        if status == 403 {
            // Who may not is told so before anything else is found wrong.
            file["prompt_id"] = json!("not/there");
            file["choices_count"] = json!(-1);
        }
        let body = json!({ "prompt_components": [{ "type": r#type, "payload": file }] });
        let (path, body) = ("/v4/code/suggestions", body.to_string());
        let headers = [&*format!("x-api-key: {key}")];
        let request = client::request("POST", path, &headers, body.as_bytes());
        let answer = client::send(server.address, &request).await;
        assert_eq!(answer.status, status, "{type} {key}: {}", answer.text());
    }
    let answer = post(&server, OPENAI, &["x-api-key: other"]).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (403, &json!("insufficient_permissions"))
    );
    assert_eq!(post(&server, "/v1/chat/completions", &["x-api-key: other"]).await.status, 403);
}

#[tokio::test]
async fn api_keys_are_taken_where_clients_put_them() {
    let server = start(with_keys(|_| {})).await;
    let rows: &[(&[&str], bool)] = &[
        (&["Authorization: Bearer key-of-grace"], true),
        (&["authorization: bearer  key-of-grace "], true),
        (&["x-api-key: key of ada"], true),
        (&["api-key: key-of-grace"], true),
        (&["Authorization: Bearer undefined", "x-api-key: key-of-grace"], true),
        (&["Authorization: Bearer ", "x-api-key: key-of-grace"], true),
        (&["Authorization: Bearer key-of-grace", "x-api-key: none"], true),
        (&["Authorization: Bearer key-of-grac"], false),
        (&["Authorization: Bearer key-of-graces"], false),
        (&["Authorization: Bearer KEY-OF-GRACE"], false),
        (&["Authorization: Bearer "], false),
        (&["x-api-key: "], false),
        (&["x-api-key: undefined"], false),
        (&["Cookie: key-of-grace"], false),
    ];
    for (headers, is_known) in rows {
        for path in [GITLAB, OPENAI] {
            let expected = if *is_known { 200 } else { 401 };
            assert_eq!(post(&server, path, headers).await.status, expected, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn an_open_server_takes_whatever_editors_send() {
    let server = TestServer::start(sum()).await;
    let headers = [
        "Authorization: Bearer ",
        "Authorization: Bearer undefined",
        "Authorization: Bearer EMPTY",
        "Authorization: ",
        "Authorization: Basic YTpi",
        "x-api-key: ",
        "api-key: none",
    ];
    for header in headers {
        for path in [GITLAB, OPENAI] {
            assert_eq!(post(&server, path, &[header]).await.status, 200, "{header}");
        }
    }
    // Nobody signs here.
    let answer = post(&server, "/v1/code/user_access_token", &OF_GITLAB).await;
    assert_eq!((answer.status, answer.text()), (500, r#"{"detail":"Failed to generate JWT"}"#));
}

#[tokio::test]
async fn a_token_needs_a_user_and_an_instance() {
    let clock = TestClock::new();
    let guard = guard(&clock, |config| {
        signs_with(config, ONE);
        config.api_keys = vec![key("ada", "all")];
        config.bypass.external_with_header = true;
    });
    let server = start(guard).await;
    let path = "/v1/code/user_access_token";
    let answer = post(&server, path, &["x-api-key: all", OF_GITLAB[3]]).await;
    let refusal = r#"{"detail":"Unauthorized to create user access token"}"#;
    assert_eq!((answer.status, answer.text()), (403, refusal));
    let answer = post(&server, path, &["Bypass-Auth: true"]).await;
    let refusal = r#"{"detail":"`X-Gitlab-Global-User-Id` must name the user"}"#;
    assert_eq!((answer.status, answer.text()), (422, refusal));
    let answer = post(&server, path, &["Bypass-Auth: true", OF_GITLAB[3]]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(client::get(server.address, path).await.status, 401);
}

#[tokio::test]
async fn too_many_requests_of_one_key_leave_others_alone() {
    let server = start(with_keys(|config| config.requests_per_minute = NonZeroU32::new(2))).await;
    let (ada, grace) = (["x-api-key: key of ada"], ["x-api-key: key-of-grace"]);
    for _ in 0..2 {
        assert_eq!(post(&server, OPENAI, &ada).await.status, 200);
    }
    let answer = post(&server, OPENAI, &ada).await;
    let error = json!({"error": {
        "message": "too many requests of yours came within a minute", "type": "rate_limit_error",
        "param": null, "code": "rate_limit_exceeded",
    }});
    assert_eq!((answer.status, answer.json()), (429, error));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((28..=30).contains(&wait), "{wait}");
    let answer = post(&server, GITLAB, &ada).await;
    let detail = r#"{"detail":"Too many requests. Please try again later."}"#;
    assert_eq!((answer.status, answer.text()), (429, detail));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(post(&server, OPENAI, &grace).await.status, 200);
}

#[tokio::test]
async fn users_of_one_instance_are_counted_apart() {
    let clock = TestClock::new();
    let server = start(guard(&clock, |config| {
        config.bypass.external = true;
        config.requests_per_minute = NonZeroU32::new(1);
    }))
    .await;
    let ask = async |user: &str| {
        let header = format!("X-Gitlab-Global-User-Id: {user}");
        post(&server, GITLAB, &[&header]).await.status
    };
    assert_eq!([ask("ada").await, ask("ada").await, ask("grace").await], [200, 429, 200]);
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_its_end() {
    let script = Script::Play(vec![
        chunk(0, "a"),
        Step::Gate,
        end(0, "b", FinishReason::Stop),
        Step::Done(USAGE),
    ]);
    let guard = with_keys(|config| config.concurrent_requests = NonZeroU32::new(1));
    let server = TestServer::start_guarded(script, guard).await;
    let ada = "x-api-key: key of ada";
    let body = br#"{"prompt":"a","stream":true}"#;
    let streaming = client::request("POST", OPENAI, &[ada], body);
    let mut first = Connection::open(server.address).await;
    first.send(&streaming).await;
    assert_eq!(first.head().await.status, 200);
    assert!(first.chunk().await.is_some());
    let answer = post(&server, OPENAI, &[ada]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    let grace = client::request("POST", OPENAI, &["x-api-key: key-of-grace"], body);
    let mut second = Connection::open(server.address).await;
    second.send(&grace).await;
    assert_eq!(second.head().await.status, 200);
    // Whoever goes away gives the place back.
    drop(first);
    let freed = async {
        loop {
            let mut third = Connection::open(server.address).await;
            third.send(&streaming).await;
            if third.head().await.status == 200 {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn who_sends_much_before_reading_still_gets_the_refusal() {
    let server = start(with_keys(|_| {})).await;
    let body = vec![b' '; 4 << 20];
    for path in [GITLAB, OPENAI] {
        let answer = client::post(server.address, path, &body).await;
        assert_eq!(answer.status, 401);
        assert!(answer.is_whole);
    }
}

#[tokio::test]
async fn whole_answers_keep_their_length() {
    let limit = |config: &mut AuthConfig| config.concurrent_requests = NonZeroU32::new(1);
    let server = start(with_keys(limit)).await;
    for _ in 0..3 {
        let answer = post(&server, OPENAI, &["x-api-key: key-of-grace"]).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-length").is_some());
    }
}

#[tokio::test]
async fn our_own_client_shows_its_key() {
    let server = start(with_keys(|_| {})).await;
    let url = format!("http://{}", server.address);
    let body = json!({"prompt": "a"});
    let ask = async |key: Option<&str>| {
        let client = lacuna::client::Server::parse(&url).unwrap();
        client.with_api_key(key.map(Into::into)).post(OPENAI, &body, PATIENCE).await
    };
    assert!(ask(Some("key-of-grace")).await.is_ok());
    let error = ask(None).await.unwrap_err().to_string();
    assert!(error.contains("No authorization header presented"), "{error}");
}
