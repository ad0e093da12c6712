//! The JSON of OpenAI's completions, of texts and of conversations, and of its list of models.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
    ser::SerializeMap as _,
};
use utoipa::ToSchema;

use crate::api::{
    json::{Integer, Number, Object},
    openai::wire::{
        chat::{WireChatLogprobs, WireDelta, WireMessages, WireTurn},
        prompt::WirePrompt,
    },
};

pub(super) mod chat;
pub(super) mod prompt;
mod schema;

/// Body of a completion request, of either form. Every member may be null, which is as good as absent.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Request)]
pub(super) struct WireRequest {
    pub(super) model: Option<String>,
    /// A text or several, each as text or as token ids. Required of completions of texts.
    #[schema(value_type = Option<schema::Prompt>)]
    pub(super) prompt: Option<WirePrompt>,
    /// Text after the gap.
    pub(super) suffix: Option<String>,
    /// Required of conversations.
    #[schema(value_type = Option<Vec<chat::WireMessage>>, max_items = 1024)]
    pub(super) messages: Option<WireMessages>,
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub(super) max_tokens: Option<Integer>,
    /// The newer word for it.
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub(super) max_completion_tokens: Option<Integer>,
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 2)]
    pub(super) temperature: Option<Number>,
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1)]
    pub(super) top_p: Option<Number>,
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub(super) n: Option<Integer>,
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub(super) best_of: Option<Integer>,
    pub(super) stream: Option<bool>,
    #[schema(value_type = Option<WireStreamOptions>)]
    pub(super) stream_options: Option<Object<WireStreamOptions>>,
    /// A number of rivals, or for conversations a truth value.
    #[schema(value_type = Option<schema::LogprobsAsked>)]
    pub(super) logprobs: Option<WireLogprobsAsked>,
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 20)]
    pub(super) top_logprobs: Option<Integer>,
    pub(super) echo: Option<bool>,
    /// A stop text, or several.
    #[schema(value_type = Option<schema::Stop>)]
    pub(super) stop: Option<WireStop>,
    #[schema(value_type = Option<f64>, minimum = -2, maximum = 2)]
    pub(super) presence_penalty: Option<Number>,
    #[schema(value_type = Option<f64>, minimum = -2, maximum = 2)]
    pub(super) frequency_penalty: Option<Number>,
    /// From token ids to what is added to their logits.
    #[schema(value_type = Option<std::collections::HashMap<String, f64>>)]
    pub(super) logit_bias: Option<WireLogitBias>,
    #[schema(schema_with = crate::api::openapi::optional_integer)]
    pub(super) seed: Option<Integer>,
    #[serde(rename = "user")]
    pub(super) _user: Option<String>,
    // Further members that vLLM and its clients know.
    #[schema(value_type = Option<i64>)]
    pub(super) top_k: Option<Integer>,
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1)]
    pub(super) min_p: Option<Number>,
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 10)]
    pub(super) repetition_penalty: Option<Number>,
    #[schema(value_type = Option<Vec<i64>>)]
    pub(super) stop_token_ids: Option<Vec<Integer>>,
    pub(super) ignore_eos: Option<bool>,
    // Members that would change the answer if they were heeded: refused rather than ignored.
    #[schema(ignore)]
    pub(super) allowed_token_ids: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) bad_words: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) include_stop_str_in_output: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) min_tokens: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) prompt_logprobs: Option<Unsupported>,
    /// `text` and nothing else.
    #[schema(value_type = Option<WireFormat>)]
    pub(super) response_format: Option<Object<WireFormat>>,
    #[schema(ignore)]
    pub(super) return_token_ids: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) structured_outputs: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) truncate_prompt_tokens: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) use_beam_search: Option<Unsupported>,
    // The same of conversations.
    #[schema(ignore)]
    pub(super) audio: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) chat_template: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) chat_template_kwargs: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) continue_final_message: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) functions: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) tools: Option<Unsupported>,
    #[schema(ignore)]
    pub(super) web_search_options: Option<Unsupported>,
}

/// What an answer is to be; `text` is no wish.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = openai::ResponseFormat)]
pub(super) struct WireFormat {
    pub(super) r#type: Option<String>,
}

/// Whether log-probabilities are wanted: a number of rivals, or for conversations a truth value.
#[derive(Clone, Copy, Debug)]
pub(super) enum WireLogprobsAsked {
    Flag(bool),
    Count(Integer),
}

impl<'de> Deserialize<'de> for WireLogprobsAsked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LogprobsVisitor)
    }
}

struct LogprobsVisitor;

impl Visitor<'_> for LogprobsVisitor {
    type Value = WireLogprobsAsked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number, or for conversations a truth value")
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<WireLogprobsAsked, E> {
        Ok(WireLogprobsAsked::Flag(flag))
    }

    fn visit_i64<E: Error>(self, count: i64) -> Result<WireLogprobsAsked, E> {
        Ok(WireLogprobsAsked::Count(Integer(count.into())))
    }

    fn visit_u64<E: Error>(self, count: u64) -> Result<WireLogprobsAsked, E> {
        Ok(WireLogprobsAsked::Count(Integer(count.into())))
    }

    fn visit_f64<E: Error>(self, count: f64) -> Result<WireLogprobsAsked, E> {
        if count.fract() == 0.0 && count.abs() <= f64::from(u32::MAX) {
            return Ok(WireLogprobsAsked::Count(Integer(count as i128)));
        }
        Err(E::invalid_type(Unexpected::Float(count), &self))
    }
}

