//! `PostgreSQL` by URL, for several replicas that write to one store.
//!
//! The client is asynchronous and this is not: a runtime of its own drives it while the writer's thread waits, and only
//! then, so that every wait has its limit.

use std::{collections::HashMap, error::Error, io, time::Duration};

use bytes::BytesMut;
use futures_util::future::join_all;
use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{
    Client, Config, Statement,
    error::SqlState,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use crate::telemetry::store::database::{
    Database, Fault, PATIENCE, Purpose, Row, Value, tls::MakeTls,
};

/// Rows that are sent before the answer to the first is waited for.
const ROWS_MAX: usize = 25;
/// The number of the lock that replicas take to change the schema; any that nobody else uses will do.
const SCHEMA_LOCK: i64 = 0x6c61_6375_6e61;
/// The server gives a statement up before we give the server up, so that its own reason is heard.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// A report reads many rows, and nobody but a person waits for it.
const READ_PATIENCE: Duration = Duration::from_mins(5);

/// A connection to a server.
pub(super) struct Postgres {
    runtime: Runtime,
    client: Client,
    prepared: HashMap<&'static str, Statement>,
    patience: Duration,
}

/// Reads a URL.
///
/// # Errors
/// It is none. What is wrong with it is not said: the words around it could be a password.
pub(super) fn options(url: &str) -> Result<Config, Fault> {
    let rule =
        "the URL must be such as postgres://user:password@host:5432/database?sslmode=require";
    let mut config: Config = url.parse().map_err(|_| Fault::Unusable(rule.to_owned()))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Fault::Unusable("the URL must name a host".to_owned()));
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(PATIENCE);
    }
    if config.get_application_name().is_none() {
        config.application_name("lacuna");
    }
    Ok(config)
}

impl Postgres {
    pub(super) fn connect(url: &str, purpose: Purpose) -> Result<Self, Fault> {
        let config = options(url)?;
        let tls = MakeTls::new().map_err(|error| Fault::Unusable(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Fault::Other(error.to_string()))?;
        let patience = match purpose {
            Purpose::Write { .. } => PATIENCE,
            Purpose::Read => READ_PATIENCE,
        };
        // Several hosts and addresses are tried one after the other.
        let connecting = async { timeout(2 * PATIENCE, config.connect(tls)).await };
        let (client, connection) =
            runtime.block_on(connecting).map_err(|_| slow())?.map_err(|error| fault(&error))?;
        // Ends with the client; the runtime owns it.
        runtime.spawn(async move {
            let _ = connection.await;
        });
        let mut own = Self { runtime, client, prepared: HashMap::new(), patience };
        let limit = match purpose {
            Purpose::Write { .. } => STATEMENT_TIMEOUT,
            Purpose::Read => READ_PATIENCE,
        };
        own.run(&format!("SET statement_timeout = {}", limit.as_millis()))?;
        if purpose == Purpose::Read {
            own.run("SET default_transaction_read_only = on")?;
        }
        Ok(own)
    }
}

impl Database for Postgres {
    fn execute_each(&mut self, statement: &'static str, rows: &[Row]) -> Result<Vec<u64>, Fault> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let Self { runtime, client, prepared, patience } = self;
        let work = async {
            let found = prepared.get(statement).cloned();
            let statement = if let Some(found) = found {
                found
            } else {
                let made = client.prepare(statement).await?;
                prepared.insert(statement, made.clone());
                made
            };
            let mut counts = Vec::with_capacity(rows.len());
            for rows in rows.chunks(ROWS_MAX) {
                let each = rows.iter().map(|row| client.execute_raw(&statement, row));
                for count in join_all(each).await {
                    counts.push(count?);
                }
            }
            Ok(counts)
        };
        let done = runtime.block_on(async { timeout(*patience, work).await });
        done.map_err(|_| slow())?.map_err(|error: tokio_postgres::Error| fault(&error))
    }

