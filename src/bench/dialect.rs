//! How servers are asked to fill a gap, and what their events say: bodies and events as values.

use serde_json::{Value, json};

use crate::bench::foreign;

/// Tokens that a server may put around a text of its own accord: markers, other files, a template. Generous, for only
/// counts that nobody can have read must be caught.
const OWN_PROMPT_TOKENS_MAX: u64 = 1 << 20;

/// Tokens of an answer for each that was asked for: servers differ by the end token or a few guessed ahead, not by more.
const TOKENS_PER_ASKED_MAX: u64 = 2;

/// Texts of an answer for each token that was asked for: a server may send characters apart, and tokens of code that
/// are longer than this are rare.
const PIECES_PER_ASKED_MAX: u64 = 16;

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

impl Question<'_> {
    /// Returns what its answer can be at most.
    pub fn limits(&self) -> Limits {
        let num_bytes = self.prefix.len() + self.line.len() + self.suffix.len();
        let num_asked = u64::from(self.max_tokens);
        Limits {
            // No tokenizer makes more than a token a byte.
            num_prompt_tokens: num_bytes as u64 + OWN_PROMPT_TOKENS_MAX,
            num_completion_tokens: num_asked * TOKENS_PER_ASKED_MAX,
            num_pieces: num_asked * PIECES_PER_ASKED_MAX,
        }
    }
}

/// What an answer can be at most: beyond it a server miscounts or does not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of the prompt.
    pub num_prompt_tokens: u64,
    /// Tokens of the answer.
    pub num_completion_tokens: u64,
    /// Events with text.
    pub num_pieces: u64,
}

impl Limits {
    /// Checks what a server counted.
    ///
    /// # Errors
    /// [`EventError::Count`].
    pub fn check(&self, counts: &Counts) -> Result<(), EventError> {
        let num_prompt_tokens = counts.num_prompt_tokens;
        let rows = [
            ("tokens of the prompt", num_prompt_tokens, self.num_prompt_tokens),
            (
                "cached tokens of the prompt",
                counts.num_cached_tokens.unwrap_or(0),
                num_prompt_tokens,
            ),
            ("tokens of the answer", counts.num_completion_tokens, self.num_completion_tokens),
        ];
        match rows.into_iter().find(|(_, num, num_max)| num > num_max) {
            Some((what, num, num_max)) => Err(EventError::Count { what, num, num_max }),
            None => Ok(()),
        }
    }
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
    /// It counts what cannot be.
    #[error("the server counts {num} {what}, at most {num_max} are possible")]
    Count {
        /// What it counts.
        what: &'static str,
        /// How many it counts.
        num: u64,
        /// How many there can be.
        num_max: u64,
    },
    /// It brought text, and counts nothing of it.
    #[error("the server counts no token of an answer that has text")]
    NoTokens,
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
            return Err(EventError::Failed(foreign::reason(message)));
        }
        let piece = match self {
            Self::OpenAi => openai_piece(&event)?,
            Self::Infill => infill_piece(&event)?,
        };
        Ok(Some(piece))
    }
}

/// Reads a count; `None` where there is none. A count below zero, with a fraction or beyond 64 bits is none of a server
/// that can count.
fn count(value: &Value) -> Result<Option<u64>, EventError> {
    if value.is_null() { Ok(None) } else { value.as_u64().map(Some).ok_or(EventError::Shape) }
}

fn openai_piece(event: &Value) -> Result<Piece, EventError> {
    let choices = event["choices"].as_array().ok_or(EventError::Shape)?;
    let usage = &event["usage"];
    let num_cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"])?;
    let num_completion_tokens = count(&usage["completion_tokens"])?.unwrap_or(0);
    let counts = count(&usage["prompt_tokens"])?.map(|num_prompt_tokens| Counts {
        num_prompt_tokens,
        num_cached_tokens,
        num_completion_tokens,
    });
    let text = |choice: &Value| choice["text"].as_str().is_some_and(|text| !text.is_empty());
    Ok(Piece {
        has_text: choices.iter().any(text),
        is_end: choices.iter().any(|choice| choice["finish_reason"].is_string()),
        counts,
        model: event["model"].as_str().map(str::to_owned),
    })
}

fn infill_piece(event: &Value) -> Result<Piece, EventError> {
    let text = event["content"].as_str().ok_or(EventError::Shape)?;
    let counts = match infill_prompt(event)? {
        None => None,
        Some((num_prompt_tokens, num_cached_tokens)) => {
            let predicted = count(&event["tokens_predicted"])?;
            let predicted = predicted.or(count(&event["timings"]["predicted_n"])?);
            let num_completion_tokens = predicted.unwrap_or(0);
            Some(Counts { num_prompt_tokens, num_cached_tokens, num_completion_tokens })
        }
    };
    Ok(Piece {
        has_text: !text.is_empty(),
        is_end: event["stop"].as_bool().unwrap_or(false),
        counts,
        model: event["model"].as_str().map(str::to_owned),
    })
}

