//! What the program tells its operator: logs today; metrics and traces have their place here.
//!
//! Source text, prompts and completions never pass through here: lengths, times, ids and closed sets of labels do.

pub mod logs;
pub mod request;

pub use request::{Caller, RequestRecord, record_postprocessing, record_request};
