//! `lacuna models cached`: what the local cache has.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;

use crate::{
    cli::{
        CliError,
        models::{Shared, bytes},
        print,
    },
    config::Environment,
    hub::{self, CachedRepository, HubError},
};

/// Characters of a commit that tell it from others.
const COMMIT_CHARS: usize = 12;

#[derive(Args, Debug)]
pub(super) struct CachedArgs {
    /// Prints JSON, with the files of each commit.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    shared: Shared,
}

/// Prints the list.
///
/// # Errors
/// [`CliError::Usage`] for settings, [`CliError::Failed`] where the cache cannot be read.
pub(super) fn run(arguments: CachedArgs, environment: &Environment) -> Result<(), CliError> {
    let config = arguments.shared.load(None, environment)?;
    let failed = |error: HubError| CliError::Failed(error.into());
    let cache = hub::cache_folder(&config.hub).map_err(failed)?;
    let repositories = hub::list(cache).map_err(failed)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&repositories).context("cannot write JSON")?;
        return print(&format!("{json}\n"));
    }
    if repositories.is_empty() {
        return print(&format!("no models in {}\n", cache.display()));
    }
    print(&table(&repositories))
}

/// Returns a row a commit.
fn table(repositories: &[CachedRepository]) -> String {
    let name = |repository: &CachedRepository| repository.repository.chars().count();
    let width = repositories.iter().map(name).max().unwrap_or(0).max("model".len());
    let mut text = format!("{:<width$}  {:>10}  {:<12}  revisions\n", "model", "size", "commit");
    for repository in repositories {
        let size = bytes(repository.num_bytes);
        let name = &repository.repository;
        if repository.snapshots.is_empty() {
            let _ = writeln!(text, "{name:<width$}  {size:>10}  {:<12}", "none whole");
        }
        for snapshot in &repository.snapshots {
            let commit: String = snapshot.commit.chars().take(COMMIT_CHARS).collect();
            let revisions = snapshot.revisions.join(", ");
            let _ = writeln!(text, "{name:<width$}  {size:>10}  {commit:<12}  {revisions}");
        }
    }
    let all: u64 = repositories.iter().map(|repository| repository.num_bytes).sum();
    let partial: u64 = repositories.iter().map(|repository| repository.num_partial_bytes).sum();
    let _ = write!(text, "{} in all", bytes(all));
    if partial > 0 {
        let _ = write!(text, ", of which {} of downloads that are not whole", bytes(partial));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::CachedSnapshot;

    #[test]
    fn a_row_a_commit_and_the_sum() {
        let snapshot = |commit: &str, revisions: &[&str]| CachedSnapshot {
            commit: commit.repeat(40),
            revisions: revisions.iter().map(|revision| (*revision).to_owned()).collect(),
            files: Vec::new(),
        };
        let row = |name: &str, num_bytes, num_partial_bytes, snapshots| CachedRepository {
            repository: name.to_owned(),
            num_bytes,
            num_partial_bytes,
            snapshots,
        };
        let text = table(&[
            row("org/name", 2048, 0, vec![snapshot("a", &["main", "v1"]), snapshot("b", &[])]),
            row("org/other", 1024, 1024, Vec::new()),
        ]);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "model            size  commit        revisions",
                "org/name     2.00 KiB  aaaaaaaaaaaa  main, v1",
                "org/name     2.00 KiB  bbbbbbbbbbbb",
                "org/other    1.00 KiB  none whole",
                "3.00 KiB in all, of which 1.00 KiB of downloads that are not whole",
            ]
        );
    }
}
