//! How servers are asked to fill a gap, and what their events say: bodies and events as values.

use serde_json::{Value, json};

/// A way of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's legacy completions with `suffix`.
    OpenAi,
    /// llama.cpp's infill.
    Infill,
}

/// One completion to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Text before the cursor, up to `line`.
    pub prefix: &'a str,
    /// The typed part of the cursor's line where the client sends it apart, else empty: llama.cpp's `prompt`.
    pub line: &'a str,
    /// Text after the cursor.
    pub suffix: &'a str,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Whether the answer goes on behind the model's own end.
    pub ignores_eos: bool,
    /// Name of the model; `None` leaves it to the server.
    pub model: Option<&'a str>,
}

/// Tokens as the server counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt.
    pub num_prompt_tokens: u64,
    /// Tokens of the prompt that were at hand already; `None` where the server does not say.
    pub num_cached_tokens: Option<u64>,
    /// Tokens of the answer so far.
    pub num_completion_tokens: u64,
}

impl Counts {
    /// Returns the tokens of the prompt that were computed for this answer.
    pub fn num_recomputed_tokens(&self) -> Option<u64> {
        Some(self.num_prompt_tokens.saturating_sub(self.num_cached_tokens?))
    }
}

/// What an event says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Whether it brings text.
    pub has_text: bool,
    /// Whether a choice ends with it.
    pub is_end: bool,
    /// Tokens so far, where the event counts them.
    pub counts: Option<Counts>,
    /// Name of the model that answers, where the event names it.
    pub model: Option<String>,
}

/// An event that is no piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The server says that it failed.
    #[error("the server failed in the middle of an answer: {0}")]
    Failed(String),
    /// The event has another shape.
    #[error("an event has not the shape of the dialect")]
    Shape,
}

