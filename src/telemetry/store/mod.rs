//! What became of completions, kept: a row for each that was served, and one for each time that somebody saw, took or
//! refused one. Off unless the settings name a store.
//!
//! | file | concept |
//! |---|---|
//! | `rows` | what is stored |
//! | `schema` | the tables, and how an older store becomes a newer one |
//! | `database/` | `SQLite` and `PostgreSQL` behind one trait and one set of statements |
//! | `writer` | one thread writes; what waits shares a transaction |
//! | `retention` | what goes when it is old, or the file too large |
//! | `report` | what is read |
//! | `client`, `day` | editors and days, as values |
//!
//! **Invariant:** an event is acknowledged only after the transaction that holds it is on the disk. Rows of completions are
//! not waited for: a completion is never slower or lost because of the store.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;
use tracing::warn;

use crate::telemetry::{
    metrics::{Dropped, Metrics},
    store::{
        database::Purpose,
        writer::{Command, Writer},
    },
};

mod database;
mod report;
mod retention;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub use crate::telemetry::day::{DAY_MS, Day};
pub use database::{Address, Fault};
pub use report::{By, Figures, Group, Period, Report};
pub use rows::{CompletionRow, Event, EventKind, ToldRow, bare_id};

/// Commands that wait for the writer: what comes in the seconds that a slow disk takes, and a few megabytes at most.
const QUEUE_MAX: usize = 1024;
/// Longest time for what waits to be written at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the time in milliseconds since 1970.
pub type UnixClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Returns the time of the system.
pub fn unix_ms() -> i64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// What a store is made with.
#[derive(Clone)]
pub struct StoreOptions {
    /// Where it is.
    pub address: Address,
    /// How long rows are kept.
    pub retention: Duration,
    /// Largest file of `SQLite`'s; a server looks after its own room.
    pub bytes_max: u64,
    /// The time, by which rows grow old.
    pub clock: UnixClock,
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, retention, bytes_max, clock: _ } = self;
        f.debug_struct("StoreOptions")
            .field("address", address)
            .field("retention", retention)
            .field("bytes_max", bytes_max)
            .finish_non_exhaustive()
    }
}

/// How many events were written, and how many had been before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Written now.
    pub stored: usize,
    /// Told before.
    pub duplicates: usize,
}

/// Why events were not taken. Both pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// Too much waits to be written.
    #[error("too many events wait to be written")]
    Busy,
    /// The store does not take anything now.
    #[error("the telemetry store takes nothing now")]
    Unavailable,
}

/// The way to the thread that writes; copies are the same.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    commands: SyncSender<Command>,
    metrics: Metrics,
    label: &'static str,
    clock: UnixClock,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("kind", &self.0.label).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, brings it to this version's schema and starts the thread that writes to it. Blocks while it does.
    ///
    /// # Errors
    /// It cannot be used. A server of a database that cannot be reached is none: it is asked again later, for completions
    /// must come back with this server whether the database does or not.
    pub fn open(options: StoreOptions, metrics: &Metrics) -> Result<Self, Fault> {
        let purpose = Purpose::Write { bytes_max: options.bytes_max };
        let label = options.address.as_label();
        let opened = database::open(&options.address, purpose).and_then(|mut database| {
            schema::migrate(database.as_mut())?;
            Ok(database)
        });
        let database = match (opened, &options.address) {
            (Ok(database), _) => Some(database),
            (Err(fault @ Fault::Unreachable(_)), Address::Postgres(_)) => {
                warn!(store = label, %fault, "telemetry events are refused until the store is there");
                None
            }
            (Err(fault), _) => return Err(fault),
        };
        let (commands, queue) = sync_channel(QUEUE_MAX);
        let clock = Arc::clone(&options.clock);
        let writer = Writer::new(options, database, metrics.clone());
        let started = thread::Builder::new()
            .name("lacuna-store".to_owned())
            .spawn(move || writer.run(&queue));
        started.map_err(|error| Fault::Other(error.to_string()))?;
        Ok(Self(Arc::new(Shared { commands, metrics: metrics.clone(), label, clock })))
    }

    /// Returns the time by which rows are dated.
    pub fn now_ms(&self) -> i64 {
        (self.0.clock)()
    }

    /// Writes the row of a completion as soon as may be, and waits for nothing. Where too much waits it is dropped.
    pub fn record(&self, row: CompletionRow) {
        if self.send(Command::Completion(Box::new(row))).is_err() {
            self.0.metrics.store().record_dropped(Dropped::Completion, 1);
        }
    }

    /// Adds up what a client counted by itself, as [`Store::record`] does.
    pub fn record_told(&self, told: ToldRow) {
        if self.send(Command::Told(told)).is_err() {
            self.0.metrics.store().record_dropped(Dropped::Told, 1);
        }
    }

    /// Writes events; they are on the disk when this returns.
    ///
    /// # Errors
    /// [`StoreRefusal`]; none of them may be counted on then.
    pub async fn record_events(&self, events: Vec<Event>) -> Result<Stored, StoreRefusal> {
        let num_events = events.len();
        let (answer, written) = oneshot::channel();
        let done = match self.send(Command::Events(events, answer)) {
            Ok(()) => written.await.unwrap_or(Err(StoreRefusal::Unavailable)),
            Err(refusal) => Err(refusal),
        };
        if done.is_err() {
            self.0.metrics.store().record_dropped(Dropped::Event, num_events);
        }
        done
    }

    /// Writes what waits and ends the thread. What comes later is refused.
    pub async fn close(&self) {
        let (answer, closed) = oneshot::channel();
        let own = self.clone();
        // A full queue is waited for, off the threads that speak HTTP.
        let sending = tokio::task::spawn_blocking(move || {
            own.0.commands.send(Command::Close(answer)).is_ok()
        });
        let closing = async { sending.await.unwrap_or(false) && closed.await.is_ok() };
        if !tokio::time::timeout(CLOSE_TIMEOUT, closing).await.unwrap_or(false) {
            warn!(store = self.0.label, "the telemetry store did not write all that waited");
        }
    }

    fn send(&self, command: Command) -> Result<(), StoreRefusal> {
        // Counted first, so that the writer never takes out what was not counted.
        self.0.metrics.store().count_queue(self.0.label, 1);
        self.0.commands.try_send(command).map_err(|error| {
            self.0.metrics.store().count_queue(self.0.label, -1);
            match error {
                TrySendError::Full(_) => StoreRefusal::Busy,
                TrySendError::Disconnected(_) => StoreRefusal::Unavailable,
            }
        })
    }
}