/// Options of a stream; further ones are ignored.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[schema(as = openai::StreamOptions)]
pub(super) struct WireStreamOptions {
    pub(super) include_usage: Option<bool>,
    pub(super) continuous_usage_stats: Option<bool>,
}

/// One stop text or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WireStop(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for WireStop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StopVisitor)
    }
}

struct StopVisitor;

impl<'de> Visitor<'de> for StopVisitor {
    type Value = WireStop;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<WireStop, E> {
        Ok(WireStop(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<WireStop, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        Ok(WireStop(texts))
    }
}

/// Token ids, which JSON writes as strings when they are keys, and what is added to their logits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WireLogitBias(pub(super) Vec<(u32, f64)>);

impl<'de> Deserialize<'de> for WireLogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LogitBiasVisitor)
    }
}

struct LogitBiasVisitor;

impl<'de> Visitor<'de> for LogitBiasVisitor {
    type Value = WireLogitBias;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from token ids to numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireLogitBias, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, Number(bias))) = map.next_entry::<String, Number>()? {
            let id = key.parse().map_err(|_| A::Error::invalid_type(Unexpected::Map, &self))?;
            entries.push((id, bias));
        }
        Ok(WireLogitBias(entries))
    }
}

/// A member that we do not heed; remembers whether it asks for anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsupported {
    /// Whether it is anything but false, zero or empty.
    pub(super) is_set: bool,
}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnsupportedVisitor).map(|is_set| Self { is_set })
    }
}

struct UnsupportedVisitor;

impl<'de> Visitor<'de> for UnsupportedVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("absent")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
        Ok(value != 0)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
        Ok(value != 0)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
        Ok(value != 0.0)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<bool, E> {
        Ok(!value.is_empty())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<bool, A::Error> {
        let mut is_set = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            is_set = true;
        }
        Ok(is_set)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut is_set = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            is_set = true;
        }
        Ok(is_set)
    }
}

/// A completion, or an event of its stream.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Completion)]
pub(super) struct WireResponse<'a> {
    pub(super) id: &'a str,
    /// `text_completion`, `chat.completion` or `chat.completion.chunk`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<WireChoice>,
    #[serde(skip_serializing_if = "WireUsageMember::is_absent")]
    #[schema(value_type = Option<WireUsage>, required = false)]
    pub(super) usage: WireUsageMember,
}

/// Tokens read and written: absent from events, unless asked for; then null in all but the last.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum WireUsageMember {
    Absent,
    Null,
    Counted(WireUsage),
}

impl WireUsageMember {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// One choice, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Choice)]
pub(super) struct WireChoice {
    pub(super) index: u32,
    #[serde(flatten)]
    pub(super) said: WireSaid,
    pub(super) logprobs: Option<WireLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// What a choice says, in the form of the request; the variant is the member's name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Said)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireSaid {
    Text(String),
    Message(WireTurn),
    Delta(WireDelta),
}

/// Log-probabilities, in the form of the request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::LogprobsMember)]
#[serde(untagged)]
pub(super) enum WireLogprobs {
    Text(WireTextLogprobs),
    Chat(WireChatLogprobs),
}

/// One entry a token in each list.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = openai::Logprobs)]
pub(super) struct WireTextLogprobs {
    pub(super) tokens: Vec<String>,
    pub(super) token_logprobs: Vec<f32>,
    #[schema(value_type = Vec<std::collections::HashMap<String, f32>>)]
    pub(super) top_logprobs: Vec<WireTop>,
    /// Characters from the start of the choice's text.
    pub(super) text_offset: Vec<usize>,
}

/// The likeliest tokens, written as an object in falling order.
#[derive(Debug)]
pub(super) struct WireTop(pub(super) Vec<(String, f32)>);

impl Serialize for WireTop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            map.serialize_entry(token, logprob)?;
        }
        map.end()
    }
}

/// Tokens read and written, over all prompts and choices.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[schema(as = openai::Usage)]
pub(super) struct WireUsage {
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) total_tokens: u32,
    pub(super) prompt_tokens_details: WirePromptDetails,
}

/// Where prompt tokens came from.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[schema(as = openai::PromptDetails)]
pub(super) struct WirePromptDetails {
    pub(super) cached_tokens: u32,
}

/// A model in the list of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Model)]
pub(super) struct WireModel<'a> {
    pub(super) id: &'a str,
    /// Always `model`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) owned_by: String,
    /// The model's own name, where `id` is another one for it: as vLLM has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) root: Option<String>,
    /// The model's own name, where `id` is an adapter of it: as vLLM has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<String>,
    /// Absent while the model is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) capabilities: Option<WireCapabilities>,
}

/// What a model can do: our own member, ignored by the original's clients.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Capabilities)]
pub(super) struct WireCapabilities {
    /// Fills gaps.
    pub(super) fim: bool,
    /// Reads several files.
    pub(super) repo_fim: bool,
    /// Continues conversations.
    pub(super) chat: bool,
    /// Most tokens of prompt and answer together.
    pub(super) max_context: u32,
}

/// A failure.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Failure)]
pub(super) struct WireFailure<'a> {
    #[schema(inline)]
    pub(super) error: WireError<'a>,
}

/// What failed, for people and for programs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Error)]
pub(super) struct WireError<'a> {
    pub(super) message: &'a str,
    pub(super) r#type: &'static str,
    /// The member at fault.
    pub(super) param: Option<&'a str>,
    pub(super) code: Option<&'static str>,
}

/// A list of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Models)]
pub(super) struct WireModels<'a> {
    /// Always `list`.
    pub(super) object: &'static str,
    pub(super) data: Vec<WireModel<'a>>,
}
