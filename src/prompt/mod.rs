//! How a gap becomes tokens: `[Special, Text, Special, …]`, fitted to the context, spliced as ids.
//!
//! A [`family::Family`] is a row of facts about a model family. [`template::FimTemplate`] is its form with the ids of one
//! tokenizer. [`context`] arranges the texts, [`budget`] cuts them, [`builder`] puts them together. What else is asked of
//! a model, in words, is in the [`registry`].

pub mod budget;
pub mod builder;
pub mod chat;
pub mod context;
pub mod family;
pub mod registry;
pub mod template;

pub use builder::{Gap, Prompt, PromptBuilder, PromptError};
pub use chat::{ChatError, ChatPiece, ChatTemplate};
pub use family::{Family, Fim};
pub use template::{FimTemplate, Origin, TemplateError};
