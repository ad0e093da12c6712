//! The emulated GPU: what it computes, what it notices, and that it goes on after an error.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod bench;
mod execution;
#[cfg(feature = "cuda-faults")]
mod faults;
mod graphs;
mod matmul;
mod memory;
mod operators;
mod refusals;
mod rig;
mod words;
