//! The settings of logs: their form, what is in them, and whose source text, if anybody's.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Violation,
    resolve::{broken, said, word},
};

/// `[log]`: logging.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Logs")]
pub struct RawLog {
    /// Form of log lines.
    #[arg(long = "log-format", value_name = "text|json")]
    pub format: Option<String>,
    /// Level, or a list such as `info,lacuna::engine=debug`.
    #[arg(long = "log", value_name = "FILTER")]
    pub filter: Option<String>,
    /// Whose source text is logged: nobody's, theirs whose GitLab asks for it in a documented way, or everybody's.
    #[arg(long = "log-content", value_name = "never|asked|always", hide_short_help = true)]
    pub content: Option<String>,
    /// Which requests leave a line: all, all but probes of health, or none.
    #[arg(long = "log-access", value_name = "all|requests|off", hide_short_help = true)]
    pub access: Option<String>,
    /// Whether those lines have the address of the client.
    #[arg(long = "log-client-addresses", value_name = "true|false", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true, hide_short_help = true)]
    pub client_addresses: Option<bool>,
}

impl RawLog {
    /// Fills in what is not said here.
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            format: self.format.or(lower.format),
            filter: self.filter.or(lower.filter),
            content: self.content.or(lower.content),
            access: self.access.or(lower.access),
            client_addresses: self.client_addresses.or(lower.client_addresses),
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Whose source text is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentLogging {
    /// Nobody's.
    Never,
    /// That of requests whose GitLab asks for it, where it may.
    Asked,
    /// Everybody's.
    Always,
}

/// Which requests leave a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLogging {
    /// All.
    All,
    /// All but probes of health.
    Requests,
    /// None.
    Off,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Form of log lines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list of `module=level`.
    pub filter: String,
    /// Whose source text is logged.
    pub content: ContentLogging,
    /// Which requests leave a line.
    pub access: AccessLogging,
    /// Whether those lines have the address of the client.
    pub has_client_addresses: bool,
}

const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const CONTENTS: [(&str, ContentLogging); 3] = [
    ("never", ContentLogging::Never),
    ("asked", ContentLogging::Asked),
    ("always", ContentLogging::Always),
];

const ACCESSES: [(&str, AccessLogging); 3] = [
    ("all", AccessLogging::All),
    ("requests", AccessLogging::Requests),
    ("off", AccessLogging::Off),
];

/// Checks the settings.
///
/// # Errors
/// A word that is none of the known.
pub(super) fn resolve(raw: RawLog) -> Result<LogConfig, Violation> {
    let filter = said("log.filter", raw.filter)?;
    if !is_log_filter(&filter) {
        let rule = "off, error, warn, info, debug or trace, or a list of module=level";
        return Err(broken("log.filter", rule, &filter));
    }
    Ok(LogConfig {
        format: word("log.format", raw.format, &FORMATS)?,
        filter,
        content: word("log.content", raw.content, &CONTENTS)?,
        access: word("log.access", raw.access, &ACCESSES)?,
        has_client_addresses: said("log.client_addresses", raw.client_addresses)?,
    })
}

impl From<&LogConfig> for RawLog {
    fn from(config: &LogConfig) -> Self {
        let format = FORMATS.iter().find(|(_, format)| *format == config.format);
        let content = CONTENTS.iter().find(|(_, content)| *content == config.content);
        let access = ACCESSES.iter().find(|(_, access)| *access == config.access);
        Self {
            format: format.map(|(name, _)| (*name).to_owned()),
            filter: Some(config.filter.clone()),
            content: content.map(|(name, _)| (*name).to_owned()),
            access: access.map(|(name, _)| (*name).to_owned()),
            client_addresses: Some(config.has_client_addresses),
        }
    }
}

/// A bare word must be a level: the logger would take `verbose` for a module and log nothing of ours.
fn is_log_filter(filter: &str) -> bool {
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&word.to_lowercase().as_str())
    };
    filter.split(',').all(|part| match part.trim().split_once('=') {
        Some((module, level)) => {
            !module.is_empty()
                && module.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c))
                && is_level(level)
        }
        None => is_level(part.trim()),
    })
}
