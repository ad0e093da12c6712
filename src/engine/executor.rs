//! What the engine asks of a device: a batch in, a token a wanted row out; where the device can, the next batch before that.

use std::error::Error;

use crate::engine::batch::Batch;

/// A device with a model on it. The engine's thread owns it and is the only one to call it.
pub trait Executor: Send {
    /// Starts a step. Steps are computed in the order in which they are started, as if each had ended before the next.
    ///
    /// In each layer the keys and values of all the step's tokens are written before any of its tokens attends: a
    /// sequence may read blocks that another one of the same batch writes.
    ///
    /// # Errors
    /// The device failed. It is not asked again: the engine fails all sequences and ends.
    fn start(&mut self, batch: &Batch) -> Result<(), ExecutorError>;

    /// Waits for the first step that was started and not finished, and returns one token for each of its
    /// [`Batch::logit_rows`], in their order.
    ///
    /// # Errors
    /// As [`Executor::start`].
    fn finish(&mut self) -> Result<Vec<SampledToken>, ExecutorError>;

    /// Returns whether a step may be started while the one before is not finished, if that one's
    /// [tokens can be followed](Batch::can_be_followed). It names that one's tokens, which nobody knows yet, by
    /// [`LAST_SAMPLED`](crate::engine::LAST_SAMPLED).
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Starts a step and waits for it.
    ///
    /// # Errors
    /// As [`Executor::start`].
    fn execute(&mut self, batch: &Batch) -> Result<Vec<SampledToken>, ExecutorError> {
        self.start(batch)?;
        self.finish()
    }
}

/// A failure of the device, never of a request.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The model could not be run.
    #[error("the device failed")]
    Device(#[source] Box<dyn Error + Send + Sync>),
    /// The step's answer does not fit its question.
    #[error("the step has {num_rows} logit rows, the device returned {num_tokens} tokens")]
    TokenCount {
        /// Rows of the batch whose token was wanted.
        num_rows: usize,
        /// Tokens that came back.
        num_tokens: usize,
    },
}

impl ExecutorError {
    /// Wraps what the device reported.
    pub fn device(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Device(source.into())
    }
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub id: u32,
    /// How likely it and its rivals were, where asked for.
    pub logprob: Option<TokenLogprobs>,
}

/// How likely a chosen token and its rivals were, as the model said it: before bias, penalties, temperature and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm of the chosen token's probability, at least -9999.
    pub logprob: f32,
    /// The likeliest tokens with theirs, falling; the chosen one is among them only by its own rank.
    pub top: Vec<(u32, f32)>,
}
