//! What routes look at, read from a request's body as it is: leniently, for what is explained need not be valid.

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::completion::{Language, Task};

/// Whose body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Told by its shape.
    Auto,
    /// GitLab's v2, v3 and v4.
    Gitlab,
    /// `OpenAI`'s completions and chats.
    OpenAi,
}

impl Dialect {
    pub(super) fn parse(word: &str) -> anyhow::Result<Self> {
        match word {
            "auto" => Ok(Self::Auto),
            "gitlab" => Ok(Self::Gitlab),
            "openai" => Ok(Self::OpenAi),
            _ => bail!("`--dialect` must be auto, gitlab or openai, got {word}"),
        }
    }
}

/// What routes look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Body {
    pub(super) task: Task,
    /// Names of the model asked for, the most exact first.
    pub(super) names: Vec<String>,
    pub(super) language: Option<Language>,
    pub(super) num_prompt_bytes: u64,
}

impl Body {
    /// Reads a body.
    pub(super) fn read(json: &Value, dialect: Dialect) -> anyhow::Result<Self> {
        let is_gitlab = || {
            ["current_file", "prompt_components"].iter().any(|member| json.get(member).is_some())
        };
        let has_prompt = || ["messages", "prompt"].iter().any(|member| json.get(member).is_some());
        match dialect {
            Dialect::Gitlab => Self::gitlab(json),
            Dialect::Auto if is_gitlab() => Self::gitlab(json),
            Dialect::OpenAi => Ok(Self::openai(json)),
            Dialect::Auto if has_prompt() => Ok(Self::openai(json)),
            Dialect::Auto => bail!(
                "the body must have `current_file`, `prompt_components`, `prompt` or `messages`"
            ),
        }
    }

    fn gitlab(json: &Value) -> anyhow::Result<Self> {
        let components = json.get("prompt_components").and_then(Value::as_array);
        let Some(components) = components else {
            let file = json.get("current_file").context("the body must have `current_file`")?;
            let mut body = Self::of_file(file);
            body.num_prompt_bytes += texts(json.get("context"));
            body.names = names_of(json);
            return Ok(body);
        };
        let is_context = |component: &&Value| text(component, "type") == Some("code_context");
        let editor = components.iter().find(|component| !is_context(component));
        let editor = editor.context("`prompt_components` must have one of a code editor")?;
        let payload = editor.get("payload").context("a component must have a `payload`")?;
        let mut body = Self::of_file(payload);
        let contexts = components.iter().filter(is_context);
        body.num_prompt_bytes +=
            contexts.map(|component| texts(component.get("payload"))).sum::<u64>();
        if text(editor, "type") == Some("code_editor_generation") {
            body.task = Task::Generation;
        }
        body.names = names_of(json);
        body.names.extend(text(payload, "model_name").map(ToOwned::to_owned));
        Ok(body)
    }

    fn of_file(file: &Value) -> Self {
        let above = text(file, "content_above_cursor").unwrap_or_default();
        let below = text(file, "content_below_cursor").unwrap_or_default();
        let name = text(file, "file_name").unwrap_or_default();
        let by_name = Language::detect(name, text(file, "language_identifier"));
        Self {
            language: by_name.or_else(|| Language::of_script(above)),
            num_prompt_bytes: (above.len() + below.len()) as u64,
            ..Self::default()
        }
    }

    fn openai(json: &Value) -> Self {
        let is_chat = json.get("messages").is_some();
        let suffix = text(json, "suffix").map_or(0, str::len) as u64;
        let prompt = if is_chat { json.get("messages") } else { json.get("prompt") };
        let has_suffix = text(json, "suffix").is_some();
        let prefix = text(json, "prompt").filter(|_| has_suffix);
        Self {
            task: if is_chat { Task::Generation } else { Task::Completion },
            names: text(json, "model").map(ToOwned::to_owned).into_iter().collect(),
            language: prefix.and_then(Language::of_script),
            num_prompt_bytes: texts(prompt) + suffix,
        }
    }
}

/// Returns the names of a model that a body of GitLab's has.
fn names_of(json: &Value) -> Vec<String> {
    let metadata = json.get("model_metadata");
    let found = [
        metadata.and_then(|it| text(it, "identifier")),
        metadata.and_then(|it| text(it, "name")),
        text(json, "model_identifier"),
        text(json, "model_name"),
    ];
    let whole = found.into_iter().flatten();
    // An identifier may have its provider before it.
    whole
        .flat_map(|name| [Some(name), name.split_once('/').map(|(_, rest)| rest)])
        .flatten()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn text<'a>(json: &'a Value, member: &str) -> Option<&'a str> {
    json.get(member)?.as_str()
}

/// Returns the bytes of the texts in a value: itself, or the members that hold texts of a prompt.
fn texts(json: Option<&Value>) -> u64 {
    match json {
        Some(Value::String(text)) => text.len() as u64,
        Some(Value::Array(items)) => items.iter().map(|item| texts(Some(item))).sum(),
        Some(Value::Object(members)) => {
            let held = ["content", "text"].iter().filter_map(|name| members.get(*name));
            held.map(|value| texts(Some(value))).sum()
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bodies_are_told_by_their_shape() {
        let file = json!({
            "file_name": "a.go", "content_above_cursor": "abc", "content_below_cursor": "de",
        });
        let rows = [
            (
                json!({"current_file": file, "model_name": "large", "context": [{"content": "xy"}]}),
                (Task::Completion, vec!["large"], Some("go"), 7),
            ),
            (
                json!({"current_file": file, "model_metadata": {"identifier": "custom_openai/small"}}),
                (Task::Completion, vec!["custom_openai/small", "small"], Some("go"), 5),
            ),
            (
                json!({"prompt_components": [
                    {"type": "code_context", "payload": [{"content": "1234"}]},
                    {"type": "code_editor_generation", "payload": file},
                ]}),
                (Task::Generation, vec![], Some("go"), 9),
            ),
            (
                json!({"prompt": "ab", "suffix": "c", "model": "small"}),
                (Task::Completion, vec!["small"], None, 3),
            ),
            (json!({"prompt": ["ab", "cd"]}), (Task::Completion, vec![], None, 4)),
            (
                json!({"messages": [
                    {"role": "user", "content": "abc"},
                    {"role": "user", "content": [{"type": "text", "text": "de"}]},
                ]}),
                (Task::Generation, vec![], None, 5),
            ),
        ];
        for (json, (task, names, language, num_bytes)) in rows {
            let body = Body::read(&json, Dialect::Auto).unwrap();
            assert_eq!(
                (body.task, body.names.as_slice()),
                (task, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..]),
                "{json}"
            );
            assert_eq!(body.language.map(Language::name), language, "{json}");
            assert_eq!(body.num_prompt_bytes, num_bytes, "{json}");
        }
        for json in [json!({}), json!([]), json!({"prompt_components": []})] {
            assert!(Body::read(&json, Dialect::Auto).is_err(), "{json}");
        }
        assert!(Body::read(&json!({"prompt": "a"}), Dialect::Gitlab).is_err());
        assert!(Dialect::parse("klingon").is_err());
    }
}
