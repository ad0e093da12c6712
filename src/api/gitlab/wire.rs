//! The JSON of the gateway's v2 endpoints. Members that we do not use are checked as the original does, then ignored.

use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::api::json::{Integer, Object};

/// Body of a completion request; everything that is required is checked in `convert`, to name it.
#[derive(Debug, Deserialize)]
pub(super) struct WireRequest {
    pub(super) prompt_version: Option<Integer>,
    pub(super) project_path: Option<String>,
    #[serde(rename = "project_id")]
    pub(super) _project_id: Option<Integer>,
    pub(super) current_file: Option<Object<WireFile>>,
    pub(super) model_provider: Option<String>,
    pub(super) model_name: Option<String>,
    #[serde(rename = "model_endpoint")]
    pub(super) _model_endpoint: Option<String>,
    #[serde(rename = "model_api_key")]
    pub(super) _model_api_key: Option<String>,
    pub(super) model_identifier: Option<String>,
    pub(super) telemetry: Option<Vec<Object<IgnoredAny>>>,
    pub(super) stream: Option<bool>,
    pub(super) choices_count: Option<Integer>,
    pub(super) context: Option<Vec<Object<WireContext>>>,
}

/// The file being edited.
#[derive(Debug, Deserialize)]
pub(super) struct WireFile {
    pub(super) file_name: Option<String>,
    pub(super) language_identifier: Option<String>,
    pub(super) content_above_cursor: Option<String>,
    pub(super) content_below_cursor: Option<String>,
}

/// A piece of another file.
#[derive(Debug, Deserialize)]
pub(super) struct WireContext {
    pub(super) r#type: Option<String>,
    pub(super) name: Option<String>,
    pub(super) content: Option<String>,
}

/// Answer to a completion request. The original writes nulls out, so nothing is skipped.
#[derive(Debug, Serialize)]
pub(super) struct WireResponse<'a> {
    /// Always `id`.
    pub(super) id: &'static str,
    pub(super) model: WireModel<'a>,
    /// Always empty.
    pub(super) experiments: [(); 0],
    /// Always `text_completion`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) choices: Vec<WireChoice>,
    pub(super) metadata: WireMetadata,
}

/// What answered.
#[derive(Debug, Serialize)]
pub(super) struct WireModel<'a> {
    pub(super) engine: &'a str,
    pub(super) name: &'a str,
    /// Empty where unknown.
    pub(super) lang: &'static str,
    /// Null where there is no choice.
    pub(super) tokens_consumption_metadata: Option<WireTokens>,
    /// Null: one server is in no region.
    pub(super) region: Option<&'static str>,
}

/// What it took.
#[derive(Debug, Serialize)]
pub(super) struct WireTokens {
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    /// Whether a choice ended at the limit.
    pub(super) max_output_tokens_used: bool,
    pub(super) context_tokens_sent: u32,
    pub(super) context_tokens_used: u32,
}

/// One suggestion.
#[derive(Debug, Serialize)]
pub(super) struct WireChoice {
    pub(super) text: String,
    pub(super) index: u32,
    pub(super) finish_reason: &'static str,
}

/// What else there is to say.
#[derive(Debug, Serialize)]
pub(super) struct WireMetadata {
    /// Always empty: no flag changes what we do.
    pub(super) enabled_feature_flags: [(); 0],
}
