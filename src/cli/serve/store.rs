//! The telemetry store of a server: opened before it takes requests, closed after the last.

use anyhow::Context as _;
use tracing::info;

use crate::{
    cli::CliError,
    config::{Config, TelemetryStore},
    telemetry::{
        metrics::Metrics,
        store::{Address, Fault, Store, StoreOptions, unix_ms},
    },
};

/// Returns where the settings keep telemetry; `None` where they keep none.
pub(in crate::cli) fn address(config: &Config) -> Option<Address> {
    match &config.telemetry.store {
        TelemetryStore::Off => None,
        TelemetryStore::File(path) => Some(Address::Sqlite(path.clone())),
        TelemetryStore::Postgres(url) => Some(Address::Postgres(url.reveal().to_owned())),
    }
}

/// Checks what can be told of the store without opening it.
///
/// # Errors
/// A URL that is none of a database.
pub(in crate::cli) fn check(config: &Config) -> Result<(), Fault> {
    address(config).map_or(Ok(()), |address| address.check())
}

/// Opens the store that the settings name, before anything is served.
///
/// # Errors
/// A store that cannot be used.
pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<Option<Store>, CliError> {
    let Some(address) = address(config) else { return Ok(None) };
    let kind = address.as_label();
    let options = StoreOptions {
        address,
        retention: config.telemetry.retention,
        bytes_max: config.telemetry.bytes_max,
        clock: std::sync::Arc::new(unix_ms),
    };
    let metrics = metrics.clone();
    let opening = tokio::task::spawn_blocking(move || Store::open(options, &metrics));
    let store = opening.await.context("opening the telemetry store panicked")?;
    let store = store.context("`telemetry.store`")?;
    info!(store = kind, "completions and what becomes of them are kept, without source text");
    Ok(Some(store))
}

/// Writes what waits. Called after the last request.
pub(super) async fn close(store: Option<Store>) {
    if let Some(store) = store {
        store.close().await;
    }
}
