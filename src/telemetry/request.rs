//! The one log line of a request.

use std::time::Duration;

use tracing::{debug, info};

/// What is known of a request when it has ended. Lengths, times, ids and labels of closed sets; no text of a user.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// Correlation id: the client's or one we drew.
    pub request_id: &'a str,
    /// Dialect and endpoint, such as `openai.completions`; a closed set.
    pub endpoint: &'static str,
    /// Name of the model asked; `None` where the request did not come so far.
    pub model: Option<&'a str>,
    /// Name of the file's language, where it could be told.
    pub language: Option<&'static str>,
    /// `ok`, `cancelled`, or the label of the error's kind; a closed set.
    pub outcome: &'static str,
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
    /// From the request's head to the end.
    pub total_time: Duration,
    /// Why the first choice ended; `None` where none did.
    pub finish_reason: Option<&'static str>,
    /// Whether pieces were handed on as they came; `None` where the request could not be read.
    pub is_streaming: Option<bool>,
    /// Task, family and version of the prompt that asked the model; `None` where there was none.
    pub prompt: Option<&'a str>,
    /// Who called.
    pub caller: &'a Caller,
}

/// Who called, as the request says: words of headers, bounded by whoever read them; the user is a hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Name of the API key.
    pub key_name: Option<String>,
    /// `saas` or `self-managed`.
    pub realm: Option<String>,
    /// The GitLab instance.
    pub instance: Option<String>,
    /// A hash of the user's id.
    pub user: Option<String>,
    /// Kind of the client, such as `ide`.
    pub client_type: Option<String>,
    /// Name of the client.
    pub client_name: Option<String>,
    /// Version of the client.
    pub client_version: Option<String>,
    /// Version of the language server between the client and here.
    pub language_server: Option<String>,
    /// Version of the GitLab instance.
    pub gitlab_version: Option<String>,
}

/// Writes the line of a request: exactly one event at `info`, with the record's fields. What is `None` is left out.
pub fn record_request(record: &RequestRecord<'_>) {
    info!(
        target: "lacuna::request",
        request_id = record.request_id,
        endpoint = record.endpoint,
        model = record.model,
        language = record.language,
        outcome = record.outcome,
        num_prompts = record.num_prompts,
        prefix_chars = record.prefix_chars,
        suffix_chars = record.suffix_chars,
        num_context_items = record.num_context_items,
        prompt_tokens = record.prompt_tokens,
        cached_tokens = record.cached_tokens,
        completion_tokens = record.completion_tokens,
        ttft_ms = record.time_to_first_token.map(milliseconds),
        total_ms = milliseconds(record.total_time),
        finish_reason = record.finish_reason,
        is_streaming = record.is_streaming,
        prompt = record.prompt,
        key_name = record.caller.key_name,
        realm = record.caller.realm,
        instance = record.caller.instance,
        user = record.caller.user,
        client_type = record.caller.client_type,
        client_name = record.caller.client_name,
        client_version = record.caller.client_version,
        language_server = record.caller.language_server,
        gitlab_version = record.caller.gitlab_version,
        "request"
    );
}

