//! From a prompt and what it is given to what is to be completed.

use minijinja::{Error, ErrorKind, value::Value};
use serde_json::{Map, Value as Json};

use crate::{
    completion::{ChatMessage, Input},
    prompt::{
        chat::bounded::Bounded,
        registry::{
            Place,
            definition::{Form, Parameters, Prompt},
        },
    },
};

/// What a prompt may write beside what it is given.
const OUTPUT_BYTES_BASE: usize = 256 << 10;
/// How often it may repeat what it is given.
const REPEATS_MAX: usize = 4;

/// What a prompt is given, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(pub Map<String, Json>);

/// What a prompt became.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Which prompt it was.
    pub place: Place,
    /// What is to be completed.
    pub input: Input,
    /// How it is answered.
    pub parameters: Parameters,
    /// Texts that end the answer.
    pub stops: Vec<String>,
}

/// Why a prompt cannot be rendered. No variant holds what it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// Something must be given.
    #[error("the prompt {place} needs `{input}`")]
    Missing {
        /// Which prompt.
        place: Place,
        /// What is missing.
        input: String,
    },
    /// The template does not get along with what it was given.
    #[error("the prompt {place} fails in line {line} of a template: {reason}")]
    Failed {
        /// Which prompt.
        place: Place,
        /// Where in the template, from 1.
        line: usize,
        /// The kind of it.
        reason: String,
    },
    /// The template goes on and on.
    #[error("the prompt {place} takes too long or writes too much")]
    TooMuch {
        /// Which prompt.
        place: Place,
    },
}

impl Prompt {
    /// Writes the prompt; `flags` are those in force.
    ///
    /// # Errors
    /// [`RenderError`].
    pub fn render(&self, inputs: Inputs, flags: &[String]) -> Result<Rendered, RenderError> {
        let Inputs(inputs) = inputs;
        let is_given = |name: &String| inputs.get(name).is_some_and(|value| !value.is_null());
        if let Some(missing) = self.inputs.iter().find(|name| !is_given(name)) {
            let (place, input) = (self.place.clone(), missing.clone());
            return Err(RenderError::Missing { place, input });
        }
        let num_bytes: usize = inputs.values().map(num_bytes).sum();
        let bytes_max = OUTPUT_BYTES_BASE + REPEATS_MAX * num_bytes;
        let optional = self.optional.iter().filter(|name| !is_given(name)).cloned();
        // What may be left out is there all the same: it says nothing, and is not unknown.
        let mut values: Vec<(String, Value)> =
            optional.map(|name| (name, Value::from(""))).collect();
        let given = inputs.into_iter().filter(|(_, json)| !json.is_null());
        values.extend(given.map(|(name, json)| (name, value(json))));
        values.push(("flags".to_owned(), flags.iter().map(String::as_str).collect()));
        let context = Value::from_pairs(values);
        let text = |number| self.text(number, &context, bytes_max);
        let input = match &self.form {
            Form::Text => Input::Text(text(0)?),
            Form::Fim => Input::Fim { prefix: text(0)?, suffix: text(1)? },
            Form::Messages(roles) => {
                let mut messages = Vec::with_capacity(roles.len());
                for (number, role) in roles.iter().enumerate() {
                    let content = text(number)?;
                    // A turn that a prompt leaves empty is a turn that it leaves out.
                    if !content.trim().is_empty() {
                        messages.push(ChatMessage { role: *role, content });
                    }
                }
                Input::Chat(messages)
            }
        };
        Ok(Rendered {
            place: self.place.clone(),
            input,
            parameters: self.parameters.clone(),
            stops: self.stops.clone(),
        })
    }

    fn text(
        &self,
        number: usize,
        context: &Value,
        bytes_max: usize,
    ) -> Result<String, RenderError> {
        let mut output = Bounded::new(bytes_max);
        let template = self.environment.get_template(&number.to_string());
        let rendered = template.and_then(|template| {
            template.render_captured_to(context.clone(), &mut output).map(|_| ())
        });
        rendered.and_then(|()| output.into_text()).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &Error) -> RenderError {
        let place = self.place.clone();
        match error.kind() {
            ErrorKind::OutOfFuel | ErrorKind::WriteFailure => RenderError::TooMuch { place },
            // The kind alone: the engine's own words may quote what was given.
            kind => RenderError::Failed {
                place,
                line: error.line().unwrap_or(0),
                reason: kind.to_string(),
            },
        }
    }
}

fn num_bytes(json: &Json) -> usize {
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(num_bytes).sum(),
        Json::Object(members) => members.values().map(num_bytes).sum(),
    }
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::from(()),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.into_iter().map(value).collect(),
        Json::Object(members) => {
            Value::from_pairs(members.into_iter().map(|(name, json)| (name, value(json))))
        }
    }
}
