//! A request for each endpoint that completes, as the page fills its form in, and the headers that all of them heed.

use serde_json::Value;
use utoipa::openapi::{OpenApi as Document, RefOr};

use crate::api::openapi::headers;

/// Headers of our own, of every endpoint that completes.
const HEADERS: [(&str, &str); 1] = [(
    "X-Lacuna-Timeout-Ms",
    "Milliseconds after which an answer is worth nothing; they only shorten what the server allows.",
)];

/// Further headers of those of GitLab's dialect.
const GITLAB_HEADERS: [(&str, &str); 1] = [(
    "X-Lacuna-Postprocess",
    "Steps of post-processing that the request wants, of those that the settings have: `all,-scope`, `none`.",
)];

const V2: &str = r#"{
  "prompt_version": 1,
  "current_file": {
    "file_name": "src/sum.py",
    "content_above_cursor": "def mean(values):\n    total = sum(",
    "content_below_cursor": ")\n    return total / len(values)\n"
  }
}"#;

const GENERATION: &str = r#"{
  "prompt_version": 2,
  "prompt": "Write a Python function that returns the mean of a list of numbers.",
  "current_file": {
    "file_name": "src/mean.py",
    "content_above_cursor": "import math\n\n",
    "content_below_cursor": ""
  }
}"#;

const COMPONENTS: &str = r#"{
  "prompt_components": [
    {
      "type": "code_editor_completion",
      "payload": {
        "file_name": "src/sum.py",
        "content_above_cursor": "def mean(values):\n    total = sum(",
        "content_below_cursor": ")\n    return total / len(values)\n",
        "stream": false
      }
    }
  ]
}"#;

/// Path and example.
const EXAMPLES: [(&str, &str); 7] = [
    (
        "/v1/completions",
        r#"{
  "prompt": "def mean(values):\n    total = sum(",
  "suffix": ")\n    return total / len(values)\n",
  "max_tokens": 32,
  "temperature": 0
}"#,
    ),
    (
        "/v1/chat/completions",
        r#"{
  "messages": [{"role": "user", "content": "Write a Python function that returns the mean of a list of numbers."}],
  "max_tokens": 256
}"#,
    ),
    ("/v2/completions", V2),
    ("/v2/code/completions", V2),
    ("/v2/code/generations", GENERATION),
    ("/v3/code/completions", COMPONENTS),
    ("/v4/code/suggestions", COMPONENTS),
];

/// Puts the examples and the headers into a description.
pub(super) fn put(document: &mut Document) {
    for (path, example) in EXAMPLES {
        let item = document.paths.paths.get_mut(path);
        let Some(operation) = item.and_then(|item| item.post.as_mut()) else { continue };
        let parameters = operation.parameters.get_or_insert_with(Vec::new);
        parameters.extend(headers(&HEADERS).into_iter().map(RefOr::T));
        if !path.starts_with("/v1/") {
            parameters.extend(headers(&GITLAB_HEADERS).into_iter().map(RefOr::T));
        }
        // An example that is no JSON would be seen by the test that sends each.
        let example: Option<Value> = serde_json::from_str(example).ok();
        let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
        if let Some(RefOr::T(content)) = body.content.get_mut("application/json") {
            content.example = example;
        }
    }
}
