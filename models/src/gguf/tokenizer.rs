//! A tokenizer out of metadata, as the text of the `tokenizer.json` that it was made from.
//!
//! Written as that text and not as an object, so that the server has one reader for both.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{
    error::ConfigError,
    gguf::{Gguf, GgufArray, GgufValue, pre_tokenizer},
    shown::shorten,
};

const MODEL_KEY: &str = "tokenizer.ggml.model";
const PRE_KEY: &str = "tokenizer.ggml.pre";
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const MERGES_KEY: &str = "tokenizer.ggml.merges";

/// What a token is for.
///
/// # Source
/// `enum llama_token_type` in llama.cpp's `llama.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    /// Merged from bytes: normal, unknown and byte tokens.
    Merged,
    /// A sentinel.
    Control,
    /// A text that is one token wherever it stands.
    UserDefined,
    /// Fills the vocabulary up.
    Unused,
}

/// Returns the text of a `tokenizer.json`.
///
/// # Errors
/// [`ConfigError`], naming the key, the rule and the value: another kind of tokenizer, an unknown way to cut texts,
/// lists that do not fit each other.
pub(crate) fn tokenizer_json(gguf: &Gguf<'_>) -> Result<Vec<u8>, ConfigError> {
    let model = text(gguf, MODEL_KEY)?;
    if model != "gpt2" {
        return Err(invalid(gguf, MODEL_KEY, "gpt2 (byte-level BPE)", quoted(model)));
    }
    let pre = text(gguf, PRE_KEY)?;
    let Some(pre) = pre_tokenizer::find(pre) else {
        let rule = format!("one of {}", pre_tokenizer::names());
        let value = format!("{}; a tokenizer.json beside the file is used instead", quoted(pre));
        return Err(invalid(gguf, PRE_KEY, rule, value));
    };
    let tokens = texts(gguf, TOKENS_KEY)?;
    let types = token_types(gguf, tokens.len())?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    let mut ids = HashMap::with_capacity(tokens.len());
    for (id, (&token, kind)) in tokens.iter().zip(types).enumerate() {
        if kind == TokenType::Unused {
            continue;
        }
        if let Some(first) = ids.insert(token, id) {
            let value = format!("{} for {first} and {id}", quoted(token));
            return Err(invalid(gguf, TOKENS_KEY, "a different text for each id", value));
        }
        match kind {
            TokenType::Merged => {
                vocab.insert(token.to_owned(), json!(id));
            }
            _ => added.push(json!({
                "id": id, "content": token, "special": kind == TokenType::Control,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
            })),
        }
    }
    let merges = merges(gguf, &vocab)?;
    if let Some(missing) = byte_alphabet().find(|byte| !vocab.contains_key(&byte.to_string())) {
        let rule = "a token for each byte: without one, text would be dropped without a word";
        return Err(invalid(gguf, TOKENS_KEY, rule, format!("none for {missing:?}")));
    }
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.steps(),
        "post_processor": null,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.has_whole_tokens, "vocab": vocab, "merges": merges
        }
    });
    Ok(definition.to_string().into_bytes())
}

/// Returns the characters that stand for the bytes: those that can be seen for themselves, the others from U+0100 on.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let is_seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    let num_unseen = (u8::MIN..=u8::MAX).filter(|byte| !is_seen(byte)).count() as u32;
    let seen = (u8::MIN..=u8::MAX).filter(is_seen).map(char::from);
    seen.chain((0..num_unseen).filter_map(|index| char::from_u32(0x100 + index)))
}

