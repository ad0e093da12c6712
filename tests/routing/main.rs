//! Routing under a paused clock: scripted targets fail, hang, cut, refuse and recover, and every call is counted.
#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod budget;
mod copies;
mod failover;
mod hedging;
mod recovery;
mod reload;
mod rules;
mod scripted;
mod world;
