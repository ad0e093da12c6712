//! Bodies of the v2 endpoints.

use serde::Deserialize;
use serde_json::Value;

use crate::api::{
    gitlab::wire::WireModelMetadata,
    json::{Integer, Object},
};

/// Body of a request; everything that is required is checked in `convert`, to name it.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireRequest {
    pub(in crate::api::gitlab) prompt_version: Option<Integer>,
    pub(in crate::api::gitlab) project_path: Option<String>,
    #[serde(rename = "project_id")]
    pub(in crate::api::gitlab) _project_id: Option<Integer>,
    pub(in crate::api::gitlab) current_file: Option<Object<WireFile>>,
    pub(in crate::api::gitlab) model_provider: Option<String>,
    pub(in crate::api::gitlab) model_name: Option<String>,
    pub(in crate::api::gitlab) model_endpoint: Option<String>,
    pub(in crate::api::gitlab) model_api_key: Option<String>,
    pub(in crate::api::gitlab) model_identifier: Option<String>,
    pub(in crate::api::gitlab) model_metadata: Option<Object<WireModelMetadata>>,
    pub(in crate::api::gitlab) telemetry: Option<Vec<Object<WireTelemetry>>>,
    pub(in crate::api::gitlab) stream: Option<bool>,
    pub(in crate::api::gitlab) choices_count: Option<Integer>,
    pub(in crate::api::gitlab) context: Option<Vec<Object<WireContext>>>,
    pub(in crate::api::gitlab) prompt_id: Option<String>,
    /// What it must be depends on the version and on the endpoint.
    pub(in crate::api::gitlab) prompt: Option<Value>,
}

/// The file being edited.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireFile {
    pub(in crate::api::gitlab) file_name: Option<String>,
    pub(in crate::api::gitlab) language_identifier: Option<String>,
    pub(in crate::api::gitlab) content_above_cursor: Option<String>,
    pub(in crate::api::gitlab) content_below_cursor: Option<String>,
}

/// A piece of another file.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireContext {
    pub(in crate::api::gitlab) r#type: Option<String>,
    pub(in crate::api::gitlab) name: Option<String>,
    pub(in crate::api::gitlab) content: Option<String>,
}

/// What became of earlier suggestions; the original asks for its numbers, and forgets them.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireTelemetry {
    pub(in crate::api::gitlab) requests: Option<Integer>,
    pub(in crate::api::gitlab) accepts: Option<Integer>,
    pub(in crate::api::gitlab) errors: Option<Integer>,
}
