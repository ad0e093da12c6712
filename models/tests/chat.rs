//! Where a model's chat template stands, and which of several counts.

use std::fs;

use models::{ChatDefinition, Source, chat_definition};

use crate::{
    gguf_model::file,
    gguf_writer::{self, Value},
    support::Folder,
};

/// Names of files and their texts.
type Files<'a> = &'a [(&'a str, &'a str)];

/// Returns what a folder with these files says.
fn read(name: &str, files: Files<'_>) -> Result<Option<ChatDefinition>, String> {
    let folder = Folder::new(name);
    for (file, text) in [&[("config.json", "{}")], files].concat() {
        fs::write(folder.join(file), text).unwrap();
    }
    chat_definition(Source::Directory(&folder)).map_err(|error| error.to_string())
}

#[test]
fn the_newest_place_counts_and_of_several_the_default() {
    let jinja = ("chat_template.jinja", "jinja");
    let json = ("chat_template.json", r#"{"chat_template": "json"}"#);
    let config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    let named = (
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]}"#,
    );
    let only_tools = (
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "tools"}]}"#,
    );
    let rows: [(Files<'_>, Option<&str>); 6] = [
        (&[jinja, json, config], Some("jinja")),
        (&[json, config], Some("json")),
        (&[config], Some("config")),
        (&[named], Some("named")),
        (&[only_tools], None),
        (&[], None),
    ];
    for (files, expected) in rows {
        let found = read("chat-places", files).unwrap().map(|found| found.template);
        assert_eq!(found.as_deref(), expected, "{files:?}");
    }
    assert_eq!(chat_definition(Source::Demo).unwrap(), None);
}

#[test]
fn tokens_are_texts_or_objects_of_either_file() {
    let config = (
        "tokenizer_config.json",
        r#"{"chat_template": "a", "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null}"#,
    );
    let map = ("special_tokens_map.json", r#"{"eos_token": "other", "unk_token": "<unk>"}"#);
    let found = read("chat-tokens", &[config, map]).unwrap().unwrap();
    let expected = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
    assert_eq!(found.tokens, expected.map(|(name, token)| (name, token.to_owned())));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let long = "x".repeat((1 << 20) + 1);
    let rows: [(&str, &str, &str); 3] = [
        ("tokenizer_config.json", "{", "`chat_template` must be JSON"),
        ("tokenizer_config.json", "[]", "`chat_template` must be an object"),
        ("chat_template.jinja", &long, "`chat_template` must be at most 1048576 bytes"),
    ];
    for (file, text, expected) in rows {
        let error = read("chat-broken", &[(file, text)]).unwrap_err();
        assert!(error.contains(file) && error.contains(expected), "{error}");
    }
}

#[test]
fn a_gguf_file_has_its_own() {
    let mut writer = gguf_writer::demo_bf16();
    let folder = file("chat-none", &writer);
    assert_eq!(chat_definition(Source::Directory(&folder)).unwrap(), None);
    for broken in [Value::from("x".repeat((1 << 20) + 1).as_str()), Value::U32(1)] {
        writer.set("tokenizer.chat_template", broken);
        let folder = file("chat-broken", &writer);
        let error = chat_definition(Source::Directory(&folder)).unwrap_err().to_string();
        assert!(error.contains("tokenizer.chat_template: `chat_template` must be"), "{error}");
    }
    writer.set("tokenizer.chat_template", Value::from("own"));
    let folder = file("chat-own", &writer);
    let found = chat_definition(Source::Directory(&folder)).unwrap().unwrap();
    assert_eq!(found.template, "own");
    assert!(found.tokens.contains(&("eos_token", "<|endoftext|>".to_owned())), "{found:?}");
}
