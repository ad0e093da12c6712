//! Bodies of the v2 endpoints, in the three versions that `prompt_version` tells apart.

use crate::api::{
    check_items,
    error::ApiError,
    gitlab::{
        convert::{
            Asked, Asking, CONTEXT_ITEMS_MAX, ContextMembers, File, FileMembers,
            MODEL_NAME_CHARS_MAX, NAME_CHARS_MAX, check_chars, check_count, context_item,
            fences_only, generation::Generation, messages, required,
        },
        error::GitlabError,
        wire::{
            WirePrompt,
            v2::{WireContext, WireRequest, WireTelemetry},
        },
    },
    json::{Integer, Object},
};
use crate::completion::{ContextItem, Input};

const CONTEXT_CONTENT_CHARS_MAX: usize = 500_000;
const TELEMETRY_ITEMS_MAX: usize = 10;

/// What `prompt` is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PromptVersion {
    /// Not there.
    Without,
    /// A text.
    Text,
    /// A conversation.
    Messages,
}

/// Checks a body that wants a completion and translates it.
pub(in crate::api::gitlab) fn completion(
    mut wire: WireRequest,
    asking: &Asking<'_>,
) -> Result<Asked, GitlabError> {
    let version = version(wire.prompt_version)?;
    check_unused(&wire)?;
    let file = file(&mut wire)?;
    let is_streaming = wire.stream.unwrap_or(false);
    let context = context(wire.context.take().unwrap_or_default())?;
    let prompt = (version == PromptVersion::Messages).then(|| wire.prompt.take()).flatten();
    let asked = match prompt.map(prompt_of).transpose()? {
        // GitLab wrote a conversation about the gap, for models that know nothing else.
        Some(prompt) if asking.model.has_chat => {
            let messages = messages("prompt", prompt)?;
            let mut asked = Asked::plain(Input::Chat(messages), is_streaming);
            asked.request.postprocessing = fences_only(file.prefix);
            asked.request.file_name = (!file.name.is_empty()).then_some(file.name);
            asked.request.language = file.language;
            asked.request.max_tokens = Some(asking.limits.max_tokens_default);
            asked
        }
        // This one knows gaps: better than any words about them.
        Some(_) if asking.model.has_fim => file.gap(Vec::new(), is_streaming),
        Some(_) => {
            let rule = "needs a model with a chat template, which this one lacks";
            return Err(ApiError::invalid("prompt", rule).into());
        }
        None => file.gap(context, is_streaming),
    };
    Ok(asked.with_choices(wire.choices_count, asking.limits.num_choices_limit)?)
}

/// Checks a body that wants whole code and translates it.
pub(in crate::api::gitlab) fn generation(
    mut wire: WireRequest,
    asking: &Asking<'_>,
) -> Result<Asked, GitlabError> {
    let version = version(wire.prompt_version)?;
    check_unused(&wire)?;
    check_count(wire.choices_count)?;
    let file = file(&mut wire)?;
    // Its rules hold, though a generation takes no other files.
    context(wire.context.take().unwrap_or_default())?;
    let prompt = match (version, wire.prompt.take()) {
        (PromptVersion::Without, _) => None,
        (PromptVersion::Text | PromptVersion::Messages, None) => {
            return Err(required("prompt").into());
        }
        (_, Some(prompt)) => match (version, prompt_of(prompt)?) {
            (PromptVersion::Messages, WirePrompt::Text(_)) => {
                return Err(ApiError::invalid("prompt", "must be a list of messages").into());
            }
            (PromptVersion::Text, WirePrompt::Messages(_)) => {
                return Err(ApiError::invalid("prompt", "must be a text").into());
            }
            (_, prompt) => Some(messages("prompt", prompt)?),
        },
    };
    let generation = Generation {
        file,
        messages: prompt,
        prompt_id: wire.prompt_id,
        prompt_version: None,
        enhancer: serde_json::Map::new(),
        is_streaming: wire.stream.unwrap_or(false),
    };
    generation.asked(asking)
}

fn version(version: Option<Integer>) -> Result<PromptVersion, ApiError> {
    match version.map_or(1, |Integer(version)| version) {
        1 => Ok(PromptVersion::Without),
        2 => Ok(PromptVersion::Text),
        3 => Ok(PromptVersion::Messages),
        version => {
            Err(ApiError::invalid("prompt_version", format!("must be 1, 2 or 3, got {version}")))
        }
    }
}

fn prompt_of(prompt: serde_json::Value) -> Result<WirePrompt, ApiError> {
    // serde's own words would quote what stands there.
    serde_json::from_value(prompt)
        .map_err(|_| ApiError::invalid("prompt", "must be a text or a list of messages"))
}

fn check_unused(wire: &WireRequest) -> Result<(), ApiError> {
    let texts = [
        ("project_path", &wire.project_path, NAME_CHARS_MAX),
        ("model_provider", &wire.model_provider, NAME_CHARS_MAX),
        ("model_name", &wire.model_name, MODEL_NAME_CHARS_MAX),
    ];
    for (field, text, chars_max) in texts {
        check_chars(field, text.as_deref().unwrap_or_default().trim(), chars_max)?;
    }
    let telemetry = wire.telemetry.as_deref().unwrap_or_default();
    check_items("telemetry", telemetry.len(), TELEMETRY_ITEMS_MAX)?;
    for (index, Object(item)) in telemetry.iter().enumerate() {
        let WireTelemetry { requests, accepts, errors, .. } = item;
        for (name, number) in [("requests", requests), ("accepts", accepts), ("errors", errors)] {
            number.ok_or_else(|| required(&format!("telemetry[{index}].{name}")))?;
        }
    }
    Ok(())
}

fn file(wire: &mut WireRequest) -> Result<File, ApiError> {
    let Object(file) = wire.current_file.take().ok_or_else(|| required("current_file"))?;
    let members = FileMembers {
        name: file.file_name,
        language_identifier: file.language_identifier,
        above: file.content_above_cursor,
        below: file.content_below_cursor,
    };
    File::check("current_file", members)
}

fn context(items: Vec<Object<WireContext>>) -> Result<Vec<ContextItem>, ApiError> {
    check_items("context", items.len(), CONTEXT_ITEMS_MAX)?;
    let mut context = Vec::with_capacity(items.len());
    for (index, Object(WireContext { r#type, name, content })) in items.into_iter().enumerate() {
        let members = ContextMembers { r#type, name, content };
        let path = format!("context[{index}]");
        context.extend(context_item(&path, members, CONTEXT_CONTENT_CHARS_MAX)?);
    }
    Ok(context)
}
