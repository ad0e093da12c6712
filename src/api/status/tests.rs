//! The page stands alone, and asks for what the JSON has.

use std::{collections::BTreeSet, time::Instant};

use serde_json::Value;

use super::*;
use crate::routing::{
    TargetView,
    circuit_breaker::{Cause, Override, Standing, StateKind},
};
use crate::telemetry::metrics::{
    EngineSample,
    recent::{Ended, Recent},
};

/// Returns a status with a row of each kind, and no member that is left out.
fn whole() -> Value {
    let mut recent = Recent::default();
    let ended = Ended {
        outcome: "ok",
        answer_time: Duration::from_millis(20),
        first_text: Some(Duration::from_millis(10)),
        num_tokens: 7,
    };
    recent.record(Duration::ZERO, ("coder", "completion"), &ended);
    let now = Instant::now();
    let until = Some(now + Duration::from_secs(3));
    let view = TargetView {
        name: "far".to_owned(),
        is_ready: true,
        state: StateKind::Open,
        standing: Standing::Open { until, cause: Cause::Failures },
        manual: Override::Auto,
        counts: [9, 8, 7],
        p50: Some(Duration::from_micros(1234)),
        p95: None,
    };
    let window = Duration::from_secs(10);
    let requests = recent.view(Duration::ZERO).into_iter();
    let status = WireStatus {
        version: "1",
        region: None,
        uptime_seconds: 10,
        is_ready: true,
        window_seconds: 10,
        requests: requests.map(|recent| WireRequests::of(recent, window)).collect(),
        engines: vec![
            EngineSample { num_blocks: 8, num_blocks_used: 2, ..EngineSample::default() }.into(),
        ],
        targets: vec![WireTarget::of(&view, now)],
    };
    serde_json::to_value(status).unwrap()
}

#[test]
fn rows_say_what_was_counted() {
    let status = whole();
    let request = &status["requests"][0];
    assert_eq!((request["num_requests"].as_u64(), request["apdex"].as_f64()), (Some(1), Some(1.0)));
    assert_eq!(
        (request["per_second"].as_f64(), request["tokens_per_second"].as_f64()),
        (Some(0.1), Some(0.7))
    );
    assert_eq!(
        (&request["satisfied_ms"], &request["tolerated_ms"]),
        (&1000.into(), &10_000.into())
    );
    assert_eq!(status["engines"][0]["kv_cache_usage"], 0.25);
    let target = &status["targets"][0];
    let expected = [("breaker", "open"), ("cause", "failures"), ("override", "auto")];
    assert!(expected.iter().all(|(key, value)| target[key] == *value), "{target}");
    assert_eq!((&target["open_seconds"], &target["first_text_p50_ms"]), (&3.0.into(), &1.2.into()));
    assert_eq!(wire::window(Duration::ZERO).as_secs(), 1);
    assert_eq!(wire::window(Duration::from_hours(1)).as_secs(), 300);
}

/// Returns the members that the script takes of what it calls `object`.
fn members<'a>(script: &'a str, object: &str) -> BTreeSet<&'a str> {
    let pattern = format!("{object}.");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let places = script.match_indices(&pattern).filter(|(at, _)| !script[..*at].ends_with(is_word));
    places
        .map(|(at, _)| script[at + pattern.len()..].split(|c| !is_word(c)).next().unwrap())
        .collect()
}

#[test]
fn the_script_asks_for_members_that_there_are() {
    let status = whole();
    let script = between(PAGE, "<script>", "</script>").unwrap();
    let function = |name: &str| between(script, &format!("function {name}("), "\n}").unwrap();
    let rows = [
        ("show", "status", &status),
        ("requestsCard", "row", &status["requests"][0]),
        ("requestsCard", "answer", &status["requests"][0]["answer_ms"]),
        ("requestsCard", "first", &status["requests"][0]["first_text_ms"]),
        ("engineCard", "row", &status["engines"][0]),
        ("engineCard", "known", &status["engines"][0]),
        ("targetsTable", "row", &status["targets"][0]),
    ];
    for (name, object, value) in rows {
        let asked = members(function(name), object);
        assert!(!asked.is_empty(), "{name} asks nothing of {object}");
        for member in asked {
            assert!(value.get(member).is_some(), "{name}: {object}.{member} is not in {value}");
        }
    }
}

#[test]
fn the_page_asks_nobody_else_for_anything() {
    // What would load or send something, or would not run under the policy.
    for word in [
        "http:",
        "https:",
        "//",
        "src=",
        "url(",
        "@import",
        "<link",
        "<img",
        "<iframe",
        "innerHTML",
        "eval(",
        "style=",
        "onclick",
    ] {
        let found =
            PAGE.lines().find(|line| line.contains(word) && !line.trim_start().starts_with("// "));
        assert_eq!(found, None, "{word}");
    }
    for tag in ["script", "style"] {
        assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "the policy names one {tag}");
    }
}

#[test]
fn the_policy_names_the_scripts_own_hash() {
    // Known of the text `alert(1)`.
    let page = "<style>alert(1)</style><script>alert(1)</script>";
    let hash = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='";
    let policy = policy(page);
    for rule in [
        format!("script-src {hash};"),
        format!("style-src {hash};"),
        "default-src 'none'".to_owned(),
    ] {
        assert!(policy.contains(&rule), "{policy}");
    }
    assert!(!POLICY.contains("unsafe"), "{}", *POLICY);
}
