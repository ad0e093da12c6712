//! Models from the hub, over a real listener that behaves like one: what is asked, what lands in the cache, what is said.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod cached;
mod command;
mod fixture;
#[path = "../../models/tests/gguf_writer.rs"]
#[expect(dead_code, reason = "the tests of `models` use the rest")]
mod gguf_writer;
mod outline;
mod pull;
mod refusals;
mod resume;
