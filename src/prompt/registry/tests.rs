//! Tests of prompts as files: what is found, what is refused and where, what becomes of texts.

use serde_json::json;

use super::*;
use crate::completion::{ChatMessage, ChatRole, Input};

const PATH: &str = "task/base/1.0.0.yml";

fn prompt(path: &str, body: &str) -> Result<Prompt, PromptFileError> {
    Prompt::parse(path, &format!("name: A prompt\n{body}"))
}

fn inputs(json: serde_json::Value) -> Inputs {
    Inputs(serde_json::from_value(json).unwrap())
}

#[test]
fn the_first_family_with_a_version_that_fits_counts() {
    let paths = [
        "task/base/1.0.0.yml",
        "task/base/1.1.0.yml",
        "task/base/2.0.0-dev.yml",
        "task/qwen/1.0.5.yml",
        "other/base/1.0.0.yml",
    ];
    let prompts = paths.map(|path| Arc::new(prompt(path, "text: a\n").unwrap()));
    let registry = PromptRegistry::new(prompts);
    let rows = [
        ("task", &["base"][..], "^1.0.0", Some("task/base/1.1.0")),
        ("task", &["qwen", "base"], "^1.0.0", Some("task/qwen/1.0.5")),
        ("task", &["qwen", "base"], "~1.1", Some("task/base/1.1.0")),
        ("task", &["llama", "base"], "1.0.0", Some("task/base/1.0.0")),
        ("task", &["base"], "2.0.0-dev", Some("task/base/2.0.0-dev")),
        ("task", &["base"], "^2", None),
        ("task", &["llama"], "*", None),
        ("nothing", &["base"], "*", None),
    ];
    for (task, families, range, expected) in rows {
        let found = registry.find(task, families, &VersionRange::parse(range).unwrap());
        let found = found.map(|prompt| prompt.place.to_string());
        assert_eq!(found.as_deref(), expected, "{task} {families:?} {range}");
    }
    assert_eq!(registry.all().count(), paths.len());
    assert!(registry.has_task("other") && !registry.has_task("nothing"));
}

#[test]
fn families_are_told_by_names() {
    let rows = [
        ("Qwen/Qwen2.5-Coder-7B-Instruct", Some("qwen")),
        ("mistralai/Codestral-22B-v0.1", Some("codestral")),
        ("Mixtral-8x7B", Some("codestral")),
        ("google/codegemma-7b-it", Some("gemma")),
        ("meta-llama/Llama-3.1-8B-Instruct", Some("llama")),
        ("DeepSeek-R1-Distill-Llama-8B", Some("deepseek")),
        ("coder", None),
    ];
    for (name, family) in rows {
        assert_eq!(family_of(name), family, "{name}");
    }
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    // The first line is the name's.
    let rows = [
        ("text: a\nmodle: {}\n", Some(3), "modle"),
        ("text: [a\n", Some(2), ""),
        ("text: a\nmodel:\n  temperature: hot\n", Some(4), ""),
        ("text: a\nmodel:\n  temperature: 3\n", Some(4), "from 0 to 2"),
        ("text: a\nmodel: {top_p: 0}\n", Some(3), "above 0"),
        ("text: a\nmodel: {max_tokens: 0}\n", Some(3), "at least 1"),
        ("text: a\nstops: ['']\n", None, "none empty"),
        ("messages: []\n", None, "1 to 64 items, got 0"),
        ("messages:\n  - role: robot\n    content: a\n", Some(3), "robot"),
        ("text: |\n  a\n  {{ b\n", Some(4), ""),
        ("text: |-\n  a\n  {% fi %}\n", Some(4), "fi"),
        ("text: \"{{ b }}\"\n", Some(2), "`b` must be listed"),
        ("inputs: [a]\ntext: |\n  {{ a }}{{ flags }}{{ c }}\n", Some(4), "`c` must be listed"),
        ("stops: [a]\n", None, "one of `messages`, `text` and `fim`"),
        ("text: a\nfim: {prefix: a, suffix: b}\n", None, "one of `messages`, `text` and `fim`"),
    ];
    for (body, line, words) in rows {
        let error = prompt(PATH, body).unwrap_err();
        assert_eq!(error.line, line, "{body}: {error}");
        assert!(error.to_string().starts_with(PATH) && error.reason.contains(words), "{error}");
    }
    let long = prompt(PATH, &format!("text: {}\n", "a".repeat(300 << 10))).unwrap_err();
    assert!(long.reason.contains("at most"), "{long}");
}

