//! The one thread that writes: all that waits at a moment goes into one transaction, so that its wait for the disk is
//! shared. What nobody waits for may linger a little, for the same reason.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::telemetry::{
    metrics::{CompletionLabels, Dropped, Metrics},
    store::{
        CompletionRow, Day, Event, StoreOptions, StoreRefusal, Stored, ToldRow,
        database::{self, Database, Fault, Purpose, Row, Value},
        retention::{Retention, purge},
        rows::{ADD_TOLD, INSERT_COMPLETION, INSERT_EVENT},
        schema,
    },
};

/// Commands of a transaction: more would let the first wait for long.
const BATCH_MAX: i64 = 256;
/// How long rows that nobody waits for may gather.
const LINGER: Duration = Duration::from_millis(100);
/// How often the writer looks around where nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// Pause before a database that could not be reached is tried again. Events are refused at once meanwhile.
const RECONNECT: Duration =
    if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(5) };
/// How often users are counted.
const COUNT_USERS: Duration = Duration::from_mins(1);
/// Tries of a transaction that another writer's was in the way of.
const TRIES: usize = 3;
/// Ids that are looked up at once, well below the parameters that either database takes.
const IDS_MAX: usize = 500;

/// Tells whoever waits for events.
type Answer = oneshot::Sender<Result<Stored, StoreRefusal>>;

/// What is asked of the writer.
pub(super) enum Command {
    /// Write it some time.
    Completion(Box<CompletionRow>),
    /// Add it some time.
    Told(ToldRow),
    /// Write them and say so.
    Events(Vec<Event>, Answer),
    /// Write what came before, and end.
    Close(oneshot::Sender<()>),
}

/// What goes into one transaction.
#[derive(Default)]
struct Batch {
    completions: Vec<CompletionRow>,
    told: Vec<ToldRow>,
    events: Vec<(Vec<Event>, Answer)>,
    closing: Option<oneshot::Sender<()>>,
    num_commands: i64,
}

impl Batch {
    fn push(&mut self, command: Command) {
        // Who closes it goes past the count of those that wait.
        self.num_commands += i64::from(!matches!(command, Command::Close(_)));
        match command {
            Command::Completion(row) => self.completions.push(*row),
            Command::Told(told) => self.told.push(told),
            Command::Events(events, answer) => self.events.push((events, answer)),
            Command::Close(answer) => self.closing = Some(answer),
        }
    }

    fn is_waited_for(&self) -> bool {
        !self.events.is_empty() || self.closing.is_some()
    }

    fn is_empty(&self) -> bool {
        self.completions.is_empty() && self.told.is_empty() && self.events.is_empty()
    }
}

/// What a transaction has written.
struct Written {
    /// For each command of events, in their order.
    stored: Vec<Stored>,
    /// Kinds and labels of the events that are new.
    events: Vec<(&'static str, CompletionLabels)>,
    /// Completions whose id was there before.
    num_repeated: usize,
}

/// The thread's own.
pub(super) struct Writer {
    options: StoreOptions,
    database: Option<Box<dyn Database + Send>>,
    metrics: Metrics,
    label: &'static str,
    is_up: bool,
    retry_at: Instant,
    retention: Retention,
    count_users_at: Instant,
}

impl Writer {
    pub(super) fn new(
        options: StoreOptions,
        database: Option<Box<dyn Database + Send>>,
        metrics: Metrics,
    ) -> Self {
        let now = Instant::now();
        let (label, is_up) = (options.address.as_label(), database.is_some());
        metrics.store().show_up(label, is_up);
        let retention = Retention::new(now, options.retention);
        let retry_at = now + RECONNECT;
        Self { options, database, metrics, label, is_up, retry_at, retention, count_users_at: now }
    }

