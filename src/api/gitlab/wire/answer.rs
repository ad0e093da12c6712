//! Answers. The original writes nulls out, so nothing is skipped but in the events of a stream.

use serde::Serialize;
use utoipa::ToSchema;

/// Answer of a v2 endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::V2Answer)]
pub(in crate::api::gitlab) struct WireV2Answer<'a> {
    /// Always `id`.
    pub(in crate::api::gitlab) id: &'static str,
    pub(in crate::api::gitlab) model: WireV2Model<'a>,
    /// Always empty.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub(in crate::api::gitlab) experiments: [(); 0],
    /// Always `text_completion`.
    pub(in crate::api::gitlab) object: &'static str,
    /// Seconds since 1970.
    pub(in crate::api::gitlab) created: u64,
    pub(in crate::api::gitlab) choices: Vec<WireChoice>,
    pub(in crate::api::gitlab) metadata: WireV2Metadata<'a>,
}

/// What answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::V2Model)]
pub(in crate::api::gitlab) struct WireV2Model<'a> {
    pub(in crate::api::gitlab) engine: &'a str,
    pub(in crate::api::gitlab) name: &'a str,
    /// Empty where unknown.
    pub(in crate::api::gitlab) lang: &'static str,
    /// Null where there is no choice.
    pub(in crate::api::gitlab) tokens_consumption_metadata: Option<WireTokens>,
    /// `gateway.region`; null where it is not said.
    pub(in crate::api::gitlab) region: Option<&'a str>,
}

/// What it took.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Tokens)]
pub(in crate::api::gitlab) struct WireTokens {
    pub(in crate::api::gitlab) input_tokens: u32,
    pub(in crate::api::gitlab) output_tokens: u32,
    /// Whether a choice ended at the limit.
    pub(in crate::api::gitlab) max_output_tokens_used: bool,
    pub(in crate::api::gitlab) context_tokens_sent: u32,
    pub(in crate::api::gitlab) context_tokens_used: u32,
}

/// One suggestion.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Choice)]
pub(in crate::api::gitlab) struct WireChoice {
    pub(in crate::api::gitlab) text: String,
    pub(in crate::api::gitlab) index: u32,
    pub(in crate::api::gitlab) finish_reason: &'static str,
}

/// What else there is to say.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::V2Metadata)]
pub(in crate::api::gitlab) struct WireV2Metadata<'a> {
    pub(in crate::api::gitlab) enabled_feature_flags: &'a [String],
}

/// Answer of a v3 or v4 endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Suggestions)]
pub(in crate::api::gitlab) struct WireSuggestions<'a> {
    pub(in crate::api::gitlab) choices: Vec<WireChoice>,
    pub(in crate::api::gitlab) metadata: WireMetadata<'a>,
    /// The metadata's again, for clients that know the older answer.
    pub(in crate::api::gitlab) model: WireModel<'a>,
}

/// What is said of an answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Metadata)]
pub(in crate::api::gitlab) struct WireMetadata<'a> {
    pub(in crate::api::gitlab) model: WireModel<'a>,
    /// Seconds since 1970.
    pub(in crate::api::gitlab) timestamp: u64,
    pub(in crate::api::gitlab) enabled_feature_flags: &'a [String],
    /// `gateway.region`; null where it is not said.
    pub(in crate::api::gitlab) region: Option<&'a str>,
}

/// What answered.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Model)]
pub(in crate::api::gitlab) struct WireModel<'a> {
    pub(in crate::api::gitlab) engine: &'a str,
    pub(in crate::api::gitlab) name: &'a str,
    /// Empty where unknown.
    pub(in crate::api::gitlab) lang: &'static str,
}

/// Data of the event that begins a stream; nulls are left out there.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireStreamStart<'a> {
    pub(in crate::api::gitlab) metadata: WireStreamMetadata<'a>,
}

/// What is said of a stream.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireStreamMetadata<'a> {
    pub(in crate::api::gitlab) model: WireStreamModel<'a>,
    /// Seconds since 1970.
    pub(in crate::api::gitlab) timestamp: u64,
    pub(in crate::api::gitlab) enabled_feature_flags: &'a [String],
    /// `gateway.region`, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api::gitlab) region: Option<&'a str>,
}

/// What answers.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireStreamModel<'a> {
    /// Always `agent`, as the original has it.
    pub(in crate::api::gitlab) engine: &'static str,
    /// The prompt's display name, or the model's where there is no prompt.
    pub(in crate::api::gitlab) name: &'a str,
}

/// Data of the event that carries a piece.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireContentChunk<'a> {
    pub(in crate::api::gitlab) choices: [WireDeltaChoice<'a>; 1],
}

/// A piece's choice.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireDeltaChoice<'a> {
    pub(in crate::api::gitlab) delta: WireDelta<'a>,
    pub(in crate::api::gitlab) index: u32,
}

/// A piece.
#[derive(Debug, Serialize)]
pub(in crate::api::gitlab) struct WireDelta<'a> {
    pub(in crate::api::gitlab) content: &'a str,
}
