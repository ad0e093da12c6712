//! Every operator of every backend against the reference, and against itself in other company.
//!
//! Buffers are filled through the trait alone, so that a device behind a bus is tested by the same code.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod attention;
mod linear;
mod lora;
mod mixture;
mod quantized;
mod refusals;
mod rig;
mod rows;
