//! Lacuna: a local inference server that fills the gap at the cursor.
//!
//! Read in this order: [`completion`] (the vocabulary), [`service`] (the one path of a completion), [`provider`]
//! (who completes), [`prompt`] (how a gap becomes tokens), [`engine`] (how tokens are decoded), [`api`] (the dialects).

pub mod api;
pub mod completion;
pub mod config;
pub mod provider;
pub mod server;
pub mod service;
