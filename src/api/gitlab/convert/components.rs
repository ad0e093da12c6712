//! Bodies of the v3 and v4 endpoints: the first component says what is asked, others are pieces of other files.

use crate::api::{
    check_items,
    error::ApiError,
    gitlab::{
        convert::{
            Asked, Asking, CONTENT_CHARS_MAX, CONTEXT_ITEMS_MAX, ContextMembers, File, FileMembers,
            NAME_CHARS_MAX, check_chars, check_count, context_item, generation::Generation,
            messages, required,
        },
        error::GitlabError,
        intent,
        wire::components::{WireComponent, WireComponents, WirePayload},
    },
    json::Object,
};
use crate::completion::ContextItem;

const COMPLETION: &str = "code_editor_completion";
const GENERATION: &str = "code_editor_generation";
const CONTEXT: &str = "code_context";

/// The components of a body, taken apart.
pub(in crate::api::gitlab) struct Components {
    file: File,
    payload: WirePayload,
    /// Whether whole code is wanted.
    is_generation: bool,
    context: Vec<ContextItem>,
}

impl Components {
    /// Checks the components of a body.
    pub(in crate::api::gitlab) fn check(wire: WireComponents) -> Result<Self, ApiError> {
        let WireComponents { prompt_components, intent, .. } = wire;
        let components = prompt_components.ok_or_else(|| required("prompt_components"))?;
        if components.is_empty() {
            return Err(ApiError::invalid("prompt_components", "must not be an empty list"));
        }
        check_items("prompt_components", components.len(), CONTEXT_ITEMS_MAX)?;
        let mut first = None;
        let mut context = Vec::new();
        for (index, Object(component)) in components.into_iter().enumerate() {
            let path = format!("prompt_components[{index}]");
            let (kind, payload) = component_of(&path, component)?;
            if index == 0 {
                if kind == CONTEXT {
                    let rule = format!(
                        "must be {COMPLETION} or {GENERATION}: the first component says what is asked"
                    );
                    return Err(ApiError::invalid(format!("{path}.type"), rule));
                }
                first = Some((kind, payload));
            } else if kind == CONTEXT {
                let WirePayload { r#type, name, content, .. } = payload;
                let members = ContextMembers { r#type, name, content };
                let path = format!("{path}.payload");
                context.extend(context_item(&path, members, CONTENT_CHARS_MAX)?);
            }
        }
        let (kind, mut payload) = first.ok_or_else(|| required("prompt_components"))?;
        let path = "prompt_components[0].payload";
        let members = FileMembers {
            name: payload.file_name.take(),
            language_identifier: payload.language_identifier.take(),
            above: payload.content_above_cursor.take(),
            below: payload.content_below_cursor.take(),
        };
        let file = File::check(path, members)?;
        let said = payload.intent.take().or(intent);
        let is_generation = kind == GENERATION || wants_generation(said.as_deref(), &file)?;
        Ok(Self { file, payload, is_generation, context })
    }

    /// Returns what the first component calls its model.
    pub(in crate::api::gitlab) fn model_name(&self) -> Option<&str> {
        self.payload.model_name.as_deref()
    }

    /// Returns whether whole code is wanted.
    pub(in crate::api::gitlab) fn is_generation(&self) -> bool {
        self.is_generation
    }

    /// Translates the components.
    pub(in crate::api::gitlab) fn asked(self, asking: &Asking<'_>) -> Result<Asked, GitlabError> {
        let Self { file, payload, is_generation, context } = self;
        let is_streaming = payload.stream.unwrap_or(false);
        check_count(payload.choices_count)?;
        if !is_generation {
            // Older language servers send what does not help.
            let context = if asking.context.has_code_context() { context } else { Vec::new() };
            let asked = file.gap(context, is_streaming);
            let limit = asking.limits.num_choices_limit;
            return Ok(asked.with_choices(payload.choices_count, limit)?);
        }
        let path = "prompt_components[0].payload.prompt";
        let messages = payload.prompt.map(|prompt| messages(path, prompt)).transpose()?;
        let generation = Generation {
            file,
            messages,
            prompt_id: payload.prompt_id,
            prompt_version: payload.prompt_version,
            enhancer: payload.prompt_enhancer.unwrap_or_default(),
            is_streaming,
        };
        generation.asked(asking)
    }
}

fn component_of(
    path: &str,
    component: WireComponent,
) -> Result<(&'static str, WirePayload), ApiError> {
    let at = |member: &str| format!("{path}.{member}");
    let kind = component.r#type.ok_or_else(|| required(&at("type")))?;
    let kind = [COMPLETION, GENERATION, CONTEXT].into_iter().find(|known| *known == kind);
    let Some(kind) = kind else {
        let rule = format!("must be {COMPLETION}, {GENERATION} or {CONTEXT}");
        return Err(ApiError::invalid(at("type"), rule));
    };
    if let Some(Object(source)) = component.metadata {
        for (member, text) in [("source", source.source), ("version", source.version)] {
            let path = at(&format!("metadata.{member}"));
            check_chars(&path, text.as_deref().unwrap_or_default(), NAME_CHARS_MAX)?;
        }
    }
    let Object(payload) = component.payload.ok_or_else(|| required(&at("payload")))?;
    for (member, text) in
        [("model_provider", &payload.model_provider), ("model_name", &payload.model_name)]
    {
        let path = at(&format!("payload.{member}"));
        check_chars(&path, text.as_deref().unwrap_or_default(), NAME_CHARS_MAX)?;
    }
    Ok((kind, payload))
}

/// Returns the wire's name of a field of the vocabulary.
pub(in crate::api::gitlab) fn wire_name(field: &'static str) -> &'static str {
    match field {
        "input" => "prompt_components[0].payload",
        "prefix" | "prompt" | "messages" => "prompt_components[0].payload.content_above_cursor",
        "suffix" => "prompt_components[0].payload.content_below_cursor",
        "file_name" => "prompt_components[0].payload.file_name",
        "language" => "prompt_components[0].payload.language_identifier",
        "num_choices" => "prompt_components[0].payload.choices_count",
        other => other,
    }
}

/// A completion stays one, unless the client says otherwise, or leaves it to what stands at the cursor.
fn wants_generation(intent: Option<&str>, file: &File) -> Result<bool, ApiError> {
    match intent {
        None | Some("" | "completion") => Ok(false),
        Some("generation") => Ok(true),
        Some("auto") => Ok(intent::trigger(&file.prefix, &file.suffix, file.language).is_some()),
        Some(_) => Err(ApiError::invalid("intent", "must be completion, generation or auto")),
    }
}
