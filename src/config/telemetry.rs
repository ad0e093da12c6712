//! The settings of stored telemetry: where it is kept, for how long, and how much of it.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Environment, Secret, Violation,
    resolve::{broken, expand_home, said, size},
    scalar::{Scalar, scalar},
    units::format_size,
};

const OFF: &str = "off";
/// How URLs of `PostgreSQL` begin.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
/// What stands for a password where settings are shown.
const HIDDEN: &str = "***";
/// Options of a database's URL that hold no secret.
const OPEN_OPTIONS: [&str; 5] = ["sslmode", "application_name", "connect_timeout", "host", "port"];
/// Days that rows may be kept.
const DAYS_MAX: u64 = 3650;
/// A file smaller than this holds nothing for long; a larger one than that belongs to a server.
const SIZES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// `[telemetry]`: what became of completions, kept.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Telemetry")]
pub struct RawTelemetry {
    /// Where completions and what became of them are kept, without source text: a file, or the URL of a `PostgreSQL`
    /// database, which is best said by the variable, for it may hold a password.
    #[arg(long = "telemetry-store", value_name = "off|FILE|postgres://…", hide_short_help = true)]
    pub store: Option<String>,
    /// How long they are kept, in days such as 90d.
    #[arg(long = "telemetry-retention", value_name = "DAYS", hide_short_help = true)]
    pub retention: Option<String>,
    /// Largest file that they may fill; the oldest go first. A database looks after its own room.
    #[arg(long = "telemetry-max-size", value_name = "SIZE", value_parser = scalar(), hide_short_help = true)]
    pub max_size: Option<Scalar>,
}

impl RawTelemetry {
    /// Fills in what is not said here.
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            store: self.store.or(lower.store),
            retention: self.retention.or(lower.retention),
            max_size: self.max_size.or(lower.max_size),
        }
    }
}

/// Where telemetry is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TelemetryStore {
    /// Nowhere.
    Off,
    /// In a file.
    File(PathBuf),
    /// In a `PostgreSQL` database, by its URL.
    Postgres(Secret),
}

/// Stored telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Where it is kept.
    pub store: TelemetryStore,
    /// How long.
    pub retention: Duration,
    /// Largest file.
    pub bytes_max: u64,
}

/// Checks the settings.
///
/// # Errors
/// The first rule that is broken. No message holds what a URL does.
pub(super) fn resolve(
    raw: RawTelemetry,
    environment: &Environment,
) -> Result<TelemetryConfig, Violation> {
    let text = said("telemetry.store", raw.store)?;
    let retention = said("telemetry.retention", raw.retention)?;
    Ok(TelemetryConfig {
        store: store(&text, environment)?,
        retention: days(&retention)?,
        bytes_max: size("telemetry.max_size", &said("telemetry.max_size", raw.max_size)?, SIZES)?,
    })
}

fn store(text: &str, environment: &Environment) -> Result<TelemetryStore, Violation> {
    const KEY: &str = "telemetry.store";
    if text == OFF {
        return Ok(TelemetryStore::Off);
    }
    if is_url(text) {
        if hidden(text) == text && text.contains(&format!(":{HIDDEN}@")) {
            let rule = "a URL with its password, which is left out where settings are printed; the variable LACUNA_TELEMETRY_STORE is the place for it";
            return Err(broken(KEY, rule, hidden(text)));
        }
        return Ok(TelemetryStore::Postgres(Secret::from(text)));
    }
    // A scheme that is none of ours is not the name of a file.
    let small = text.to_ascii_lowercase();
    let is_meant_for_postgres = ["postgres:", "postgresql:"].iter().any(|it| small.starts_with(it))
        || ["password=", "user=", "host="].iter().any(|it| small.contains(it));
    if text.is_empty() || text.contains("://") || is_meant_for_postgres {
        let rule = "off, a file, or a URL such as postgres://user@host/database";
        return Err(broken(KEY, rule, if text.is_empty() { "nothing" } else { "another" }));
    }
    Ok(TelemetryStore::File(expand_home(text, environment)))
}

