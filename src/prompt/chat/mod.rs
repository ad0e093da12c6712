//! A conversation as a model was trained on it: its own Jinja template, rendered within limits, as tokens and texts.
//!
//! The template is data from strangers. It reads no file and includes nothing; its steps, its output and what each of our
//! own methods and filters makes are bounded, and it runs on a stack of its own that fits whatever so many steps can nest.
//! Not bounded is what the engine's own operators make on the way: it repeats a text up to 100 MB at once, joins texts
//! (`~`, `+`) without limit, and writes a namespace that holds itself until the stack ends. Against a template that is out
//! to do harm only leaving it away helps. What a message says stays text whatever the template does with it, see `mask`.
//!
//! # Source
//! How templates are rendered: `render_jinja_template` of Hugging Face's transformers, which they are written for.

pub(super) mod bounded;
mod date;
mod json;
mod mask;
mod methods;
mod source;

use std::{sync::Arc, thread, time::SystemTime};

use minijinja::{
    Environment, Error, ErrorKind,
    syntax::SyntaxConfig,
    value::{Kwargs, Value, from_args},
};

use crate::{
    completion::{ChatMessage, ChatRole},
    prompt::chat::{bounded::Bounded, mask::Mask, methods::Methods},
    tokenizer::Tokenizer,
};

/// Steps of the engine that do not depend on the conversation: the largest published template has some 500 tags.
const FUEL_BASE: u64 = 50_000;
/// Steps a message; the busiest published template takes some 300.
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Steps of any conversation: those of a thousand messages in the busiest published template. A step may nest a value in
/// another, and such a value is freed and written level by level, so that the stack grows with it.
const FUEL_MAX: u64 = 400_000;
/// Stack of a level, twice what the deepest of the engine's own functions was seen to take; in a debug build they take
/// up to 1.8 kB. Only what is used is ever backed by memory.
const STACK_BYTES_PER_STEP: usize = if cfg!(debug_assertions) { 4096 } else { 1024 };
/// Stack of a rendering that nests nothing.
const STACK_BYTES_BASE: usize = 2 << 20;
/// Macros and loops in one another; published templates have a dozen.
const DEPTH_MAX: usize = 100;
/// What a template may write beside the messages' texts.
const OUTPUT_BYTES_BASE: usize = 1 << 20;
/// The one template of an environment.
const NAME: &str = "chat_template";

/// Why there is no prompt for a conversation. No variant holds text of a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The template is no Jinja that we know.
    #[error("the model's chat template cannot be used: line {line}: {reason}")]
    Template {
        /// Where, from 1.
        line: usize,
        /// The engine's words.
        reason: String,
    },
    /// The template refuses the conversation, in its own words.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The template does not get along with the conversation.
    #[error("the model's chat template fails on these messages: line {line}: {reason}")]
    Failed {
        /// Where, from 1.
        line: usize,
        /// The kind of it.
        reason: String,
    },
    /// The template goes on and on.
    #[error("the model's chat template takes too long or writes too much for these messages")]
    TooMuch,
}

/// A piece of a conversation's prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatPiece {
    /// A control token, by id.
    Special(u32),
    /// Text, encoded as plain text.
    Text(String),
}

impl ChatPiece {
    /// Returns the bytes of its text.
    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::Special(_) => 0,
            Self::Text(text) => text.len(),
        }
    }
}

