//! What a service's refusal means, as a function of its status, its headers and the time.
//!
//! A message never holds what the service wrote, which may repeat the prompt: the status, the provider's name, and a code
//! where that is one short word.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::provider::{ProviderError, ProviderErrorKind, hosted::protocol::Fault};

/// Longest word that is taken for a code.
const CODE_BYTES_MAX: usize = 64;
/// Longest pause that is believed; who asks for more is away.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// An answer that is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal<'a> {
    /// The provider's name.
    pub(super) provider: &'a str,
    /// The status.
    pub(super) status: u16,
    /// The header `retry-after`.
    pub(super) retry_after: Option<&'a str>,
    /// The header `retry-after-ms`.
    pub(super) retry_after_ms: Option<&'a str>,
    /// What came behind the head, as far as it was read.
    pub(super) body: &'a [u8],
}

impl Refusal<'_> {
    /// Returns what it means.
    pub(super) fn error(&self, now: SystemTime) -> ProviderError {
        let body: Value = serde_json::from_slice(self.body).unwrap_or_default();
        let code = code_of(&body);
        let kind = self.kind(code.as_deref(), &body);
        let mut message =
            format!("the provider `{}` answered with status {}", self.provider, self.status);
        if let Some(code) = code.as_deref().filter(|code| is_known(code)) {
            message = format!("{message} ({code})");
        }
        if (300..400).contains(&self.status) {
            message.push_str(", a redirect, which is not followed");
        }
        let may_wait = matches!(
            kind,
            ProviderErrorKind::UpstreamExhausted | ProviderErrorKind::UpstreamFailed
        );
        let retry_after =
            may_wait.then(|| retry_after(self.retry_after, self.retry_after_ms, now)).flatten();
        ProviderError { retry_after, ..ProviderError::new(kind, message) }
    }

    fn kind(&self, code: Option<&str>, body: &Value) -> ProviderErrorKind {
        let by_code = code.and_then(kind_of_code);
        match self.status {
            413 => ProviderErrorKind::PromptTooLong,
            402 | 429 => ProviderErrorKind::UpstreamExhausted,
            408 | 500.. => match by_code {
                Some(ProviderErrorKind::PromptTooLong) => ProviderErrorKind::PromptTooLong,
                _ => ProviderErrorKind::UpstreamFailed,
            },
            400 | 403 | 422 => match by_code {
                Some(ProviderErrorKind::UpstreamRefused) => ProviderErrorKind::UpstreamRefused,
                Some(
                    kind
                    @ (ProviderErrorKind::PromptTooLong | ProviderErrorKind::UpstreamExhausted),
                ) => kind,
                _ if self.status != 403 && says_too_long(body) => ProviderErrorKind::PromptTooLong,
                _ if self.status == 403 && says_quota(body) => ProviderErrorKind::UpstreamExhausted,
                _ if self.status == 403 => ProviderErrorKind::UpstreamRefused,
                _ => ProviderErrorKind::UpstreamDeclined,
            },
            _ => ProviderErrorKind::UpstreamRefused,
        }
    }
}

/// Returns what it means that something is no piece of an answer.
pub(super) fn of_fault(provider: &str, fault: &Fault) -> ProviderError {
    match fault {
        Fault::Malformed(what) => malformed(provider, what),
        Fault::Withheld => ProviderError::new(
            ProviderErrorKind::UpstreamDeclined,
            format!("the provider `{provider}` keeps its answer to itself"),
        ),
        Fault::Failed(code) => {
            let kind = code.as_deref().and_then(kind_of_code);
            let kind = kind.unwrap_or(ProviderErrorKind::UpstreamFailed);
            let word = code.as_ref().filter(|code| is_known(code));
            let word = word.map_or_else(String::new, |code| format!(" ({code})"));
            let message = format!("the provider `{provider}` failed within its answer{word}");
            ProviderError::new(kind, message)
        }
    }
}

