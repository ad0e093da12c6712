//! How a server of each protocol answers when all is well: a row each, over which the suites go.

use serde_json::{Value, json};

/// A protocol and how its servers answer. What they answer is `a + b`, of 8 tokens and 3.
pub(crate) struct Row {
    pub(crate) protocol: &'static str,
    /// Behind the address, as settings have it.
    pub(crate) base: &'static str,
    /// What its table must say besides.
    pub(crate) settings: &'static str,
    /// Where gaps are asked for, whole and in pieces.
    pub(crate) paths: (&'static str, &'static str),
    /// Whether one call gives several choices.
    pub(crate) has_choices: bool,
    /// Whether it has conversations.
    pub(crate) has_chat: bool,
    /// The type of pieces.
    pub(crate) content_type: &'static str,
    /// An answer with so many choices.
    pub(crate) whole: fn(u32) -> Value,
    /// What comes before the first piece.
    pub(crate) open: &'static str,
    /// A piece of a choice.
    pub(crate) piece: fn(u32, &str) -> Value,
    /// What comes behind the last piece, for so many choices.
    pub(crate) close: fn(u32) -> Vec<Value>,
    /// What ends the stream.
    pub(crate) end: &'static str,
}

const KEY: &str = "api_key_env = \"FAR_KEY\"";
const GOOGLE: &str = "project = \"p\"\nregion = \"europe-west4\"";
const EVENTS: &str = "text/event-stream";
const DONE: &str = "data: [DONE]\n\n";

pub(crate) const ROWS: &[Row] = &[
    Row {
        protocol: "openai-completions",
        base: "/v1",
        settings: "api_key_env = \"FAR_KEY\"\nfamily = \"qwen2.5-coder\"",
        paths: ("/v1/completions", "/v1/completions"),
        has_choices: true,
        has_chat: false,
        content_type: EVENTS,
        whole: |n| openai(n, "text_completion", |_| json!({"text": "a + b"}), "stop"),
        open: "",
        piece: |choice, text| openai_piece(choice, &json!({"text": text}), None),
        close: |n| openai_close(n, &json!({"text": ""})),
        end: DONE,
    },
    Row {
        protocol: "openai-chat",
        base: "/v1",
        settings: KEY,
        paths: ("/v1/chat/completions", "/v1/chat/completions"),
        has_choices: true,
        has_chat: true,
        content_type: EVENTS,
        whole: |n| openai(n, "chat.completion", |_| message(), "stop"),
        open: "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        piece: |choice, text| openai_piece(choice, &json!({"delta": {"content": text}}), None),
        close: |n| openai_close(n, &json!({"delta": {}})),
        end: DONE,
    },
    Row {
        protocol: "mistral-fim",
        base: "",
        settings: KEY,
        paths: ("/v1/fim/completions", "/v1/fim/completions"),
        has_choices: false,
        has_chat: false,
        content_type: EVENTS,
        whole: |_| openai(1, "chat.completion", |_| message(), "stop"),
        open: "",
        piece: |choice, text| openai_piece(choice, &json!({"delta": {"content": text}}), None),
        close: |_| mistral_close(),
        end: DONE,
    },
    Row {
        protocol: "vertex-mistral",
        base: "",
        settings: GOOGLE,
        paths: (
            "/v1/projects/p/locations/europe-west4/publishers/mistralai/models/m:rawPredict",
            "/v1/projects/p/locations/europe-west4/publishers/mistralai/models/m:streamRawPredict",
        ),
        has_choices: false,
        has_chat: false,
        content_type: EVENTS,
        whole: |_| openai(1, "chat.completion", |_| message(), "stop"),
        open: "",
        piece: |choice, text| openai_piece(choice, &json!({"delta": {"content": text}}), None),
        close: |_| mistral_close(),
        end: DONE,
    },
    Row {
        protocol: "anthropic",
        base: "",
        settings: KEY,
        paths: ("/v1/messages", "/v1/messages"),
        has_choices: false,
        has_chat: true,
        content_type: EVENTS,
        whole: |_| claude(),
        open: CLAUDE_OPEN,
        piece: |_, text| claude_piece(text),
        close: |_| claude_close(),
        end: CLAUDE_END,
    },
    Row {
        protocol: "vertex-anthropic",
        base: "",
        settings: GOOGLE,
        paths: (
            "/v1/projects/p/locations/europe-west4/publishers/anthropic/models/m:rawPredict",
            "/v1/projects/p/locations/europe-west4/publishers/anthropic/models/m:streamRawPredict",
        ),
        has_choices: false,
        has_chat: true,
        content_type: EVENTS,
        whole: |_| claude(),
        open: CLAUDE_OPEN,
        piece: |_, text| claude_piece(text),
        close: |_| claude_close(),
        end: CLAUDE_END,
    },
    Row {
        protocol: "ollama",
        base: "",
        settings: "",
        paths: ("/api/generate", "/api/generate"),
        has_choices: false,
        has_chat: true,
        content_type: "application/x-ndjson",
        whole: |_| {
            json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "response": "a + b", "done": true,
                "done_reason": "stop", "prompt_eval_count": 8, "eval_count": 3, "eval_duration": 9})
        },
        open: "",
        piece: |_, text| json!({"model": "m", "response": text, "done": false}),
        close: |_| {
            vec![json!({"model": "m", "response": "", "done": true, "done_reason": "stop",
                "prompt_eval_count": 8, "eval_count": 3})]
        },
        end: "",
    },
    Row {
        protocol: "llama-cpp",
        base: "",
        settings: "",
        paths: ("/infill", "/infill"),
        has_choices: false,
        has_chat: false,
        content_type: EVENTS,
        whole: |_| llama("a + b", true),
        open: "",
        piece: |_, text| json!({"index": 0, "content": text, "tokens": [1], "stop": false}),
        close: |_| vec![llama("", true)],
        end: "",
    },
];

