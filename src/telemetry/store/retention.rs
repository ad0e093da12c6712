//! What goes: rows that are older than is wished, and the oldest where the file grows too large. In small pieces, so that
//! no event waits for long.

use std::time::{Duration, Instant};

use crate::telemetry::store::{
    Day,
    database::{Database, Fault, Row, Value},
};

/// How often it is looked whether something has grown old.
const INTERVAL: Duration = Duration::from_mins(10);
/// Rows of a table that go at once: a few milliseconds' work.
const ROWS_MAX: u32 = 500;
/// Share of the largest size above which the oldest rows go.
const FULL_SHARE: f64 = 0.9;
/// Later than all rows.
const NEVER_TOO_OLD: i64 = i64::MAX;

const DELETE_COMPLETIONS: &str = "DELETE FROM lacuna_completions WHERE id IN (SELECT id FROM lacuna_completions WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)";
const DELETE_EVENTS: &str = "DELETE FROM lacuna_events WHERE (completion_id, choice_index, kind, user_hash) IN (SELECT completion_id, choice_index, kind, user_hash FROM lacuna_events WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)";
const DELETE_TOLD: &str = "DELETE FROM lacuna_told WHERE day < $1";

/// What is kept, and when it is looked at next.
#[derive(Debug)]
pub(super) struct Retention {
    kept_ms: i64,
    due_at: Instant,
}

impl Retention {
    pub(super) fn new(now: Instant, kept: Duration) -> Self {
        Self { kept_ms: i64::try_from(kept.as_millis()).unwrap_or(i64::MAX), due_at: now }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due_at
    }

    /// Looks again soon where there was more than one piece.
    pub(super) fn purged(&mut self, now: Instant, is_done: bool) {
        self.due_at = if is_done { now + INTERVAL } else { now };
    }

    /// Looks again at once: there is no room.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due_at = now;
    }
}

/// Deletes a piece of what is too old, or, where there is no more room, of what is oldest. Returns whether that was all.
///
/// # Errors
/// The database cannot delete it.
pub(super) fn purge(
    database: &mut dyn Database,
    retention: &Retention,
    now_ms: i64,
) -> Result<bool, Fault> {
    let oldest = now_ms.saturating_sub(retention.kept_ms);
    let is_full =
        database.room()?.is_some_and(|(used, most)| used as f64 > FULL_SHARE * most as f64);
    let before = if is_full { NEVER_TOO_OLD } else { oldest };
    database.begin()?;
    let done = delete(database, before, oldest).and_then(|deleted| {
        database.commit()?;
        Ok(deleted)
    });
    if done.is_err() {
        database.roll_back();
    }
    let is_last = |count: u64| if is_full { count == 0 } else { count < ROWS_MAX.into() };
    done.map(|deleted| deleted.into_iter().all(is_last))
}

fn delete(database: &mut dyn Database, before: i64, oldest: i64) -> Result<[u64; 2], Fault> {
    let row: [Row; 1] = [vec![Value::Integer(before), Value::Integer(ROWS_MAX.into())]];
    let completions = database.execute_each(DELETE_COMPLETIONS, &row)?.iter().sum();
    let events = database.execute_each(DELETE_EVENTS, &row)?.iter().sum();
    // The last day of which something is to be kept is kept whole.
    let day = vec![Value::Integer(Day::of(oldest).0)];
    database.execute_each(DELETE_TOLD, &[day])?;
    Ok([completions, events])
}
