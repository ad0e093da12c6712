//! Bodies of the v3 and v4 endpoints: a list of components, of which the first says what is asked.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::{
    gitlab::wire::{WireModelMetadata, WirePrompt},
    json::{Integer, Object},
};

/// Body of a request.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireComponents {
    pub(in crate::api::gitlab) prompt_components: Option<Vec<Object<WireComponent>>>,
    pub(in crate::api::gitlab) model_metadata: Option<Object<WireModelMetadata>>,
    /// What an editor says of itself; the component's own counts more.
    pub(in crate::api::gitlab) intent: Option<String>,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireComponent {
    pub(in crate::api::gitlab) r#type: Option<String>,
    pub(in crate::api::gitlab) payload: Option<Object<WirePayload>>,
    pub(in crate::api::gitlab) metadata: Option<Object<WireSource>>,
}

/// Who made a component.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WireSource {
    pub(in crate::api::gitlab) source: Option<String>,
    pub(in crate::api::gitlab) version: Option<String>,
}

/// The members of all kinds of components; which must be there depends on the kind.
#[derive(Debug, Deserialize)]
pub(in crate::api::gitlab) struct WirePayload {
    pub(in crate::api::gitlab) file_name: Option<String>,
    pub(in crate::api::gitlab) language_identifier: Option<String>,
    pub(in crate::api::gitlab) content_above_cursor: Option<String>,
    pub(in crate::api::gitlab) content_below_cursor: Option<String>,
    pub(in crate::api::gitlab) model_provider: Option<String>,
    pub(in crate::api::gitlab) model_name: Option<String>,
    pub(in crate::api::gitlab) stream: Option<bool>,
    pub(in crate::api::gitlab) choices_count: Option<Integer>,
    pub(in crate::api::gitlab) intent: Option<String>,
    pub(in crate::api::gitlab) prompt: Option<WirePrompt>,
    pub(in crate::api::gitlab) prompt_id: Option<String>,
    pub(in crate::api::gitlab) prompt_version: Option<String>,
    pub(in crate::api::gitlab) prompt_enhancer: Option<Map<String, Value>>,
    pub(in crate::api::gitlab) r#type: Option<String>,
    pub(in crate::api::gitlab) name: Option<String>,
    pub(in crate::api::gitlab) content: Option<String>,
}
