//! The wall clock, for the `created` members of answers.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns whole seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