/// A model's chat template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Such as `bos_token`, and the token's spelling.
    tokens: Vec<(&'static str, String)>,
    mask: Arc<Mask>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles the template of a model with this tokenizer. `tokens` are the variables that name control tokens.
    ///
    /// # Errors
    /// [`ChatError::Template`].
    pub fn compile(
        source: &str,
        tokens: Vec<(&'static str, String)>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, ChatError> {
        let mask = Arc::new(Mask::new(tokenizer));
        let mut environment = environment().map_err(|error| unusable(&error))?;
        environment
            .add_template_owned(NAME, source::prepare(source, &mask))
            .map_err(|error| unusable(&error))?;
        Ok(Self { environment, source: source.to_owned(), tokens, mask })
    }

    /// Returns the id of the token that ends a turn, as the model's files name it.
    pub fn eos_token_id(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let (_, token) = self.tokens.iter().find(|(name, _)| *name == "eos_token")?;
        tokenizer.added_token_id(token)
    }

    /// Renders a single message, which any template must know: one that cannot is of no use. It may refuse it.
    ///
    /// # Errors
    /// [`ChatError::Failed`], [`ChatError::TooMuch`].
    pub fn check(&self, tokenizer: &Tokenizer, now: SystemTime) -> Result<(), ChatError> {
        let message = ChatMessage { role: ChatRole::User, content: "Hello".to_owned() };
        match self.render(&[message], tokenizer, now) {
            Ok(_) | Err(ChatError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renders a conversation up to where the assistant answers; `now` is for templates that write the date.
    ///
    /// # Errors
    /// [`ChatError::Refused`], [`ChatError::Failed`], [`ChatError::TooMuch`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        tokenizer: &Tokenizer,
        now: SystemTime,
    ) -> Result<Vec<ChatPiece>, ChatError> {
        let fuel = (FUEL_BASE + FUEL_PER_MESSAGE * messages.len() as u64).min(FUEL_MAX);
        let stack_bytes = STACK_BYTES_BASE + fuel as usize * STACK_BYTES_PER_STEP;
        let failed = |reason: &str| ChatError::Failed { line: 0, reason: reason.to_owned() };
        // What the template made is freed there too: only a text comes back.
        let text = thread::scope(|scope| {
            let name = "lacuna-chat".to_owned();
            thread::Builder::new()
                .name(name)
                .stack_size(stack_bytes)
                .spawn_scoped(scope, || self.text(messages, fuel, now))
                .map_err(|_| failed("there is no thread to render it"))?
                .join()
                .unwrap_or_else(|_| Err(failed("its engine panicked")))
        })?;
        Ok(self.mask.pieces(&text, tokenizer))
    }

    fn text(
        &self,
        messages: &[ChatMessage],
        fuel: u64,
        now: SystemTime,
    ) -> Result<String, ChatError> {
        let hidden: Vec<Value> = messages.iter().map(|message| self.shown(message)).collect();
        let num_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        // A mark has four bytes, and hardly any template repeats a message.
        let bytes_max = OUTPUT_BYTES_BASE + 8 * num_bytes;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        add_bounded(&mut environment, &self.mask, bytes_max);
        let mut output = Bounded::new(bytes_max);
        let mut context = vec![
            ("messages", Value::from(hidden)),
            ("add_generation_prompt", Value::from(true)),
            // Templates ask whether they are none; as transformers they are there all the same.
            ("tools", Value::from(())),
            ("documents", Value::from(())),
            ("strftime_now", Value::from_function(move |pattern: &str| date::format(now, pattern))),
        ];
        context.extend(self.tokens.iter().map(|(name, token)| (*name, Value::from(token))));
        let rendered = environment.get_template(NAME).and_then(|template| {
            template.render_captured_to(Value::from_pairs(context), &mut output).map(|_| ())
        });
        rendered.and_then(|()| output.into_text()).map_err(|error| self.failed(&error))
    }

    fn shown(&self, message: &ChatMessage) -> Value {
        Value::from_pairs([
            ("role", Value::from(message.role.as_str())),
            ("content", Value::from(self.mask.hide(&message.content))),
        ])
    }

    /// Tells what went wrong without a word of the messages: of the template's own words only those that stand in it.
    fn failed(&self, error: &Error) -> ChatError {
        let line = error.line().unwrap_or(0);
        match error.kind() {
            ErrorKind::OutOfFuel | ErrorKind::WriteFailure => ChatError::TooMuch,
            kind => match std::error::Error::source(error).and_then(|e| e.downcast_ref::<Raised>())
            {
                Some(Raised(words)) if self.source.contains(words) => {
                    ChatError::Refused(words.clone())
                }
                Some(Raised(_)) => ChatError::Refused(format!("see its line {line}")),
                None => ChatError::Failed { line, reason: kind.to_string() },
            },
        }
    }
}

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("the template refused")]
struct Raised(String);

/// Returns the engine with what transformers gives to templates, but for what is bounded by the conversation.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_recursion_limit(DEPTH_MAX);
    environment.add_function("raise_exception", |words: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(words)))
    });
    Ok(environment)
}

/// Adds the methods and filters that are our own; each makes texts of at most so many bytes.
fn add_bounded(environment: &mut Environment<'_>, mask: &Arc<Mask>, bytes_max: usize) {
    environment.add_filter("tojson", move |value: &Value, options: Kwargs| {
        json::to_json(value, &options, bytes_max)
    });
    let of_methods = Methods { mask: Arc::clone(mask), bytes_max };
    let of_filter = of_methods.clone();
    environment.set_unknown_method_callback(move |_, value, method, args| {
        of_methods.call(value, method, args)
    });
    environment.add_filter(
        "replace",
        move |value: &Value, from: &Value, to: &Value| -> Result<Value, Error> {
            let (text,): (String,) = from_args(std::slice::from_ref(value))?;
            of_filter.call(&text.into(), "replace", &[from.clone(), to.clone()])
        },
    );
}

fn unusable(error: &Error) -> ChatError {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    ChatError::Template { line: error.line().unwrap_or(0), reason }
}

#[cfg(test)]
mod tests;
