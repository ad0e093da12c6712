//! From a conversation's messages to what is to be completed: its next turn, or the gap that its last message spells.

use crate::api::{
    error::ApiError,
    json::{List, Object},
    openai::{
        convert::{LOGPROB_MIN, Subject},
        wire::{
            Unsupported, WireRequest,
            chat::{
                WireChatLogprobs, WireChatToken, WireContent, WireMessage, WireMessages, WirePart,
                WireRival,
            },
        },
    },
    quoted,
};
use crate::completion::{ChatMessage, ChatRole, Input, TokenLogprob};
use crate::prompt::family::spelled_gap;
use crate::provider::ModelInfo;
use crate::service::{NameKind, ServedModels};

/// Returns what the messages ask for.
pub(super) fn subject(
    messages: Option<WireMessages>,
    model: &ModelInfo,
    models: &ServedModels,
) -> Result<Subject, ApiError> {
    let List(wire) = messages.ok_or_else(|| ApiError::invalid("messages", "is required"))?;
    if wire.is_empty() {
        return Err(ApiError::invalid("messages", "must not be an empty list"));
    }
    let mut messages = Vec::with_capacity(wire.len());
    for (index, Object(wire)) in wire.into_iter().enumerate() {
        messages.push(message(&format!("messages[{index}]"), wire)?);
    }
    match gap(&messages) {
        Some(gap) if model.has_fim => return Ok(gap),
        // A conversation about gaps, to a model that knows conversations only.
        Some(_) | None if model.has_chat => {}
        Some(_) => {
            let rule = "spells a gap to be filled, which this model was not trained for";
            return Err(ApiError::invalid("messages", rule));
        }
        None => {
            let own = models.names().iter().filter(|served| served.kind == NameKind::Model);
            let able = quoted(own.filter(|served| served.service.model().has_chat));
            let here = if able.is_empty() { able } else { format!(", and which {able} has here") };
            let rule = format!(
                "need a model with a chat template, which this one lacks{here}; `/v1/completions` takes a `prompt`, with a `suffix` too"
            );
            return Err(ApiError::invalid("messages", rule));
        }
    }
    Ok(Subject::new(Input::Chat(messages)))
}

/// Returns the gap that the last message spells, where nobody says what the assistant is to be: gateways that know
/// conversations only hand on so what an editor asks.
fn gap(messages: &[ChatMessage]) -> Option<Subject> {
    let last = messages.last().filter(|last| last.role == ChatRole::User)?;
    let is_said = |message: &ChatMessage| {
        message.role == ChatRole::System && !message.content.trim().is_empty()
    };
    if messages.iter().any(is_said) {
        return None;
    }
    let gap = spelled_gap(&last.content)?;
    Some(Subject {
        input: Input::Fim { prefix: gap.prefix, suffix: gap.suffix },
        repository: gap.repository,
        file_name: gap.file_name,
        context: gap.context,
    })
}

fn message(path: &str, wire: WireMessage) -> Result<ChatMessage, ApiError> {
    let role = match wire.role.as_deref() {
        // The newer word for it.
        Some("system" | "developer") => ChatRole::System,
        Some("user") => ChatRole::User,
        Some("assistant") => ChatRole::Assistant,
        Some(_) => {
            let rule = "must be system, developer, user or assistant: tools are not supported";
            return Err(ApiError::invalid(format!("{path}.role"), rule));
        }
        None => return Err(ApiError::invalid(format!("{path}.role"), "is required")),
    };
    let deeds = [
        ("tool_calls", wire.tool_calls),
        ("function_call", wire.function_call),
        ("audio", wire.audio),
    ];
    for (field, deed) in deeds {
        if deed.is_some_and(|Unsupported { is_set }| is_set) {
            return Err(ApiError::invalid(format!("{path}.{field}"), "is not supported"));
        }
    }
    let path = format!("{path}.content");
    let content = match wire.content {
        Some(WireContent::Text(text)) => text,
        Some(WireContent::Parts(List(parts))) => joined(&path, parts)?,
        None if role == ChatRole::Assistant => String::new(),
        None => return Err(ApiError::invalid(path, "is required")),
    };
    Ok(ChatMessage { role, content })
}

/// Joins parts by line ends, as other servers do whose templates know texts only.
fn joined(path: &str, parts: Vec<Object<WirePart>>) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, Object(part)) in parts.into_iter().enumerate() {
        if part.r#type.as_deref() != Some("text") {
            let field = format!("{path}[{index}].type");
            return Err(ApiError::invalid(field, "must be text: other parts are not supported"));
        }
        let missing = || ApiError::invalid(format!("{path}[{index}].text"), "is required");
        texts.push(part.text.ok_or_else(missing)?);
    }
    Ok(texts.join("\n"))
}

/// Refuses what a conversation could ask for and does not get.
pub(super) fn check_unsupported(wire: &WireRequest) -> Result<(), ApiError> {
    let members = [
        ("audio", wire.audio),
        ("chat_template", wire.chat_template),
        ("chat_template_kwargs", wire.chat_template_kwargs),
        ("continue_final_message", wire.continue_final_message),
        ("functions", wire.functions),
        ("tools", wire.tools),
        ("web_search_options", wire.web_search_options),
    ];
    super::refuse_set(&members)
}

/// Translates log-probabilities.
pub(in crate::api::openai) fn logprobs(tokens: Vec<TokenLogprob>) -> WireChatLogprobs {
    let rival = |(token, logprob): (String, f32)| WireRival {
        bytes: (!token.contains(char::REPLACEMENT_CHARACTER)).then(|| token.as_bytes().to_vec()),
        token,
        logprob: logprob.max(LOGPROB_MIN),
    };
    let content = tokens.into_iter().map(|TokenLogprob { token, logprob, top }| WireChatToken {
        chosen: rival((token, logprob)),
        top_logprobs: top.into_iter().map(rival).collect(),
    });
    WireChatLogprobs { content: content.collect() }
}
