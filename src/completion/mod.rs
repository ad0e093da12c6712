//! The vocabulary of a completion: what is asked, what comes back. No dialect, no tokenizer, no clock.

pub mod asker;
pub mod language;
pub mod postprocessing;
pub mod request;
pub mod response;

pub use asker::{Asker, Task};
pub use language::{Comments, Grammar, Language};
pub use postprocessing::{PostProcessing, Step, StepsError};
pub use request::{ChatMessage, ChatRole, CompletionRequest, ContextItem, Input, SamplingParams};
pub use response::{Choice, Completion, CompletionChunk, FinishReason, TokenLogprob, Usage};
