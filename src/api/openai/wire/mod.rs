//! The JSON of OpenAI's completions, of texts and of conversations, and of its list of models.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor},
    ser::SerializeMap as _,
};

use crate::api::{
    json::{Integer, Number, Object},
    openai::wire::{
        chat::{WireChatLogprobs, WireDelta, WireMessages, WireTurn},
        prompt::WirePrompt,
    },
};

pub(super) mod chat;
pub(super) mod prompt;

/// Body of a completion request, of either form. Every member may be null, which is as good as absent.
#[derive(Debug, Deserialize)]
pub(super) struct WireRequest {
    pub(super) model: Option<String>,
    pub(super) prompt: Option<WirePrompt>,
    pub(super) suffix: Option<String>,
    pub(super) messages: Option<WireMessages>,
    pub(super) max_tokens: Option<Integer>,
    /// The newer word for it.
    pub(super) max_completion_tokens: Option<Integer>,
    pub(super) temperature: Option<Number>,
    pub(super) top_p: Option<Number>,
    pub(super) n: Option<Integer>,
    pub(super) best_of: Option<Integer>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<Object<WireStreamOptions>>,
    pub(super) logprobs: Option<WireLogprobsAsked>,
    pub(super) top_logprobs: Option<Integer>,
    pub(super) echo: Option<bool>,
    pub(super) stop: Option<WireStop>,
    pub(super) presence_penalty: Option<Number>,
    pub(super) frequency_penalty: Option<Number>,
    pub(super) logit_bias: Option<WireLogitBias>,
    pub(super) seed: Option<Integer>,
    #[serde(rename = "user")]
    pub(super) _user: Option<String>,
    // Further members that vLLM and its clients know.
    pub(super) top_k: Option<Integer>,
    pub(super) min_p: Option<Number>,
    pub(super) repetition_penalty: Option<Number>,
    pub(super) stop_token_ids: Option<Vec<Integer>>,
    pub(super) ignore_eos: Option<bool>,
    // Members that would change the answer if they were heeded: refused rather than ignored.
    pub(super) allowed_token_ids: Option<Unsupported>,
    pub(super) bad_words: Option<Unsupported>,
    pub(super) include_stop_str_in_output: Option<Unsupported>,
    pub(super) min_tokens: Option<Unsupported>,
    pub(super) prompt_logprobs: Option<Unsupported>,
    pub(super) response_format: Option<Object<WireFormat>>,
    pub(super) return_token_ids: Option<Unsupported>,
    pub(super) structured_outputs: Option<Unsupported>,
    pub(super) truncate_prompt_tokens: Option<Unsupported>,
    pub(super) use_beam_search: Option<Unsupported>,
    // The same of conversations.
    pub(super) audio: Option<Unsupported>,
    pub(super) chat_template: Option<Unsupported>,
    pub(super) chat_template_kwargs: Option<Unsupported>,
    pub(super) continue_final_message: Option<Unsupported>,
    pub(super) functions: Option<Unsupported>,
    pub(super) tools: Option<Unsupported>,
    pub(super) web_search_options: Option<Unsupported>,
}

/// What an answer is to be; `text` is no wish.
#[derive(Clone, Debug, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize)]
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
#[derive(Debug, Serialize)]
pub(super) struct WireResponse<'a> {
    pub(super) id: &'a str,
    /// `text_completion`, `chat.completion` or `chat.completion.chunk`.
    pub(super) object: &'static str,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<WireChoice>,
    #[serde(skip_serializing_if = "WireUsageMember::is_absent")]
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
#[derive(Debug, Serialize)]
pub(super) struct WireChoice {
    pub(super) index: u32,
    #[serde(flatten)]
    pub(super) said: WireSaid,
    pub(super) logprobs: Option<WireLogprobs>,
    pub(super) finish_reason: Option<&'static str>,
}

/// What a choice says, in the form of the request; the variant is the member's name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireSaid {
    Text(String),
    Message(WireTurn),
    Delta(WireDelta),
}

/// Log-probabilities, in the form of the request.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum WireLogprobs {
    Text(WireTextLogprobs),
    Chat(WireChatLogprobs),
}

/// One entry a token in each list.
#[derive(Debug, Default, Serialize)]
pub(super) struct WireTextLogprobs {
    pub(super) tokens: Vec<String>,
    pub(super) token_logprobs: Vec<f32>,
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
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct WireUsage {
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) total_tokens: u32,
    pub(super) prompt_tokens_details: WirePromptDetails,
}

/// Where prompt tokens came from.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct WirePromptDetails {
    pub(super) cached_tokens: u32,
}

/// A model in the list of models.
#[derive(Debug, Serialize)]
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
    pub(super) capabilities: WireCapabilities,
}

/// What a model can do: our own member, ignored by the original's clients.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub(super) struct WireFailure<'a> {
    pub(super) error: WireError<'a>,
}

/// What failed, for people and for programs.
#[derive(Debug, Serialize)]
pub(super) struct WireError<'a> {
    pub(super) message: &'a str,
    pub(super) r#type: &'static str,
    /// The member at fault.
    pub(super) param: Option<&'a str>,
    pub(super) code: Option<&'static str>,
}

/// A list of models.
#[derive(Debug, Serialize)]
pub(super) struct WireModels<'a> {
    /// Always `list`.
    pub(super) object: &'static str,
    pub(super) data: Vec<WireModel<'a>>,
}
