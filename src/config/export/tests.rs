//! Tests of where traces and reports go, and of what is refused.

use super::*;
use crate::config::{Config, RawConfig};

fn load(variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let environment = Environment::from_variables(variables);
    Config::load(&RawConfig::default(), &environment, None).map_err(|error| error.to_string())
}

#[test]
fn nothing_is_sent_unless_somebody_says_where() {
    let config = load(&[]).unwrap();
    assert_eq!((config.traces.url, config.reports.dsn), (None, None));
    // Headers alone are no reason to send, and are not looked at.
    assert_eq!(load(&[(OTLP_HEADERS, "no pair")]).unwrap().traces.headers, []);
}

#[test]
fn the_variables_of_opentelemetry_are_honoured() {
    let config = load(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=s3cret%20word, x-tenant=a"),
        ("OTEL_SERVICE_NAME", "completions"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ]);
    let traces = config.unwrap().traces;
    assert_eq!(traces.url.as_deref(), Some("http://collector:4318/v1/traces"));
    assert_eq!((traces.service_name.as_str(), traces.ratio), ("completions", 0.25));
    let names: Vec<&str> = traces.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["api-key", "x-tenant"]);
    assert_eq!(traces.headers[0].1.reveal(), "s3cret word");
    assert!(!format!("{traces:?}").contains("s3cret"));
    let ours = load(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4318"),
        ("LACUNA_OTLP_ENDPOINT", "https://ours/v1/traces/"),
    ]);
    assert_eq!(ours.unwrap().traces.url.as_deref(), Some("https://ours/v1/traces"));
}

#[test]
fn a_dsn_is_taken_apart_and_its_key_is_shown_to_nobody() {
    let rows = [
        ("https://abc@sentry.example/7", "https://sentry.example/api/7/envelope/"),
        ("http://abc:old@127.0.0.1:9000/7\n", "http://127.0.0.1:9000/api/7/envelope/"),
        ("https://abc@errors.example/below/7", "https://errors.example/below/api/7/envelope/"),
    ];
    for (text, url) in rows {
        let dsn = load(&[(SENTRY_DSN, text)]).unwrap().reports.dsn.unwrap();
        assert_eq!((dsn.url.as_str(), dsn.key.reveal()), (url, "abc"), "{text}");
        assert!(!format!("{dsn:?}").contains("abc"));
    }
}

#[test]
fn what_cannot_be_used_is_refused_without_its_secret() {
    let endpoint = ("LACUNA_OTLP_ENDPOINT", "http://c:4318");
    let rows: [(&[(&str, &str)], &str); 12] = [
        (
            &[("LACUNA_OTLP_ENDPOINT", "collector:4318")],
            "`traces.otlp_endpoint` must be off, or an",
        ),
        (&[("LACUNA_OTLP_ENDPOINT", "http://")], "`traces.otlp_endpoint` must be off, or an"),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "x")], "(from OTEL_EXPORTER_OTLP_ENDPOINT)"),
        (&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "must be http/protobuf where"),
        (&[endpoint, (OTLP_HEADERS, "s3cret")], "`OTEL_EXPORTER_OTLP_HEADERS` must be a list"),
        (&[endpoint, (OTLP_HEADERS, "a=%zz")], "`OTEL_EXPORTER_OTLP_HEADERS` must be a list"),
        (&[endpoint, (OTLP_HEADERS, "a=%0as3cret")], "`OTEL_EXPORTER_OTLP_HEADERS` must be"),
        (&[("LACUNA_TRACES_SAMPLE_RATIO", "1.5")], "`traces.sample_ratio` must be between 0 and 1"),
        (&[("LACUNA_OTLP_SERVICE_NAME", "a b")], "`traces.otlp_service_name` must be 1 to 64"),
        (&[(SENTRY_DSN, "https://s3cret@host")], "`SENTRY_DSN` must be the DSN of a project"),
        (&[("LACUNA_REPORTS_DSN_FILE", "/no/such")], "`reports.dsn_file` must be a file that can"),
        (&[("LACUNA_REPORTS_PER_MINUTE", "0")], "must be between 1 and 1000, got 0"),
    ];
    for (variables, message) in rows {
        let error = load(variables).unwrap_err();
        assert!(error.contains(message), "{variables:?}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn secrets_are_read_from_files_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let headers = write("headers", "authorization=Bearer s3cret\n\n");
    let dsn = write("dsn", "https://s3cretkey@sentry.example/7\n");
    let config = load(&[
        ("LACUNA_OTLP_ENDPOINT", "http://c:4318"),
        ("LACUNA_OTLP_HEADERS_FILE", &headers),
        ("LACUNA_REPORTS_DSN_FILE", &dsn),
    ])
    .unwrap();
    assert_eq!(config.traces.headers[0].1.reveal(), "Bearer s3cret");
    let printed = config.to_toml().unwrap();
    assert!(printed.contains(&dsn) && !printed.contains("s3cret"), "{printed}");
}
