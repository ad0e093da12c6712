//! `lacuna report`: what the telemetry store tells of some days, also while a server writes to it.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::{
    cli::{CliError, print, report::format::Shown, serve::store},
    config::{Config, Environment, RawConfig},
    telemetry::store::{By, Day, Fault, Period, Report, unix_ms},
};

mod format;

/// Days of a report where nothing is said.
const DAYS_DEFAULT: i64 = 7;
/// Most days of a report: rows are not kept for longer.
const DAYS_MAX: i64 = 3650;

/// Arguments of `lacuna report`.
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// File of settings, see lacuna.example.toml [env: `LACUNA_CONFIG`].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The store, where it is not that of the settings [env: `LACUNA_TELEMETRY_STORE`].
    #[arg(long = "telemetry-store", value_name = "FILE|postgres://…")]
    store: Option<String>,
    /// First day, such as 2026-11-01, in UTC.
    #[arg(long, value_name = "DATE", value_parser = day, conflicts_with = "days")]
    from: Option<Day>,
    /// Last day; today where it is not said.
    #[arg(long, value_name = "DATE", value_parser = day, conflicts_with = "days")]
    to: Option<Day>,
    /// So many days up to today [default: 7].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=DAYS_MAX))]
    days: Option<i64>,
    /// What the figures are divided by.
    #[arg(long, value_name = "model|language|client|prompt|day", value_parser = by)]
    by: Option<By>,
    /// A table for people, or JSON or CSV for programs.
    #[arg(
        // An id of its own: that of a setting would show the setting's default.
        id = "report_format",
        long = "format",
        default_value = "table",
        hide_possible_values = true,
        value_name = "table|json|csv"
    )]
    format: Format,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

fn day(text: &str) -> Result<Day, String> {
    Day::parse(text).ok_or_else(|| "must be a day such as 2026-11-22".to_owned())
}

fn by(text: &str) -> Result<By, String> {
    let found = By::ALL.into_iter().find(|by| by.as_label() == text);
    found.ok_or_else(|| "must be model, language, client, prompt or day".to_owned())
}

/// Prints the report.
///
/// # Errors
/// No store in the settings, one that cannot be read, days in the wrong order.
pub(super) fn run(arguments: &ReportArgs, environment: &Environment) -> Result<(), CliError> {
    let mut raw = RawConfig::default();
    raw.telemetry.store.clone_from(&arguments.store);
    let file = arguments.config.clone().or_else(|| environment.config_file());
    let config = Config::load(&raw, environment, file.as_deref())?;
    let period = period(arguments, Day::of(unix_ms()))?;
    let address = store::address(&config).ok_or_else(|| {
        let help = "no telemetry is kept: `telemetry.store` (--telemetry-store, LACUNA_TELEMETRY_STORE) is off; name a file or a database there and start the server with it";
        CliError::Usage(anyhow!(help))
    })?;
    let report = match Report::read(&address, period, arguments.by) {
        Ok(report) => report,
        Err(Fault::Empty) => {
            let help = "the telemetry store is empty: no server has written to it yet; check that the server has the same `telemetry.store`";
            return Err(CliError::Failed(anyhow!(help)));
        }
        Err(fault) => return Err(CliError::Failed(fault.into())),
    };
    let shown = Shown { report: &report, period, by: arguments.by };
    let text = match arguments.format {
        Format::Table => shown.table(),
        Format::Json => shown.json(),
        Format::Csv => shown.csv(),
    };
    print(&text)
}

fn period(arguments: &ReportArgs, today: Day) -> Result<Period, CliError> {
    let last = arguments.to.unwrap_or(today);
    let days = arguments.days.unwrap_or(DAYS_DEFAULT);
    let first = arguments.from.unwrap_or(Day(last.0 - days + 1));
    if first > last {
        let error = anyhow!("the first day must not be after the last, got {first} and {last}");
        return Err(CliError::Usage(error));
    }
    Ok(Period { first, last })
}
