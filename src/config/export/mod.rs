//! The settings of what is sent to services that watch this one: traces to a collector, reports of errors.

use std::{fs, path::PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Environment, Secret, Violation,
    resolve::{broken, expand_home, integer, said},
    scalar::{integer as parse_integer, number},
};

/// The word for nowhere.
const OFF: &str = "off";
/// The word for no file.
const NONE: &str = "none";
/// Where a collector takes spans, below its address.
const TRACES_PATH: &str = "/v1/traces";
/// Holds headers for a collector, as OpenTelemetry's own libraries take them.
const OTLP_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// Says which protocol those would speak.
const OTLP_PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const PROTOCOL: &str = "http/protobuf";
/// Holds an address of Sentry, as its own libraries take it.
const SENTRY_DSN: &str = "SENTRY_DSN";
/// Most headers of a collector.
const HEADERS_MAX: usize = 16;
/// Longest name of a service or an environment.
const NAME_BYTES_MAX: usize = 64;

/// `[traces]`: traces for a collector of OpenTelemetry.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Traces")]
pub struct RawTraces {
    /// Address of a collector that takes OTLP over HTTP, such as <http://127.0.0.1:4318>; off sends no traces.
    #[arg(long, value_name = "off|URL", hide_short_help = true)]
    pub otlp_endpoint: Option<String>,
    /// File with headers for it, a line `name=value` each.
    #[arg(long, value_name = "none|FILE", hide_short_help = true)]
    pub otlp_headers_file: Option<String>,
    /// What traces call this server.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub otlp_service_name: Option<String>,
    /// Share of requests that are traced, of those that no caller decides for.
    #[arg(long = "traces-sample-ratio", value_name = "SHARE", value_parser = number, allow_negative_numbers = true, hide_short_help = true)]
    pub sample_ratio: Option<f64>,
}

/// `[reports]`: reports of errors for Sentry or its like.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Reports of errors")]
pub struct RawReports {
    /// File with the DSN of a project, where none is in the variable `SENTRY_DSN`; none reports nothing.
    #[arg(long = "reports-dsn-file", value_name = "none|FILE", hide_short_help = true)]
    pub dsn_file: Option<String>,
    /// What reports call the place where this server runs.
    #[arg(long = "reports-environment", value_name = "NAME", hide_short_help = true)]
    pub environment: Option<String>,
    /// Most reports a minute.
    #[arg(long = "reports-per-minute", value_name = "N", value_parser = parse_integer, allow_negative_numbers = true, hide_short_help = true)]
    pub reports_per_minute: Option<i64>,
}

impl RawTraces {
    /// Fills in what is not said here.
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            otlp_endpoint: self.otlp_endpoint.or(lower.otlp_endpoint),
            otlp_headers_file: self.otlp_headers_file.or(lower.otlp_headers_file),
            otlp_service_name: self.otlp_service_name.or(lower.otlp_service_name),
            sample_ratio: self.sample_ratio.or(lower.sample_ratio),
        }
    }
}

impl RawReports {
    /// Fills in what is not said here.
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            dsn_file: self.dsn_file.or(lower.dsn_file),
            environment: self.environment.or(lower.environment),
            reports_per_minute: self.reports_per_minute.or(lower.reports_per_minute),
        }
    }
}

/// Traces.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// Where spans are sent; `None` is nowhere.
    pub url: Option<String>,
    /// The collector's address as it was said.
    pub endpoint: String,
    /// Headers for it, with names in small letters.
    pub headers: Vec<(String, Secret)>,
    /// Where those were read.
    pub headers_file: Option<PathBuf>,
    /// What traces call this server.
    pub service_name: String,
    /// Share of requests that are traced, of those that no caller decides for.
    pub ratio: f64,
}

/// Reports of errors.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportsConfig {
    /// Who is told; `None` is nobody.
    pub dsn: Option<Dsn>,
    /// Where that was read.
    pub dsn_file: Option<PathBuf>,
    /// What reports call the place where this server runs.
    pub environment: String,
    /// Most reports a minute.
    pub num_per_minute: u32,
}

/// The address of a project of Sentry's, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    /// Where envelopes are taken.
    pub url: String,
    /// Says who sends them.
    pub key: Secret,
}

impl Dsn {
    /// Reads `SCHEME://KEY[:SECRET]@HOST[:PORT][/PATH]/PROJECT`.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let (key, rest) = rest.split_once('@')?;
        // A second key was used by old servers, and is asked for by none.
        let key = key.split(':').next()?;
        let (place, project) = rest.rsplit_once('/')?;
        let is_word =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        let is_place = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"@?#".contains(c))
        };
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let is_dsn = ["http", "https"].contains(&scheme)
            && is_word(key)
            && is_word(project)
            && is_place(host)
            && (path.is_empty() || is_place(path));
        is_dsn.then(|| Self {
            url: format!("{scheme}://{place}/api/{project}/envelope/"),
            key: Secret::from(key),
        })
    }
}

