//! Whole code for the cursor's place: which prompt, what it is given, and how it is answered.
//!
//! A model with a chat template is asked in words, by the prompt of its family. One that only fills gaps is asked to fill
//! the gap under a comment that says what is wanted, which is how such models saw tasks when they were trained.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::{
    error::{ApiError, ApiErrorKind},
    gitlab::{
        convert::{Asked, Asking, CONTEXT_ITEMS_MAX, File, fences_only},
        error::GitlabError,
        intent,
    },
};
use crate::completion::{ChatMessage, Input, Language, PostProcessing, Task};
use crate::prompt::context::{commented as commented_line, comments_of};
use crate::prompt::registry::{
    FAMILY_BASE, FAMILY_FIM, Inputs, Prompt, Rendered, VERSION_DEFAULT, VersionRange, family_of,
};

/// The prompt that is taken where a request names none.
const TASK: &str = "code_suggestions/generations";

/// Characters of code a token, low enough that a prompt of so many fits a context: code has three to four.
const CHARS_PER_TOKEN: usize = 2;
/// Most lines of an instruction that become comments, and the deepest indentation that they take over.
const INSTRUCTION_LINES_MAX: usize = 64;
const INDENT_CHARS_MAX: usize = 100;
/// Parts of the context that the texts before and behind the cursor may take, of eight.
const PREFIX_EIGHTHS: usize = 4;
const SUFFIX_EIGHTHS: usize = 1;
/// Parts that what else is known of the project may take.
const PROJECT_EIGHTHS: usize = 1;
/// Most items of each kind: as many as there may be files of context.
const PROJECT_ITEMS_MAX: usize = CONTEXT_ITEMS_MAX;
/// Most tokens of an answer where nobody says: a function with its tests, and room for a model to begin with words.
const ANSWER_TOKENS: u32 = 1024;
/// The part of the context that an answer may take.
const ANSWER_QUARTERS: u32 = 1;

/// Whole code that is asked for.
pub(in crate::api::gitlab) struct Generation {
    pub(in crate::api::gitlab) file: File,
    /// A conversation that GitLab wrote itself.
    pub(in crate::api::gitlab) messages: Option<Vec<ChatMessage>>,
    pub(in crate::api::gitlab) prompt_id: Option<String>,
    pub(in crate::api::gitlab) prompt_version: Option<String>,
    /// What GitLab knows beside the file.
    pub(in crate::api::gitlab) enhancer: Map<String, Value>,
    pub(in crate::api::gitlab) is_streaming: bool,
}

impl Generation {
    /// Translates it.
    pub(in crate::api::gitlab) fn asked(
        mut self,
        asking: &Asking<'_>,
    ) -> Result<Asked, GitlabError> {
        let is_streaming = self.is_streaming;
        let name = self.file.name.clone();
        let language = self.file.language;
        let before = self.file.prefix.clone();
        let own = self.messages.take().filter(|_| self.prompt_id.is_none());
        let mut asked = match own {
            // Words of GitLab's own are for models that know words.
            Some(messages) if asking.model.has_chat => {
                let mut asked = Asked::plain(Input::Chat(messages), is_streaming);
                asked.request.max_tokens = Some(answer_tokens(None, asking));
                asked
            }
            _ => {
                let prompt = self.prompt(asking)?;
                let rendered = prompt.render(self.inputs(asking), asking.flags)?;
                of_prompt(rendered, &prompt, asking, is_streaming)
            }
        };
        asked.request.file_name = (!name.is_empty()).then_some(name);
        asked.request.language = language;
        asked.request.asker.task = Task::Generation;
        asked.request.postprocessing = PostProcessing::Generation { before, without: Vec::new() };
        Ok(asked)
    }

    fn prompt(&self, asking: &Asking<'_>) -> Result<Arc<Prompt>, GitlabError> {
        let task = self.prompt_id.as_deref().unwrap_or(TASK);
        find(task, self.prompt_version.as_deref(), asking)
    }

