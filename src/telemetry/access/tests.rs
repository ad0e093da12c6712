//! Tests of the line: its fields by name, what is left out, and that it stays one line.

use std::time::UNIX_EPOCH;

use super::*;
use crate::telemetry::tests::lines;

/// The line of [`record`], but for its time.
const LINE: &str = r#"{
    "level": "INFO",
    "target": "lacuna::access",
    "message": "request",
    "correlation_id": "r-1",
    "method": "POST",
    "path": "/v2/code/completions",
    "status_code": 200,
    "duration_s": 0.031,
    "duration_request": 0.25,
    "response_start_duration_s": 0.005,
    "first_chunk_duration_s": 0.006,
    "request_arrived_at": "2000-02-29T23:59:59.000Z",
    "http_version": "1.1",
    "client_ip": "192.0.2.7",
    "client_port": 5000,
    "content_type": "application/json",
    "user_agent": "editor/1",
    "gitlab_realm": "saas",
    "gitlab_instance_id": "one",
    "gitlab_host_name": "gitlab.example.com",
    "gitlab_version": "17.5.0",
    "gitlab_saas_duo_pro_namespace_ids": "7,9",
    "gitlab_root_namespace_id": "1",
    "gitlab_feature_enabled_by_namespace_ids": "7",
    "gitlab_feature_enablement_type": "duo_pro",
    "gitlab_organization_id": "3",
    "gitlab_language_server_version": "7.17.1",
    "is_gitlab_team_member": "true",
    "user": "ba7816bf8f01cfea",
    "client_type": "ide",
    "client_name": "an editor",
    "client_version": "1.2",
    "auth_duration_s": 0.00025,
    "token_issuer": "gitlab",
    "auth_error_details": "expired",
    "key_name": "ada",
    "endpoint": "gitlab.completions",
    "outcome": "ok",
    "model_name": "demo",
    "model_engine": "lacuna",
    "language": "python",
    "num_prompts": 1,
    "prefix_chars": 120,
    "suffix_chars": 40,
    "num_context_items": 2,
    "prompt_tokens": 60,
    "cached_tokens": 48,
    "completion_tokens": 9,
    "time_to_first_token_s": 0.00425,
    "post_processing_duration_s": 0.00008,
    "finish_reason": "stop",
    "is_streaming": true,
    "prompt": "task/base/1.0.0",
    "exception_class": "panic",
    "trace_id": "000000000000000000000000000000ab"
}"#;

fn word(text: &str) -> String {
    text.to_owned()
}

fn record() -> AccessRecord {
    AccessRecord {
        correlation_id: "r-1".into(),
        http: HttpFacts {
            method: "POST",
            path: "/v2/code/completions".to_owned(),
            version: "1.1",
            client: Some("192.0.2.7:5000".parse().unwrap()),
            content_type: Some(word("application/json")),
            user_agent: Some(word("editor/1")),
            rails_send_start: Some(Duration::from_millis(951_782_399_750)),
        },
        gitlab: GitlabFacts {
            realm: Some(word("saas")),
            instance_id: Some(word("one")),
            user: Some(word("ba7816bf8f01cfea")),
            host_name: Some(word("gitlab.example.com")),
            version: Some(word("17.5.0")),
            saas_duo_pro_namespace_ids: Some(word("7,9")),
            root_namespace_id: Some(word("1")),
            feature_enabled_by_namespace_ids: Some(word("7")),
            feature_enablement_type: Some(word("duo_pro")),
            organization_id: Some(word("3")),
            language_server_version: Some(word("7.17.1")),
            is_team_member: Some(word("true")),
            client_type: Some(word("ide")),
            client_name: Some(word("an editor")),
            client_version: Some(word("1.2")),
        },
        auth: AuthFacts {
            took: Some(Duration::from_micros(250)),
            token_issuer: Some(word("gitlab")),
            error: Some("expired"),
            key_name: Some(word("ada")),
        },
        completion: Some(RequestRecord {
            endpoint: "gitlab.completions",
            outcome: "ok",
            model_name: Some(word("demo")),
            model_engine: Some(word("lacuna")),
            language: Some("python"),
            num_prompts: 1,
            prefix_chars: 120,
            suffix_chars: 40,
            num_context_items: 2,
            prompt_tokens: 60,
            cached_tokens: 48,
            completion_tokens: 9,
            time_to_first_token: Some(Duration::from_micros(4_250)),
            postprocessing: Some(Duration::from_micros(80)),
            finish_reason: Some("stop"),
            is_streaming: Some(true),
            prompt: Some(word("task/base/1.0.0")),
        }),
        status: Some(200),
        // 29 February 2000, a second before its end.
        arrived_at: UNIX_EPOCH + Duration::from_secs(951_868_799),
        response_start: Some(Duration::from_millis(5)),
        first_chunk: Some(Duration::from_millis(6)),
        took: Duration::from_millis(31),
        trace_id: Some(0xab),
        is_panic: true,
    }
}

