//! A database that holds telemetry: one set of statements, written for `SQLite` and `PostgreSQL` alike.
//!
//! What both understand is enough: `$1` for parameters, `ON CONFLICT`, window functions, rows as values. Columns are of
//! three types, which is what keeps the statements one.

use std::{fmt, path::PathBuf, time::Duration};

mod postgres;
mod sqlite;
mod tls;

/// How long a statement may take, and how long another writer of the same file is waited for. Whoever sends an event waits
/// as long at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Where telemetry is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// A file of `SQLite`'s.
    Sqlite(PathBuf),
    /// A server of `PostgreSQL`, by its URL. It may hold a password, so nothing shows it.
    Postgres(String),
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(***)"),
        }
    }
}

impl Address {
    /// Returns the word for its kind.
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Checks what can be told of it without asking anybody.
    ///
    /// # Errors
    /// A URL that is none of `PostgreSQL`'s.
    pub fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(url) => postgres::options(url).map(|_| ()),
        }
    }
}

/// Who opens a database, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To write; a file that is not there is made, and may become so large.
    Write {
        /// Bytes of a file of `SQLite`'s.
        bytes_max: u64,
    },
    /// To read alone, beside whoever writes.
    Read,
}

/// A value of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Nothing.
    Null,
    /// `BIGINT`.
    Integer(i64),
    /// `DOUBLE PRECISION`.
    Real(f64),
    /// `TEXT`.
    Text(String),
}

impl Value {
    /// Returns the whole number, 0 where there is none.
    pub(super) fn integer(&self) -> i64 {
        if let Self::Integer(number) = self { *number } else { 0 }
    }

    /// Returns the number.
    pub(super) fn real(&self) -> Option<f64> {
        match self {
            Self::Real(number) => Some(*number),
            Self::Integer(number) => Some(*number as f64),
            Self::Null | Self::Text(_) => None,
        }
    }

    /// Returns the text, an empty one where there is none.
    pub(super) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Why a database did not do what it was asked. Messages are the database's own about itself; none holds a row or a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It cannot be reached, or is there no longer.
    #[error("the telemetry store cannot be reached: {0}")]
    Unreachable(String),
    /// Another holds it for too long.
    #[error("the telemetry store is locked by another process")]
    Locked,
    /// Another changed the same rows at the same time; once more may do.
    #[error("the telemetry store has a conflict with another writer")]
    Conflict,
    /// There is no room.
    #[error("the telemetry store is full: {0}")]
    Full(String),
    /// It cannot be used: a wrong address, password or file, which time does not mend.
    #[error("the telemetry store cannot be used: {0}")]
    Unusable(String),
    /// A newer version of this program has made it.
    #[error(
        "the telemetry store has schema {found}, and this version knows {known} at most: use the newer version of this program, or another store"
    )]
    Newer {
        /// The schema that it has.
        found: i64,
        /// The last that is known.
        known: i64,
    },
    /// There is no such file to read.
    #[error(
        "there is no telemetry store at {0}: check the path, and that a server with the same `telemetry.store` has run"
    )]
    Missing(String),
    /// It was never written to.
    #[error("the telemetry store is empty: no server has written to it yet")]
    Empty,
    /// A table is not there.
    #[error("the telemetry store lacks a table: {0}")]
    NoTable(String),
    /// Anything else.
    #[error("the telemetry store failed: {0}")]
    Other(String),
}

impl Fault {
    /// Returns whether a new connection may help.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Unusable(_) | Self::NoTable(_))
    }
}

/// A row as it is read.
pub(super) type Row = Vec<Value>;

/// A connection, used by one thread.
pub(super) trait Database {
    /// Runs a statement for each row of parameters, and returns how many rows each has changed.
    ///
    /// # Errors
    /// The first that failed.
    fn execute_each(&mut self, statement: &'static str, rows: &[Row]) -> Result<Vec<u64>, Fault>;

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// The first that failed.
    fn run(&mut self, statements: &str) -> Result<(), Fault>;

    /// Asks a question.
    ///
    /// # Errors
    /// It failed.
    fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, Fault>;

    /// Begins a transaction that writes.
    ///
    /// # Errors
    /// Another holds the database.
    fn begin(&mut self) -> Result<(), Fault>;

    /// Lets nobody else change the schema until the transaction's end.
    ///
    /// # Errors
    /// Another does, for too long.
    fn lock_schema(&mut self) -> Result<(), Fault>;

    /// Ends it: what was written is on the disk when this returns.
    ///
    /// # Errors
    /// It was not written.
    fn commit(&mut self) -> Result<(), Fault>;

    /// Ends it and forgets what was written.
    fn roll_back(&mut self);

    /// Returns the bytes in use and the most that there may be, where there is such a bound.
    ///
    /// # Errors
    /// It cannot be told.
    fn room(&mut self) -> Result<Option<(u64, u64)>, Fault>;
}

/// Opens a database.
///
/// # Errors
/// It cannot be reached or used.
pub(super) fn open(address: &Address, purpose: Purpose) -> Result<Box<dyn Database + Send>, Fault> {
    match address {
        Address::Sqlite(path) => Ok(Box::new(sqlite::Sqlite::open(path, purpose)?)),
        Address::Postgres(url) => Ok(Box::new(postgres::Postgres::connect(url, purpose)?)),
    }
}