    fn inputs(self, asking: &Asking<'_>) -> Inputs {
        let Self { file, enhancer, .. } = self;
        let File { name, language, prefix, suffix } = file;
        let text = |key: &str| {
            let text = enhancer.get(key).and_then(Value::as_str);
            text.filter(|text| !text.trim().is_empty()).map(ToOwned::to_owned)
        };
        let eighth = asking.model.max_context_tokens as usize * CHARS_PER_TOKEN / 8;
        let said = text("user_instruction").map(|said| head(&said, eighth).to_owned());
        let comment = intent::comment_above(&prefix, language);
        // What a comment says stands in the file already.
        let instruction_comment =
            said.as_ref().map(|said| commented(said, &prefix, language)).unwrap_or_default();
        let prefix = text("trimmed_content_above_cursor").unwrap_or(prefix);
        let suffix = text("trimmed_content_below_cursor").unwrap_or(suffix);
        let mut room = eighth * PROJECT_EIGHTHS;
        let mut some = |key: &str| fitting(enhancer.get(key), &mut room);
        let inputs = json!({
            "prefix": tail(&prefix, eighth * PREFIX_EIGHTHS),
            "suffix": head(&suffix, eighth * SUFFIX_EIGHTHS),
            "file_name": name,
            "language": language.map(Language::name),
            "instruction": said.or(comment),
            "instruction_comment": instruction_comment,
            "libraries": some("libraries"),
            "related_snippets": some("related_snippets"),
            "related_files": some("related_files"),
            "examples": some("examples_array"),
        });
        match inputs {
            Value::Object(inputs) => Inputs(inputs),
            _ => Inputs::default(),
        }
    }
}

/// Returns the prompt of a task for the model that is asked.
pub(in crate::api::gitlab) fn find(
    task: &str,
    version: Option<&str>,
    asking: &Asking<'_>,
) -> Result<Arc<Prompt>, GitlabError> {
    let own = family_of(&asking.model.name);
    let families = if asking.model.has_chat || !asking.model.has_fim {
        [own.unwrap_or(FAMILY_BASE), FAMILY_BASE]
    } else {
        [FAMILY_FIM; 2]
    };
    let version = version.filter(|text| !text.trim().is_empty()).unwrap_or(VERSION_DEFAULT);
    let others = || GitlabError::NoPrompt(asking.prompts.places(task, &families));
    let range = VersionRange::parse(version).ok_or_else(others)?;
    let found = asking.prompts.find(task, &families, &range);
    let may = |scope: &String| asking.caller.is_some_and(|caller| caller.may(scope));
    match found {
        Some(prompt) if prompt.unit_primitives.is_empty() => Ok(Arc::clone(prompt)),
        Some(prompt) if prompt.unit_primitives.iter().any(may) => Ok(Arc::clone(prompt)),
        Some(_) => {
            let refusal = "Unauthorized to access this prompt";
            Err(ApiError::new(ApiErrorKind::Unauthorised, refusal).into())
        }
        None if families == [FAMILY_FIM; 2]
            && asking.prompts.has_task(task)
            && !asking.prompts.has_family(task, FAMILY_FIM) =>
        {
            let rule = "has prompts for models with a chat template only, which this one lacks; a prompt of the family `fim` would do";
            Err(ApiError::invalid("prompt_id", rule).into())
        }
        None => Err(others()),
    }
}

/// Asks with a rendered prompt, within the server's limits.
pub(in crate::api::gitlab) fn of_prompt(
    rendered: Rendered,
    prompt: &Prompt,
    asking: &Asking<'_>,
    is_streaming: bool,
) -> Asked {
    let Rendered { place, input, parameters, stops } = rendered;
    let is_chat = matches!(input, Input::Chat(_));
    let mut asked = Asked::plain(input, is_streaming);
    asked.request.sampling.temperature = parameters.temperature.unwrap_or(0.0);
    asked.request.sampling.top_p = parameters.top_p.unwrap_or(1.0);
    asked.request.max_tokens = Some(answer_tokens(parameters.max_tokens, asking));
    asked.request.asker.task = Task::Generation;
    asked.request.stop = (!stops.is_empty()).then_some(stops);
    asked.prompt = Some((place, prompt.name.clone()));
    if is_chat {
        asked.request.postprocessing = fences_only(String::new());
    }
    asked
}

/// Returns the most tokens of an answer: what the prompt says, as far as the server and the context let.
fn answer_tokens(wanted: Option<u32>, asking: &Asking<'_>) -> u32 {
    let limits = asking.limits;
    let share = (asking.model.max_context_tokens / 4 * ANSWER_QUARTERS).max(1);
    wanted.unwrap_or(ANSWER_TOKENS).min(limits.max_tokens_limit).min(share)
}