/// Returns the error of an answer that the protocol does not have.
pub(super) fn malformed(provider: &str, what: &str) -> ProviderError {
    let message = format!("the answer of the provider `{provider}` cannot be used: {what}");
    ProviderError::new(ProviderErrorKind::UpstreamMalformed, message)
}

/// Returns the code of an error, where it is one short word. The most telling member comes first.
pub(super) fn code_of(body: &Value) -> Option<String> {
    let error = &body["error"];
    let members =
        [&error["code"], &error["type"], &error["status"], error, &body["code"], &body["type"]];
    members.into_iter().filter_map(Value::as_str).find_map(|word| {
        let word = word.to_ascii_lowercase();
        let is_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
        let is_word = (1..=CODE_BYTES_MAX).contains(&word.len()) && word.chars().all(is_code);
        (is_word && word != "error").then_some(word)
    })
}

/// Codes that messages hand on. A service may repeat anything as its code, our key or somebody's code, so that only these
/// words are.
const CODES: [&str; 32] = [
    "api_error",
    "authentication_error",
    "billing_error",
    "content_filter",
    "context_length_exceeded",
    "deadline_exceeded",
    "exceed_context_size_error",
    "insufficient_quota",
    "internal",
    "internal_server_error",
    "invalid_api_key",
    "invalid_argument",
    "invalid_request_error",
    "model_not_found",
    "not_found",
    "not_found_error",
    "overloaded_error",
    "permission_denied",
    "permission_error",
    "quota_exceeded",
    "rate_limit_error",
    "rate_limit_exceeded",
    "request_too_large",
    "resource_exhausted",
    "server_error",
    "service_unavailable",
    "string_above_max_length",
    "timeout_error",
    "too_many_requests",
    "unauthenticated",
    "unavailable",
    "unsupported_value",
];

/// Returns whether a code is one that messages hand on.
pub(super) fn is_known(code: &str) -> bool {
    CODES.contains(&code)
}

fn kind_of_code(code: &str) -> Option<ProviderErrorKind> {
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if has(&["context_length", "context_window", "exceed_context", "string_above_max_length"])
        || has(&["request_too_large"])
    {
        Some(ProviderErrorKind::PromptTooLong)
    } else if has(&["rate_limit", "quota", "resource_exhausted", "billing", "too_many_requests"]) {
        Some(ProviderErrorKind::UpstreamExhausted)
    } else if has(&["authentication", "permission", "not_found", "invalid_api", "unauthenticated"])
    {
        Some(ProviderErrorKind::UpstreamRefused)
    } else if has(&["invalid_request", "invalid_argument", "content_filter"]) {
        Some(ProviderErrorKind::UpstreamDeclined)
    } else {
        None
    }
}

/// Returns what an error says in words, in small letters; it is looked at and never handed on.
fn words(body: &Value) -> String {
    let error = &body["error"];
    let members = [&error["message"], error, &body["message"], &body["detail"]];
    let mut words = String::new();
    for member in members.into_iter().filter_map(Value::as_str) {
        words.push_str(&member.to_lowercase());
        words.push('\n');
    }
    words
}

fn says_too_long(body: &Value) -> bool {
    const SIGNS: [&str; 5] = [
        "maximum context length",
        "prompt is too long",
        "context window",
        "exceeds the available context",
        "too large for model with",
    ];
    let words = words(body);
    SIGNS.iter().any(|sign| words.contains(sign))
}

fn says_quota(body: &Value) -> bool {
    let words = words(body);
    ["quota", "billing", "credit", "spending limit"].iter().any(|sign| words.contains(sign))
}

