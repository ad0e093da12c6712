//! SentencePiece's own file, a message of protocol buffers.
//!
//! # Source
//! `sentencepiece_model.proto` of google/sentencepiece: the numbers of the fields.

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    config::VOCAB_MAX,
    error::ConfigError,
    tokenizer::{
        PIECE_BYTES_MAX, invalid,
        pieces::{Piece, PieceKind, Pieces, Shape},
        protobuf::{Broken, Fields, Value},
    },
};

/// Fields of `ModelProto`.
const PIECES: u64 = 1;
const TRAINER: u64 = 2;
const NORMALIZER: u64 = 3;

/// Reads a model.
///
/// # Errors
/// [`ConfigError::Invalid`]: what is no such model, and one that would change texts.
pub(super) fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Pieces<'a>, ConfigError> {
    let broken = |Broken| invalid(file, "ModelProto", "a whole message", "one that breaks off");
    let mut pieces = Pieces {
        rows: Vec::new(),
        added: Vec::new(),
        shape: Shape::Unigram,
        has_dummy_prefix: true,
        bos_id: Some(1),
    };
    for field in Fields::of(bytes) {
        match field.map_err(broken)? {
            (PIECES, Value::Bytes(message)) => {
                let field = format!("pieces[{}]", pieces.rows.len());
                let piece = read_piece(message).ok_or_else(|| {
                    let rule =
                        format!("1 to {PIECE_BYTES_MAX} bytes in UTF-8, of a type from 1 to 6");
                    invalid(file, field, rule, "another")
                })?;
                pieces.rows.push(piece);
            }
            (TRAINER, Value::Bytes(message)) => read_trainer(file, message, &mut pieces)?,
            (NORMALIZER, Value::Bytes(message)) => read_normalizer(file, message, &mut pieces)?,
            _ => {}
        }
    }
    if pieces.rows.is_empty() {
        return Err(invalid(file, "pieces", "a list of pieces", "none"));
    }
    let mut ids = std::collections::HashMap::new();
    for (id, row) in pieces.rows.iter().enumerate() {
        if let Some(first) = ids.insert(row.text.as_ref(), id) {
            let rule = "a different text for each id";
            return Err(invalid(file, "pieces", rule, format!("one text for {first} and {id}")));
        }
    }
    if pieces.shape == Shape::Unigram
        && !pieces.rows.iter().any(|row| row.kind == PieceKind::Unknown)
    {
        return Err(invalid(file, "pieces", "with one for what is unknown", "none"));
    }
    Ok(pieces)
}

fn read_piece(message: &[u8]) -> Option<Piece<'_>> {
    let (mut text, mut score, mut kind) = ("", 0.0, PieceKind::Normal);
    for field in Fields::of(message) {
        match field.ok()? {
            (1, value) => text = std::str::from_utf8(value.bytes()?).ok()?,
            (2, value) => score = value.float().filter(|score| score.is_finite())?,
            (3, value) => kind = PieceKind::of(value.varint()?)?,
            _ => {}
        }
    }
    (1..=PIECE_BYTES_MAX).contains(&text.len()).then_some(Piece {
        text: Cow::Borrowed(text),
        score,
        kind,
    })
}

fn read_trainer(file: &str, message: &[u8], pieces: &mut Pieces<'_>) -> Result<(), ConfigError> {
    for field in Fields::of(message) {
        let field = field.map_err(|Broken| invalid(file, "trainer_spec", "whole", "broken off"))?;
        match field {
            (3, Value::Varint(1)) => pieces.shape = Shape::Unigram,
            (3, Value::Varint(2)) => pieces.shape = Shape::Merges,
            (3, Value::Varint(other)) => {
                let rule = "1 (unigram) or 2 (bpe)";
                return Err(invalid(file, "trainer_spec.model_type", rule, other));
            }
            (24, Value::Varint(1)) => {
                let field = "trainer_spec.treat_whitespace_as_suffix";
                return Err(invalid(file, field, "false", true));
            }
            // Written as 64 bits; -1 is none.
            (41, Value::Varint(id)) => pieces.bos_id = u32::try_from(id).ok(),
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(file: &str, message: &[u8], pieces: &mut Pieces<'_>) -> Result<(), ConfigError> {
    let mut removes_spaces = true;
    for field in Fields::of(message) {
        let field =
            field.map_err(|Broken| invalid(file, "normalizer_spec", "whole", "broken off"))?;
        match field {
            (2, Value::Bytes(map)) if !map.is_empty() => {
                let field = "normalizer_spec.precompiled_charsmap";
                let rule = "empty: characters would be replaced by others";
                return Err(invalid(file, field, rule, format!("{} bytes", map.len())));
            }
            (3, Value::Varint(flag)) => pieces.has_dummy_prefix = flag != 0,
            (4, Value::Varint(flag)) => removes_spaces = flag != 0,
            (5, Value::Varint(0)) => {
                let field = "normalizer_spec.escape_whitespaces";
                return Err(invalid(file, field, "true", false));
            }
            _ => {}
        }
    }
    if removes_spaces {
        let field = "normalizer_spec.remove_extra_whitespaces";
        return Err(invalid(file, field, "false: code would lose its indentation", true));
    }
    Ok(())
}

/// Reads an `added_tokens.json`: ids by text.
///
/// # Errors
/// [`ConfigError::Json`]; [`ConfigError::Invalid`].
pub(super) fn read_added(file: &str, text: &[u8]) -> Result<Vec<(u32, String)>, ConfigError> {
    let tokens: BTreeMap<String, u64> = serde_json::from_slice(text)
        .map_err(|source| ConfigError::Json { file: file.to_owned(), source })?;
    let mut added = Vec::with_capacity(tokens.len());
    for (text, id) in tokens {
        if id >= VOCAB_MAX as u64 {
            return Err(invalid(file, "id", format!("below {VOCAB_MAX}"), id));
        }
        added.push((id as u32, text));
    }
    Ok(added)
}
