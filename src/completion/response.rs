//! What comes back, whole or piece by piece.

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model said so, or a stop text or stop token came.
    Stop,
    /// The limit of tokens or of the context was reached.
    Length,
    /// The client went away or the server is stopping.
    Aborted,
}

impl FinishReason {
    /// Returns the label for logs and metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Aborted => "aborted",
        }
    }
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, sentinels and context included.
    pub num_prompt_tokens: u32,
    /// Tokens of the prompt that the prefix cache already held.
    pub num_cached_tokens: u32,
    /// Tokens of other files offered by the client.
    pub num_context_tokens_sent: u32,
    /// Tokens of other files that fitted into the prompt.
    pub num_context_tokens_used: u32,
    /// Tokens generated, over all choices.
    pub num_completion_tokens: u32,
}

/// The log-probability of a chosen token and of its rivals.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Text of the chosen token; a broken character shows as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability before temperature and filters.
    pub logprob: f32,
    /// The likeliest tokens, falling.
    pub top: Vec<(String, f32)>,
}

/// The next piece of one choice.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionChunk {
    /// Which choice, from 0.
    pub choice_index: u32,
    /// Whole characters, no part of a stop text; may be empty.
    pub text: String,
    /// One entry for each token that ended in this chunk, where asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the last chunk of the choice.
    pub finish_reason: Option<FinishReason>,
    /// Tokens read and written so far over all choices, where the provider counts along.
    pub usage: Option<Usage>,
    /// Tokens of this choice so far, where the provider counts along.
    pub num_choice_tokens: Option<u32>,
}

/// A choice that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// From 0.
    pub index: u32,
    /// Its text.
    pub text: String,
    /// One entry a token, where asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A whole completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// In the order of their index.
    pub choices: Vec<Choice>,
    /// What it took.
    pub usage: Usage,
}
