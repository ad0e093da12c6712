//! The engine as a whole: simulated over random loads, checked by properties, and run on its thread.

#![expect(clippy::unwrap_used, reason = "a test helper fails by panicking")]

mod fake_device;
mod handle;
mod properties;
mod sampling;
mod simulation;
