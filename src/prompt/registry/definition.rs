//! A prompt's file: its members, and the rules that they keep before anybody is asked with it.

use std::{collections::BTreeSet, fmt};

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, syntax::SyntaxConfig};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::{
    completion::ChatRole,
    config::{is_scope, misspelt_scope},
    prompt::registry::{Place, PromptFileError, families, is_family},
};

/// Steps of a template; the busiest of ours takes some hundred, and some ten for each piece of another file.
const FUEL: u64 = 200_000;
/// Macros and loops in one another.
const DEPTH_MAX: usize = 32;
/// Most messages, stops, inputs and unit primitives of a prompt.
const ITEMS_MAX: usize = 64;
/// Most stop texts, as many as a server takes by default.
const STOPS_MAX: usize = 32;
/// Longest file of a prompt, in bytes.
pub const FILE_BYTES_MAX: usize = 256 << 10;
/// What every template may name: the flags in force, and the engine's own functions.
const KNOWN: &[&str] = &["dict", "flags", "namespace", "range"];

/// How tokens are chosen and how many; what is left out is the server's to choose.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// 0 is greedy.
    pub temperature: Option<f32>,
    /// Probability mass kept.
    pub top_p: Option<f32>,
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
}

/// A prompt, ready to be rendered.
pub struct Prompt {
    /// Where it stands.
    pub place: Place,
    /// What people call it.
    pub name: String,
    /// What a caller must have bought to use it, in GitLab's words.
    pub unit_primitives: Vec<String>,
    /// How it is answered.
    pub parameters: Parameters,
    /// Texts that end an answer.
    pub stops: Vec<String>,
    /// What must be given.
    pub inputs: Vec<String>,
    /// What may be given besides; nothing where it is not.
    pub optional: Vec<String>,
    pub(super) form: Form,
    /// Has the templates of the form, by number.
    pub(super) environment: Environment<'static>,
}

/// What its templates make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A conversation: whose turn each template is.
    Messages(Vec<ChatRole>),
    /// A plain text that goes on.
    Text,
    /// A gap: the text before it and the text after it.
    Fim,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    unit_primitives: Vec<String>,
    #[serde(default)]
    model: Option<Spanned<Parameters>>,
    #[serde(default)]
    stops: Vec<String>,
    #[serde(default)]
    inputs: Vec<String>,
    #[serde(default)]
    optional: Vec<String>,
    messages: Option<Vec<Message>>,
    text: Option<Spanned<String>>,
    fim: Option<Sides>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: Spanned<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sides {
    prefix: Spanned<String>,
    suffix: Spanned<String>,
}

impl From<Role> for ChatRole {
    fn from(role: Role) -> Self {
        match role {
            Role::System => Self::System,
            Role::User => Self::User,
            Role::Assistant => Self::Assistant,
        }
    }
}

impl Prompt {
    /// Reads the text of the file at `path` below the folder of prompts.
    ///
    /// # Errors
    /// What is wrong with the file, with its line.
    pub fn parse(path: &str, text: &str) -> Result<Self, PromptFileError> {
        let place = Place::parse(path)?;
        let refused = |line, reason| PromptFileError { path: path.to_owned(), line, reason };
        if !is_family(&place.family) {
            let families = families().collect::<Vec<_>>().join(", ");
            let reason = format!(
                "is of the family {}, with which no model is asked; there are {families}",
                place.family
            );
            return Err(refused(None, reason));
        }
        if text.len() > FILE_BYTES_MAX {
            let reason = format!("must be at most {FILE_BYTES_MAX} bytes, got {}", text.len());
            return Err(refused(None, reason));
        }
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            refused(line, in_plain_words(&error.without_snippet().to_string()))
        })?;
        check(&file).map_err(|(line, reason)| refused(line, reason))?;
        let (form, templates) = form(file.messages, file.text, file.fim)
            .ok_or_else(|| refused(None, "must have one of `messages`, `text` and `fim`".into()))?;
        let known: BTreeSet<&str> = KNOWN
            .iter()
            .copied()
            .chain(file.inputs.iter().chain(&file.optional).map(String::as_str))
            .collect();
        let mut environment = environment().map_err(|error| refused(None, told(&error)))?;
        for (number, template) in templates.into_iter().enumerate() {
            add(&mut environment, number, template, (text, &known))
                .map_err(|(line, reason)| refused(Some(line), reason))?;
        }
        Ok(Self {
            place,
            name: file.name,
            unit_primitives: file.unit_primitives,
            parameters: file.model.map(|model| model.value).unwrap_or_default(),
            stops: file.stops,
            inputs: file.inputs,
            optional: file.optional,
            form,
            environment,
        })
    }
}

