//! Bodies of the v2 endpoints.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::{
    gitlab::{description as described, wire::WireModelMetadata},
    json::{Integer, Object},
};

/// Body of a request; everything that is required is checked in `convert`, to name it.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::V2Request)]
pub(in crate::api::gitlab) struct WireRequest {
    /// 1: the server writes the prompt. 2: `prompt` is a text. 3: it is a conversation.
    #[schema(value_type = Option<i64>, minimum = 1, maximum = 3)]
    pub(in crate::api::gitlab) prompt_version: Option<Integer>,
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) project_path: Option<String>,
    #[schema(schema_with = described::optional_number)]
    #[serde(rename = "project_id")]
    pub(in crate::api::gitlab) _project_id: Option<Integer>,
    #[schema(value_type = WireFile, required = true)]
    pub(in crate::api::gitlab) current_file: Option<Object<WireFile>>,
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) model_provider: Option<String>,
    /// A model of this server, or anything: then the first model answers.
    #[schema(max_length = 50)]
    pub(in crate::api::gitlab) model_name: Option<String>,
    /// Refused, unless the server passes it over.
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) model_endpoint: Option<String>,
    /// Refused, unless the server passes it over.
    #[schema(max_length = 2000)]
    pub(in crate::api::gitlab) model_api_key: Option<String>,
    #[schema(max_length = 1000)]
    pub(in crate::api::gitlab) model_identifier: Option<String>,
    #[schema(value_type = Option<WireModelMetadata>)]
    pub(in crate::api::gitlab) model_metadata: Option<Object<WireModelMetadata>>,
    #[schema(value_type = Option<Vec<WireTelemetry>>, max_items = 10)]
    pub(in crate::api::gitlab) telemetry: Option<Vec<Object<WireTelemetry>>>,
    /// Whether the answer is bare text, as it comes.
    pub(in crate::api::gitlab) stream: Option<bool>,
    /// Suggestions wanted, as far as the server lets.
    #[schema(schema_with = described::optional_count)]
    pub(in crate::api::gitlab) choices_count: Option<Integer>,
    /// Pieces of other files, the most useful first.
    #[schema(value_type = Option<Vec<WireContext>>, max_items = 100)]
    pub(in crate::api::gitlab) context: Option<Vec<Object<WireContext>>>,
    pub(in crate::api::gitlab) prompt_id: Option<String>,
    /// What it must be depends on the version and on the endpoint.
    #[schema(value_type = Option<Value>)]
    pub(in crate::api::gitlab) prompt: Option<Value>,
}

/// The file being edited.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::File)]
pub(in crate::api::gitlab) struct WireFile {
    #[schema(value_type = String, required = true, max_length = 255)]
    pub(in crate::api::gitlab) file_name: Option<String>,
    /// What the editor calls the language.
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) language_identifier: Option<String>,
    #[schema(value_type = String, required = true, max_length = 100_000)]
    pub(in crate::api::gitlab) content_above_cursor: Option<String>,
    #[schema(value_type = String, required = true, max_length = 100_000)]
    pub(in crate::api::gitlab) content_below_cursor: Option<String>,
}

/// A piece of another file.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Context)]
pub(in crate::api::gitlab) struct WireContext {
    #[schema(max_length = 1024)]
    pub(in crate::api::gitlab) r#type: Option<String>,
    #[schema(max_length = 1024)]
    pub(in crate::api::gitlab) name: Option<String>,
    #[schema(value_type = String, required = true, max_length = 500_000)]
    pub(in crate::api::gitlab) content: Option<String>,
}

/// What became of earlier suggestions: counted, as far as it is of a model that is served here.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Telemetry)]
pub(in crate::api::gitlab) struct WireTelemetry {
    pub(in crate::api::gitlab) model_name: Option<String>,
    /// Language of the file, as an editor calls it.
    pub(in crate::api::gitlab) lang: Option<String>,
    #[schema(schema_with = described::number, required = true)]
    pub(in crate::api::gitlab) requests: Option<Integer>,
    #[schema(schema_with = described::number, required = true)]
    pub(in crate::api::gitlab) accepts: Option<Integer>,
    #[schema(schema_with = described::number, required = true)]
    pub(in crate::api::gitlab) errors: Option<Integer>,
}
