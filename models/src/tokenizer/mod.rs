//! Vocabularies in other files than `tokenizer.json`, as its text: SentencePiece's and Mistral's.
//!
//! Written as that text and not as an object, so that the server has one reader for all.

pub mod byte_level;
mod pieces;
mod protobuf;
mod sentencepiece;
mod tekken;

pub(crate) use pieces::{Piece, PieceKind, Pieces, Shape};

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::ConfigError;

/// The form that all others are brought to.
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// Mistral's own form, from Nemo on.
const TEKKEN_FILE: &str = "tekken.json";
/// SentencePiece's own form, as Hugging Face and as Mistral name it.
const SENTENCEPIECE_FILES: [&str; 2] = ["tokenizer.model", "tokenizer.model.v3"];
/// Tokens that were added to a SentencePiece model.
const ADDED_TOKENS_FILE: &str = "added_tokens.json";

/// Longest piece, some ten times the longest published ones. Each way to cut a piece in two is looked up, so that one
/// costs its length squared.
///
/// # Units
/// bytes
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 12;

/// What a folder says of texts and tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `tokenizer.json`, there or not.
    Json(PathBuf),
    /// Mistral's.
    Tekken(PathBuf),
    /// SentencePiece's, and what was added.
    SentencePiece(PathBuf, PathBuf),
}

/// Returns the first form that a folder has: the later ones are kept beside it for other programs.
pub(crate) fn form_of(directory: &Path) -> Form {
    let json = directory.join(TOKENIZER_FILE);
    let tekken = directory.join(TEKKEN_FILE);
    if json.is_file() {
        return Form::Json(json);
    }
    if tekken.is_file() {
        return Form::Tekken(tekken);
    }
    let sentencepiece = SENTENCEPIECE_FILES.map(|name| directory.join(name));
    match sentencepiece.into_iter().find(|path| path.is_file()) {
        Some(path) => Form::SentencePiece(path, directory.join(ADDED_TOKENS_FILE)),
        None => Form::Json(json),
    }
}

/// Returns a `tekken.json` as the text of a `tokenizer.json`.
///
/// # Errors
/// [`ConfigError`] with the field.
pub(crate) fn from_tekken(bytes: &[u8]) -> Result<Vec<u8>, ConfigError> {
    tekken::to_json(TEKKEN_FILE, bytes)
}

/// Returns a SentencePiece model as the text of a `tokenizer.json`; `file` is its name, for errors, and `added` the text
/// of its `added_tokens.json`.
///
/// # Errors
/// [`ConfigError`] with the field.
pub(crate) fn from_sentencepiece(
    file: &str,
    bytes: &[u8],
    added: Option<&[u8]>,
) -> Result<Vec<u8>, ConfigError> {
    let mut pieces = sentencepiece::read(file, bytes)?;
    if let Some(added) = added {
        pieces.added = sentencepiece::read_added(ADDED_TOKENS_FILE, added)?;
    }
    Ok(pieces.to_json())
}

/// Returns the entry of an added token; a text is one that others may write.
pub(crate) fn added_token(id: usize, content: &str, is_text: bool) -> Value {
    json!({
        "id": id, "content": content, "special": !is_text,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": is_text
    })
}

/// Returns the post-processor that puts a token before a text.
pub(crate) fn bos_processor(bos: Option<(u32, &str)>) -> Value {
    let Some((id, content)) = bos else { return Value::Null };
    let special = json!({ "SpecialToken": { "id": content, "type_id": 0 } });
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let names = json!({ content: { "id": content, "ids": [id], "tokens": [content] } });
    json!({
        "type": "TemplateProcessing", "special_tokens": names,
        "single": [special, text("A")], "pair": [special, text("A"), text("B")]
    })
}

fn invalid(
    file: &str,
    field: impl Into<String>,
    rule: impl Into<String>,
    value: impl std::fmt::Display,
) -> ConfigError {
    let (field, rule) = (field.into(), rule.into());
    ConfigError::Invalid { file: file.to_owned(), field, rule, value: value.to_string() }
}