/// The reader of YAML names kinds of values by its own words, and repeats the place.
fn in_plain_words(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(head, _)| head);
    message
        .replace("expected sequence start", "must be a list")
        .replace("expected mapping start", "must have members (`name: value`)")
        .replace("expected string scalar", "must be a text")
}

/// Checks what the types do not say.
fn check(file: &File) -> Result<(), (Option<u64>, String)> {
    let lists = [
        ("unit_primitives", &file.unit_primitives),
        ("stops", &file.stops),
        ("inputs", &file.inputs),
        ("optional", &file.optional),
    ];
    for (key, list) in lists {
        if list.len() > ITEMS_MAX || list.iter().any(String::is_empty) {
            return Err((None, format!("`{key}` must have at most {ITEMS_MAX} texts, none empty")));
        }
    }
    if file.stops.len() > STOPS_MAX {
        let rule = format!("`stops` must have at most {STOPS_MAX} texts, got {}", file.stops.len());
        return Err((None, rule));
    }
    for scope in &file.unit_primitives {
        if !is_scope(scope) {
            let rule = "`unit_primitives` must be words of small letters and `_`";
            return Err((None, format!("{rule}, got {scope:?}")));
        }
        if let Some(meant) = misspelt_scope(scope) {
            let rule = format!("`unit_primitives` has {scope}; the nearest is {meant}");
            return Err((None, rule));
        }
    }
    let messages = file.messages.as_ref().map_or(1, Vec::len);
    if !(1..=ITEMS_MAX).contains(&messages) {
        let rule = format!("`messages` must have 1 to {ITEMS_MAX} items, got {messages}");
        return Err((None, rule));
    }
    let Some(model) = &file.model else { return Ok(()) };
    let Parameters { temperature, top_p, max_tokens } = model.value;
    let line = Some(model.referenced.line());
    if temperature.is_some_and(|value| !(0.0..=2.0).contains(&value)) {
        return Err((line, "`temperature` must be from 0 to 2".to_owned()));
    }
    if top_p.is_some_and(|value| !(value > 0.0 && value <= 1.0)) {
        return Err((line, "`top_p` must be above 0 and at most 1".to_owned()));
    }
    if max_tokens == Some(0) {
        return Err((line, "`max_tokens` must be at least 1".to_owned()));
    }
    Ok(())
}

/// Returns what the templates make, and them; `None` where there are none or several forms.
fn form(
    messages: Option<Vec<Message>>,
    text: Option<Spanned<String>>,
    fim: Option<Sides>,
) -> Option<(Form, Vec<Spanned<String>>)> {
    match (messages, text, fim) {
        (Some(messages), None, None) => {
            let roles = messages.iter().map(|message| message.role.into()).collect();
            let contents = messages.into_iter().map(|message| message.content).collect();
            Some((Form::Messages(roles), contents))
        }
        (None, Some(text), None) => Some((Form::Text, vec![text])),
        (None, None, Some(Sides { prefix, suffix })) => Some((Form::Fim, vec![prefix, suffix])),
        _ => None,
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_fuel(Some(FUEL));
    // Code is no HTML, whatever the template is called.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    Ok(environment)
}

/// Compiles a template; what it names must be declared, for a name that is misspelt would say nothing for ever.
fn add(
    environment: &mut Environment<'static>,
    number: usize,
    template: Spanned<String>,
    (file, known): (&str, &BTreeSet<&str>),
) -> Result<(), (u64, String)> {
    let first_line = first_line(file, template.referenced.line());
    let name = number.to_string();
    environment.add_template_owned(name.clone(), template.value).map_err(|error| {
        let line = error.line().map_or(0, |line| line.saturating_sub(1) as u64);
        (first_line + line, told(&error))
    })?;
    let names = environment
        .get_template(&name)
        .map_err(|error| (first_line, told(&error)))?
        .undeclared_variables(false);
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    match names.difference(known).next() {
        Some(name) => {
            Err((first_line, format!("`{name}` must be listed in `inputs` or in `optional`")))
        }
        None => Ok(()),
    }
}

/// Returns where a template's first line is: the text of a block (`|`) begins on the line below its sign.
fn first_line(file: &str, line: u64) -> u64 {
    let at = file.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default();
    let is_block = at.trim_end().rsplit([' ', ':']).next().is_some_and(|end| {
        end.starts_with(['|', '>']) && end[1..].chars().all(|c| "+-123456789".contains(c))
    });
    line + u64::from(is_block)
}

fn told(error: &Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned)
}
