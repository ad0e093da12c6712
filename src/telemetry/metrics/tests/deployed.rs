//! The rules and dashboards of `deploy/` ask for metrics, labels and borders that there are.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::*;

const RULES: &str = include_str!("../../../../deploy/prometheus/lacuna.rules.yml");
const ALERTS: &str = include_str!("../../../../deploy/prometheus/lacuna.alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../../deploy/prometheus/tests/alerts.test.yml");
const MONITORING: &str = include_str!("../../../../docs/monitoring.md");
const DASHBOARDS: [(&str, &str); 4] = [
    ("overview", include_str!("../../../../deploy/grafana/overview.json")),
    ("completions", include_str!("../../../../deploy/grafana/completions.json")),
    ("providers", include_str!("../../../../deploy/grafana/providers.json")),
    ("engine", include_str!("../../../../deploy/grafana/engine.json")),
];

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn rules(text: &str) -> Vec<Rule> {
    let file: File = serde_saphyr::from_str(text).unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn dashboards() -> impl Iterator<Item = (&'static str, Value)> {
    DASHBOARDS.into_iter().map(|(name, text)| (name, serde_json::from_str(text).unwrap()))
}

/// A metric that a query names, and its matchers, each a label and what it is to be.
#[derive(Debug, PartialEq)]
struct Asked<'a> {
    metric: &'a str,
    matchers: Vec<(&'a str, &'a str)>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Returns the metrics of a query. What is followed by a parenthesis is a function or a list of labels.
fn asked(query: &str) -> Vec<Asked<'_>> {
    const WORDS: [&str; 8] =
        ["and", "or", "unless", "by", "on", "group_left", "without", "ignoring"];
    let mut asked = Vec::new();
    let mut rest = query;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let end = rest[1..].find('"').unwrap() + 2;
            rest = &rest[end..];
        } else if c == '[' {
            rest = &rest[rest.find(']').unwrap() + 1..];
        } else if c.is_ascii_digit() {
            rest = rest.trim_start_matches(|c: char| is_word(c) || c == '.');
        } else if is_word(c) {
            let word = rest.split(|c| !is_word(c)).next().unwrap();
            rest = rest[word.len()..].trim_start();
            if ["by", "on"].contains(&word) {
                rest = &rest[rest.find(')').unwrap() + 1..];
            } else if let Some(inner) = rest.strip_prefix('{') {
                let (matchers, after) = matchers(inner);
                asked.push(Asked { metric: word, matchers });
                rest = after;
            } else if !rest.starts_with('(') && !rest.starts_with("by (") && !WORDS.contains(&word)
            {
                asked.push(Asked { metric: word, matchers: Vec::new() });
            }
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    asked
}

/// Returns the matchers before a brace, and what is behind it.
fn matchers(text: &str) -> (Vec<(&str, &str)>, &str) {
    let mut matchers = Vec::new();
    let mut rest = text;
    while !rest.starts_with('}') {
        let (label, value) = rest.split_once('"').unwrap();
        let (value, after) = value.split_once('"').unwrap();
        matchers.push((label.trim_matches([',', ' ', '=', '~', '!']), value));
        rest = after;
    }
    (matchers, &rest[1..])
}

#[test]
fn queries_are_read_as_prometheus_does() {
    let found =
        asked("sum by (le, a) (rate(x_bucket{le=\"1\", b!~\"c{d}\"}[5m])) / 2 or y:z * 0.5e1");
    let metrics: Vec<&str> = found.iter().map(|asked| asked.metric).collect();
    assert_eq!(metrics, ["x_bucket", "y:z"]);
    assert_eq!(found[0].matchers, [("le", "1"), ("b", "c{d}")]);
}

/// Returns a page that has all borders of the histograms that rules ask.
fn page() -> String {
    let metrics = Metrics::default();
    metrics.http().record("/v1/completions", "POST", 200, Duration::ZERO);
    metrics.requests().record(&inference());
    metrics.render()
}

/// What is wrong with a query, if something is.
fn check(query: &str, recorded: &BTreeSet<String>, page: &str) -> Result<(), String> {
    // Prometheus's own metrics, and the labels that it puts on all.
    const OWN: [&str; 2] = ["up", "ALERTS"];
    const ALWAYS: [&str; 3] = ["region", "job", "instance"];
    let metrics = Metrics::default();
    for Asked { metric, matchers } in asked(query) {
        if OWN.contains(&metric) || recorded.contains(metric) {
            continue;
        }
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|it| metric.strip_suffix(it));
        let mut named = metrics.0.declared.names.iter();
        let (family, labels) = named
            .find(|(name, _)| name == metric || Some(name.as_str()) == base)
            .ok_or_else(|| format!("{metric} is no metric"))?;
        for (label, value) in matchers {
            if label == "le" {
                for border in value.split('|').filter(|border| !border.ends_with("\\\\.0")) {
                    let border = border.replace("\\\\", "");
                    let start = format!("{family}_bucket{{");
                    let has = |line: &str| {
                        line.starts_with(&start) && line.contains(&format!("le=\"{border}\""))
                    };
                    page.lines()
                        .any(has)
                        .then_some(())
                        .ok_or_else(|| format!("{family} has no border {border}"))?;
                }
            } else if !ALWAYS.contains(&label) && !labels.iter().any(|known| known == label) {
                return Err(format!("{metric} has no label {label}"));
            }
        }
    }
    Ok(())
}