#[test]
fn texts_stay_as_they_are_and_empty_turns_are_left_out() {
    let body = "\
inputs: [code]
optional: [hint]
model: {temperature: 0.25, max_tokens: 7}
stops: [\"```\"]
messages:
  - role: system
    content: \"{{ hint }}\"
  - role: user
    content: |
      {% if 'loud' in flags %}
      Shout.
      {% endif %}
      {{ code }}
";
    let prompt = prompt(PATH, body).unwrap();
    let code = "a < b && {{ c }} <|im_end|>";
    let user = |content: String| ChatMessage { role: ChatRole::User, content };
    let plain = prompt.render(inputs(json!({"code": code})), &[]).unwrap();
    assert_eq!(plain.input, Input::Chat(vec![user(code.to_owned())]));
    assert_eq!((plain.parameters.temperature, plain.parameters.max_tokens), (Some(0.25), Some(7)));
    assert_eq!(
        (plain.stops, plain.place.to_string()),
        (vec!["```".into()], "task/base/1.0.0".into())
    );
    let given = json!({"code": code, "hint": "Be brief.", "unasked": [1, {"a": null}]});
    let loud = prompt.render(inputs(given), &["loud".to_owned()]).unwrap();
    let system = ChatMessage { role: ChatRole::System, content: "Be brief.".to_owned() };
    assert_eq!(loud.input, Input::Chat(vec![system, user(format!("Shout.\n{code}"))]));
}

#[test]
fn the_other_forms_are_texts_and_gaps() {
    let text = prompt(PATH, "inputs: [n]\ntext: \"{{ n + 1 }}\"\n").unwrap();
    assert_eq!(text.render(inputs(json!({"n": 1})), &[]).unwrap().input, Input::Text("2".into()));
    let gap = prompt(PATH, "inputs: [a]\nfim: {prefix: \"{{ a }}\", suffix: \"b\"}\n").unwrap();
    let input = gap.render(inputs(json!({"a": "x\n"})), &[]).unwrap().input;
    assert_eq!(input, Input::Fim { prefix: "x\n".into(), suffix: "b".into() });
}

#[test]
fn what_cannot_be_rendered_says_why_and_nothing_of_what_was_given() {
    let needs = prompt(PATH, "inputs: [code]\ntext: \"{{ code }}\"\n").unwrap();
    for given in [json!({}), json!({"code": null})] {
        let error = needs.render(inputs(given), &[]).unwrap_err();
        assert_eq!(error.to_string(), "the prompt task/base/1.0.0 needs `code`");
    }
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    let long = "{% for a in range(9999) %}{{ code }}{% endfor %}";
    for template in [endless, long] {
        let body = format!("inputs: [code]\ntext: \"{template}\"\n");
        let given = inputs(json!({"code": "secret".repeat(100)}));
        let error = prompt(PATH, &body).unwrap().render(given, &[]).unwrap_err();
        assert!(matches!(error, RenderError::TooMuch { .. }), "{error}");
    }
    let sum = prompt(PATH, "inputs: [code]\ntext: |\n  a\n  {{ code + 1 }}\n").unwrap();
    let error = sum.render(inputs(json!({"code": ["secret"]})), &[]).unwrap_err();
    assert!(matches!(error, RenderError::Failed { line: 2, .. }), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}