/// Checks `[traces]`.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn traces(raw: RawTraces, environment: &Environment) -> Result<TracesConfig, Violation> {
    let endpoint = said("traces.otlp_endpoint", raw.otlp_endpoint)?;
    let url = url(&endpoint, environment)?;
    let file = said("traces.otlp_headers_file", raw.otlp_headers_file)?;
    let headers_file = (file != NONE).then(|| expand_home(&file, environment));
    let headers = match (&headers_file, &url) {
        // What nobody is sent is not asked for.
        (_, None) => Vec::new(),
        (Some(path), Some(_)) => {
            let key = "traces.otlp_headers_file";
            let text = fs::read_to_string(path)
                .map_err(|_| broken(key, "a file that can be read", path.display()))?;
            let pairs = text.lines().map(str::trim).filter(|line| !line.is_empty());
            headers(pairs).ok_or_else(|| {
                broken(key, "a file of lines name=value, of headers", path.display())
            })?
        }
        (None, Some(_)) => {
            let text = environment.get(OTLP_HEADERS).unwrap_or_default();
            let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
            headers(pairs).ok_or_else(|| Violation {
                key: OTLP_HEADERS.to_owned(),
                rule: "a list of name=value, of headers".to_owned(),
                got: "another".to_owned(),
            })?
        }
    };
    let ratio = said("traces.sample_ratio", raw.sample_ratio)?;
    if !(0.0..=1.0).contains(&ratio) {
        return Err(broken("traces.sample_ratio", "between 0 and 1", ratio));
    }
    let service_name = name("traces.otlp_service_name", raw.otlp_service_name)?;
    Ok(TracesConfig { url, endpoint, headers, headers_file, service_name, ratio })
}

/// Checks `[reports]`.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn reports(
    raw: RawReports,
    environment: &Environment,
) -> Result<ReportsConfig, Violation> {
    let key = "reports.dsn_file";
    let file = said(key, raw.dsn_file)?;
    let dsn_file = (file != NONE).then(|| expand_home(&file, environment));
    let rule = "the DSN of a project, https://KEY@HOST/PROJECT";
    let dsn = if let Some(path) = &dsn_file {
        let text = fs::read_to_string(path)
            .map_err(|_| broken(key, "a file that can be read", path.display()))?;
        let read = Dsn::parse(&text);
        Some(read.ok_or_else(|| broken(key, &format!("a file with {rule}"), path.display()))?)
    } else if let Some(text) = environment.get(SENTRY_DSN) {
        Some(Dsn::parse(text).ok_or_else(|| Violation {
            key: SENTRY_DSN.to_owned(),
            rule: rule.to_owned(),
            got: "another".to_owned(),
        })?)
    } else {
        None
    };
    Ok(ReportsConfig {
        dsn,
        dsn_file,
        environment: name("reports.environment", raw.environment)?,
        num_per_minute: integer("reports.reports_per_minute", raw.reports_per_minute, 1..=1000)?,
    })
}

fn url(endpoint: &str, environment: &Environment) -> Result<Option<String>, Violation> {
    let key = "traces.otlp_endpoint";
    if endpoint == OFF {
        return Ok(None);
    }
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let is_place = |rest: &&str| {
        !rest.trim_end_matches('/').is_empty()
            && rest.chars().all(|c| c.is_ascii_graphic() && !"@?#,".contains(c))
    };
    let Some(rest) = rest.filter(is_place) else {
        let rule = "off, or an http or https address such as http://127.0.0.1:4318";
        // What may hold a password or a token is not repeated.
        return Err(broken(key, rule, "another"));
    };
    // The other protocol has another port, so that its collector would refuse every batch.
    if let Some(other) = environment.get(OTLP_PROTOCOL).filter(|other| *other != PROTOCOL) {
        let rule = format!("{PROTOCOL} where `{key}` is an address");
        return Err(Violation { key: OTLP_PROTOCOL.to_owned(), rule, got: other.to_owned() });
    }
    let endpoint = endpoint.trim_end_matches('/');
    let is_whole = rest.trim_end_matches('/').ends_with(TRACES_PATH);
    Ok(Some(if is_whole { endpoint.to_owned() } else { format!("{endpoint}{TRACES_PATH}") }))
}

/// Reads pairs of names and values, whose signs may be written as in an address (`%20`).
fn headers<'a>(pairs: impl Iterator<Item = &'a str>) -> Option<Vec<(String, Secret)>> {
    let mut headers = Vec::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let value = unescaped(value.trim())?;
        let is_value = value.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        // What the transport says itself.
        let is_own = name.starts_with("content-")
            || ["host", "connection", "transfer-encoding", "te", "upgrade"]
                .contains(&name.as_str());
        if name.is_empty() || !name.chars().all(is_name) || !is_value || is_own {
            return None;
        }
        headers.push((name, Secret::from(value.as_str())));
    }
    (headers.len() <= HEADERS_MAX).then_some(headers)
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

fn name(key: &'static str, value: Option<String>) -> Result<String, Violation> {
    let name = said(key, value)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_name) {
        return Ok(name);
    }
    let rule = format!("1 to {NAME_BYTES_MAX} letters, digits and signs of -_./");
    Err(broken(key, &rule, name))
}

impl From<&TracesConfig> for RawTraces {
    fn from(config: &TracesConfig) -> Self {
        Self {
            otlp_endpoint: Some(config.endpoint.clone()),
            otlp_headers_file: Some(file(config.headers_file.as_ref())),
            otlp_service_name: Some(config.service_name.clone()),
            sample_ratio: Some(config.ratio),
        }
    }
}

impl From<&ReportsConfig> for RawReports {
    fn from(config: &ReportsConfig) -> Self {
        Self {
            dsn_file: Some(file(config.dsn_file.as_ref())),
            environment: Some(config.environment.clone()),
            reports_per_minute: Some(config.num_per_minute.into()),
        }
    }
}

fn file(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| NONE.to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
