//! Between the gateway's JSON and the vocabulary.

use crate::api::{
    check_items,
    error::ApiError,
    finish_reason_name,
    gitlab::wire::{
        WireChoice, WireContext, WireFile, WireMetadata, WireModel, WireRequest, WireResponse,
        WireTokens,
    },
    json::{Integer, Object},
};
use crate::completion::{
    Choice, Completion, CompletionRequest, ContextItem, FinishReason, Input, Language,
    PostProcessing, SamplingParams,
};
use crate::provider::ModelInfo;

// The original's limits, in characters and items.
const NAME_CHARS_MAX: usize = 255;
const MODEL_NAME_CHARS_MAX: usize = 50;
const CONTENT_CHARS_MAX: usize = 100_000;
const CONTEXT_NAME_CHARS_MAX: usize = 1024;
const CONTEXT_CONTENT_CHARS_MAX: usize = 500_000;
const CONTEXT_ITEMS_MAX: usize = 100;
const TELEMETRY_ITEMS_MAX: usize = 10;

/// The likeliest text is the same every time, so several choices are sampled: warm enough to differ, cool enough to
/// stay code.
const ALTERNATIVES_TEMPERATURE: f32 = 0.6;
/// Cuts the tail that would break code at that temperature.
const ALTERNATIVES_TOP_P: f32 = 0.95;

/// What a body asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: CompletionRequest,
    pub(super) is_streaming: bool,
}

/// Checks a body and translates it; more choices than `num_choices_limit` count as that many.
pub(super) fn asked(wire: WireRequest, num_choices_limit: u32) -> Result<Asked, ApiError> {
    check_version(wire.prompt_version)?;
    check_unused(&wire)?;
    let file = wire.current_file.ok_or_else(|| required("current_file"))?.0;
    let File { name, language, prefix, suffix } = check_file(file)?;
    let is_streaming = wire.stream.unwrap_or(false);
    let wanted = num_choices(wire.choices_count, num_choices_limit)?;
    // A stream of bare text has no place for a second choice.
    let num_choices = if is_streaming { 1 } else { wanted };
    let mut sampling = SamplingParams::greedy();
    if num_choices > 1 {
        sampling.temperature = ALTERNATIVES_TEMPERATURE;
        sampling.top_p = ALTERNATIVES_TOP_P;
    }
    let request = CompletionRequest {
        input: Input::Fim { prefix, suffix },
        file_name: (!name.is_empty()).then_some(name),
        repository: None,
        language,
        context: context(wire.context.unwrap_or_default())?,
        sampling,
        max_tokens: None,
        stop: None,
        stop_token_ids: Vec::new(),
        ignores_eos: false,
        num_choices,
        logprobs: None,
        deadline: None,
        postprocessing: PostProcessing::Completion { without: Vec::new() },
        // It was chosen by its names already, see `model_names`.
        model: None,
    };
    Ok(Asked { request, is_streaming })
}

/// Returns what a body calls its model, the most exact first: a self-hosted model's identifier, which may have its provider
/// before it (`custom_openai/NAME`), then the kind of model that GitLab knows it as.
pub(super) fn model_names(wire: &WireRequest) -> impl Iterator<Item = &str> {
    let identifier = wire.model_identifier.as_deref().map(str::trim);
    let behind_provider = identifier.and_then(|name| Some(name.split_once('/')?.1));
    let name = wire.model_name.as_deref().map(str::trim);
    [identifier, behind_provider, name].into_iter().flatten()
}

/// Versions 1 and 2 carry a file; 3 carries chat messages made for another model.
fn check_version(version: Option<Integer>) -> Result<(), ApiError> {
    match version.map_or(1, |Integer(version)| version) {
        1 | 2 => Ok(()),
        3 => Err(ApiError::invalid(
            "prompt_version",
            "must be 1 or 2: version 3 carries chat messages, which are not supported",
        )),
        version => {
            Err(ApiError::invalid("prompt_version", format!("must be 1 or 2, got {version}")))
        }
    }
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
    check_items("telemetry", wire.telemetry.as_ref().map_or(0, Vec::len), TELEMETRY_ITEMS_MAX)
}