    /// Writes until it is told to end, or nobody is left who could tell.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            self.look_around();
            let Some(batch) = gather(commands) else { return };
            self.metrics.store().count_queue(self.label, -batch.num_commands);
            if let Some(closing) = self.write(batch) {
                // Closed before it is said, so that whoever waited finds the file at rest.
                drop(self.database.take());
                let _ = closing.send(());
                return;
            }
        }
    }

    /// Does what is due and nobody waits for.
    fn look_around(&mut self) {
        let now = Instant::now();
        if self.database.is_none() && now >= self.retry_at {
            self.connect();
        }
        let now_ms = (self.options.clock)();
        if let Some(database) = &mut self.database
            && self.retention.is_due(now)
        {
            match purge(database.as_mut(), &self.retention, now_ms) {
                Ok(is_done) => self.retention.purged(now, is_done),
                Err(fault) => {
                    self.retention.purged(now, true);
                    self.failed(&fault);
                }
            }
        }
        if let Some(database) = &mut self.database
            && now >= self.count_users_at
        {
            self.count_users_at = now + COUNT_USERS;
            match num_users(database.as_mut(), now_ms) {
                // To read goes well while writes fail: that is no sign that events are taken.
                Ok(users) => self.metrics.store().show_users(self.label, users),
                Err(fault) => self.failed(&fault),
            }
        }
    }

    fn connect(&mut self) {
        let purpose = Purpose::Write { bytes_max: self.options.bytes_max };
        let opened = database::open(&self.options.address, purpose).and_then(|mut database| {
            schema::migrate(database.as_mut())?;
            Ok(database)
        });
        match opened {
            Ok(database) => {
                self.database = Some(database);
                self.is_well();
            }
            Err(fault) => self.failed(&fault),
        }
    }

    /// Writes a batch, tells who waits, and returns who waits for the end.
    fn write(&mut self, batch: Batch) -> Option<oneshot::Sender<()>> {
        if batch.is_empty() {
            return batch.closing;
        }
        let metrics = self.metrics.clone();
        let families = metrics.store();
        let began = Instant::now();
        let done = self.database.as_mut().map(|database| transaction(database.as_mut(), &batch));
        if let Some(done) = &done {
            families.record_commit(self.label, done.is_ok(), began.elapsed());
        }
        let Batch { completions, told, events, closing, .. } = batch;
        if let Some(Ok(written)) = done {
            self.is_well();
            for (kind, labels) in &written.events {
                families.record_event(kind, labels);
            }
            if written.num_repeated > 0 {
                families.record_dropped(Dropped::Completion, written.num_repeated);
            }
            for ((_, answer), stored) in events.into_iter().zip(written.stored) {
                let _ = answer.send(Ok(stored));
            }
            return closing;
        }
        if let Some(Err(fault)) = done {
            self.failed(&fault);
        }
        for (kind, count) in [(Dropped::Completion, completions.len()), (Dropped::Told, told.len())]
        {
            if count > 0 {
                families.record_dropped(kind, count);
            }
        }
        for (_, answer) in events {
            let _ = answer.send(Err(StoreRefusal::Unavailable));
        }
        closing
    }

    fn is_well(&mut self) {
        if !self.is_up {
            self.is_up = true;
            self.metrics.store().show_up(self.label, true);
            info!(store = self.label, "the telemetry store takes events again");
        }
    }

    /// Said once, until it is well again.
    fn failed(&mut self, fault: &Fault) {
        if fault.is_of_connection() {
            self.database = None;
            self.retry_at = Instant::now() + RECONNECT;
        }
        if matches!(fault, Fault::Full(_)) {
            self.retention.hurry(Instant::now());
        }
        if self.is_up {
            self.is_up = false;
            self.metrics.store().show_up(self.label, false);
            warn!(store = self.label, %fault, "telemetry events are refused, completions go on");
        }
    }
}

/// Waits for a first command, and takes those that are there beside it. `None` once nobody can send another.
fn gather(commands: &Receiver<Command>) -> Option<Batch> {
    let mut batch = Batch::default();
    match commands.recv_timeout(TICK) {
        Ok(first) => batch.push(first),
        Err(RecvTimeoutError::Timeout) => return Some(batch),
        Err(RecvTimeoutError::Disconnected) => return None,
    }
    let until = Instant::now() + LINGER;
    while batch.num_commands < BATCH_MAX && batch.closing.is_none() {
        let wait = if batch.is_waited_for() {
            Duration::ZERO
        } else {
            until.saturating_duration_since(Instant::now())
        };
        let Ok(next) = commands.recv_timeout(wait) else { break };
        batch.push(next);
    }
    Some(batch)
}

fn transaction(database: &mut dyn Database, batch: &Batch) -> Result<Written, Fault> {
    let mut tries = 1;
    loop {
        let done = database.begin().and_then(|()| {
            let written = insert(database, batch)?;
            database.commit()?;
            Ok(written)
        });
        match done {
            Err(fault) => {
                database.roll_back();
                if fault != Fault::Conflict || tries == TRIES {
                    return Err(fault);
                }
                tries += 1;
            }
            written => return written,
        }
    }
}