/// Returns an instruction as comments where the cursor is, so that what follows it carries it out.
fn commented(said: &str, prefix: &str, language: Option<Language>) -> String {
    let comments = comments_of(language);
    let line = prefix.rsplit('\n').next().unwrap_or_default();
    let space = line.chars().take_while(|c| c.is_whitespace());
    // Each line repeats it.
    let indent: String = space.take(INDENT_CHARS_MAX).collect();
    let mut text = if line.trim().is_empty() { String::new() } else { format!("\n{indent}") };
    for line in said.trim().lines().take(INSTRUCTION_LINES_MAX) {
        text.push_str(&commented_line(line.trim(), comments));
        text.push('\n');
        text.push_str(&indent);
    }
    text
}

/// Returns the end of a text, from a line's start on where one is near.
fn tail(text: &str, chars_max: usize) -> &str {
    let cut = text.char_indices().rev().nth(chars_max.saturating_sub(1));
    let Some((start, _)) = cut.filter(|(start, _)| *start > 0) else { return text };
    let (before, rest) = text.split_at(start);
    if before.ends_with('\n') {
        return rest;
    }
    rest.find('\n').map_or(rest, |end| &rest[end + 1..])
}

/// Returns the beginning of a text, up to a line's end where there is one.
fn head(text: &str, chars_max: usize) -> &str {
    let Some((end, _)) = text.char_indices().nth(chars_max) else { return text };
    let rest = &text[..end];
    rest.rfind('\n').map_or(rest, |end| &rest[..=end])
}

/// Returns the first items of a list that find room; what is no list says nothing.
fn fitting(list: Option<&Value>, room: &mut usize) -> Vec<Value> {
    let mut fitting = Vec::new();
    let items = list.and_then(Value::as_array).into_iter().flatten();
    for item in items.take(PROJECT_ITEMS_MAX) {
        let num_chars = item.as_str().map_or_else(|| item.to_string().len(), str::len);
        let Some(left) = room.checked_sub(num_chars) else { break };
        *room = left;
        fitting.push(item.clone());
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_becomes_comments_at_the_cursor() {
        let rows = [
            ("a.py", "x = 1\n", "# sort\n"),
            ("a.py", "def a():\n    ", "# sort\n    "),
            ("a.rs", "    let a = 1;", "\n    // sort\n    "),
            ("notes", "", "# sort\n"),
        ];
        for (file, prefix, expected) in rows {
            let language = Language::detect(file, None);
            assert_eq!(commented(" sort \n", prefix, language), expected, "{prefix}");
        }
        assert_eq!(commented("a\nb", "  ", None), "# a\n  # b\n  ");
        let hostile = commented(&"a\n".repeat(100_000), &" ".repeat(100_000), None);
        assert!(hostile.len() < 10_000, "{} bytes", hostile.len());
    }

    #[test]
    fn texts_are_cut_away_from_the_cursor_between_lines() {
        let rows = [("ab\ncd\nef", 100, "ab\ncd\nef"), ("ab\ncd\nef", 8, "ab\ncd\nef")];
        for (text, chars_max, expected) in rows {
            assert_eq!((tail(text, chars_max), head(text, chars_max)), (expected, expected));
        }
        assert_eq!(tail("ab\ncd\nef", 4), "ef");
        assert_eq!(tail("ab\ncd\nef", 5), "cd\nef");
        assert_eq!(tail("ab\ncd\nef", 7), "cd\nef");
        assert_eq!(head("ab\ncd\nef", 4), "ab\n");
        assert_eq!((tail("äöü", 2), head("äöü", 2)), ("öü", "äö"));
    }

    #[test]
    fn what_else_is_known_is_taken_as_far_as_there_is_room() {
        let mut room = 5;
        let list = json!(["abc", "de", "f"]);
        assert_eq!(fitting(Some(&list), &mut room), [json!("abc"), json!("de")]);
        assert_eq!(room, 0);
        // What takes no room is an item all the same.
        let list = json!(vec![""; 1000]);
        assert_eq!(fitting(Some(&list), &mut 5).len(), PROJECT_ITEMS_MAX);
        assert!(
            fitting(None, &mut room).is_empty() && fitting(Some(&json!("a")), &mut 9).is_empty()
        );
    }
}
