//! Metrics of the telemetry store: what became of suggestions, and how the store does.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::{
    Declared,
    labels::{OTHER, UNKNOWN},
};

/// Seconds of a commit, which is a write to a disk.
const COMMIT: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];
/// Sets of labels of completions that are told apart: models, languages, clients and prompts of most places. A store that
/// was written to for long knows more names than are served.
const LABELS_MAX: usize = 512;

/// Model, language, client and prompt of a completion; empty where they are not known.
pub type CompletionLabels = [String; 4];

/// Families of the store.
#[derive(Debug)]
pub struct StoreFamilies {
    events: IntCounterVec,
    users: IntGaugeVec,
    up: IntGaugeVec,
    queue: IntGaugeVec,
    commits: IntCounterVec,
    commit_time: HistogramVec,
    dropped: IntCounterVec,
    seen: Mutex<BTreeSet<CompletionLabels>>,
}

/// What was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The row of a completion.
    Completion,
    /// What a client counted by itself.
    Told,
    /// An event, which was refused.
    Event,
}

impl StoreFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let commit_time =
            ("lacuna_telemetry_commit_duration_seconds", "Time of a transaction of the store.");
        let commit_time = declared.histogram(commit_time, &["store"], &COMMIT)?;
        let mut count = |name, help, labels: &[&str]| declared.counter(name, help, labels);
        let events = count(
            "lacuna_suggestion_events_total",
            "What became of suggestions, each told once.",
            &["event", "model_name", "language", "client", "prompt"],
        )?;
        let commits =
            count("lacuna_telemetry_commits_total", "Transactions of the store.", &["outcome"])?;
        let dropped =
            count("lacuna_telemetry_dropped_total", "Rows that were not written.", &["kind"])?;
        let mut gauge =
            |name, help| declared.add(IntGaugeVec::new(Opts::new(name, help), &["store"])?);
        Ok(Self {
            users: gauge("lacuna_telemetry_users", "Users of this day, in UTC.")?,
            up: gauge("lacuna_telemetry_store_up", "1 while the store takes what is written.")?,
            queue: gauge("lacuna_telemetry_queue_length", "What waits to be written.")?,
            events,
            commits,
            commit_time,
            dropped,
            seen: Mutex::default(),
        })
    }

    /// Counts an event.
    pub fn record_event(&self, event: &str, labels: &CompletionLabels) {
        let named =
            labels.clone().map(|label| if label.is_empty() { UNKNOWN.to_owned() } else { label });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told_apart =
            seen.contains(&named) || seen.len() < LABELS_MAX && seen.insert(named.clone());
        drop(seen);
        let [model, language, client, prompt] =
            if is_told_apart { named } else { [OTHER; 4].map(str::to_owned) };
        self.events.with_label_values(&[event, &model, &language, &client, &prompt]).inc();
    }

    /// Shows how many users there were today.
    pub fn show_users(&self, store: &'static str, users: i64) {
        self.users.with_label_values(&[store]).set(users);
    }

    /// Shows whether the store takes what is written.
    pub fn show_up(&self, store: &'static str, is_up: bool) {
        self.up.with_label_values(&[store]).set(is_up.into());
    }

    /// Counts what was put into the queue, or taken from it.
    pub fn count_queue(&self, store: &'static str, difference: i64) {
        self.queue.with_label_values(&[store]).add(difference);
    }

    /// Counts a transaction.
    pub fn record_commit(&self, store: &'static str, is_ok: bool, took: Duration) {
        self.commits.with_label_values(&[if is_ok { "ok" } else { "failed" }]).inc();
        self.commit_time.with_label_values(&[store]).observe(took.as_secs_f64());
    }

    /// Counts what was not written.
    pub fn record_dropped(&self, kind: Dropped, count: usize) {
        let kind = match kind {
            Dropped::Completion => "completion",
            Dropped::Told => "told",
            Dropped::Event => "event",
        };
        self.dropped.with_label_values(&[kind]).inc_by(count as u64);
    }
}