/// Returns the tokens of the prompt, and those of them that were cached where the event says so.
fn infill_prompt(event: &Value) -> Result<Option<(u64, Option<u64>)>, EventError> {
    let timings = &event["timings"];
    let computed = count(&timings["prompt_n"])?;
    // Without timings the server counts the whole prompt, cached or not.
    let all = match (count(&event["tokens_evaluated"])?, computed) {
        (Some(evaluated), _) => evaluated,
        (None, None) => return Ok(None),
        (None, Some(computed)) => match count(&timings["cache_n"])? {
            None => return Ok(None),
            Some(cached) => computed.checked_add(cached).ok_or(EventError::Shape)?,
        },
    };
    let Some(computed) = computed else { return Ok(Some((all, None))) };
    let cached = all.checked_sub(computed);
    let what = "computed tokens of the prompt";
    let cached = cached.ok_or(EventError::Count { what, num: computed, num_max: all })?;
    Ok(Some((all, Some(cached))))
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
    fn counts_that_are_no_numbers_of_tokens_are_errors() {
        let event = r#"{"choices":[],"usage":{"prompt_tokens":P,"completion_tokens":C,"prompt_tokens_details":{"cached_tokens":K}}}"#;
        let openai = |prompt: &str, completion: &str, cached: &str| {
            let data = event.replace('P', prompt).replace('C', completion).replace('K', cached);
            Dialect::OpenAi.read(&data)
        };
        assert!(openai("9", "3", "8").is_ok());
        assert!(openai("null", "null", "null").unwrap().unwrap().counts.is_none());
        for number in ["-1", "1.5", "\"9\"", "18446744073709551616", "1e300"] {
            for data in
                [openai(number, "3", "8"), openai("9", number, "8"), openai("9", "3", number)]
            {
                assert_eq!(data, Err(EventError::Shape), "{number}");
            }
        }
        let infill = |counts: &str| Dialect::Infill.read(&format!("{{\"content\":\"\",{counts}}}"));
        let sum = r#""timings":{"cache_n":18446744073709551615,"prompt_n":1}"#;
        assert_eq!(infill(sum), Err(EventError::Shape));
        assert_eq!(infill(r#""tokens_evaluated":-1"#), Err(EventError::Shape));
        let error = infill(r#""tokens_evaluated":5,"timings":{"prompt_n":6}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server counts 6 computed tokens of the prompt, at most 5 are possible"
        );
    }

    #[test]
    fn counts_beyond_the_possible_are_errors() {
        let limits = QUESTION.limits();
        let rows = [
            ((5, Some(5), 14), None),
            ((5, None, 0), None),
            (((1 << 20) + 4, None, 7), None),
            (((1 << 20) + 5, None, 7), Some("tokens of the prompt")),
            ((u64::MAX, Some(0), 7), Some("tokens of the prompt")),
            ((5, Some(6), 7), Some("cached tokens of the prompt")),
            ((5, None, 15), Some("tokens of the answer")),
            ((5, None, u64::MAX), Some("tokens of the answer")),
        ];
        for ((num_prompt_tokens, num_cached_tokens, num_completion_tokens), expected) in rows {
            let counts = Counts { num_prompt_tokens, num_cached_tokens, num_completion_tokens };
            let wrong = limits.check(&counts).err().map(|error| match error {
                EventError::Count { what, .. } => what,
                other => panic!("{other:?}"),
            });
            assert_eq!(wrong, expected, "{counts:?}");
        }
    }

    #[test]
    fn other_shapes_and_failures_are_errors() {
        let failed = r#"{"error":{"message":"out of memory","code":500}}"#;
        for dialect in [Dialect::OpenAi, Dialect::Infill] {
            let error = dialect.read(failed).unwrap_err();
            assert_eq!(error, EventError::Failed("out of memory".to_owned()));
            let steers = r#"{"error":{"message":"\u001b[2J\n"}}"#;
            let error = dialect.read(steers).unwrap_err();
            assert_eq!(error, EventError::Failed(r"\u{1b}[2J\n".to_owned()));
            for data in ["{}", "nonsense", "[]", "{\"choices\":1,\"content\":2}"] {
                assert_eq!(dialect.read(data), Err(EventError::Shape), "{data}");
            }
        }
    }
}
