//! What services elsewhere speak: a protocol is a value that writes requests and reads answers, and knows no connection.
//!
//! [`PROTOCOLS`] has a row each. To add one is a file with the trait and its row.

use serde_json::{Map, Value};

use crate::{
    client::Framing,
    completion::{ChatMessage, FinishReason, SamplingParams, TokenLogprob},
    config::FimForm,
};

mod anthropic;
mod llama_cpp;
mod mistral;
mod ollama;
mod openai_chat;
mod openai_completions;
mod vertex_anthropic;
mod vertex_mistral;

/// All protocols.
pub(super) const PROTOCOLS: &[&dyn Protocol] = &[
    &openai_completions::OpenAiCompletions,
    &openai_chat::OpenAiChat,
    &mistral::MistralFim,
    &vertex_mistral::VertexMistral,
    &anthropic::Anthropic,
    &vertex_anthropic::VertexAnthropic,
    &ollama::Ollama,
    &llama_cpp::LlamaCpp,
];

/// Returns the protocol of that name.
pub(super) fn by_name(name: &str) -> Option<&'static dyn Protocol> {
    PROTOCOLS.iter().copied().find(|protocol| protocol.abilities().name == name)
}

/// How a service is asked, and how it answers.
pub(super) trait Protocol: Send + Sync {
    /// Returns what can be had of it.
    fn abilities(&self) -> &'static Abilities;

    /// Writes a request.
    fn request(&self, ask: &Ask<'_>) -> Outgoing;

    /// Reads an answer that came whole.
    ///
    /// # Errors
    /// What is no answer of this protocol, or says that there is none.
    fn read_answer(&self, body: &Value) -> Result<Heard, Fault>;

    /// Reads a piece of an answer.
    ///
    /// # Errors
    /// As [`Protocol::read_answer`].
    fn read_event(&self, event: &Value) -> Result<Heard, Fault>;
}

/// What can be had of a protocol.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Its name in the settings.
    pub(super) name: &'static str,
    /// Where its one service is, if it has one.
    pub(super) url: Option<&'static str>,
    /// The family of all models there, where there is one.
    pub(super) family: Option<&'static str>,
    /// Tokens of a context where the settings do not say, whatever the family has.
    pub(super) context_tokens: Option<u32>,
    /// How gaps can be asked for, the best first.
    pub(super) forms: &'static [FimForm],
    /// Whether it knows conversations.
    pub(super) has_chat: bool,
    /// Whether one call gives several choices.
    pub(super) has_choices: bool,
    /// Whether it tells log-probabilities.
    pub(super) has_logprobs: bool,
    /// Most stop texts of a request; the others are watched for here.
    pub(super) num_stops_max: usize,
    /// How an answer comes in pieces.
    pub(super) framing: Framing,
    /// How it knows who asks.
    pub(super) access: Access,
}

impl Abilities {
    /// Returns whether a plain text can be continued: who takes a family's text takes any.
    pub(super) fn has_text(&self) -> bool {
        self.forms.contains(&FimForm::Template)
    }
}

/// How a service knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// By a key, where the service wants one.
    Key,
    /// By a key that there must be.
    NeedsKey,
    /// By a key that there must be, in a header of its own.
    NeedsXApiKey,
    /// By a token of Google's.
    Google,
}

/// Who is asked for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The model's name there.
    pub(super) model: String,
    /// Tokens of prompt and answer together.
    pub(super) context_tokens: u32,
    /// The host's name, which tells services apart that differ in small things.
    pub(super) host: String,
    /// Google's project.
    pub(super) project: String,
    /// Google's region.
    pub(super) region: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// Whom.
    pub(super) place: &'a Place,
    /// What is to be completed.
    pub(super) prompt: &'a HostedPrompt,
    /// Most tokens of a choice.
    pub(super) max_tokens: u32,
    /// How tokens are chosen.
    pub(super) sampling: &'a SamplingParams,
    /// Texts that end a choice, as many as the protocol takes.
    pub(super) stops: &'a [String],
    /// Number of choices; 1 where one call gives one.
    pub(super) num_choices: u32,
    /// Alternatives to report at each token.
    pub(super) logprobs: Option<u32>,
    /// Whether a choice goes on where the model would end it.
    pub(super) ignores_eos: bool,
    /// Whether the answer is to come in pieces.
    pub(super) is_streaming: bool,
}

/// What is to be completed, as a service elsewhere is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostedPrompt {
    /// A text that goes on; the service reads control tokens in it.
    Text(String),
    /// A gap that the service puts into its own form.
    Gap {
        /// Before it.
        prefix: String,
        /// Behind it.
        suffix: String,
    },
    /// A conversation.
    Chat(Vec<ChatMessage>),
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outgoing {
    /// Behind the address of the service.
    pub(super) path: String,
    /// Headers of the protocol's own.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// What is sent.
    pub(super) body: Map<String, Value>,
}

/// What was heard at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    /// More of some choices.
    pub(super) pieces: Vec<Piece>,
    /// Tokens counted so far.
    pub(super) counted: Counted,
    /// Whether nothing more will come.
    pub(super) is_end: bool,
}

