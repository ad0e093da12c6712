//! The JSON of the prompts' endpoints.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::{gitlab::wire::WireModelMetadata, json::Object};

/// Body of a request for a prompt.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::PromptRequest)]
pub(in crate::api::gitlab) struct WirePromptRequest {
    /// The values of the prompt's variables.
    #[schema(value_type = Option<std::collections::HashMap<String, Value>>)]
    pub(in crate::api::gitlab) inputs: Option<Map<String, Value>>,
    /// Which versions will do: `^1.0.0`; the newest stable one where absent.
    pub(in crate::api::gitlab) prompt_version: Option<String>,
    pub(in crate::api::gitlab) stream: Option<bool>,
    #[schema(value_type = Option<WireModelMetadata>)]
    pub(in crate::api::gitlab) model_metadata: Option<Object<WireModelMetadata>>,
}

/// What a prompt's second version answers; the first answers with the text alone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::PromptAnswer)]
pub(in crate::api::gitlab) struct WirePromptAnswer {
    pub(in crate::api::gitlab) content: String,
    pub(in crate::api::gitlab) usage: WirePromptUsage,
}

/// What it took.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::PromptUsage)]
#[expect(clippy::struct_field_names, reason = "they are the wire's")]
pub(in crate::api::gitlab) struct WirePromptUsage {
    pub(in crate::api::gitlab) input_tokens: u32,
    pub(in crate::api::gitlab) output_tokens: u32,
    pub(in crate::api::gitlab) total_tokens: u32,
}
