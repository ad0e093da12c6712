//! The JSON of conversations: messages in, a message or pieces of one out.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use utoipa::ToSchema;

use crate::api::{
    json::{List, Object},
    openai::wire::{Unsupported, schema},
};

/// Far above what any client sends.
const MESSAGES_MAX: usize = 1024;
/// As many: some editors send each file that they show as a part.
const PARTS_MAX: usize = 1024;

/// A conversation.
pub(in crate::api::openai) type WireMessages = List<Object<WireMessage>, MESSAGES_MAX>;

/// A turn of a conversation; further members, such as a speaker's name, are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Message)]
pub(in crate::api::openai) struct WireMessage {
    /// `system`, `developer`, `user` or `assistant`.
    #[schema(value_type = String, required = true)]
    pub(in crate::api::openai) role: Option<String>,
    #[schema(value_type = Option<schema::Content>)]
    pub(in crate::api::openai) content: Option<WireContent>,
    // A turn that did something else than speak.
    #[schema(ignore)]
    pub(in crate::api::openai) tool_calls: Option<Unsupported>,
    #[schema(ignore)]
    pub(in crate::api::openai) function_call: Option<Unsupported>,
    #[schema(ignore)]
    pub(in crate::api::openai) audio: Option<Unsupported>,
}

/// What was said: a text, or a list of parts.
#[derive(Debug)]
pub(in crate::api::openai) enum WireContent {
    Text(String),
    Parts(List<Object<WirePart>, PARTS_MAX>),
}

/// A part of what was said.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Part)]
pub(in crate::api::openai) struct WirePart {
    pub(in crate::api::openai) r#type: Option<String>,
    pub(in crate::api::openai) text: Option<String>,
}

impl<'de> Deserialize<'de> for WireContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = WireContent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of parts")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<WireContent, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<WireContent, E> {
        Ok(WireContent::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<WireContent, A::Error> {
        List::deserialize(SeqAccessDeserializer::new(items)).map(WireContent::Parts)
    }
}

/// The model's turn, whole.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Turn)]
pub(in crate::api::openai) struct WireTurn {
    /// Always `assistant`.
    pub(in crate::api::openai) role: &'static str,
    pub(in crate::api::openai) content: String,
}

/// A piece of the model's turn.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Delta)]
pub(in crate::api::openai) struct WireDelta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api::openai) role: Option<&'static str>,
    /// Absent from a last piece that brings no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::api::openai) content: Option<String>,
}

/// Log-probabilities in a conversation's shape.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ChatLogprobs)]
pub(in crate::api::openai) struct WireChatLogprobs {
    /// One entry a token.
    pub(in crate::api::openai) content: Vec<WireChatToken>,
}

/// A chosen token and its rivals.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ChatToken)]
pub(in crate::api::openai) struct WireChatToken {
    #[serde(flatten)]
    pub(in crate::api::openai) chosen: WireRival,
    pub(in crate::api::openai) top_logprobs: Vec<WireRival>,
}

/// A token with its log-probability.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Rival)]
pub(in crate::api::openai) struct WireRival {
    pub(in crate::api::openai) token: String,
    pub(in crate::api::openai) logprob: f32,
    /// The token's bytes; null where it is no whole character.
    pub(in crate::api::openai) bytes: Option<Vec<u8>>,
}
