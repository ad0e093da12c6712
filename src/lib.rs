//! Lacuna: a local inference server that fills the gap at the cursor.
//!
//! Read in this order: [`completion`] (the vocabulary), [`service`] (the one path of a completion), [`routing`] (where
//! requests go), [`provider`] (who completes), [`prompt`] (how a gap becomes tokens), [`engine`] (how tokens are decoded), [`api`] (the dialects).

pub mod api;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod client;
pub mod completion;
pub mod config;
pub mod engine;
pub mod export;
pub mod flags;
pub mod hub;
pub mod memo;
pub mod postprocess;
pub mod prompt;
pub mod provider;
pub mod routing;
pub mod selftest;
pub mod server;
pub mod service;
pub mod syntax;
pub mod telemetry;
pub mod tokenizer;
pub mod trace;