fn is_url(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Returns a URL without what may be a password: that before the last `@`, and options that are not known to hold none.
fn hidden(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.to_owned() };
    // The last `@`: a password may hold one, and a `?`, that nobody escaped.
    let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (place, options) = place.split_once('?').unwrap_or((place, ""));
    let is_open = |option: &str| {
        let name = option.split('=').next().unwrap_or_default();
        OPEN_OPTIONS.contains(&name)
    };
    let options = match options {
        "" => String::new(),
        options if options.split('&').all(is_open) => format!("?{options}"),
        _ => format!("?{HIDDEN}"),
    };
    let credentials = match credentials.split_once(':') {
        Some((user, _)) => format!("{user}:{HIDDEN}@"),
        None if credentials.is_empty() => String::new(),
        None => format!("{credentials}@"),
    };
    format!("{scheme}://{credentials}{place}{options}")
}

fn days(text: &str) -> Result<Duration, Violation> {
    let number = text.trim().strip_suffix('d').and_then(|days| days.trim_end().parse().ok());
    let days = number.filter(|days| (1..=DAYS_MAX).contains(days));
    let rule = "between 1d and 3650d";
    let days = days.ok_or_else(|| broken("telemetry.retention", rule, text))?;
    Ok(Duration::from_hours(24 * days))
}

impl From<&TelemetryConfig> for RawTelemetry {
    fn from(config: &TelemetryConfig) -> Self {
        let store = match &config.store {
            TelemetryStore::Off => OFF.to_owned(),
            TelemetryStore::Postgres(url) => hidden(url.reveal()),
            TelemetryStore::File(path) => {
                let path = path.to_string_lossy();
                // A file of that name is meant, not the word.
                if path == OFF { format!("./{path}") } else { path.into_owned() }
            }
        };
        Self {
            store: Some(store),
            retention: Some(format!("{}d", config.retention.as_secs() / 86_400)),
            max_size: Some(Scalar::Text(format_size(config.bytes_max))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(store: &str, retention: &str) -> Result<TelemetryConfig, Violation> {
        let raw = RawTelemetry {
            store: Some(store.to_owned()),
            retention: Some(retention.to_owned()),
            max_size: Some(Scalar::Text("1GiB".to_owned())),
        };
        resolve(raw, &Environment::default())
    }

    #[test]
    fn a_store_is_off_a_file_or_a_url() {
        for text in ["off", "telemetry.db", "/var/lib/lacuna/telemetry.db", "postgres://h/db"] {
            let config = resolved(text, "90d").unwrap();
            assert_eq!(RawTelemetry::from(&config).store.as_deref(), Some(text));
        }
        let config = resolved("./off", "1d").unwrap();
        assert_eq!(config.store, TelemetryStore::File("off".into()));
        assert_eq!(resolve(RawTelemetry::from(&config), &Environment::default()), Ok(config));
        for text in ["", "mysql://h/db", "https://h", "postgres://ada:***@h/db"] {
            assert!(resolved(text, "90d").is_err(), "{text}");
        }
        for text in
            ["host=h user=u password=s3cret", "postgres:/u:s3cret@h/db", "PostgreSQL:s3cret"]
        {
            let violation = resolved(text, "90d").unwrap_err();
            assert!(!violation.to_string().contains("s3cret"), "{violation}");
        }
        for days in ["", "90", "0d", "3651d", "-1d", "1h", "9999999999999999999999d"] {
            let violation = resolved("off", days).unwrap_err();
            assert_eq!(
                (violation.key.as_str(), violation.got.as_str()),
                ("telemetry.retention", days)
            );
        }
    }

    #[test]
    fn passwords_are_shown_nowhere() {
        let rows = [
            ("postgres://ada:s3cret@h:5432/db", "postgres://ada:***@h:5432/db"),
            ("postgres://ada:s3@cret@h/db", "postgres://ada:***@h/db"),
            ("postgres://ada:s3/cret@h/db", "postgres://ada:***@h/db"),
            ("postgresql://ada:s3cret@h", "postgresql://ada:***@h"),
            ("postgres://h/db?user=ada&password=s3cret", "postgres://h/db?***"),
            ("postgres://ada:s3?cret@h/db?password=x", "postgres://ada:***@h/db?***"),
            ("postgres://ada@h/db?p%61ssword=s3cret", "postgres://ada@h/db?***"),
            ("postgres://ada@h/db?sslmode=require", "postgres://ada@h/db?sslmode=require"),
            ("postgres://ada@h/db?sslmode=require", "postgres://ada@h/db?sslmode=require"),
        ];
        for (url, shown) in rows {
            let config = resolved(url, "90d").unwrap();
            let raw = RawTelemetry::from(&config);
            assert_eq!(raw.store.as_deref(), Some(shown));
            assert!(!format!("{config:?}").contains("cret"), "{config:?}");
        }
    }
}
