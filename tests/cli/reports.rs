//! Reports of errors as Sentry gets them: what is in them and what is not.

use std::io::Read as _;

use crate::{collector::Collector, serve::Server};

#[test]
fn a_fault_of_ours_is_reported_with_its_request_and_without_its_text() {
    let collector = Collector::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    let dsn = format!("http://PublicKeyOfTest@{}/7", collector.address);
    let mut server =
        Server::start_with(&[], &[("SENTRY_DSN", &dsn), ("SENTRY_ENVIRONMENT", "test")]);
    server.line("serving");
    // There is no key to sign tokens with, which is a fault of this side.
    let headers = "X-Request-Id: of-the-report\r\nX-Gitlab-Global-User-Id: UserOfTheTest\r\n";
    let answer = server.answer_to("/v1/code/user_access_token", headers, "SourceOfTheUser");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    // What a client did wrong is none.
    assert!(server.answer("/v1/completions", "[]").starts_with("HTTP/1.1 400"));
    let heard = collector.wait(|heard| !heard.is_empty());
    server.signal("TERM");
    let mut log = String::new();
    server.log.read_to_string(&mut log).unwrap();
    assert_eq!(collector.wait(|_| true).len(), 1, "{log}");
    assert_eq!(heard[0].path, "/api/7/envelope/");
    assert!(heard[0].headers["x-sentry-auth"].contains("sentry_key=PublicKeyOfTest"));
    let text = String::from_utf8(heard[0].body.clone()).unwrap();
    let event: serde_json::Value = serde_json::from_str(text.lines().nth(2).unwrap()).unwrap();
    assert_eq!(event["logentry"]["formatted"], "internal error");
    assert_eq!(event["tags"]["correlation_id"], "of-the-report");
    assert_eq!(event["tags"]["endpoint"], "gitlab.user_access_token");
    assert_eq!(event["environment"], "test");
    for word in ["SourceOfTheUser", "UserOfTheTest", "PublicKeyOfTest"] {
        assert!(!text.contains(word) && !log.contains(word), "{word}: {text}\n{log}");
    }
}
