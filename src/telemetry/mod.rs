//! What the program tells its operator: logs, metrics, what is reported of errors, and what became of suggestions.
//!
//! Lengths, times, ids and closed sets of labels pass through here. Source text does in [`content`] alone, for who has
//! asked for it.

pub mod access;
pub mod client;
pub mod content;
pub mod day;
pub mod exchange;
pub mod logs;
pub mod metrics;
pub mod reports;
pub mod request;
pub mod store;
#[cfg(test)]
mod tests;

pub use access::{AccessRecord, AuthFacts, GitlabFacts, HttpFacts, record_access};
pub use content::{PromptContent, record_completion_content, record_prompt_content};
pub use exchange::{Arrival, Exchange};
pub use reports::{ErrorReport, ReportLayer, ReportSink};
pub use request::{Caller, RequestRecord, record_internal_error, record_postprocessing};
