//! What every result says about itself, and how it is written as JSON. `docs/benchmarks.md` has each member.

use serde::Serialize;

use crate::bench::machine::Machine;

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
///
/// # Source
/// The calendar's arithmetic is Howard Hinnant's "chrono-compatible low-level date algorithms".
pub fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Years that begin in March have their leap day at the end; eras of 400 years are all alike.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
