//! What a model's files say of conversations: its chat template, and the control tokens that the template may name.
//!
//! The template is handed on as it stands. It is data from strangers, so that whoever runs it has to bound it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{
    error::{ConfigError, ModelError},
    gguf::{Gguf, GgufValue},
    source::read_if_there,
};

/// The longest published template has some 30 kB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// A file of its own, which newer repositories have; comes before what the others say.
const JINJA_FILE: &str = "chat_template.jinja";
/// The same as JSON, which processors of images wrote.
const JSON_FILE: &str = "chat_template.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Where older repositories name their control tokens.
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
const FIELD: &str = "chat_template";
const GGUF_KEY: &str = "tokenizer.chat_template";
/// Of several templates the one for conversations without tools.
const DEFAULT_NAME: &str = "default";
/// Control tokens that templates name.
const TOKENS: &[&str] = &["bos_token", "eos_token", "unk_token", "pad_token", "sep_token"];

/// A chat template and its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatDefinition {
    /// The Jinja source.
    pub template: String,
    /// Names such as `bos_token`, each with the token's spelling; what the files do not name is not there.
    pub tokens: Vec<(&'static str, String)>,
}

/// Reads what a folder says; `None` where it has no template.
pub(crate) fn from_directory(directory: &Path) -> Result<Option<ChatDefinition>, ModelError> {
    let config = object(directory, TOKENIZER_CONFIG_FILE)?;
    let Some(template) = template(directory, &config)? else { return Ok(None) };
    check_len(JINJA_FILE, template.len())?;
    let map = object(directory, SPECIAL_TOKENS_FILE)?;
    let spelling = |name: &str| {
        let said = config.get(name).or_else(|| map.get(name))?;
        // A token is its text, or an object that has it.
        said.as_str().or_else(|| said["content"].as_str()).map(ToOwned::to_owned)
    };
    let tokens = TOKENS.iter().filter_map(|name| Some((*name, spelling(name)?))).collect();
    Ok(Some(ChatDefinition { template, tokens }))
}

/// Reads what the header of a GGUF file says; `None` where it has no template.
pub(crate) fn from_gguf(gguf: &Gguf<'_>) -> Result<Option<ChatDefinition>, ModelError> {
    let metadata = gguf.metadata();
    let text = |value: &GgufValue<'_>| match value {
        GgufValue::Text(bytes) => std::str::from_utf8(bytes).ok().map(ToOwned::to_owned),
        _ => None,
    };
    let Some(template) = metadata.get(GGUF_KEY) else { return Ok(None) };
    let template = text(template).ok_or_else(|| invalid(GGUF_KEY, "a text in UTF-8", "another"))?;
    check_len(GGUF_KEY, template.len())?;
    let spelling = |name: &str| {
        // `bos_token` is named by `bos_token_id`, but `unk_token` by `unknown_token_id`.
        let name = name.replace("unk_", "unknown_").replace("pad_", "padding_");
        let id = match metadata.get(format!("tokenizer.ggml.{name}_id").as_str())? {
            GgufValue::Unsigned(id) => usize::try_from(*id).ok()?,
            _ => return None,
        };
        let GgufValue::Array(tokens) = metadata.get("tokenizer.ggml.tokens")? else { return None };
        text(&tokens.values().nth(id)??)
    };
    let tokens = TOKENS.iter().filter_map(|name| Some((*name, spelling(name)?))).collect();
    Ok(Some(ChatDefinition { template, tokens }))
}

fn check_len(place: &str, num_bytes: usize) -> Result<(), ConfigError> {
    if num_bytes <= TEMPLATE_BYTES_MAX {
        return Ok(());
    }
    Err(invalid(place, format!("at most {TEMPLATE_BYTES_MAX} bytes"), num_bytes))
}

fn template(directory: &Path, config: &Map<String, Value>) -> Result<Option<String>, ModelError> {
    if let Some(bytes) = read_if_there(&directory.join(JINJA_FILE))? {
        let text = String::from_utf8(bytes);
        return match text {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(invalid(JINJA_FILE, "in UTF-8", error.utf8_error()).into()),
        };
    }
    let own = object(directory, JSON_FILE)?;
    let said = own.get(FIELD).or_else(|| config.get(FIELD));
    Ok(said.and_then(of_default).map(ToOwned::to_owned))
}

/// Returns the template of a member that is one, or a list of named ones.
fn of_default(said: &Value) -> Option<&str> {
    let named = |entry: &&Value| entry["name"] == DEFAULT_NAME;
    said.as_str().or_else(|| said.as_array()?.iter().find(named)?["template"].as_str())
}

/// Returns the members of a file; none where there is no such file.
fn object(directory: &Path, name: &str) -> Result<Map<String, Value>, ModelError> {
    let Some(bytes) = read_if_there(&directory.join(name))? else { return Ok(Map::new()) };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid(name, "an object", "another value").into()),
        Err(error) => Err(invalid(name, "JSON", error).into()),
    }
}

fn invalid(file: &str, rule: impl Into<String>, value: impl std::fmt::Display) -> ConfigError {
    ConfigError::Invalid {
        file: file.to_owned(),
        field: FIELD.to_owned(),
        rule: rule.into(),
        value: value.to_string(),
    }
}
