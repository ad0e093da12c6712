//! What is known of a request for a completion, and who asks.

use std::time::Duration;

use tracing::{debug, error};

/// What is known of a request for a completion when it has ended. Lengths, times, ids and labels of closed sets; no text
/// of a user.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Dialect and endpoint, such as `openai.completions`; a closed set.
    pub endpoint: &'static str,
    /// `ok`, `cancelled`, or the label of the error's kind; a closed set.
    pub outcome: &'static str,
    /// Name of the model that answered; `None` where the request did not come so far.
    pub model_name: Option<String>,
    /// What runs it.
    pub model_engine: Option<String>,
    /// Name of the file's language, where it could be told.
    pub language: Option<&'static str>,
    /// Prompts of the request; what follows counts over all.
    pub num_prompts: usize,
    /// Characters before the cursor, or of the whole prompt where there is no gap.
    pub prefix_chars: usize,
    /// Characters after the cursor.
    pub suffix_chars: usize,
    /// Pieces of other files that came along.
    pub num_context_items: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that the prefix cache already held.
    pub cached_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// From the request's head to the first piece; `None` where none came.
    pub time_to_first_token: Option<Duration>,
    /// What the steps of post-processing took; `None` where there were none.
    pub postprocessing: Option<Duration>,
    /// Why the first choice ended; `None` where none did.
    pub finish_reason: Option<&'static str>,
    /// Whether pieces were handed on as they came; `None` where the request could not be read.
    pub is_streaming: Option<bool>,
    /// Task, family and version of the prompt that asked the model; `None` where there was none.
    pub prompt: Option<String>,
}

/// Who called, as the request says: words of headers, bounded by whoever read them. What counts alone; the
/// line has more of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// `saas` or `self-managed`.
    pub realm: Option<String>,
    /// Kind of the client, such as `ide`.
    pub client_type: Option<String>,
    /// Version of the language server between the client and here.
    pub language_server: Option<String>,
    /// Version of the GitLab instance.
    pub gitlab_version: Option<String>,
}

/// Writes at error that a request found a fault of ours: its line says so too, at a level that nobody is woken by.
pub fn record_internal_error(correlation_id: &str, endpoint: &'static str, model: Option<&str>) {
    error!(target: "lacuna::service", correlation_id, endpoint, model, "internal error");
}

/// Writes at debug which steps of post-processing changed how many choices of a request, how long all took, and how
/// many tokens were not written because a step would have deleted them.
pub fn record_postprocessing(
    correlation_id: &str,
    changes: &[(&'static str, u32)],
    took: Duration,
    tokens_saved: u32,
) {
    let counts = changes.iter().map(|(step, count)| format!("{step}={count}"));
    debug!(
        target: "lacuna::postprocess",
        correlation_id,
        changes = counts.collect::<Vec<_>>().join(" "),
        took_ms = milliseconds(took),
        tokens_saved,
        "post-processing"
    );
}

/// Returns milliseconds to the microsecond, which is as fine as the clock means anything here.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