/// Returns the pause that a service asks for: a number of seconds or milliseconds, or a date.
fn retry_after(
    seconds: Option<&str>,
    milliseconds: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    let number = |text: &str| {
        let number: f64 = text.trim().parse().ok()?;
        Duration::try_from_secs_f64(number).ok()
    };
    let asked = milliseconds.and_then(number).map(|time| time / 1000).or_else(|| {
        let text = seconds?;
        number(text).or_else(|| {
            let date = httpdate::parse_http_date(text.trim()).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        })
    });
    asked.map(|time| time.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(status: u16, body: &Value) -> ProviderError {
        let body = body.to_string();
        let refusal = Refusal {
            provider: "far",
            status,
            retry_after: Some("7"),
            retry_after_ms: None,
            body: body.as_bytes(),
        };
        refusal.error(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn statuses_and_codes_have_their_kinds() {
        use ProviderErrorKind::{
            PromptTooLong as TooLong, UpstreamDeclined as Declined, UpstreamExhausted as Exhausted,
            UpstreamFailed as Failed, UpstreamRefused as Refused,
        };
        let too_long = json!({"error": {"code": "context_length_exceeded"}});
        let rows = [
            (302, json!({}), Refused),
            (400, json!({"error": {"code": "invalid"}}), Declined),
            (422, json!({}), Declined),
            (400, json!({"error": {"code": "invalid_api_key"}}), Refused),
            (400, too_long.clone(), TooLong),
            (400, json!({"error": {"type": "exceed_context_size_error"}}), TooLong),
            (
                400,
                json!({"error": {"type": "invalid_request_error", "message": "Prompt is too long: 9 > 8"}}),
                TooLong,
            ),
            (422, json!({"detail": "maximum context length is 8"}), TooLong),
            (401, json!({"error": {"type": "authentication_error"}}), Refused),
            (402, json!({}), Exhausted),
            (403, json!({"error": {"message": "forbidden"}}), Refused),
            (403, json!({"error": {"message": "Your Quota is used up"}}), Exhausted),
            (403, json!({"error": {"status": "RESOURCE_EXHAUSTED"}}), Exhausted),
            (404, json!({"error": "model 'x' not found"}), Refused),
            (408, json!({}), Failed),
            (413, json!({}), TooLong),
            (429, json!({}), Exhausted),
            (500, json!({"error": {"type": "invalid_request_error"}}), Failed),
            (503, json!({}), Failed),
            (504, json!({}), Failed),
            (529, json!({"error": {"type": "overloaded_error"}}), Failed),
        ];
        for (status, body, kind) in rows {
            let error = refusal(status, &body);
            assert_eq!(error.kind, kind, "{status} {body}");
            let waits = matches!(kind, Exhausted | Failed);
            assert_eq!(error.retry_after, waits.then_some(Duration::from_secs(7)), "{status}");
        }
    }

    #[test]
    fn a_message_has_a_code_and_no_words_of_the_service() {
        let rows = [
            (
                json!({"error": {"code": "insufficient_quota", "message": "s3cret"}}),
                " (insufficient_quota)",
            ),
            (json!({"error": {"code": 400, "status": "INVALID_ARGUMENT"}}), " (invalid_argument)"),
            (json!({"error": "s3cret text"}), ""),
            (json!({"error": {"code": "s3cret\nline"}}), ""),
            (json!({"error": {"code": "x".repeat(65)}}), ""),
            (json!({"error": {"code": "our_own_key_0123456789"}}), ""),
            (json!({"type": "error", "error": {"type": "not_found_error"}}), " (not_found_error)"),
            (json!("s3cret"), ""),
        ];
        for (body, code) in rows {
            let message = refusal(404, &body).message;
            assert_eq!(message, format!("the provider `far` answered with status 404{code}"));
        }
    }

    #[test]
    fn a_pause_is_a_number_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let rows = [
            (Some("30"), None, Some(30_000)),
            (Some(" 1.5 "), None, Some(1500)),
            (Some("Sun, 06 Nov 1994 08:50:37 GMT"), None, Some(60_000)),
            (Some("Sun, 06 Nov 1994 08:00:00 GMT"), None, Some(0)),
            (Some("30"), Some("250"), Some(250)),
            (Some("9999999"), None, Some(86_400_000)),
            (Some("-1"), None, None),
            (Some("soon"), Some("NaN"), None),
            (None, None, None),
        ];
        for (seconds, milliseconds, expected) in rows {
            let found = retry_after(seconds, milliseconds, now);
            assert_eq!(found, expected.map(Duration::from_millis), "{seconds:?} {milliseconds:?}");
        }
    }
}