/// Writes at debug which steps of post-processing changed how many choices of a request, how long all took, and how
/// many tokens were not written because a step would have deleted them.
pub fn record_postprocessing(
    request_id: &str,
    changes: &[(&'static str, u32)],
    took: Duration,
    tokens_saved: u32,
) {
    let counts = changes.iter().map(|(step, count)| format!("{step}={count}"));
    debug!(
        target: "lacuna::request",
        request_id,
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

#[cfg(test)]
pub(super) mod tests {
    use std::{
        io,
        sync::{Arc, LazyLock, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::telemetry::logs;

    /// Keeps what is written to it.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    static CALLER: LazyLock<Caller> = LazyLock::new(|| Caller {
        key_name: Some("ada".to_owned()),
        realm: Some("saas".to_owned()),
        instance: Some("one".to_owned()),
        user: Some("ba7816bf8f01cfea".to_owned()),
        client_type: Some("ide".to_owned()),
        client_name: Some("an editor".to_owned()),
        client_version: Some("1.2".to_owned()),
        language_server: Some("7.17.1".to_owned()),
        gitlab_version: Some("17.5.0".to_owned()),
    });
    static NOBODY: LazyLock<Caller> = LazyLock::new(Caller::default);

    fn record() -> RequestRecord<'static> {
        RequestRecord {
            request_id: "r-1",
            endpoint: "openai.completions",
            model: Some("demo"),
            language: Some("python"),
            outcome: "ok",
            num_prompts: 1,
            prefix_chars: 120,
            suffix_chars: 40,
            num_context_items: 2,
            prompt_tokens: 60,
            cached_tokens: 48,
            completion_tokens: 9,
            time_to_first_token: Some(Duration::from_micros(4_250)),
            total_time: Duration::from_millis(31),
            finish_reason: Some("stop"),
            is_streaming: Some(true),
            prompt: Some("task/base/1.0.0"),
            caller: &CALLER,
        }
    }

    /// Returns the lines that `write` logs at `filter`.
    pub(in crate::telemetry) fn lines(
        filter: &str,
        write: impl FnOnce(),
    ) -> Vec<serde_json::Value> {
        let page = Page::default();
        let subscriber = logs::json(filter, page.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, write);
        let bytes = page.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_request_is_one_json_line_of_these_fields_and_no_other() {
        let lines = lines("info", || record_request(&record()));
        let [line] = lines.as_slice() else { panic!("{} lines", lines.len()) };
        let mut line = line.as_object().unwrap().clone();
        assert!(line.remove("timestamp").unwrap().as_str().unwrap().ends_with('Z'));
        let expected = serde_json::json!({
            "level": "INFO",
            "target": "lacuna::request",
            "message": "request",
            "request_id": "r-1",
            "endpoint": "openai.completions",
            "model": "demo",
            "language": "python",
            "outcome": "ok",
            "num_prompts": 1,
            "prefix_chars": 120,
            "suffix_chars": 40,
            "num_context_items": 2,
            "prompt_tokens": 60,
            "cached_tokens": 48,
            "completion_tokens": 9,
            "ttft_ms": 4.25,
            "total_ms": 31.0,
            "finish_reason": "stop",
            "is_streaming": true,
            "prompt": "task/base/1.0.0",
            "key_name": "ada",
            "realm": "saas",
            "instance": "one",
            "user": "ba7816bf8f01cfea",
            "client_type": "ide",
            "client_name": "an editor",
            "client_version": "1.2",
            "language_server": "7.17.1",
            "gitlab_version": "17.5.0",
        });
        assert_eq!(serde_json::Value::Object(line.clone()), expected);
        let page = include_str!("../../docs/operations.md");
        for field in
            line.keys().filter(|field| !["level", "target", "message"].contains(&field.as_str()))
        {
            assert!(page.contains(&format!("`{field}`")), "docs/operations.md lacks {field}");
        }
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let record = RequestRecord {
            model: None,
            is_streaming: None,
            language: None,
            time_to_first_token: None,
            finish_reason: None,
            prompt: None,
            caller: &NOBODY,
            ..record()
        };
        let lines = lines("info", || record_request(&record));
        let line = lines[0].as_object().unwrap();
        for field in [
            "model",
            "is_streaming",
            "language",
            "ttft_ms",
            "finish_reason",
            "prompt",
            "realm",
            "user",
        ] {
            assert!(!line.contains_key(field), "{field}");
        }
        assert_eq!(line.len(), 4 + 25 - 14);
    }

    #[test]
    fn the_filter_decides_by_module_and_level() {
        assert!(lines("warn", || record_request(&record())).is_empty());
        assert_eq!(lines("warn,lacuna::request=info", || record_request(&record())).len(), 1);
    }

    #[test]
    fn ids_with_quotes_and_line_ends_stay_one_line() {
        let record = RequestRecord { request_id: "a\"\n{}", ..record() };
        let lines = lines("info", || record_request(&record));
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["request_id"], "a\"\n{}");
    }
}
