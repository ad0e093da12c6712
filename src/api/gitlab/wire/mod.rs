//! The JSON of the gateway's endpoints. Members that we do not use are checked as the original does, then ignored.

pub(super) mod answer;
pub(super) mod components;
pub(super) mod prompts;
pub(super) mod v2;

use serde::Deserialize;

use crate::api::json::Object;

/// Member `model_metadata` of any body: which model GitLab wants asked.
#[derive(Debug, Deserialize)]
pub(super) struct WireModelMetadata {
    pub(super) provider: Option<String>,
    pub(super) name: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) api_key: Option<String>,
    pub(super) identifier: Option<String>,
    pub(super) role_arn: Option<String>,
}

/// A prompt that GitLab wrote itself: for one model a text, for another a conversation.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "neither a text nor a list of messages")]
pub(super) enum WirePrompt {
    Text(String),
    Messages(Vec<Object<WireMessage>>),
}

/// A turn of a conversation.
#[derive(Debug, Deserialize)]
pub(super) struct WireMessage {
    pub(super) role: Option<String>,
    pub(super) content: Option<String>,
}
