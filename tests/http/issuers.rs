//! Tokens of issuers that are asked over HTTP: rotation, failures, and the way of an editor.

use std::sync::Arc;

use lacuna::auth::Guard;
use serde_json::json;

use crate::support::{
    TestServer,
    client::{self, Answer},
    issuer::{Issuer, Manner, OF_GITLAB, ONE, SERVICE, THREE, TWO, TestClock, guard, signs_with},
    provider::sum,
};

const COMPLETIONS: &str = "/v2/completions";
const USER_TOKEN: &str = "/v1/code/user_access_token";

/// Posts a completion as a GitLab or its editor does.
async fn ask(server: &TestServer, path: &str, authorization: &str) -> Answer {
    let body = json!({
        "prompt_version": 1,
        "current_file": {
            "file_name": "a.py", "content_above_cursor": "def a", "content_below_cursor": "",
        },
    });
    let mut headers = OF_GITLAB.to_vec();
    headers.push(authorization);
    let request = client::request("POST", path, &headers, body.to_string().as_bytes());
    client::send(server.address, &request).await
}

async fn status(server: &TestServer, authorization: &str) -> u16 {
    ask(server, COMPLETIONS, authorization).await.status
}

/// A server that takes the tokens of these issuers.
async fn server(clock: &TestClock, issuers: &[&Issuer]) -> TestServer {
    let addresses = issuers.iter().map(|issuer| issuer.address()).collect();
    let guard = guard(clock, |config| config.issuers = addresses);
    start(guard).await
}

async fn start(guard: Arc<Guard>) -> TestServer {
    TestServer::start_guarded(sum(), guard).await
}

#[tokio::test]
async fn probes_tell_whether_the_keys_of_an_issuer_are_known() {
    let clock = TestClock::new();
    let good = Issuer::start(Manner::Good, &[("2026", ONE)]).await;
    let ready = async |server: &TestServer| {
        let answer = client::get(server.address, "/monitoring/ready").await;
        (answer.status, answer.json()["issuer_keys"].clone())
    };
    let server = server(&clock, &[&good]).await;
    // The first request that needs a key waits until the issuer was asked.
    status(&server, &good.bearer(("2026", ONE), clock.now())).await;
    assert_eq!(ready(&server).await, (200, json!(true)));

    let address = "http://127.0.0.1:1".to_owned();
    let silent = guard(&clock, |config| config.issuers = vec![address.clone()]);
    assert_eq!(ready(&start(silent).await).await, (503, json!(false)));
    // Somebody can be let in all the same.
    let with_key = guard(&clock, |config| {
        config.issuers = vec![address];
        config.api_keys = vec![lacuna::config::ApiKeyConfig {
            name: "ada".to_owned(),
            digest: [0; 32],
            scopes: Vec::new(),
            requests_per_minute: None,
            concurrent_requests: None,
        }];
    });
    assert_eq!(ready(&start(with_key).await).await, (200, json!(false)));
}

#[tokio::test]
async fn an_issuer_may_change_its_keys() {
    let clock = TestClock::new();
    let (old, new) = (("2026", ONE), ("2027", TWO));
    let issuer = Issuer::start(Manner::Good, &[old]).await;
    let server = server(&clock, &[&issuer]).await;
    let (with_old, with_new) = (issuer.bearer(old, clock.now()), issuer.bearer(new, clock.now()));
    assert_eq!(status(&server, &with_old).await, 200);

    issuer.publish(&[old, new]);
    // It was asked just now, so that nobody makes us ask it with each forged token.
    let num_asked = issuer.num_asked();
    for _ in 0..20 {
        assert_eq!(status(&server, &with_new).await, 401);
    }
    assert_eq!(issuer.num_asked(), num_asked);
    clock.advance(60);
    assert_eq!(status(&server, &with_new).await, 200, "the same request that finds the key new");
    assert_eq!(status(&server, &with_old).await, 200);
    assert_eq!(issuer.num_asked(), num_asked + 1);

    issuer.publish(&[new]);
    clock.advance(60);
    assert_eq!(status(&server, &issuer.bearer(("2028", THREE), clock.now())).await, 401);
    assert_eq!(status(&server, &with_old).await, 401, "a key that is withdrawn signs no more");
    assert_eq!(status(&server, &with_new).await, 200);
}

