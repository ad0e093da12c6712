//! Providers elsewhere over real connections: each protocol against a server that speaks it, well and badly.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod conformance;
mod golden;
mod google;
mod prompts;
mod rows;
mod settings;
mod stub;
mod support;
mod tls;