/// More of a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Piece {
    /// Which, from 0.
    pub(super) choice: u32,
    /// Its text.
    pub(super) text: String,
    /// One entry a token, where asked for.
    pub(super) logprobs: Vec<TokenLogprob>,
    /// Set where it ends.
    pub(super) finish: Option<FinishReason>,
}

/// Tokens, as far as the service counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Of the prompt.
    pub(super) prompt: Option<u32>,
    /// Of those the ones that were cached.
    pub(super) cached: Option<u32>,
    /// Of the answer.
    pub(super) completion: Option<u32>,
}

impl Counted {
    /// Takes what is newer.
    pub(super) fn update(&mut self, newer: Self) {
        self.prompt = newer.prompt.or(self.prompt);
        self.cached = newer.cached.or(self.cached);
        self.completion = newer.completion.or(self.completion);
    }
}

/// Why something is no piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not what the protocol has.
    Malformed(&'static str),
    /// The service says in the answer that it failed, perhaps with a word for it.
    Failed(Option<String>),
    /// The service keeps the answer to itself.
    Withheld,
}

/// Returns a number as people write it: 0.2, where a wider one would be 0.20000000298.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).into()
}

/// Adds what is not neutral.
fn put_unless(body: &mut Map<String, Value>, key: &str, value: f32, neutral: f32) {
    #[expect(clippy::float_cmp, reason = "only the exact neutral value does nothing")]
    if value != neutral {
        body.insert(key.to_owned(), number(value));
    }
}

/// Adds the stop texts under `key`, if there are any.
fn put_stops(body: &mut Map<String, Value>, key: &str, stops: &[String]) {
    if !stops.is_empty() {
        body.insert(key.to_owned(), stops.into());
    }
}

/// Returns the members of an object.
fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Returns a conversation as most protocols write it.
fn messages(chat: &[ChatMessage]) -> Value {
    let message = |message: &ChatMessage| {
        Value::Object(object([
            ("role", message.role.as_str().into()),
            ("content", message.content.as_str().into()),
        ]))
    };
    chat.iter().map(message).collect()
}

/// More tokens than any context has are no count.
const COUNT_MAX: u64 = 1 << 22;

/// Returns a number of tokens, if it can be one: sums of what services say must stay sums.
fn count(value: &Value) -> Option<u32> {
    let count = value.as_u64().filter(|count| *count <= COUNT_MAX)?;
    u32::try_from(count).ok()
}

/// Returns a text; nothing where there is none, which services write in three ways.
fn text<'v>(value: &'v Value, what: &'static str) -> Result<&'v str, Fault> {
    match value {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text),
        _ => Err(Fault::Malformed(what)),
    }
}

/// Returns why a choice ended, by the word of a service. A word that nobody knows is an end like any other.
fn finish(value: &Value) -> Result<Option<FinishReason>, Fault> {
    match value.as_str() {
        None | Some("") => Ok(None),
        Some(
            "length" | "max_tokens" | "model_length" | "limit" | "model_context_window_exceeded",
        ) => Ok(Some(FinishReason::Length)),
        Some("content_filter" | "refusal" | "safety") => Err(Fault::Withheld),
        Some("error" | "abort" | "load" | "unload") => Err(Fault::Failed(None)),
        Some(_) => Ok(Some(FinishReason::Stop)),
    }
}

/// Fails where a service answers with an error in the place of an answer.
fn check_error(body: &Value) -> Result<(), Fault> {
    match body.get("error") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Fault::Failed(super::error::code_of(body))),
    }
}

/// Returns the usage as OpenAI writes it, and Mistral.
fn openai_usage(body: &Value) -> Counted {
    let usage = &body["usage"];
    Counted {
        prompt: count(&usage["prompt_tokens"]),
        cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
        completion: count(&usage["completion_tokens"]),
    }
}

/// Reads the choices of OpenAI's answers and those of its kin.
fn openai_choices(
    body: &Value,
    piece: impl Fn(&Value, &mut Piece) -> Result<(), Fault>,
) -> Result<Vec<Piece>, Fault> {
    check_error(body)?;
    let choices = match &body["choices"] {
        Value::Array(choices) => choices,
        // An event that only counts has none.
        Value::Null if body.get("usage").is_some() => return Ok(Vec::new()),
        _ => return Err(Fault::Malformed("it has no choices")),
    };
    let mut pieces = Vec::with_capacity(choices.len());
    for choice in choices {
        let mut read = Piece {
            choice: count(&choice["index"]).unwrap_or(0),
            finish: finish(&choice["finish_reason"])?,
            ..Piece::default()
        };
        piece(choice, &mut read)?;
        pieces.push(read);
    }
    Ok(pieces)
}

/// Returns the path of a model of Google's catalogue.
fn vertex_path(place: &Place, publisher: &str, is_streaming: bool) -> String {
    let Place { project, region, model, .. } = place;
    let verb = if is_streaming { "streamRawPredict" } else { "rawPredict" };
    format!(
        "/v1/projects/{project}/locations/{region}/publishers/{publisher}/models/{model}:{verb}"
    )
}
