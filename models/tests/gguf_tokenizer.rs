//! The tokenizer that the metadata of a GGUF file holds.

use std::fs;

use models::{Source, tokenizer_json};

use crate::{
    gguf_model::file,
    gguf_writer::{self, Edit, Value},
};

#[test]
fn a_tokenizer_beside_the_file_comes_first() {
    let folder = file("beside", &gguf_writer::demo_bf16());
    let source = Source::Directory(&folder);
    let made = tokenizer_json(source).unwrap();
    assert!(made.starts_with(b"{") && *made != *models::demo::TOKENIZER_JSON);
    fs::write(folder.join("tokenizer.json"), "beside").unwrap();
    assert_eq!(*tokenizer_json(source).unwrap(), *b"beside");
}

/// A text that is one token wherever it stands is part of an answer; a sentinel is not.
#[test]
fn sentinels_are_special_and_fixed_texts_are_not() {
    let mut writer = gguf_writer::demo_bf16();
    let demo: serde_json::Value = serde_json::from_slice(models::demo::TOKENIZER_JSON).unwrap();
    let vocab = demo["model"]["vocab"].as_object().unwrap();
    let num_ids = vocab.len() + demo["added_tokens"].as_array().unwrap().len();
    let byte = |id: usize| vocab.values().any(|found| found.as_u64() == Some(id as u64));
    let mut types: Vec<i32> = (0..num_ids).map(|id| if byte(id) { 1 } else { 3 }).collect();
    let fixed = (0..num_ids).find(|&id| !byte(id)).unwrap();
    types[fixed] = 4;
    let values = types.iter().copied().map(Value::I32).collect();
    writer.set("tokenizer.ggml.token_type", Value::Array(values));
    let folder = file("special", &writer);
    let json = tokenizer_json(Source::Directory(&folder)).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    assert_eq!(added.len(), num_ids - vocab.len());
    for token in added {
        let is_fixed = token["id"].as_u64() == Some(fixed as u64);
        assert_eq!(token["special"], !is_fixed, "{token}");
    }
}

#[test]
fn a_tokenizer_that_we_do_not_have_is_refused() {
    let rows: [Edit; 13] = [
        (
            "`tokenizer.ggml.tokens` must be a token for each byte: without one, text would be",
            |w| {
                w.set("tokenizer.ggml.tokens", Value::texts(["a", "b", "ab"]));
                w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 3]));
                w.set("tokenizer.ggml.merges", Value::texts(["a b"]));
            },
        ),
        ("`tokenizer.ggml.model` is missing", |w| w.remove("tokenizer.ggml.model")),
        (
            "`tokenizer.ggml.model` must be gpt2 (byte-level BPE) or llama (SentencePiece), got \"bert\"; a \
             tokenizer.json beside the file is used instead",
            |w| w.set("tokenizer.ggml.model", "bert".into()),
        ),
        ("`tokenizer.ggml.model` must be a text, got 2", |w| {
            w.set("tokenizer.ggml.model", Value::U32(2));
        }),
        ("`tokenizer.ggml.pre` is missing", |w| w.remove("tokenizer.ggml.pre")),
        (
            "`tokenizer.ggml.pre` must be one of qwen2, llama-bpe, gpt-2, starcoder, deepseek-coder, \
             deepseek-r1-qwen, stablelm2, refact, mellum, seed-coder, tekken, default, got \
             \"bloom\"; a tokenizer.json beside the file is used instead",
            |w| w.set("tokenizer.ggml.pre", "bloom".into()),
        ),
        ("`tokenizer.ggml.tokens` must be an array, got 3", |w| {
            w.set("tokenizer.ggml.tokens", Value::U32(3));
        }),
        ("`tokenizer.ggml.token_type` is missing", |w| w.remove("tokenizer.ggml.token_type")),
        (
            "`tokenizer.ggml.token_type` must be as long as `tokenizer.ggml.tokens` (8192), got 1",
            |w| {
                w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)]));
            },
        ),
        ("`tokenizer.ggml.token_type[0]` must be from 1 to 6, got 7", |w| {
            w.set("tokenizer.ggml.tokens", Value::texts(["a"]));
            w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(7)]));
        }),
        (
            "`tokenizer.ggml.tokens` must be a different text for each id, got \"a\" for 0 and 1",
            |w| {
                w.set("tokenizer.ggml.tokens", Value::texts(["a", "a"]));
                w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 2]));
            },
        ),
        ("`tokenizer.ggml.merges[1]` must be two tokens that join to a third, got \"ab c\"", |w| {
            w.set("tokenizer.ggml.tokens", Value::texts(["a", "b", "ab", "c"]));
            w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 4]));
            w.set("tokenizer.ggml.merges", Value::texts(["a b", "ab c"]));
        }),
        ("`tokenizer.ggml.tokens[1]` must be a text in UTF-8, got \"\u{fffd}\"", |w| {
            let mut raw = 8_u32.to_le_bytes().to_vec();
            raw.extend(2_u64.to_le_bytes());
            raw.extend([1, 0, 0, 0, 0, 0, 0, 0, b'a', 1, 0, 0, 0, 0, 0, 0, 0, 0xFF]);
            w.set("tokenizer.ggml.tokens", Value::Raw(9, raw));
            w.set("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1); 2]));
        }),
    ];
    for (index, (expected, edit)) in rows.into_iter().enumerate() {
        let mut writer = gguf_writer::demo_bf16();
        edit(&mut writer);
        let folder = file(&format!("tokenizer-{index}"), &writer);
        let error = tokenizer_json(Source::Directory(&folder)).unwrap_err().to_string();
        let expected = format!("demo.gguf: {expected}");
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}