/// Returns the merges as pairs of tokens. Each must join two tokens to a third, or the library would refuse the whole
/// without a word on where it came from.
fn merges(gguf: &Gguf<'_>, vocab: &Map<String, Value>) -> Result<Vec<Value>, ConfigError> {
    let mut pairs = Vec::new();
    for (index, merge) in texts(gguf, MERGES_KEY)?.into_iter().enumerate() {
        // A token has no space, the alphabet writing it as another character.
        let pair = merge.split_once(' ').filter(|(left, right)| {
            let joined = format!("{left}{right}");
            [left, right, &joined.as_str()].iter().all(|token| vocab.contains_key(**token))
        });
        let Some((left, right)) = pair else {
            let rule = "two tokens that join to a third";
            return Err(invalid(gguf, &element(MERGES_KEY, index), rule, quoted(merge)));
        };
        pairs.push(json!([left, right]));
    }
    Ok(pairs)
}

/// Returns what each token is for. Without the list nothing would be a sentinel, and text could become one.
fn token_types(gguf: &Gguf<'_>, num_tokens: usize) -> Result<Vec<TokenType>, ConfigError> {
    let array = array(gguf, TYPES_KEY)?;
    if array.len() != num_tokens {
        let rule = format!("as long as `{TOKENS_KEY}` ({num_tokens})");
        return Err(invalid(gguf, TYPES_KEY, rule, array.len()));
    }
    let mut types = Vec::with_capacity(num_tokens);
    for (index, value) in array.values().enumerate() {
        types.push(match value {
            Some(GgufValue::Signed(1 | 2 | 6) | GgufValue::Unsigned(1 | 2 | 6)) => {
                TokenType::Merged
            }
            Some(GgufValue::Signed(3) | GgufValue::Unsigned(3)) => TokenType::Control,
            Some(GgufValue::Signed(4) | GgufValue::Unsigned(4)) => TokenType::UserDefined,
            Some(GgufValue::Signed(5) | GgufValue::Unsigned(5)) => TokenType::Unused,
            other => {
                let value = other.map_or_else(|| "no number".to_owned(), |value| value.to_string());
                return Err(invalid(gguf, &element(TYPES_KEY, index), "from 1 to 6", value));
            }
        });
    }
    Ok(types)
}

fn text<'a>(gguf: &Gguf<'a>, key: &str) -> Result<&'a str, ConfigError> {
    let value = gguf.metadata().get(key).ok_or_else(|| missing(gguf, key))?;
    as_text(Some(*value)).ok_or_else(|| invalid(gguf, key, "a text", value))
}

fn texts<'a>(gguf: &Gguf<'a>, key: &str) -> Result<Vec<&'a str>, ConfigError> {
    let array = array(gguf, key)?;
    let mut texts = Vec::with_capacity(array.len());
    for (index, value) in array.values().enumerate() {
        let text = as_text(value).ok_or_else(|| {
            let value = value.map_or_else(|| "an array".to_owned(), |value| value.to_string());
            invalid(gguf, &element(key, index), "a text in UTF-8", value)
        })?;
        texts.push(text);
    }
    Ok(texts)
}

fn array<'a>(gguf: &Gguf<'a>, key: &str) -> Result<GgufArray<'a>, ConfigError> {
    match gguf.metadata().get(key) {
        Some(GgufValue::Array(array)) => Ok(*array),
        Some(other) => Err(invalid(gguf, key, "an array", other)),
        None => Err(missing(gguf, key)),
    }
}

fn as_text(value: Option<GgufValue<'_>>) -> Option<&str> {
    match value {
        Some(GgufValue::Text(bytes)) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn element(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}

fn quoted(text: &str) -> String {
    format!("{:?}", shorten(text))
}

fn missing(gguf: &Gguf<'_>, key: &str) -> ConfigError {
    ConfigError::Missing { file: gguf.file().to_owned(), field: key.to_owned() }
}

fn invalid(
    gguf: &Gguf<'_>,
    key: &str,
    rule: impl Into<String>,
    value: impl std::fmt::Display,
) -> ConfigError {
    ConfigError::Invalid {
        file: gguf.file().to_owned(),
        field: key.to_owned(),
        rule: rule.into(),
        value: value.to_string(),
    }
}
