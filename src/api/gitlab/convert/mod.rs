//! Between the gateway's JSON and the vocabulary: what all its versions share.

pub(super) mod answer;
pub(super) mod components;
pub(super) mod generation;
mod model;
pub(super) mod v2;

use std::sync::Arc;

pub(super) use model::ModelWish;

use crate::api::{
    error::ApiError,
    gitlab::{
        context::GitlabContext,
        wire::{WireMessage, WirePrompt},
    },
    json::{Integer, Object},
};
use crate::auth::Caller;
use crate::completion::{
    ChatMessage, ChatRole, CompletionRequest, ContextItem, Input, Language, PostProcessing, Step,
};
use crate::config::CompletionConfig;
use crate::prompt::registry::{Place, PromptRegistry};
use crate::provider::ModelInfo;

// The original's limits, in characters and items.
const NAME_CHARS_MAX: usize = 255;
const MODEL_NAME_CHARS_MAX: usize = 50;
const CONTENT_CHARS_MAX: usize = 100_000;
const CONTEXT_NAME_CHARS_MAX: usize = 1024;
const CONTEXT_ITEMS_MAX: usize = 100;
const PROMPT_CHARS_MAX: usize = 400_000;
/// Messages of a prompt that GitLab wrote; it writes two or three.
const MESSAGES_MAX: usize = 100;

/// The likeliest text is the same every time, so several choices are sampled: warm enough to differ, cool enough to
/// stay code.
const ALTERNATIVES_TEMPERATURE: f32 = 0.6;
/// Cuts the tail that would break code at that temperature.
const ALTERNATIVES_TOP_P: f32 = 0.95;

/// What a request is translated with.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    /// Who calls, as headers tell.
    pub(super) context: &'a GitlabContext,
    /// Who was let in.
    pub(super) caller: Option<&'a Caller>,
    /// What is asked.
    pub(super) model: Arc<ModelInfo>,
    /// The server's limits.
    pub(super) limits: &'a CompletionConfig,
    /// What it may be asked with.
    pub(super) prompts: Arc<PromptRegistry>,
    /// The flags in force.
    pub(super) flags: &'a [String],
}

/// What a body asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: CompletionRequest,
    pub(super) is_streaming: bool,
    /// The prompt that made it, and what people call it.
    pub(super) prompt: Option<(Place, String)>,
}

impl Asked {
    /// Makes of an input what no prompt and no parameter changes.
    fn plain(input: Input, is_streaming: bool) -> Self {
        // No model is named: it was chosen by its names already, see `ModelWish`.
        let request = CompletionRequest::of(input);
        Self { request, is_streaming, prompt: None }
    }

    /// Asks for several choices, as far as the answer has room for them and the server lets.
    fn with_choices(mut self, count: Option<Integer>, limit: u32) -> Result<Self, ApiError> {
        let count = check_count(count)?;
        // A stream has no place for a second choice.
        let limit = if self.is_streaming { 1 } else { limit.max(1) };
        self.request.num_choices = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, limit);
        if self.request.num_choices > 1 {
            self.request.sampling.temperature = ALTERNATIVES_TEMPERATURE;
            self.request.sampling.top_p = ALTERNATIVES_TOP_P;
        }
        Ok(self)
    }
}

/// The file at the cursor.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) language: Option<Language>,
    pub(super) prefix: String,
    pub(super) suffix: String,
}

/// A file as the body has it, before it is checked.
struct FileMembers {
    name: Option<String>,
    language_identifier: Option<String>,
    above: Option<String>,
    below: Option<String>,
}

impl File {
    /// Checks a file whose members stand below `path`.
    fn check(path: &str, members: FileMembers) -> Result<Self, ApiError> {
        let FileMembers { name, language_identifier, above, below } = members;
        let at = |member: &str| format!("{path}.{member}");
        let name = name.ok_or_else(|| required(&at("file_name")))?;
        let name = name.trim();
        check_chars(&at("file_name"), name, NAME_CHARS_MAX)?;
        let editor_id = language_identifier.as_deref();
        check_chars(&at("language_identifier"), editor_id.unwrap_or_default(), NAME_CHARS_MAX)?;
        let content = |member: &str, text: Option<String>| {
            let text = text.ok_or_else(|| required(&at(member)))?;
            check_chars(&at(member), &text, CONTENT_CHARS_MAX)?;
            Ok(text)
        };
        let prefix = content("content_above_cursor", above)?;
        let by_name = Language::detect(name, editor_id);
        Ok(Self {
            name: name.to_owned(),
            language: by_name.or_else(|| Language::of_script(&prefix)),
            prefix,
            suffix: content("content_below_cursor", below)?,
        })
    }

