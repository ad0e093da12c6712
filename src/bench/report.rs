//! What every result says about itself, and how it is written as JSON. `docs/benchmarks.md` has each member.

use std::time::Duration;

use serde::Serialize;

use crate::{bench::machine::Machine, telemetry::day::second_of};

/// Raised when a member changes its meaning or goes; new ones come without.
pub const SCHEMA: u32 = 1;

/// A result with its circumstances.
#[derive(Clone, Debug, Serialize)]
pub struct Report<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which measurement: `engine`, `serve`, `keystrokes`, `bandwidth` or `kernels`.
    pub bench: &'static str,
    /// The circumstances.
    pub run: Run,
    /// What was measured.
    pub result: T,
}

/// The circumstances of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Lacuna's version.
    pub version: &'static str,
    /// The commit it was built from; `unknown` where the build could not tell.
    pub commit: &'static str,
    /// When it began, in UTC.
    pub date: String,
    /// The command that repeats it, names in place of paths.
    pub command: String,
    /// Whether it ran to its end; false where somebody stopped it, and all counts are then smaller.
    pub is_complete: bool,
    /// Where the client, or the engine, ran.
    pub machine: Machine,
    /// The vector instructions that computed; where nothing was computed here, the widest that the kernels would use.
    pub simd: String,
}

impl<T: Serialize> Report<T> {
    /// Returns the report as JSON, with a line break at its end.
    ///
    /// # Errors
    /// Numbers that JSON cannot write.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

/// Returns a moment as RFC 3339 has it, in whole seconds of UTC.
pub fn rfc3339(unix_seconds: u64) -> String {
    second_of(Duration::from_secs(unix_seconds)) + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_243_599, "2026-11-21T06:46:39Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in rows {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
