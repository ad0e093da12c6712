//! What a failed completion says: what went wrong, whose fault it was, and whether another provider may be asked.

use std::{sync::Arc, time::Duration};

use crate::provider::ModelInfo;

/// What went wrong, as a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderErrorKind {
    /// A value of the request breaks a rule; the message names the field.
    InvalidRequest,
    /// The prompt does not fit into the model's context.
    PromptTooLong,
    /// The queue is full.
    Overloaded,
    /// The provider is starting, stopping or dead.
    Unavailable,
    /// The time allowed for the request ran out.
    DeadlineExceeded,
    /// A fault of ours.
    Internal,
    /// A service elsewhere does not take our key or our model, so none of our requests: 401, 403, 404.
    UpstreamRefused,
    /// A service elsewhere does not take what we made of this request, or keeps its answer to itself: 400, 422.
    UpstreamDeclined,
    /// A service elsewhere wants to be asked less: 429, or a quota that is used up.
    UpstreamExhausted,
    /// A service elsewhere could not be reached.
    UpstreamUnreachable,
    /// A service elsewhere failed: 5xx.
    UpstreamFailed,
    /// A service elsewhere said what its protocol does not have: malformed, cut off, or without an end.
    UpstreamMalformed,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorSource {
    /// Who asked.
    Client,
    /// A service elsewhere.
    Upstream,
    /// This server.
    Internal,
}

impl ProviderErrorKind {
    /// All kinds, for tables and metrics.
    pub const ALL: [Self; 12] = [
        Self::InvalidRequest,
        Self::PromptTooLong,
        Self::Overloaded,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Internal,
        Self::UpstreamRefused,
        Self::UpstreamDeclined,
        Self::UpstreamExhausted,
        Self::UpstreamUnreachable,
        Self::UpstreamFailed,
        Self::UpstreamMalformed,
    ];

    /// Returns the label for logs and metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::PromptTooLong => "prompt_too_long",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamDeclined => "upstream_declined",
            Self::UpstreamExhausted => "upstream_exhausted",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamMalformed => "upstream_malformed",
        }
    }

    /// Returns whose fault it is.
    pub fn source(self) -> ErrorSource {
        match self {
            Self::InvalidRequest | Self::PromptTooLong => ErrorSource::Client,
            Self::Overloaded | Self::Unavailable | Self::DeadlineExceeded | Self::Internal => {
                ErrorSource::Internal
            }
            Self::UpstreamRefused
            | Self::UpstreamDeclined
            | Self::UpstreamExhausted
            | Self::UpstreamUnreachable
            | Self::UpstreamFailed
            | Self::UpstreamMalformed => ErrorSource::Upstream,
        }
    }

    /// Returns whether another provider may do better: not where the request itself is at fault, nor where no time is
    /// left. What is too long for one context may fit into another.
    pub fn may_go_elsewhere(self) -> bool {
        !matches!(self, Self::InvalidRequest | Self::DeadlineExceeded)
    }
}

/// What is said while there is no model yet.
pub const LOADING: &str = "the model is loading";
/// A model that loads needs seconds to minutes: often enough for a person, seldom enough for the server.
const RETRY_AFTER_LOADING: Duration = Duration::from_secs(5);

/// A failed completion. Its message never holds source text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// What went wrong.
    pub kind: ProviderErrorKind,
    /// The request's field at fault, by the name in `CompletionRequest`; dialects translate it.
    pub field: Option<&'static str>,
    /// One sentence, lower case, for the client.
    pub message: String,
    /// When another try makes sense.
    pub retry_after: Option<Duration>,
    /// Who failed, where that need not be who was asked.
    pub failed: Option<Arc<ModelInfo>>,
}

impl ProviderError {
    /// Makes an error without a field.
    pub fn new(kind: ProviderErrorKind, message: impl Into<String>) -> Self {
        Self { kind, field: None, message: message.into(), retry_after: None, failed: None }
    }

    /// Makes the error of a request that came before there were weights.
    pub fn loading() -> Self {
        Self {
            retry_after: Some(RETRY_AFTER_LOADING),
            ..Self::new(ProviderErrorKind::Unavailable, LOADING)
        }
    }

    /// Makes the error of a request whose time ran out before there was anything to show.
    pub fn out_of_time() -> Self {
        Self::new(ProviderErrorKind::DeadlineExceeded, "the time allowed for the request ran out")
    }

    /// Makes an error about a field of the request.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind: ProviderErrorKind::InvalidRequest,
            field: Some(field),
            message: message.into(),
            retry_after: None,
            failed: None,
        }
    }
}
