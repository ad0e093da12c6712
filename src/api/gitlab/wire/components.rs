//! Bodies of the v3 and v4 endpoints: a list of components, of which the first says what is asked.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::{
    gitlab::{
        description as described,
        wire::{WireModelMetadata, WirePrompt},
    },
    json::{Integer, Object},
};

/// Body of a request.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Components)]
pub(in crate::api::gitlab) struct WireComponents {
    /// The first says what is asked, further ones are pieces of other files.
    #[schema(value_type = Vec<WireComponent>, required = true, min_items = 1, max_items = 100)]
    pub(in crate::api::gitlab) prompt_components: Option<Vec<Object<WireComponent>>>,
    #[schema(value_type = Option<WireModelMetadata>)]
    pub(in crate::api::gitlab) model_metadata: Option<Object<WireModelMetadata>>,
    /// What an editor says of itself; the component's own counts more.
    pub(in crate::api::gitlab) intent: Option<String>,
}

/// One of them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Component)]
pub(in crate::api::gitlab) struct WireComponent {
    /// `code_editor_completion`, `code_editor_generation` or `code_context`.
    #[schema(value_type = String, required = true)]
    pub(in crate::api::gitlab) r#type: Option<String>,
    #[schema(value_type = WirePayload, required = true)]
    pub(in crate::api::gitlab) payload: Option<Object<WirePayload>>,
    #[schema(value_type = Option<WireSource>)]
    pub(in crate::api::gitlab) metadata: Option<Object<WireSource>>,
}

/// Who made a component.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Source)]
pub(in crate::api::gitlab) struct WireSource {
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) source: Option<String>,
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) version: Option<String>,
}

/// The members of all kinds of components; which must be there depends on the kind.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = gitlab::Payload)]
pub(in crate::api::gitlab) struct WirePayload {
    /// Required of the first component.
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) file_name: Option<String>,
    /// What the editor calls the language.
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) language_identifier: Option<String>,
    /// Required of the first component.
    #[schema(max_length = 100_000)]
    pub(in crate::api::gitlab) content_above_cursor: Option<String>,
    /// Required of the first component.
    #[schema(max_length = 100_000)]
    pub(in crate::api::gitlab) content_below_cursor: Option<String>,
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) model_provider: Option<String>,
    #[schema(max_length = 255)]
    pub(in crate::api::gitlab) model_name: Option<String>,
    /// Whether the answer comes piece by piece.
    pub(in crate::api::gitlab) stream: Option<bool>,
    #[schema(schema_with = described::optional_count)]
    pub(in crate::api::gitlab) choices_count: Option<Integer>,
    /// `completion`, `generation` or `auto`.
    pub(in crate::api::gitlab) intent: Option<String>,
    /// A prompt that the client wrote, for generations.
    pub(in crate::api::gitlab) prompt: Option<WirePrompt>,
    /// Name of a prompt of the registry, for generations.
    pub(in crate::api::gitlab) prompt_id: Option<String>,
    /// Which versions of it will do: `^1.0.0`.
    pub(in crate::api::gitlab) prompt_version: Option<String>,
    /// What the prompt may want to know beside the file.
    #[schema(value_type = Option<std::collections::HashMap<String, Value>>)]
    pub(in crate::api::gitlab) prompt_enhancer: Option<Map<String, Value>>,
    /// `file` or `snippet`, of a piece of another file.
    #[schema(max_length = 1024)]
    pub(in crate::api::gitlab) r#type: Option<String>,
    #[schema(max_length = 1024)]
    pub(in crate::api::gitlab) name: Option<String>,
    /// Required of a piece of another file.
    #[schema(max_length = 100_000)]
    pub(in crate::api::gitlab) content: Option<String>,
}
