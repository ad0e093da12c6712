//! The tables, and how an older store becomes a newer one.
//!
//! A change of the schema is one more entry of [`MIGRATIONS`]; an entry that was released never changes.

use crate::telemetry::store::database::{Database, Fault, Value};

/// The schema of this version of the program.
const VERSION: i64 = 1;

/// What leads from each version of the schema to the next. The first makes the tables.
const MIGRATIONS: [&str; VERSION as usize] = ["
CREATE TABLE lacuna_completions (
    id TEXT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    language TEXT NOT NULL,
    client_type TEXT NOT NULL,
    client TEXT NOT NULL,
    prompt TEXT NOT NULL,
    user_hash TEXT NOT NULL,
    realm TEXT NOT NULL,
    latency_ms DOUBLE PRECISION NOT NULL,
    ttft_ms DOUBLE PRECISION,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    outcome TEXT NOT NULL
);
CREATE INDEX lacuna_completions_by_time ON lacuna_completions (at_ms);
CREATE TABLE lacuna_events (
    completion_id TEXT NOT NULL,
    choice_index BIGINT NOT NULL,
    kind TEXT NOT NULL,
    user_hash TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    elapsed_ms BIGINT,
    accepted_chars BIGINT,
    accepted_lines BIGINT,
    PRIMARY KEY (completion_id, choice_index, kind, user_hash)
);
CREATE INDEX lacuna_events_by_time ON lacuna_events (at_ms);
CREATE TABLE lacuna_told (
    day BIGINT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    language TEXT NOT NULL,
    requests BIGINT NOT NULL,
    accepts BIGINT NOT NULL,
    errors BIGINT NOT NULL,
    PRIMARY KEY (day, model, provider, language)
);
"];

/// Brings a store to this version's schema. Several replicas may do so at once; one does it.
///
/// # Errors
/// The store is newer than this program, or cannot be changed.
pub(super) fn migrate(database: &mut dyn Database) -> Result<(), Fault> {
    database.begin()?;
    let done = migrate_alone(database).and_then(|()| database.commit());
    if done.is_err() {
        database.roll_back();
    }
    done
}

fn migrate_alone(database: &mut dyn Database) -> Result<(), Fault> {
    database.lock_schema()?;
    database.run("CREATE TABLE IF NOT EXISTS lacuna_schema (version BIGINT NOT NULL)")?;
    let found = version(database)?;
    let done = usize::try_from(found).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(done) {
        database.run(migration)?;
    }
    if found < VERSION {
        database.run("DELETE FROM lacuna_schema")?;
        database.execute_each(
            "INSERT INTO lacuna_schema (version) VALUES ($1)",
            &[vec![Value::Integer(VERSION)]],
        )?;
    }
    Ok(())
}

/// Checks that a store can be read by this version.
///
/// # Errors
/// It is newer, older, or was never written to.
pub(super) fn check(database: &mut dyn Database) -> Result<(), Fault> {
    // All else that fails is no sign that nothing was written.
    let found = version(database).map_err(|fault| match fault {
        Fault::NoTable(_) => Fault::Empty,
        fault => fault,
    })?;
    if found < VERSION {
        let what = format!(
            "it has schema {found}, and this version needs {VERSION}: a server of this version brings it there when it starts"
        );
        return Err(Fault::Unusable(what));
    }
    Ok(())
}

fn version(database: &mut dyn Database) -> Result<i64, Fault> {
    let rows = database.query("SELECT version FROM lacuna_schema", &[])?;
    let found = rows.first().and_then(|row| row.first()).map_or(0, Value::integer);
    if found > VERSION {
        return Err(Fault::Newer { found, known: VERSION });
    }
    Ok(found)
}