struct File {
    name: String,
    language: Option<Language>,
    prefix: String,
    suffix: String,
}

fn check_file(file: WireFile) -> Result<File, ApiError> {
    let name = file.file_name.ok_or_else(|| required("current_file.file_name"))?;
    let name = name.trim();
    check_chars("current_file.file_name", name, NAME_CHARS_MAX)?;
    let editor_id = file.language_identifier.as_deref();
    check_chars("current_file.language_identifier", editor_id.unwrap_or_default(), NAME_CHARS_MAX)?;
    let content = |field: &str, text: Option<String>| {
        let text = text.ok_or_else(|| required(field))?;
        check_chars(field, &text, CONTENT_CHARS_MAX)?;
        Ok(text)
    };
    Ok(File {
        name: name.to_owned(),
        language: Language::detect(name, editor_id),
        prefix: content("current_file.content_above_cursor", file.content_above_cursor)?,
        suffix: content("current_file.content_below_cursor", file.content_below_cursor)?,
    })
}

fn num_choices(count: Option<Integer>, limit: u32) -> Result<u32, ApiError> {
    let Integer(count) = count.unwrap_or(Integer(0));
    if count < 0 {
        return Err(ApiError::invalid("choices_count", format!("must be at least 0, got {count}")));
    }
    Ok(u32::try_from(count).unwrap_or(u32::MAX).clamp(1, limit.max(1)))
}

fn context(items: Vec<Object<WireContext>>) -> Result<Vec<ContextItem>, ApiError> {
    check_items("context", items.len(), CONTEXT_ITEMS_MAX)?;
    let mut context = Vec::with_capacity(items.len());
    for (index, Object(item)) in items.into_iter().enumerate() {
        let at = |member: &str| format!("context[{index}].{member}");
        let name = item.name.unwrap_or_default();
        let content = item.content.ok_or_else(|| required(&at("content")))?;
        let r#type = item.r#type.unwrap_or_default();
        check_chars(&at("type"), &r#type, CONTEXT_NAME_CHARS_MAX)?;
        check_chars(&at("name"), &name, CONTEXT_NAME_CHARS_MAX)?;
        check_chars(&at("content"), &content, CONTEXT_CONTENT_CHARS_MAX)?;
        if !content.is_empty() {
            context.push(ContextItem { name, content });
        }
    }
    Ok(context)
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

/// Translates a completion. Choices that say nothing, or what an earlier one says, are left out.
pub(super) fn response(
    completion: Completion,
    model: &ModelInfo,
    language: Option<Language>,
    created: u64,
) -> WireResponse<'_> {
    let usage = completion.usage;
    let was_cut = completion.choices.iter().any(|c| c.finish_reason == FinishReason::Length);
    let mut choices: Vec<WireChoice> = Vec::with_capacity(completion.choices.len());
    for Choice { text, finish_reason, .. } in completion.choices {
        if text.is_empty() || choices.iter().any(|earlier| earlier.text == text) {
            continue;
        }
        let index = choices.len() as u32;
        // The original says `length` always; no client reads it, so the truth is told.
        choices.push(WireChoice { text, index, finish_reason: finish_reason_name(finish_reason) });
    }
    let tokens = (!choices.is_empty()).then_some(WireTokens {
        input_tokens: usage.num_prompt_tokens,
        output_tokens: usage.num_completion_tokens,
        max_output_tokens_used: was_cut,
        context_tokens_sent: usage.num_context_tokens_sent,
        context_tokens_used: usage.num_context_tokens_used,
    });
    WireResponse {
        id: "id",
        model: WireModel {
            engine: &model.engine,
            name: &model.name,
            lang: language.map_or("", Language::name),
            tokens_consumption_metadata: tokens,
            region: None,
        },
        experiments: [],
        object: "text_completion",
        created,
        choices,
        metadata: WireMetadata { enabled_feature_flags: [] },
    }
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