fn insert(database: &mut dyn Database, batch: &Batch) -> Result<Written, Fault> {
    let mut completions: Vec<&CompletionRow> = batch.completions.iter().collect();
    // One order for all writers: two that insert the same rows in two orders would wait for each other.
    completions.sort_by(|a, b| a.id.cmp(&b.id));
    let rows: Vec<Row> = completions.into_iter().map(Row::from).collect();
    let num_written: u64 = database.execute_each(INSERT_COMPLETION, &rows)?.iter().sum();
    let num_repeated = rows.len() - num_written as usize;
    let mut told: Vec<&ToldRow> = batch.told.iter().collect();
    told.sort_by_key(|told| (told.day, &told.model, &told.provider, told.language));
    let rows: Vec<Row> = told.into_iter().map(Row::from).collect();
    database.execute_each(ADD_TOLD, &rows)?;

    let mut events: Vec<(usize, &Event)> = Vec::new();
    for (index, (of_command, _)) in batch.events.iter().enumerate() {
        events.extend(of_command.iter().map(|event| (index, event)));
    }
    events.sort_by_key(|(index, event)| (event.key(), *index));
    let rows: Vec<Row> = events.iter().map(|(_, event)| Row::from(*event)).collect();
    let counts = database.execute_each(INSERT_EVENT, &rows)?;
    let mut stored = vec![Stored::default(); batch.events.len()];
    let mut fresh = Vec::new();
    for ((index, event), count) in events.into_iter().zip(counts) {
        if count == 0 {
            stored[index].duplicates += 1;
        } else {
            stored[index].stored += 1;
            fresh.push(event);
        }
    }
    let labels = labels(database, &fresh)?;
    let events = fresh.into_iter().map(|event| (event.kind.as_label(), labels.of(event))).collect();
    Ok(Written { stored, events, num_repeated })
}

/// What is known of completions that events are about: their labels and their user.
struct Known(HashMap<String, (CompletionLabels, String)>);

impl Known {
    /// Returns the labels of an event's completion; unknown where it is not, or where another user's is meant.
    fn of(&self, event: &Event) -> CompletionLabels {
        let told = event.user.as_deref().unwrap_or_default();
        let known = self.0.get(&event.completion_id);
        let of_user = known.filter(|(_, user)| told.is_empty() || user.is_empty() || user == told);
        of_user.map(|(labels, _)| labels.clone()).unwrap_or_default()
    }
}

fn labels(database: &mut dyn Database, events: &[&Event]) -> Result<Known, Fault> {
    let mut ids: Vec<&str> = events.iter().map(|event| event.completion_id.as_str()).collect();
    ids.dedup();
    let mut known = HashMap::new();
    for ids in ids.chunks(IDS_MAX) {
        let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
        let question = format!(
            "SELECT id, model, language, client, prompt, user_hash FROM lacuna_completions WHERE id IN ({})",
            places.join(", ")
        );
        let parameters: Vec<Value> = ids.iter().map(|id| Value::from(*id)).collect();
        for row in database.query(&question, &parameters)? {
            let text = |index: usize| row.get(index).map_or("", Value::text).to_owned();
            known.insert(text(0), ([text(1), text(2), text(3), text(4)], text(5)));
        }
    }
    Ok(Known(known))
}

/// Returns how many users of today there are, exactly.
fn num_users(database: &mut dyn Database, now_ms: i64) -> Result<i64, Fault> {
    let question = "SELECT COUNT(DISTINCT user_hash) FROM lacuna_completions WHERE at_ms >= $1 AND user_hash <> ''";
    let rows = database.query(question, &[Value::Integer(Day::of(now_ms).begin_ms())])?;
    Ok(rows.first().and_then(|row| row.first()).map_or(0, Value::integer))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::store::{Address, EventKind};

    fn batch() -> Batch {
        let event = Event {
            completion_id: "a".to_owned(),
            choice_index: 0,
            kind: EventKind::Shown,
            user: None,
            at_ms: 0,
            received_ms: 0,
            elapsed_ms: None,
            accepted_chars: None,
            accepted_lines: None,
        };
        let mut batch = Batch::default();
        batch.push(Command::Events(vec![event], oneshot::channel().0));
        batch
    }

    #[test]
    fn a_store_is_up_again_when_it_has_written_and_not_when_it_was_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("telemetry.db");
        let options = StoreOptions {
            address: Address::Sqlite(path.clone()),
            retention: Duration::from_hours(1),
            bytes_max: 1 << 20,
            clock: Arc::new(|| 0),
        };
        let metrics = Metrics::default();
        let mut writer = Writer::new(options, None, metrics.clone());
        writer.connect();
        // No patience, so that the test needs none.
        writer.database.as_mut().unwrap().run("PRAGMA busy_timeout = 0").unwrap();
        writer.look_around();
        let says = |line: &str| metrics.render().contains(line);
        let (up, down) = (
            "lacuna_telemetry_store_up{store=\"sqlite\"} 1",
            "lacuna_telemetry_store_up{store=\"sqlite\"} 0",
        );
        assert!(says(up), "{}", metrics.render());
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        writer.write(batch());
        assert!(says(down), "{}", metrics.render());
        // Users are counted while the file is locked.
        writer.count_users_at = Instant::now();
        writer.look_around();
        assert!(writer.count_users_at > Instant::now(), "nobody was counted");
        assert!(says(down), "{}", metrics.render());
        other.execute_batch("ROLLBACK").unwrap();
        writer.write(batch());
        assert!(says(up), "{}", metrics.render());
    }
}