impl Row {
    /// Returns a value as a piece of the stream.
    pub(crate) fn framed(&self, value: &Value) -> Vec<u8> {
        let text = if self.content_type == EVENTS {
            format!("data: {value}\n\n")
        } else {
            format!("{value}\n")
        };
        text.into_bytes()
    }

    /// Returns a piece of the first choice.
    pub(crate) fn frame(&self, text: &str) -> Vec<u8> {
        self.framed(&(self.piece)(0, text))
    }

    /// Returns the parts of an answer with so many choices, each `a + b`.
    pub(crate) fn parts(&self, num_choices: u32) -> Vec<Vec<u8>> {
        let mut parts = vec![self.open.as_bytes().to_vec()];
        for text in ["a ", "+ b"] {
            parts.extend((0..num_choices).map(|choice| self.framed(&(self.piece)(choice, text))));
        }
        parts.extend((self.close)(num_choices).iter().map(|value| self.framed(value)));
        parts.push(self.end.as_bytes().to_vec());
        parts.retain(|part| !part.is_empty());
        parts
    }
}

fn message() -> Value {
    json!({"message": {"role": "assistant", "content": "a + b", "tool_calls": null}})
}

fn merged(mut left: Value, right: &Value) -> Value {
    for (key, value) in right.as_object().unwrap() {
        left[key] = value.clone();
    }
    left
}

fn openai(n: u32, object: &str, text: fn(u32) -> Value, finish: &str) -> Value {
    let choice = |index| {
        merged(json!({"index": index, "logprobs": null, "finish_reason": finish}), &text(index))
    };
    json!({"id": "x", "object": object, "created": 1, "model": "m", "choices": (0..n).map(choice).collect::<Vec<_>>(),
        "usage": {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 5}}})
}

fn openai_piece(choice: u32, text: &Value, finish: Option<&str>) -> Value {
    let choice = merged(json!({"index": choice, "finish_reason": finish}), text);
    json!({"id": "x", "created": 1, "model": "m", "choices": [choice], "usage": null})
}

fn openai_close(n: u32, text: &Value) -> Vec<Value> {
    let mut events: Vec<Value> =
        (0..n).map(|choice| openai_piece(choice, text, Some("stop"))).collect();
    events.push(json!({"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 3}}));
    events
}

/// Mistral counts in the last piece.
fn mistral_close() -> Vec<Value> {
    let last = openai_piece(0, &json!({"delta": {"content": ""}}), Some("stop"));
    vec![merged(last, &json!({"usage": {"prompt_tokens": 8, "completion_tokens": 3}}))]
}

const CLAUDE_OPEN: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":3,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n";
const CLAUDE_END: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn claude() -> Value {
    json!({"id": "msg", "type": "message", "role": "assistant", "stop_reason": "end_turn", "stop_sequence": null,
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a + b"}],
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 3}})
}

fn claude_piece(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

fn claude_close() -> Vec<Value> {
    vec![
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}),
    ]
}

fn llama(text: &str, is_end: bool) -> Value {
    json!({"index": 0, "content": text, "stop": is_end, "stop_type": "eos", "tokens_predicted": 3,
        "tokens_evaluated": 8, "timings": {"cache_n": 5}})
}
