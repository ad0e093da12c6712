//! What can go wrong at the boundary, before a dialect gives it a shape.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::provider::{ProviderError, ProviderErrorKind};

/// Why a request was not answered, as a closed set; each dialect maps it to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ApiErrorKind {
    /// The body is not JSON, or a value in it breaks a rule.
    Invalid,
    /// The prompt does not fit into the model's context.
    PromptTooLong,
    /// The model asked for is not served.
    UnknownModel,
    /// No endpoint has this path.
    UnknownRoute,
    /// The endpoint has other methods.
    WrongMethod,
    /// Nobody knows who asks.
    Unauthenticated,
    /// Who asks may not.
    Unauthorised,
    /// Who asks does so too often.
    RateLimited,
    /// A web page called that may not.
    ForbiddenOrigin,
    /// The body is over the limit.
    BodyTooLarge,
    /// The body came too slowly.
    ReadTimeout,
    /// Too much work is under way.
    Overloaded,
    /// Nothing can complete now.
    Unavailable,
    /// The time allowed for the request ran out.
    DeadlineExceeded,
    /// A service that was asked in our place did not complete it.
    Upstream,
    /// A fault of ours.
    Internal,
}

impl ApiErrorKind {
    /// Returns the label for logs: a provider's word where it has one.
    pub(super) fn as_label(self) -> &'static str {
        match self {
            Self::Invalid => ProviderErrorKind::InvalidRequest.as_label(),
            Self::PromptTooLong => ProviderErrorKind::PromptTooLong.as_label(),
            Self::UnknownModel => "unknown_model",
            Self::UnknownRoute => "unknown_route",
            Self::WrongMethod => "wrong_method",
            Self::Unauthenticated => "unauthenticated",
            Self::Unauthorised => "unauthorised",
            Self::RateLimited => "rate_limited",
            Self::ForbiddenOrigin => "forbidden_origin",
            Self::BodyTooLarge => "body_too_large",
            Self::ReadTimeout => "read_timeout",
            Self::Overloaded => ProviderErrorKind::Overloaded.as_label(),
            Self::Unavailable => ProviderErrorKind::Unavailable.as_label(),
            Self::DeadlineExceeded => ProviderErrorKind::DeadlineExceeded.as_label(),
            Self::Upstream => "upstream",
            Self::Internal => ProviderErrorKind::Internal.as_label(),
        }
    }
}

impl From<ProviderErrorKind> for ApiErrorKind {
    fn from(kind: ProviderErrorKind) -> Self {
        match kind {
            ProviderErrorKind::InvalidRequest => Self::Invalid,
            ProviderErrorKind::PromptTooLong => Self::PromptTooLong,
            ProviderErrorKind::Overloaded | ProviderErrorKind::UpstreamExhausted => {
                Self::Overloaded
            }
            ProviderErrorKind::Unavailable => Self::Unavailable,
            ProviderErrorKind::DeadlineExceeded => Self::DeadlineExceeded,
            ProviderErrorKind::Internal => Self::Internal,
            ProviderErrorKind::UpstreamRefused
            | ProviderErrorKind::UpstreamDeclined
            | ProviderErrorKind::UpstreamUnreachable
            | ProviderErrorKind::UpstreamFailed
            | ProviderErrorKind::UpstreamMalformed => Self::Upstream,
        }
    }
}

/// A request that gets no completion. Its message names the field and never holds source text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct ApiError {
    /// What went wrong.
    pub(super) kind: ApiErrorKind,
    /// Path of the field at fault, in the dialect's words: `current_file.file_name`.
    pub(super) field: Option<String>,
    /// One sentence for the client.
    pub(super) message: String,
    /// When another try makes sense.
    pub(super) retry_after: Option<Duration>,
}

impl ApiError {
    /// Makes an error without a field.
    pub(super) fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, field: None, message: message.into(), retry_after: None }
    }

    /// Makes an error about a value; `rule` goes on after the field's name: "must be at least 1, got 0".
    pub(super) fn invalid(field: impl Into<String>, rule: impl std::fmt::Display) -> Self {
        let field = field.into();
        let message = format!("`{field}` {rule}");
        Self { kind: ApiErrorKind::Invalid, field: Some(field), message, retry_after: None }
    }

    /// Translates a provider's error; `wire_name` maps a field of the vocabulary to the dialect's name.
    pub(super) fn from_provider(
        error: ProviderError,
        wire_name: fn(&'static str) -> &'static str,
    ) -> Self {
        let own = Self {
            kind: error.kind.into(),
            field: error.field.map(str::to_owned),
            message: error.message,
            retry_after: error.retry_after,
        };
        match error.field {
            Some(field) => own.renamed(field, wire_name(field)),
            None => own,
        }
    }

    /// Says of a field what the client calls it.
    pub(super) fn renamed(mut self, ours: &str, theirs: &str) -> Self {
        if self.field.as_deref() == Some(ours) {
            self.message = self.message.replace(&format!("`{ours}`"), &format!("`{theirs}`"));
            self.field = Some(theirs.to_owned());
        }
        self
    }

    /// Answers with a dialect's `status` and `body`, and with `Retry-After` where another try makes sense.
    pub(super) fn into_response(self, status: StatusCode, body: impl IntoResponse) -> Response {
        let mut response = (status, body).into_response();
        if let Some(wait) = self.retry_after {
            // The header has whole seconds; rounding down would invite a retry that fails.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}
