//! What a backend must compute: a grid of cases for each operator against the reference, and against itself.
//!
//! `lacuna selftest` runs it on the device that will serve, and the tests on the emulated one. Inputs of products are
//! numbers that bf16 holds, so that a backend that rounds operands has nothing to round in them; what it writes to an
//! operand may be rounded once.

mod adapters;
mod cases;
mod mixtures;
mod products;
pub mod rig;
mod rows;
mod sampling;
pub mod world;

pub use crate::selftest::cases::{Grid, Group, run};

/// Largest relative error of sums of a few thousand products in f32 against sums in f64. Rounded to nearest they stay below
/// 1e-6; tensor cores cut instead, which adds up to 7e-6 by an estimate, to be measured on a GPU.
pub const SUM_LIMIT: f64 = 2e-5;

/// Largest relative error of what was rounded to bf16 once: half a unit of 8 bits, where few elements are most of the norm, and
/// what went before.
pub const OPERAND_LIMIT: f64 = 4e-3;

/// Largest relative error of products whose operands were rounded to eight bits.
pub const INT8_LIMIT: f64 = 1e-2;

/// What a case came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The operator.
    pub operator: &'static str,
    /// Its shape.
    pub case: String,
    /// What it was compared with.
    pub against: &'static str,
    /// Relative norm of the difference; infinite where something is no number.
    pub error: f64,
    /// The most that it may be; 0 asks for the same bits.
    pub limit: f64,
}

impl Outcome {
    /// Returns whether the error is within its limit.
    pub fn is_passed(&self) -> bool {
        self.error <= self.limit
    }
}
