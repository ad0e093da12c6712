//! What the program tells its operator: logs, metrics, and what became of suggestions, kept in a store.
//!
//! Lengths, times, ids and closed sets of labels pass through here. Source text does in [`content`] alone, for who has
//! asked for it.

pub mod content;
pub mod logs;
pub mod metrics;
pub mod request;
pub mod store;

pub use content::{PromptContent, record_completion_content, record_prompt_content};
pub use request::{Caller, RequestRecord, record_postprocessing, record_request};