fn recorded() -> BTreeSet<String> {
    rules(RULES).into_iter().map(|rule| rule.record.unwrap()).collect()
}

#[test]
fn what_is_not_there_is_found_out() {
    let recorded = BTreeSet::from(["known:rate5m".to_owned()]);
    for (query, is_fine) in [
        ("known:rate5m / up", true),
        ("unknown:rate5m", false),
        ("rate(lacuna_requests_total{outcome=\"ok\", region=\"a\"}[5m])", true),
        ("rate(lacuna_requests_total{outcom=\"ok\"}[5m])", false),
        ("rate(lacuna_request_total[5m])", false),
        ("http_request_duration_seconds_bucket{le=~\"1|1\\\\.0\"}", true),
        ("http_request_duration_seconds_bucket{le=\"7\"}", false),
    ] {
        assert_eq!(check(query, &recorded, &page()).is_ok(), is_fine, "{query}");
    }
}

#[test]
fn rules_ask_for_what_there_is() {
    let (recorded, page) = (recorded(), page());
    for rule in rules(RULES).iter().chain(&rules(ALERTS)) {
        let checked = check(&rule.expr, &recorded, &page);
        assert_eq!(checked, Ok(()), "{:?} {:?}: {}", rule.record, rule.alert, rule.expr);
    }
}

/// Borders that the rules count by, in milliseconds, each as Prometheus 2 writes it.
fn borders(expr: &str) -> Vec<u128> {
    let asked = asked(expr);
    let of_le = |(label, value): &(&str, &str)| (*label == "le").then(|| (*value).to_owned());
    let values = asked.iter().flat_map(|it| &it.matchers).filter_map(of_le);
    let all: Vec<String> =
        values.flat_map(|it| it.split('|').map(ToOwned::to_owned).collect::<Vec<_>>()).collect();
    let seconds = all.iter().filter_map(|border| border.parse::<u64>().ok());
    seconds.map(|seconds| Duration::from_secs(seconds).as_millis()).collect()
}

#[test]
fn the_page_and_the_rules_have_the_same_borders() {
    for (task, handler) in
        [("completion", "/v2/code/completions|"), ("generation", "/v2/code/generations|")]
    {
        let is_of = |rule: &Rule| {
            rule.record.as_deref() == Some("sli:score:rate5m") && rule.expr.contains(handler)
        };
        let rule = rules(RULES).into_iter().find(is_of).unwrap();
        let recent::Thresholds { satisfied, tolerated } = recent::Thresholds::of(task);
        assert_eq!(borders(&rule.expr), [satisfied.as_millis(), tolerated.as_millis()], "{task}");
    }
}

#[test]
fn each_alert_has_a_test_and_a_place_in_the_docs() {
    for rule in rules(ALERTS) {
        let name = rule.alert.unwrap();
        let fires = format!("alertname=\"{name}\"");
        assert!(ALERT_TESTS.contains(&fires), "no test has {name} fire");
        assert!(MONITORING.contains(&format!("`{name}`")), "docs/monitoring.md lacks {name}");
        let (file, anchor) = rule.annotations["runbook"].split_once('#').unwrap();
        let heading =
            |line: &str| line.strip_prefix("### ").map(|it| it.to_lowercase().replace(' ', "-"));
        let is_there = MONITORING.lines().filter_map(heading).any(|it| it == anchor);
        assert!(file == "docs/monitoring.md" && is_there, "{name}: {anchor}");
    }
}

#[test]
fn dashboards_are_whole() {
    let (recorded, page) = (recorded(), page());
    let mut uids = BTreeSet::new();
    for (name, board) in dashboards() {
        assert_eq!(board["uid"], format!("lacuna-{name}"));
        assert!(uids.insert(board["uid"].to_string()), "{name}");
        let variables = board["templating"]["list"].as_array().unwrap();
        assert_eq!(variables[0]["type"], "datasource", "{name}: the data source is chosen");
        let mut ids = BTreeSet::new();
        for panel in board["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: the id of {title}");
            if panel["type"] == "row" {
                continue;
            }
            assert!(
                panel["description"].as_str().is_some_and(|it| it.ends_with('.')),
                "{name}: {title}"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{name}: {title} has no unit"
            );
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{name}: {title} asks for nothing");
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}: {title}");
                let query = target["expr"].as_str().unwrap();
                assert_eq!(check(query, &recorded, &page), Ok(()), "{name}: {title}: {query}");
                for variable in
                    query.split('$').skip(1).map(|it| it.split(|c| !is_word(c)).next().unwrap())
                {
                    let is_known = variable == "__rate_interval"
                        || variables.iter().any(|it| it["name"] == variable);
                    assert!(is_known, "{name}: {title}: {variable}");
                }
            }
        }
        for variable in &variables[1..] {
            let query = variable["definition"].as_str().unwrap();
            let inner = query.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
            let (metric, label) = inner.unwrap().split_once(", ").unwrap();
            let asks = format!("{metric}{{{label}=\"\"}}");
            assert_eq!(check(&asks, &recorded, &page), Ok(()), "{name}: {query}");
        }
    }
}
