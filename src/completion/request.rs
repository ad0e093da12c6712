//! What a client asks for, whatever dialect it spoke.

use std::time::Instant;

use crate::{
    completion::{asker::Asker, language::Language, postprocessing::PostProcessing},
    trace::Parent,
};

/// One completion, free of any dialect.
#[derive(Clone, Debug)]
pub struct CompletionRequest {
    /// What is to be completed.
    pub input: Input,
    /// Path of the file being edited, as the client sent it.
    pub file_name: Option<String>,
    /// Name or path of the repository or project, where the client tells it.
    pub repository: Option<String>,
    /// Language of the file, as far as it could be told.
    pub language: Option<Language>,
    /// Other text that helps: open files, snippets; the most useful first.
    pub context: Vec<ContextItem>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Most tokens of a choice; `None` takes the server's default.
    pub max_tokens: Option<u32>,
    /// Texts that end a choice and are not part of it; `None` takes the model family's own.
    pub stop: Option<Vec<String>>,
    /// Token ids that end a choice, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Whether a choice goes on where the model, or its family, would end it: only what the request itself names, and
    /// its lengths, end it then.
    pub ignores_eos: bool,
    /// Number of choices, at least 1.
    pub num_choices: u32,
    /// Number of alternatives to report at each token; `Some(0)` reports the chosen token alone.
    pub logprobs: Option<u32>,
    /// When the answer must be there: what is written by then is the answer.
    pub deadline: Option<Instant>,
    /// What becomes of the text before it is handed on.
    pub postprocessing: PostProcessing,
    /// Model asked for; `None` takes the one that is served.
    pub model: Option<String>,
    /// Who asks and what for, which decides where the request goes.
    pub asker: Asker,
    /// Name of the request in the logs here, for services elsewhere; only what is known to hold no source text.
    pub correlation_id: Option<String>,
    /// The span that it is part of.
    pub trace: Parent,
}

impl CompletionRequest {
    /// Asks for one choice, the likeliest, and leaves all else to the server.
    pub fn of(input: Input) -> Self {
        Self {
            input,
            file_name: None,
            repository: None,
            language: None,
            context: Vec::new(),
            sampling: SamplingParams::greedy(),
            max_tokens: None,
            stop: None,
            stop_token_ids: Vec::new(),
            ignores_eos: false,
            num_choices: 1,
            logprobs: None,
            deadline: None,
            postprocessing: PostProcessing::None,
            model: None,
            asker: Asker::default(),
            correlation_id: None,
            trace: Parent::default(),
        }
    }

    /// Returns the size of the texts that a prompt is made of.
    pub fn num_prompt_bytes(&self) -> usize {
        let input = match &self.input {
            Input::Fim { prefix, suffix } => prefix.len() + suffix.len(),
            Input::Text(text) => text.len(),
            Input::Tokens(ids) => ids.len() * size_of::<u32>(),
            Input::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        input + self.context.iter().map(|item| item.content.len()).sum::<usize>()
    }
}

/// The text or the tokens to complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The gap between two texts.
    Fim {
        /// Text before the cursor.
        prefix: String,
        /// Text after the cursor; may be empty.
        suffix: String,
    },
    /// Plain continuation of a text, without sentinels.
    Text(String),
    /// Plain continuation of token ids; the one place where a client may name control tokens.
    Tokens(Vec<u32>),
    /// The next turn of a conversation, in the model's own form.
    Chat(Vec<ChatMessage>),
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// Whose turn it was.
    pub role: ChatRole,
    /// What was said.
    pub content: String,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatRole {
    /// Who says what the assistant is to be.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl ChatRole {
    /// Returns the word for it, which templates know too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A piece of another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextItem {
    /// Path or symbol that it comes from; may be empty.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Number of likeliest tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Probability mass kept, in (0, 1].
    pub top_p: f32,
    /// Least probability kept, as a share of the likeliest token's, in [0, 1].
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is none.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token in the output, once.
    pub presence_penalty: f32,
    /// Taken from the logit of each token in the output, for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Makes sampling repeatable; `None` draws one.
    pub seed: Option<u64>,
}

impl SamplingParams {
    /// Returns the parameters that always take the likeliest token.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }

    /// Returns whether earlier tokens change the logits.
    #[expect(clippy::float_cmp, reason = "only the exact neutral value does nothing")]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}
