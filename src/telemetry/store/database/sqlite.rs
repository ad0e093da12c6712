//! `SQLite` in write-ahead mode: one file, readers beside the writer, a commit is on the disk.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};

use crate::telemetry::store::database::{Database, Fault, PATIENCE, Purpose, Row, Value};

/// A file and its place on the disk.
pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
    /// Device and number of the file, by which one that was removed is told from one that is there.
    identity: (u64, u64),
    bytes_max: u64,
}

impl Sqlite {
    pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Self, Fault> {
        let flags = match purpose {
            Purpose::Write { .. } => {
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
            }
            Purpose::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        check(path, purpose)?;
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection =
            Connection::open_with_flags(path, flags).map_err(|error| unusable(path, &error))?;
        connection.busy_timeout(PATIENCE).map_err(|error| fault(path, &error))?;
        let identity = identity(path)?;
        let bytes_max = match purpose {
            Purpose::Write { bytes_max } => bytes_max,
            Purpose::Read => u64::MAX,
        };
        let own = Self { connection, path: path.to_owned(), identity, bytes_max };
        if purpose != Purpose::Read {
            own.prepare()?;
        }
        Ok(own)
    }

    fn prepare(&self) -> Result<(), Fault> {
        // FULL: the log is on the disk before a commit returns, not only where the next checkpoint will find it.
        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216;";
        self.connection.execute_batch(pragmas).map_err(|error| unusable(&self.path, &error))?;
        let pages = self.bytes_max / self.pragma("page_size")?.max(1);
        self.connection
            .execute_batch(&format!("PRAGMA max_page_count = {pages}"))
            .map_err(|error| fault(&self.path, &error))
    }

    fn pragma(&self, name: &str) -> Result<u64, Fault> {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let value = self.connection.query_row(&format!("PRAGMA {name}"), [], read);
        value
            .map(|value| u64::try_from(value).unwrap_or(0))
            .map_err(|error| fault(&self.path, &error))
    }
}

impl Database for Sqlite {
    fn execute_each(&mut self, statement: &'static str, rows: &[Row]) -> Result<Vec<u64>, Fault> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut prepared =
            self.connection.prepare(statement).map_err(|error| fault(&self.path, &error))?;
        let execute = |row: &Row| prepared.execute(params_from_iter(row)).map(|count| count as u64);
        rows.iter()
            .map(execute)
            .collect::<Result<_, _>>()
            .map_err(|error| fault(&self.path, &error))
    }

    fn run(&mut self, statements: &str) -> Result<(), Fault> {
        self.connection.execute_batch(statements).map_err(|error| fault(&self.path, &error))
    }

    fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, Fault> {
        let mut prepared =
            self.connection.prepare(statement).map_err(|error| fault(&self.path, &error))?;
        let num_columns = prepared.column_count();
        let read = |row: &rusqlite::Row<'_>| {
            (0..num_columns).map(|index| row.get_ref(index).map(value)).collect()
        };
        let rows = prepared
            .query_map(params_from_iter(parameters), read)
            .map_err(|error| fault(&self.path, &error))?;
        rows.collect::<Result<_, _>>().map_err(|error| fault(&self.path, &error))
    }

    fn begin(&mut self) -> Result<(), Fault> {
        // A file that was removed takes writes until it is closed, and nobody would ever read them.
        if identity(&self.path).ok() != Some(self.identity) {
            return Err(Fault::Unreachable(format!(
                "{} was removed or replaced",
                self.path.display()
            )));
        }
        self.run("BEGIN IMMEDIATE")
    }

    fn lock_schema(&mut self) -> Result<(), Fault> {
        // Who has begun to write is the only one who does.
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.run("COMMIT")
    }

    fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            // What cannot be rolled back was never committed.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn room(&mut self) -> Result<Option<(u64, u64)>, Fault> {
        let pages = self.pragma("page_count")?.saturating_sub(self.pragma("freelist_count")?);
        let size = self.pragma("page_size")?;
        Ok(Some((pages * size, self.bytes_max)))
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null | ValueRef::Blob(_) => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
    }
}

/// Checks what `SQLite` would only say a number about.
fn check(path: &Path, purpose: Purpose) -> Result<(), Fault> {
    let shown = path.display();
    if path.is_dir() {
        let what = format!("{shown} is a folder: name a file in it");
        return Err(Fault::Unusable(what));
    }
    // What cannot be told will be when it is opened.
    let is_missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    if purpose == Purpose::Read {
        return if is_missing(path) { Err(Fault::Missing(shown.to_string())) } else { Ok(()) };
    }
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) if is_missing(folder) => {
            let folder = folder.display();
            let what = format!("{shown} cannot be made, for there is no folder {folder}: make it");
            Err(Fault::Unusable(what))
        }
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> Result<(u64, u64), Fault> {
    let metadata = fs::metadata(path)
        .map_err(|error| Fault::Unreachable(format!("{}: {error}", path.display())))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// What fails while a file is opened is the file's fault.
fn unusable(path: &Path, error: &rusqlite::Error) -> Fault {
    match fault(path, error) {
        Fault::Unreachable(what) | Fault::Other(what) => Fault::Unusable(what),
        other => other,
    }
}

fn fault(path: &Path, error: &rusqlite::Error) -> Fault {
    let path = path.display();
    let Some(code) = error.sqlite_error_code() else {
        return Fault::Other(format!("{path}: {error}"));
    };
    // The code's own words: a message could quote a value.
    let what = error.sqlite_error().map_or_else(String::new, ToString::to_string);
    let what = format!("{path}: {what}");
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Locked,
        ErrorCode::DiskFull => Fault::Full(what),
        ErrorCode::NotADatabase => Fault::Unusable(format!("{path} is no database of SQLite")),
        ErrorCode::DatabaseCorrupt => Fault::Unusable(format!("{path} is damaged")),
        ErrorCode::CannotOpen
        | ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly
        | ErrorCode::SystemIoFailure => Fault::Unreachable(what),
        // It has no code of its own.
        _ if error.to_string().contains("no such table") => Fault::NoTable(path.to_string()),
        _ => Fault::Other(what),
    }
}
