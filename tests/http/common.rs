//! What all endpoints share: ids, times, CORS, paths, methods, probes, errors of the provider.

use std::{sync::Arc, time::Duration};

use lacuna::provider::{Pending, ProviderError, ProviderErrorKind};

use crate::support::{
    TestServer,
    client::{self, get, post, request},
    provider::{Script, ScriptedProvider, sum},
    service,
};

const OPENAI: (&str, &str) = ("/v1/completions", r#"{"prompt":"a"}"#);
const GITLAB: (&str, &str) = (
    "/v2/code/completions",
    r#"{"current_file":{"file_name":"a.py","content_above_cursor":"a","content_below_cursor":""}}"#,
);

#[tokio::test]
async fn answers_probes() {
    let server = TestServer::start(sum()).await;
    let rows = [
        ("/monitoring/healthz", 200, "{}"),
        ("/monitoring/ready", 200, r#"{"models":{"org/scripted":true},"ready":true}"#),
        ("/health", 200, r#"{"status":"ok"}"#),
    ];
    for (path, status, body) in rows {
        let answer = get(server.address, path).await;
        assert_eq!((answer.status, answer.text()), (status, body), "{path}");
    }
    let starting = TestServer::start(Script::Starting).await;
    let rows = [
        ("/monitoring/healthz", 200, "{}"),
        ("/monitoring/ready", 503, r#"{"models":{"org/scripted":false},"ready":false}"#),
        ("/health", 503, r#"{"status":"unavailable"}"#),
    ];
    for (path, status, body) in rows {
        let answer = get(starting.address, path).await;
        assert_eq!((answer.status, answer.text()), (status, body), "{path}");
    }
}

#[tokio::test]
async fn answers_while_the_model_loads() {
    let pending = Arc::new(Pending::new("org/scripted", None));
    let models = {
        let pending = Arc::clone(&pending);
        move |_: &_| service(pending).into()
    };
    let server = TestServer::start_models(ScriptedProvider::new(sum()), models).await;
    assert_eq!(get(server.address, "/monitoring/healthz").await.status, 200);
    let ready = get(server.address, "/monitoring/ready").await;
    assert_eq!(ready.text(), r#"{"models":{"org/scripted":false},"ready":false}"#);
    for path in ["/monitoring/ready", "/health"] {
        assert_eq!(get(server.address, path).await.status, 503, "{path}");
    }
    // Its name is known, and nothing is said of what is not.
    let listed = get(server.address, "/v1/models/org/scripted").await;
    assert_eq!((listed.status, listed.json().get("capabilities")), (200, None));
    assert!(get(server.address, "/v1/models/definitions").await.text().contains("not loaded"));
    let rows = [
        (
            OPENAI,
            r#"{"error":{"message":"the model is loading","type":"server_error","param":null,"code":"unavailable"}}"#,
        ),
        (GITLAB, r#"{"detail":"Inference failed: the model is loading"}"#),
    ];
    for ((path, body), expected) in rows {
        let answer = post(server.address, path, body).await;
        assert_eq!((answer.status, answer.text()), (503, expected), "{path}");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    pending.fill(server.provider.clone());
    // Once is for good.
    pending.give_up();
    for (path, body) in [OPENAI, GITLAB] {
        assert_eq!(post(server.address, path, body).await.status, 200, "{path}");
    }
    assert_eq!(get(server.address, "/monitoring/ready").await.status, 200);
    let listed = get(server.address, "/v1/models/org/scripted").await;
    assert_eq!(listed.json()["capabilities"]["fim"], true);
}

#[tokio::test]
async fn a_model_that_did_not_load_is_no_longer_waited_for() {
    let pending = Pending::new("org/scripted", None);
    pending.give_up();
    let models = move |_: &_| service(Arc::new(pending)).into();
    let server = TestServer::start_models(ScriptedProvider::new(sum()), models).await;
    let answer = post(server.address, OPENAI.0, OPENAI.1).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, None));
    assert!(answer.text().contains("the model could not be loaded"), "{}", answer.text());
}

#[tokio::test]
async fn names_and_times_every_answer() {
    let server = TestServer::start(sum()).await;
    let long = "x".repeat(129);
    let rows = [
        (Some("abc-123_~"), true),
        (Some(&long[..128]), true),
        (Some(long.as_str()), false),
        (Some("two words"), false),
        (Some("\u{e9}"), false),
        (Some(""), false),
        (None, false),
    ];
    let targets = [
        ("POST", OPENAI.0),
        ("POST", GITLAB.0),
        ("GET", "/v1/models"),
        ("GET", "/nothing"),
        ("PUT", OPENAI.0),
    ];
    for (given, is_kept) in rows {
        for (method, path) in targets {
            let header = given.map(|id| format!("X-Request-ID: {id}"));
            let headers: Vec<&str> = header.iter().map(String::as_str).collect();
            let answer =
                client::send(server.address, &request(method, path, &headers, b"{}")).await;
            let id = answer.header("x-request-id").unwrap();
            match given {
                Some(given) if is_kept => assert_eq!(id, given),
                _ => assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}"),
            }
            let seconds: f64 = answer.header("x-process-time").unwrap().parse().unwrap();
            assert!((0.0..20.0).contains(&seconds));
        }
    }
}

#[tokio::test]
async fn draws_a_new_id_each_time() {
    let server = TestServer::start(sum()).await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(get(server.address, "/health").await.header("x-request-id").unwrap().to_owned());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 50);
}

#[tokio::test]
async fn allows_browsers_from_configured_origins() {
    let only =
        |origins: &[&str]| origins.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>();
    let rows = [
        (only(&["*"]), Some("*")),
        (only(&["https://other", "https://ide.example"]), Some("https://ide.example")),
        (only(&["https://other"]), None),
        (only(&[]), None),
    ];
    for (origins, expected) in rows {
        let server =
            TestServer::start_with(sum(), |config| config.cors_allowed_origins = origins.clone())
                .await;
        let origin = "Origin: https://ide.example";
        let asked = [
            origin,
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,content-type",
        ];
        let preflight =
            client::send(server.address, &request("OPTIONS", GITLAB.0, &asked, b"")).await;
        assert_eq!(preflight.header("access-control-allow-origin"), expected, "{origins:?}");
        if expected.is_some() {
            assert_eq!(preflight.status, 200);
            assert_eq!(preflight.header("access-control-allow-methods"), Some("GET,POST"));
            let headers = preflight.header("access-control-allow-headers");
            assert_eq!(headers, Some("authorization,content-type"));
        }
        let bytes = request("POST", OPENAI.0, &[origin], OPENAI.1.as_bytes());
        let answer = client::send(server.address, &bytes).await;
        let status = if expected.is_some() { 200 } else { 403 };
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!((answer.status, allowed), (status, expected));
        let bytes = request("POST", GITLAB.0, &[origin], GITLAB.1.as_bytes());
        let answer = client::send(server.address, &bytes).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["detail"].is_string(), status == 403);
    }
}

#[tokio::test]
async fn shapes_unknown_paths_and_methods() {
    let server = TestServer::start(sum()).await;
    let openai = |message: &str| {
        format!(
            r#"{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":null}}}}"#
        )
    };
    let gitlab = |detail: &str| format!(r#"{{"detail":"{detail}"}}"#);
    let rows = [
        ("POST", "/v1/nothing", 404, openai("no endpoint answers POST on this path"), None),
        ("GET", "/", 404, openai("no endpoint answers GET on this path"), None),
        ("POST", "/v2/nothing", 404, gitlab("Not Found"), None),
        ("GET", "/monitoring/nothing", 404, gitlab("Not Found"), None),
        ("GET", OPENAI.0, 405, openai("this endpoint does not answer GET"), Some("POST")),
        ("POST", "/v1/models", 405, openai("this endpoint does not answer POST"), Some("GET,HEAD")),
        (
            "DELETE",
            "/v1/models/a/b",
            405,
            openai("this endpoint does not answer DELETE"),
            Some("GET,HEAD"),
        ),
        ("GET", GITLAB.0, 405, gitlab("Method Not Allowed"), Some("POST")),
        ("POST", "/health", 405, gitlab("Method Not Allowed"), Some("GET,HEAD")),
    ];
    for (method, path, status, body, allow) in rows {
        let answer = client::send(server.address, &request(method, path, &[], b"")).await;
        assert_eq!((answer.status, answer.text()), (status, body.as_str()), "{method} {path}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}

#[tokio::test]
async fn folds_slashes() {
    let server = TestServer::start(sum()).await;
    for path in ["/v1/completions/", "//v1//completions", "/v1/completions//?x=1"] {
        assert_eq!(post(server.address, path, OPENAI.1).await.status, 200, "{path}");
    }
    for path in ["/v2/code/completions/", "/v2//completions"] {
        assert_eq!(post(server.address, path, GITLAB.1).await.status, 200, "{path}");
    }
    assert_eq!(get(server.address, "//health/").await.status, 200);
}

/// Posts to a provider that refuses, and checks that the wait is rounded up to whole seconds.
async fn refused(error: ProviderError, (path, body): (&str, &str)) -> (u16, String) {
    let is_overloaded = error.kind == ProviderErrorKind::Overloaded;
    let retry_after = is_overloaded.then_some(Duration::from_millis(1500));
    let server = TestServer::start(Script::Refuse(ProviderError { retry_after, ..error })).await;
    let answer = post(server.address, path, body).await;
    assert_eq!(answer.header("retry-after"), is_overloaded.then_some("2"));
    (answer.status, answer.text().to_owned())
}

#[tokio::test]
async fn shapes_the_providers_errors_in_openai() {
    use ProviderErrorKind as Kind;
    let rows = [
        (Kind::InvalidRequest, 400, "invalid_request_error", "null"),
        (Kind::PromptTooLong, 400, "invalid_request_error", r#""context_length_exceeded""#),
        (Kind::Overloaded, 429, "rate_limit_error", r#""rate_limit_exceeded""#),
        (Kind::Unavailable, 503, "server_error", r#""unavailable""#),
        (Kind::DeadlineExceeded, 504, "server_error", r#""deadline_exceeded""#),
        (Kind::Internal, 500, "server_error", r#""internal_error""#),
        (Kind::UpstreamExhausted, 429, "rate_limit_error", r#""rate_limit_exceeded""#),
        (Kind::UpstreamDeclined, 502, "server_error", r#""upstream_error""#),
        (Kind::UpstreamRefused, 502, "server_error", r#""upstream_error""#),
        (Kind::UpstreamUnreachable, 502, "server_error", r#""upstream_error""#),
        (Kind::UpstreamFailed, 502, "server_error", r#""upstream_error""#),
        (Kind::UpstreamMalformed, 502, "server_error", r#""upstream_error""#),
    ];
    for (kind, status, r#type, code) in rows {
        let (error, param) = match kind {
            Kind::InvalidRequest => {
                (ProviderError::invalid("num_choices", "`num_choices` is odd"), r#""n""#)
            }
            _ => (ProviderError::new(kind, "`n` is odd"), "null"),
        };
        let body = format!(
            r#"{{"error":{{"message":"`n` is odd","type":"{type}","param":{param},"code":{code}}}}}"#
        );
        assert_eq!(refused(error, OPENAI).await, (status, body));
    }
}

#[tokio::test]
async fn shapes_the_providers_errors_in_gitlab() {
    use ProviderErrorKind as Kind;
    let error = |kind, field| ProviderError { kind, field, ..ProviderError::new(kind, "is odd") };
    let rows = [
        (
            ProviderError::invalid("num_choices", "`num_choices` is odd"),
            422,
            "`choices_count` is odd",
        ),
        (
            error(Kind::InvalidRequest, Some("prefix")),
            422,
            "`current_file.content_above_cursor`: is odd",
        ),
        (
            error(Kind::PromptTooLong, Some("prompt")),
            422,
            "`current_file.content_above_cursor`: is odd",
        ),
        (error(Kind::PromptTooLong, Some("input")), 422, "`current_file`: is odd"),
        (error(Kind::PromptTooLong, None), 422, "is odd"),
        (error(Kind::Overloaded, None), 429, "Too many requests. Please try again later."),
        (error(Kind::Unavailable, None), 503, "Inference failed"),
        (error(Kind::DeadlineExceeded, None), 503, "Inference failed"),
        (error(Kind::Internal, None), 503, "Inference failed"),
        (error(Kind::UpstreamExhausted, None), 429, "Too many requests. Please try again later."),
        (error(Kind::UpstreamRefused, None), 503, "Inference failed"),
        (error(Kind::UpstreamFailed, None), 503, "Inference failed"),
    ];
    for (error, status, detail) in rows {
        let body = format!(r#"{{"detail":"{detail}"}}"#);
        assert_eq!(refused(error, GITLAB).await, (status, body));
    }
}