    fn run(&mut self, statements: &str) -> Result<(), Fault> {
        let work = self.client.batch_execute(statements);
        let done = self.runtime.block_on(async { timeout(self.patience, work).await });
        done.map_err(|_| slow())?.map_err(|error| fault(&error))
    }

    fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, Fault> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let work = self.client.query(statement, &parameters);
        let done = self.runtime.block_on(async { timeout(self.patience, work).await });
        let rows = done.map_err(|_| slow())?.map_err(|error| fault(&error))?;
        rows.iter()
            .map(|row| (0..row.len()).map(|index| value(row, index)).collect::<Result<_, _>>())
            .collect::<Result<_, _>>()
            .map_err(|error| fault(&error))
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.run("BEGIN")
    }

    fn lock_schema(&mut self) -> Result<(), Fault> {
        self.run(&format!("SELECT pg_advisory_xact_lock({SCHEMA_LOCK})"))
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.run("COMMIT")
    }

    fn roll_back(&mut self) {
        // What cannot be rolled back was never committed.
        let _ = self.run("ROLLBACK");
    }

    fn room(&mut self) -> Result<Option<(u64, u64)>, Fault> {
        Ok(None)
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        column: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql(column, out),
            Self::Real(number) => number.to_sql(column, out),
            Self::Text(text) => text.to_sql(column, out),
        }
    }

    fn accepts(column: &Type) -> bool {
        [Type::INT8, Type::FLOAT8, Type::TEXT].contains(column)
    }

    to_sql_checked!();
}

fn value(row: &tokio_postgres::Row, index: usize) -> Result<Value, tokio_postgres::Error> {
    let column = row.columns()[index].type_();
    Ok(match *column {
        Type::INT8 => row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::Integer),
        Type::INT4 => row
            .try_get::<_, Option<i32>>(index)?
            .map_or(Value::Null, |number| Value::Integer(number.into())),
        Type::FLOAT8 => row.try_get::<_, Option<f64>>(index)?.map_or(Value::Null, Value::Real),
        _ => row.try_get::<_, Option<String>>(index)?.map_or(Value::Null, Value::Text),
    })
}

/// Returns whether the server's certificate is the reason.
fn is_certificate(error: &tokio_postgres::Error) -> bool {
    let of_tls = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let reason = of_tls.and_then(io::Error::get_ref).and_then(|reason| reason.downcast_ref());
    matches!(reason, Some(rustls::Error::InvalidCertificate(_)))
}

fn slow() -> Fault {
    Fault::Unreachable("the server does not answer in time".to_owned())
}

/// Sorts a failure by its code. The server's sentence is kept where it is about the connection, and left out where it could
/// quote a row.
fn fault(error: &tokio_postgres::Error) -> Fault {
    let Some(server) = error.as_db_error() else {
        let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
        let what = format!("{error}{source}");
        // Time mends a connection, and no certificate that nobody trusts.
        let is_distrusted = is_certificate(error);
        return if is_distrusted { Fault::Unusable(what) } else { Fault::Unreachable(what) };
    };
    let code = server.code();
    let said = || format!("{} ({})", server.message(), code.code());
    match &code.code()[..2] {
        _ if *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::T_R_SERIALIZATION_FAILURE =>
        {
            Fault::Conflict
        }
        _ if *code == SqlState::LOCK_NOT_AVAILABLE => Fault::Locked,
        _ if *code == SqlState::UNDEFINED_TABLE => Fault::NoTable(said()),
        // Insufficient resources: disk, memory, connections.
        "53" if *code == SqlState::TOO_MANY_CONNECTIONS => Fault::Unreachable(said()),
        "53" => Fault::Full(said()),
        // Connections, shutdowns.
        "08" | "57" => Fault::Unreachable(said()),
        // Authorisation, catalogues, rights.
        "28" | "3D" | "42" => Fault::Unusable(said()),
        other => Fault::Other(format!("class {other}, code {}", code.code())),
    }
}