    /// Asks for what stands between the two sides of the cursor.
    fn gap(self, context: Vec<ContextItem>, is_streaming: bool) -> Asked {
        let Self { name, language, prefix, suffix } = self;
        let mut asked = Asked::plain(Input::Fim { prefix, suffix }, is_streaming);
        asked.request.file_name = (!name.is_empty()).then_some(name);
        asked.request.language = language;
        asked.request.context = context;
        asked.request.postprocessing = PostProcessing::Completion { without: Vec::new() };
        asked
    }
}

/// Returns what becomes of words that are asked for as such: the Markdown around code goes.
fn fences_only(before: String) -> PostProcessing {
    PostProcessing::Generation { before, without: Step::all_but(Step::CodeFences) }
}

/// A piece of another file as the body has it.
struct ContextMembers {
    r#type: Option<String>,
    name: Option<String>,
    content: Option<String>,
}

/// Checks a piece of another file whose members stand below `path`; one without text is none.
fn context_item(
    path: &str,
    members: ContextMembers,
    content_chars_max: usize,
) -> Result<Option<ContextItem>, ApiError> {
    let at = |member: &str| format!("{path}.{member}");
    let name = members.name.unwrap_or_default();
    let content = members.content.ok_or_else(|| required(&at("content")))?;
    check_chars(&at("type"), &members.r#type.unwrap_or_default(), CONTEXT_NAME_CHARS_MAX)?;
    check_chars(&at("name"), &name, CONTEXT_NAME_CHARS_MAX)?;
    check_chars(&at("content"), &content, content_chars_max)?;
    Ok((!content.is_empty()).then_some(ContextItem { name, content }))
}

/// Checks a prompt that GitLab wrote and makes a conversation of it.
fn messages(path: &str, prompt: WirePrompt) -> Result<Vec<ChatMessage>, ApiError> {
    let wire = match prompt {
        WirePrompt::Text(content) => {
            check_chars(path, &content, PROMPT_CHARS_MAX)?;
            return Ok(vec![ChatMessage { role: ChatRole::User, content }]);
        }
        WirePrompt::Messages(wire) => wire,
    };
    if !(1..=MESSAGES_MAX).contains(&wire.len()) {
        let rule = format!("must have 1 to {MESSAGES_MAX} messages, got {}", wire.len());
        return Err(ApiError::invalid(path, rule));
    }
    let message = |(index, Object(wire)): (usize, Object<WireMessage>)| {
        let path = format!("{path}[{index}]");
        let role = match wire.role.as_deref() {
            Some("system") => ChatRole::System,
            Some("user") => ChatRole::User,
            Some("assistant") => ChatRole::Assistant,
            Some(_) | None => {
                let rule = "must be system, user or assistant";
                return Err(ApiError::invalid(format!("{path}.role"), rule));
            }
        };
        let path = format!("{path}.content");
        let content = wire.content.ok_or_else(|| required(&path))?;
        check_chars(&path, &content, PROMPT_CHARS_MAX)?;
        Ok(ChatMessage { role, content })
    };
    wire.into_iter().enumerate().map(message).collect()
}

/// Checks how many choices are asked for, which generations need not heed.
fn check_count(count: Option<Integer>) -> Result<i128, ApiError> {
    let Integer(count) = count.unwrap_or(Integer(0));
    if count < 0 {
        return Err(ApiError::invalid("choices_count", format!("must be at least 0, got {count}")));
    }
    Ok(count)
}

fn required(field: &str) -> ApiError {
    ApiError::invalid(field, "is required")
}

fn check_chars(field: &str, text: &str, chars_max: usize) -> Result<(), ApiError> {
    // Characters are never more than bytes, so most texts need no counting.
    if text.len() <= chars_max {
        return Ok(());
    }
    let num_chars = text.chars().count();
    if num_chars <= chars_max {
        return Ok(());
    }
    Err(ApiError::invalid(
        field,
        format!("must be at most {chars_max} characters, got {num_chars}"),
    ))
}

/// Returns the wire's name of a field of the vocabulary.
pub(super) fn wire_name(field: &'static str) -> &'static str {
    match field {
        "input" => "current_file",
        // What breaks a rule of the prompt's tokens is the text before the gap, which alone must stay.
        "prefix" | "prompt" => "current_file.content_above_cursor",
        "suffix" => "current_file.content_below_cursor",
        "file_name" => "current_file.file_name",
        "language" => "current_file.language_identifier",
        "num_choices" => "choices_count",
        "model" => "model_name",
        other => other,
    }
}
