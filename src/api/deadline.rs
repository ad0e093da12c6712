//! When an answer must be there, where a client says so.

use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};

/// Milliseconds from the request's head on. They only ever shorten what the server allows.
const X_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-lacuna-timeout-ms");
/// A day is as good as no limit, and can be added to any instant.
const TIMEOUT_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// Returns when the client no longer waits; `None` where it does not say, or says no number above 0.
pub(super) fn asked(headers: &HeaderMap) -> Option<Instant> {
    let timeout_ms: u64 = headers.get(X_TIMEOUT_MS)?.to_str().ok()?.trim().parse().ok()?;
    let timeout_ms = Some(timeout_ms).filter(|ms| *ms > 0)?.min(TIMEOUT_MS_MAX);
    Some(Instant::now() + Duration::from_millis(timeout_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_above_zero_say_something() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(X_TIMEOUT_MS, text.parse().unwrap())]);
            asked(&headers).map(|at| at.saturating_duration_since(Instant::now()).as_secs())
        };
        for (text, seconds) in [
            ("1500", Some(1)),
            (" 61000 ", Some(60)),
            ("18446744073709551615", Some(86_399)),
            ("0", None),
            ("-1", None),
            ("1.5", None),
            ("99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(asked(text), seconds, "{text:?}");
        }
        assert_eq!(super::asked(&HeaderMap::new()), None);
    }
}