#[tokio::test]
async fn an_issuer_that_fails_is_passed_over_and_its_last_keys_are_kept_for_a_day() {
    let clock = TestClock::new();
    let good = Issuer::start(Manner::Good, &[("a", ONE)]).await;
    let frail = Issuer::start(Manner::Failing, &[("b", TWO)]).await;
    let server = server(&clock, &[&frail, &good]).await;
    let (of_good, of_frail) =
        (good.bearer(("a", ONE), clock.now()), frail.bearer(("b", TWO), clock.now()));
    assert_eq!(status(&server, &of_good).await, 200);
    assert_eq!(status(&server, &of_frail).await, 401);
    frail.behave(Manner::Good);
    clock.advance(60);
    assert_eq!(status(&server, &of_frail).await, 200);
    frail.behave(Manner::Failing);
    clock.advance(60);
    let forged = good.bearer(("c", THREE), clock.now());
    assert_eq!(status(&server, &forged).await, 401);
    assert_eq!(status(&server, &of_frail).await, 200);
    assert_eq!(status(&server, &of_good).await, 200);
    // For a day: else a key that was withdrawn would be good for whoever can keep an issuer from being asked.
    clock.advance(24 * 3600 + 60);
    let forged = good.bearer(("c", THREE), clock.now());
    assert_eq!(status(&server, &forged).await, 401);
    assert_eq!(status(&server, &good.bearer(("a", ONE), clock.now())).await, 200);
    assert_eq!(status(&server, &frail.bearer(("b", TWO), clock.now())).await, 401);
}

#[tokio::test]
async fn an_issuer_cannot_speak_for_another_or_for_us() {
    let clock = TestClock::new();
    let one = Issuer::start(Manner::Good, &[("a", ONE)]).await;
    let two = Issuer::start(Manner::Good, &[("b", TWO)]).await;
    let server = server(&clock, &[&one, &two]).await;
    assert_eq!(status(&server, &one.bearer(("a", ONE), clock.now())).await, 200);
    assert_eq!(status(&server, &one.bearer(("b", TWO), clock.now())).await, 401);
    let mut claims = two.claims(clock.now());
    claims["iss"] = json!(SERVICE);
    let as_us = crate::support::issuer::bearer("b", TWO, &claims);
    assert_eq!(status(&server, &as_us).await, 401);
    two.behave(Manner::Posing);
    clock.advance(60);
    assert_eq!(status(&server, &as_us).await, 401);
    let forged = two.bearer(("c", THREE), clock.now());
    assert_eq!(status(&server, &forged).await, 401, "and it was asked by now");
    assert_eq!(status(&server, &as_us).await, 401);
    assert_eq!(status(&server, &two.bearer(("b", TWO), clock.now())).await, 200);
}

#[tokio::test]
async fn answers_of_issuers_have_limits() {
    let rows = [
        (Manner::Good, 200),
        (Manner::Moved, 200),
        (Manner::Circling, 401),
        (Manner::Endless, 401),
        (Manner::Elsewhere, 401),
    ];
    for (manner, expected) in rows {
        let clock = TestClock::new();
        let issuer = Issuer::start(manner, &[("a", ONE)]).await;
        let server = server(&clock, &[&issuer]).await;
        assert_eq!(status(&server, &issuer.bearer(("a", ONE), clock.now())).await, expected);
        assert!(issuer.num_asked() <= 7, "{}", issuer.num_asked());
    }
}

#[tokio::test]
async fn an_editor_s_way_goes_by_a_token_of_an_hour() {
    let clock = TestClock::new();
    let issuer = Issuer::start(Manner::Good, &[("a", ONE)]).await;
    let guard = guard(&clock, |config| {
        config.issuers = vec![issuer.address()];
        signs_with(config, TWO);
    });
    let server = start(guard).await;
    let token = async || {
        let instance = issuer.bearer(("a", ONE), clock.now());
        let answer = ask(&server, USER_TOKEN, &instance).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        assert_eq!(body["expires_at"], clock.now() + 3600);
        format!("Authorization: Bearer {}", body["token"].as_str().unwrap())
    };
    let first = token().await;
    assert_eq!(status(&server, &first).await, 200);
    // It is for completions, not for more tokens and not for somebody else.
    let again = ask(&server, USER_TOKEN, &first).await;
    assert_eq!(again.status, 403);
    assert_eq!(again.text(), r#"{"detail":"Unauthorized to create user access token"}"#);
    let mut headers = OF_GITLAB.to_vec();
    headers[3] = "X-Gitlab-Global-User-Id: grace";
    headers.push(&first);
    let stolen = client::request("POST", COMPLETIONS, &headers, b"{}");
    let stolen = client::send(server.address, &stolen).await;
    assert_eq!(stolen.status, 401);
    assert_eq!(stolen.text(), r#"{"error":"Header mismatch 'X-Gitlab-Global-User-Id'"}"#);

    clock.advance(3600 + 60);
    let late = ask(&server, COMPLETIONS, &first).await;
    assert_eq!((late.status, late.text()), (401, r#"{"error":"Forbidden by auth provider"}"#));
    assert_eq!(status(&server, &token().await).await, 200);
}