impl Dialect {
    /// Returns the dialect's name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Infill => "infill",
        }
    }

    /// Returns the path to post to.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/completions",
            Self::Infill => "/infill",
        }
    }

    /// Returns the body of a streamed greedy completion.
    pub fn body(self, question: &Question<'_>) -> Value {
        let mut body = match self {
            Self::OpenAi => json!({
                "prompt": format!("{}{}", question.prefix, question.line),
                "suffix": question.suffix,
                "max_tokens": question.max_tokens,
                "temperature": 0,
                "stream": true,
                "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            }),
            Self::Infill => json!({
                "input_prefix": question.prefix,
                "prompt": question.line,
                "input_suffix": question.suffix,
                "n_predict": question.max_tokens,
                "temperature": 0,
                "top_k": 1,
                // The likeliest token alone: the cheapest chain that the server has.
                "samplers": ["top_k"],
                "stream": true,
                "cache_prompt": true,
                "timings_per_token": true,
            }),
        };
        if let Some(model) = question.model {
            body["model"] = model.into();
        }
        if question.ignores_eos {
            body["ignore_eos"] = true.into();
            // Stop texts of a model family would end the answer as well.
            body["stop"] = json!([]);
        }
        body
    }

    /// Returns what an event says; `None` for the mark at the end.
    ///
    /// # Errors
    /// [`EventError`].
    pub fn read(self, data: &str) -> Result<Option<Piece>, EventError> {
        if data == "[DONE]" {
            return Ok(None);
        }
        let event: Value = serde_json::from_str(data).map_err(|_| EventError::Shape)?;
        if let Some(message) = event["error"]["message"].as_str() {
            return Err(EventError::Failed(message.to_owned()));
        }
        let piece = match self {
            Self::OpenAi => openai_piece(&event),
            Self::Infill => infill_piece(&event),
        };
        piece.map(Some).ok_or(EventError::Shape)
    }
}

fn openai_piece(event: &Value) -> Option<Piece> {
    let choices = event["choices"].as_array()?;
    let usage = &event["usage"];
    let counts = usage["prompt_tokens"].as_u64().map(|num_prompt_tokens| Counts {
        num_prompt_tokens,
        num_cached_tokens: usage["prompt_tokens_details"]["cached_tokens"].as_u64(),
        num_completion_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
    });
    let text = |choice: &Value| choice["text"].as_str().is_some_and(|text| !text.is_empty());
    Some(Piece {
        has_text: choices.iter().any(text),
        is_end: choices.iter().any(|choice| choice["finish_reason"].is_string()),
        counts,
        model: event["model"].as_str().map(str::to_owned),
    })
}

fn infill_piece(event: &Value) -> Option<Piece> {
    let text = event["content"].as_str()?;
    let timings = &event["timings"];
    let computed = timings["prompt_n"].as_u64();
    let cached = timings["cache_n"].as_u64();
    // Without timings the server counts the whole prompt, cached or not.
    let evaluated = event["tokens_evaluated"].as_u64();
    let num_prompt_tokens = evaluated.or_else(|| Some(computed? + cached?));
    let counts = num_prompt_tokens.map(|num_prompt_tokens| Counts {
        num_prompt_tokens,
        num_cached_tokens: computed.map(|computed| num_prompt_tokens.saturating_sub(computed)),
        num_completion_tokens: (event["tokens_predicted"].as_u64())
            .or_else(|| timings["predicted_n"].as_u64())
            .unwrap_or(0),
    });
    Some(Piece {
        has_text: !text.is_empty(),
        is_end: event["stop"].as_bool().unwrap_or(false),
        counts,
        model: event["model"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question<'_> = Question {
        prefix: "a\n",
        line: "b",
        suffix: "c",
        max_tokens: 7,
        ignores_eos: false,
        model: None,
    };

    #[test]
    fn the_line_is_sent_apart_where_the_dialect_can() {
        let body = Dialect::OpenAi.body(&QUESTION);
        assert_eq!((&body["prompt"], &body["suffix"]), (&json!("a\nb"), &json!("c")));
        let body = Dialect::Infill.body(&QUESTION);
        let texts = [&body["input_prefix"], &body["prompt"], &body["input_suffix"]];
        assert_eq!(texts, [&json!("a\n"), &json!("b"), &json!("c")]);
        assert_eq!((&body["n_predict"], &body["cache_prompt"]), (&json!(7), &json!(true)));
    }

    #[test]
    fn options_are_sent_only_when_asked_for() {
        for dialect in [Dialect::OpenAi, Dialect::Infill] {
            let body = dialect.body(&QUESTION);
            assert!(["model", "ignore_eos", "stop"].iter().all(|name| body[name].is_null()));
            let asked = Question { ignores_eos: true, model: Some("m"), ..QUESTION };
            let body = dialect.body(&asked);
            assert_eq!((&body["model"], &body["ignore_eos"]), (&json!("m"), &json!(true)));
            assert_eq!(body["stop"], json!([]));
        }
    }

    #[track_caller]
    fn reads(dialect: Dialect, data: &str, has_text: bool, is_end: bool, counts: Option<[u64; 3]>) {
        let piece = dialect.read(data).unwrap().unwrap();
        assert_eq!((piece.has_text, piece.is_end), (has_text, is_end), "{data}");
        let expected = counts.map(|[prompt, cached, completion]| Counts {
            num_prompt_tokens: prompt,
            num_cached_tokens: Some(cached),
            num_completion_tokens: completion,
        });
        assert_eq!(piece.counts, expected, "{data}");
    }

    #[test]
    fn reads_openai_events() {
        let dialect = Dialect::OpenAi;
        reads(dialect, r#"{"choices":[{"text":"a","finish_reason":null}]}"#, true, false, None);
        let end = r#"{"choices":[{"text":"","finish_reason":"stop"}],"usage":null}"#;
        reads(dialect, end, false, true, None);
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        reads(dialect, usage, false, false, Some([9, 8, 3]));
        let bare =
            r#"{"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        let piece = dialect.read(bare).unwrap().unwrap();
        assert_eq!(piece.model.as_deref(), Some("m"));
        assert_eq!(piece.counts.unwrap().num_recomputed_tokens(), None);
        assert_eq!(dialect.read("[DONE]"), Ok(None));
    }

    #[test]
    fn reads_infill_events() {
        let dialect = Dialect::Infill;
        let first = r#"{"content":"a","stop":false,"tokens_predicted":1,"tokens_evaluated":31,"timings":{"cache_n":20,"prompt_n":11}}"#;
        reads(dialect, first, true, false, Some([31, 20, 1]));
        let timings =
            r#"{"content":"","stop":true,"timings":{"cache_n":20,"prompt_n":11,"predicted_n":4}}"#;
        reads(dialect, timings, false, true, Some([31, 20, 4]));
        reads(dialect, r#"{"content":"a","stop":false}"#, true, false, None);
    }

    #[test]
    fn other_shapes_and_failures_are_errors() {
        let failed = r#"{"error":{"message":"out of memory","code":500}}"#;
        for dialect in [Dialect::OpenAi, Dialect::Infill] {
            let error = dialect.read(failed).unwrap_err();
            assert_eq!(error, EventError::Failed("out of memory".to_owned()));
            for data in ["{}", "nonsense", "[]", "{\"choices\":1,\"content\":2}"] {
                assert_eq!(dialect.read(data), Err(EventError::Shape), "{data}");
            }
        }
    }
}
