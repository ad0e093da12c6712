//! What every store must keep, whatever database is below; then what is particular to a file and to a server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::telemetry::metrics::Metrics;

mod cases;
mod file;
mod server;

/// A time on 2026-11-22.
const NOW_MS: i64 = 20_779 * DAY_MS + 43_200_000;

/// A store that can be opened again, and what it is dated by.
struct Place {
    address: Address,
    now_ms: Arc<AtomicI64>,
    bytes_max: u64,
}

impl Place {
    fn new(address: Address) -> Self {
        Self { address, now_ms: Arc::new(AtomicI64::new(NOW_MS)), bytes_max: 64 << 20 }
    }

    fn try_open(&self, metrics: &Metrics) -> Result<Store, Fault> {
        let now_ms = Arc::clone(&self.now_ms);
        let options = StoreOptions {
            address: self.address.clone(),
            retention: Duration::from_hours(90 * 24),
            bytes_max: self.bytes_max,
            clock: Arc::new(move || now_ms.load(Ordering::Relaxed)),
        };
        Store::open(options, metrics)
    }

    fn open(&self) -> Store {
        self.try_open(&Metrics::default()).unwrap()
    }

    /// Returns the report of the year around [`NOW_MS`].
    fn report(&self, by: Option<By>) -> Report {
        let today = Day::of(NOW_MS).0;
        let period = Period { first: Day(today - 180), last: Day(today + 180) };
        Report::read(&self.address, period, by).unwrap()
    }

    fn total(&self) -> [u64; 3] {
        let total = self.report(None).total;
        [total.shown, total.accepted, total.rejected]
    }
}

/// A place in a folder of its own.
fn in_file() -> (Place, TempDir) {
    let folder = TempDir::new().unwrap();
    (Place::new(Address::Sqlite(folder.path().join("telemetry.db"))), folder)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn completion(id: &str) -> CompletionRow {
    CompletionRow {
        id: id.to_owned(),
        at_ms: NOW_MS,
        endpoint: "openai.completions",
        task: "completion",
        model: "coder".to_owned(),
        provider: "lacuna".to_owned(),
        language: Some("python"),
        client_type: "ide",
        client: "vscode",
        prompt: None,
        user: Some("ada".to_owned()),
        realm: "saas",
        latency_ms: 100.0,
        ttft_ms: Some(20.0),
        prompt_tokens: 50,
        completion_tokens: 10,
        outcome: "ok",
    }
}

fn event(completion_id: &str, kind: EventKind) -> Event {
    Event {
        completion_id: completion_id.to_owned(),
        choice_index: 0,
        kind,
        user: Some("ada".to_owned()),
        at_ms: NOW_MS,
        received_ms: NOW_MS,
        elapsed_ms: None,
        accepted_chars: None,
        accepted_lines: None,
    }
}

/// Returns the value of the one sample whose name and labels have all these words, or 0.
fn sample(metrics: &Metrics, words: &[&str]) -> usize {
    let page = metrics.render();
    let is_meant = |line: &&str| !line.starts_with('#') && words.iter().all(|w| line.contains(w));
    let lines: Vec<&str> = page.lines().filter(is_meant).collect();
    assert!(lines.len() <= 1, "{words:?}: {lines:?}");
    lines.first().map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn a_file_keeps_what_every_store_must() {
    for case in cases::ALL {
        let (place, _folder) = in_file();
        case(&place);
    }
}
