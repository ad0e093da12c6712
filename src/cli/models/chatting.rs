//! What `lacuna models inspect` says of conversations: whether a server of the model would answer them.

use std::fmt;

use serde::Serialize;

use crate::prompt::ChatTemplate;

/// Whether `/v1/chat/completions` answers.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub(super) enum Chatting {
    /// With the model's template.
    Template,
    /// There is none.
    NoTemplate,
    /// There is one that cannot be used, which takes nothing from filling gaps.
    Unusable { reason: String },
}

impl Chatting {
    /// Returns what serving would do.
    pub(super) fn of(template: Option<anyhow::Result<ChatTemplate>>) -> Self {
        match template {
            Some(Ok(_)) => Self::Template,
            Some(Err(error)) => Self::Unusable { reason: format!("{error:#}") },
            None => Self::NoTemplate,
        }
    }
}

impl fmt::Display for Chatting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template => f.write_str("answered, with the model's template"),
            Self::NoTemplate => f.write_str("not answered: the model has no chat template"),
            Self::Unusable { reason } => write!(f, "not answered: {reason}"),
        }
    }
}
