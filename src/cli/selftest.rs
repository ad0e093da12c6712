//! `lacuna selftest`: whether a device computes what it must.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use models::Device;
use serde::Serialize;

use crate::{
    cli::{CliError, Settings, compose, load, print},
    config::{Config, Environment},
    selftest::{self, Grid, Outcome, Plan},
};

/// Prompts of the golden set where nobody says how many: all on a device that computes, few on one that emulates.
const NUM_PROMPTS: usize = 1000;
const NUM_PROMPTS_EMULATED: usize = 8;

#[derive(Args, Debug)]
pub(super) struct SelftestArgs {
    /// Shapes of operators that are tried; few where the device is emulated, else all.
    #[arg(long, value_enum, value_name = "GRID")]
    grid: Option<GridChoice>,
    /// Prompts of the embedded model's golden set; 0 tries the operators only.
    #[arg(long, value_name = "N")]
    prompts: Option<usize>,
    /// File for all outcomes as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GridChoice {
    /// A few shapes of each operator.
    Quick,
    /// All shapes.
    Full,
}

/// What a selftest came to.
#[derive(Debug, Serialize)]
struct SelftestReport<'a> {
    device: &'a str,
    version: &'static str,
    commit: &'static str,
    seconds: f64,
    num_checks: usize,
    num_failed: usize,
    outcomes: &'a [Outcome],
}

/// Runs the selftest on the device in force.
///
/// # Errors
/// [`CliError::Usage`] for settings, [`CliError::Failed`] where a check failed or the device did.
pub(super) fn run(arguments: SelftestArgs, environment: &Environment) -> Result<(), CliError> {
    let config = load(arguments.settings, environment)?.config;
    let plan = plan(&config, arguments.grid, arguments.prompts)?;
    let start = Instant::now();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut failed = Ok(());
    let finished = selftest::run(&plan, &mut |outcome| {
        if !outcome.is_passed && failed.is_ok() {
            failed = print(&line(&outcome));
        }
        outcomes.push(outcome);
    });
    failed?;
    let device = finished.context("the selftest did not come to its end")?;
    let num_failed = outcomes.iter().filter(|outcome| !outcome.is_passed).count();
    print(&table(&outcomes))?;
    if let Some(path) = &arguments.json {
        let report = SelftestReport {
            device: &device,
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("BUILD_COMMIT").unwrap_or(env!("GIT_COMMIT")),
            seconds: start.elapsed().as_secs_f64(),
            num_checks: outcomes.len(),
            num_failed,
            outcomes: &outcomes,
        };
        let text = serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write to {}", path.display()))?;
    }
    let elapsed = Duration::from_millis(start.elapsed().as_millis() as u64);
    let num_checks = outcomes.len();
    if num_failed > 0 {
        return Err(CliError::Failed(anyhow!(
            "{num_failed} of {num_checks} checks failed on {device}"
        )));
    }
    print(&format!("{num_checks} checks passed on {device} in {elapsed:?}\n"))
}

fn plan(
    config: &Config,
    grid: Option<GridChoice>,
    num_prompts: Option<usize>,
) -> Result<Plan, CliError> {
    let device = compose::device(config);
    let is_emulated = device == Device::Emulated;
    let default_grid = if is_emulated { GridChoice::Quick } else { GridChoice::Full };
    let default_prompts = if is_emulated { NUM_PROMPTS_EMULATED } else { NUM_PROMPTS };
    Ok(Plan {
        device,
        options: compose::device_options(config).map_err(CliError::Usage)?,
        grid: match grid.unwrap_or(default_grid) {
            GridChoice::Quick => Grid::Quick,
            GridChoice::Full => Grid::Full,
        },
        num_prompts: num_prompts.unwrap_or(default_prompts),
    })
}

/// Returns a failed check as a line.
fn line(outcome: &Outcome) -> String {
    let Outcome { check, case, against, error, limit, .. } = outcome;
    let error = error.map_or_else(|| "not a number".to_owned(), |error| format!("{error:.3e}"));
    format!("FAILED {check} {case}: against {against} {error}, at most {limit:.0e}\n")
}

/// Returns a row a check: how many cases, how many failed, and the largest error.
fn table(outcomes: &[Outcome]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for outcome in outcomes {
        if !names.contains(&outcome.check.as_str()) {
            names.push(&outcome.check);
        }
    }
    let mut text = format!("{:<24}{:>8}{:>8}  largest error\n", "check", "cases", "failed");
    for name in names {
        let of = outcomes.iter().filter(|outcome| outcome.check == name);
        let num_failed = of.clone().filter(|outcome| !outcome.is_passed).count();
        let largest = of.clone().filter_map(|outcome| outcome.error).fold(0.0, f64::max);
        let row = format!("{name:<24}{:>8}{num_failed:>8}  {largest:.2e}\n", of.count());
        text.push_str(&row);
    }
    text
}