#[test]
fn a_request_is_one_json_line_of_these_fields_and_no_other() {
    let mut record = record();
    record.http.rails_send_start = Some(Duration::from_millis(951_868_798_750));
    let lines = lines("info", || record_access(&record));
    let [line] = lines.as_slice() else { panic!("{} lines", lines.len()) };
    let mut line = line.as_object().unwrap().clone();
    assert!(line.remove("timestamp").unwrap().as_str().unwrap().ends_with('Z'));
    let expected: serde_json::Value = serde_json::from_str(LINE).unwrap();
    assert_eq!(serde_json::Value::Object(line.clone()), expected);
    let page = include_str!("../../../docs/operations.md");
    for field in
        line.keys().filter(|field| !["level", "target", "message"].contains(&field.as_str()))
    {
        assert!(page.contains(&format!("`{field}`")), "docs/operations.md lacks {field}");
    }
}

#[test]
fn what_is_unknown_is_left_out() {
    let record = AccessRecord {
        http: HttpFacts {
            method: "GET",
            path: "/".to_owned(),
            version: "1.1",
            ..HttpFacts::default()
        },
        gitlab: GitlabFacts::default(),
        auth: AuthFacts::default(),
        completion: None,
        status: None,
        response_start: None,
        first_chunk: None,
        trace_id: None,
        is_panic: false,
        ..record()
    };
    let lines = lines("info", || record_access(&record));
    let mut keys: Vec<&str> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let known =
        ["correlation_id", "duration_s", "http_version", "level", "message", "method", "path"];
    assert_eq!(keys[..7], known);
    assert_eq!(keys[7..], ["request_arrived_at", "target", "timestamp"]);
}

#[test]
fn a_clock_that_is_behind_tells_no_duration() {
    let mut record = record();
    record.http.rails_send_start = Some(Duration::from_millis(951_868_799_001));
    let lines = lines("info", || record_access(&record));
    assert_eq!(lines[0].get("duration_request"), None);
}

#[test]
fn the_filter_decides_by_target_and_level() {
    assert!(lines("warn", || record_access(&record())).is_empty());
    assert_eq!(lines("warn,lacuna::access=info", || record_access(&record())).len(), 1);
}

#[test]
fn ids_with_quotes_and_line_ends_stay_one_line() {
    let record = AccessRecord { correlation_id: "a\"\n{}".into(), ..record() };
    let lines = lines("info", || record_access(&record));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["correlation_id"], "a\"\n{}");
}

#[test]
fn moments_are_written_as_iso_has_them() {
    let rows = [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_399, "2000-02-28T23:59:59.000Z"),
        (951_868_800, "2000-03-01T00:00:00.000Z"),
        (1_709_164_800, "2024-02-29T00:00:00.000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000Z"),
    ];
    for (seconds, text) in rows {
        assert_eq!(iso(UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
    assert_eq!(iso(UNIX_EPOCH + Duration::from_micros(1_234_999)), "1970-01-01T00:00:01.234Z");
}
