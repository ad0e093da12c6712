//! A tokenizer out of metadata, as the text of the `tokenizer.json` that it was made from.
//!
//! Written as that text and not as an object, so that the server has one reader for both.

use std::{borrow::Cow, collections::HashMap};

use serde_json::{Map, Value, json};

use crate::{
    error::ConfigError,
    gguf::{
        Gguf, GgufValue,
        keys::{Keys, element, quoted},
        pre_tokenizer,
    },
    tokenizer::{
        PIECE_BYTES_MAX, Piece, PieceKind, Pieces, Shape, added_token, bos_processor, byte_level,
    },
};

const MODEL_KEY: &str = "tokenizer.ggml.model";
const PRE_KEY: &str = "tokenizer.ggml.pre";
const TOKENS_KEY: &str = "tokenizer.ggml.tokens";
const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const SCORES_KEY: &str = "tokenizer.ggml.scores";
const MERGES_KEY: &str = "tokenizer.ggml.merges";
const BOS_KEY: &str = "tokenizer.ggml.bos_token_id";
const ADD_BOS_KEY: &str = "tokenizer.ggml.add_bos_token";
const ADD_SPACE_KEY: &str = "tokenizer.ggml.add_space_prefix";

/// Returns the text of a `tokenizer.json`.
///
/// # Errors
/// [`ConfigError`], naming the key, the rule and the value: another kind of tokenizer, an unknown way to cut texts,
/// lists that do not fit each other.
pub(crate) fn tokenizer_json(gguf: &Gguf<'_>) -> Result<Vec<u8>, ConfigError> {
    let keys = Keys { gguf };
    match keys.text(MODEL_KEY)? {
        "gpt2" => byte_level(keys),
        "llama" => Ok(pieces(keys)?.to_json()),
        other => {
            let rule = "gpt2 (byte-level BPE) or llama (SentencePiece)";
            let value =
                format!("{}; a tokenizer.json beside the file is used instead", quoted(other));
            Err(keys.invalid(MODEL_KEY, rule, value))
        }
    }
}

/// Returns the tokens by id, each with what it is for.
fn tokens<'a>(keys: Keys<'a, '_>) -> Result<Vec<(&'a str, PieceKind)>, ConfigError> {
    let texts = keys.texts(TOKENS_KEY)?;
    let kinds = kinds(keys, texts.len())?;
    let mut ids = HashMap::with_capacity(texts.len());
    let tokens: Vec<_> = texts.into_iter().zip(kinds).collect();
    for (id, &(token, kind)) in tokens.iter().enumerate() {
        if kind == PieceKind::Unused {
            continue;
        }
        if let Some(first) = ids.insert(token, id) {
            let value = format!("{} for {first} and {id}", quoted(token));
            return Err(keys.invalid(TOKENS_KEY, "a different text for each id", value));
        }
    }
    Ok(tokens)
}

/// Returns what each token is for. Without the list nothing would be a sentinel, and text could become one.
fn kinds(keys: Keys<'_, '_>, num_tokens: usize) -> Result<Vec<PieceKind>, ConfigError> {
    let array = keys.array(TYPES_KEY)?;
    if array.len() != num_tokens {
        let rule = format!("as long as `{TOKENS_KEY}` ({num_tokens})");
        return Err(keys.invalid(TYPES_KEY, rule, array.len()));
    }
    let mut kinds = Vec::with_capacity(num_tokens);
    for (index, value) in array.values().enumerate() {
        let number = match value {
            Some(GgufValue::Signed(number)) => u64::try_from(number).ok(),
            Some(GgufValue::Unsigned(number)) => Some(number),
            _ => None,
        };
        kinds.push(number.and_then(PieceKind::of).ok_or_else(|| {
            let value = value.map_or_else(|| "no number".to_owned(), |value| value.to_string());
            keys.invalid(&element(TYPES_KEY, index), "from 1 to 6", value)
        })?);
    }
    Ok(kinds)
}

/// Returns the token that comes before all, where the file says so or, saying nothing, has a tokenizer of that kind.
fn bos_id(
    keys: Keys<'_, '_>,
    num_tokens: usize,
    is_default: bool,
) -> Result<Option<u32>, ConfigError> {
    let is_added = keys.flag(ADD_BOS_KEY, is_default)?;
    Ok(keys.id(BOS_KEY, num_tokens)?.filter(|_| is_added))
}

fn byte_level(keys: Keys<'_, '_>) -> Result<Vec<u8>, ConfigError> {
    let pre = keys.text(PRE_KEY)?;
    let Some(pre) = pre_tokenizer::find(pre) else {
        let rule = format!("one of {}", pre_tokenizer::names());
        let value = format!("{}; a tokenizer.json beside the file is used instead", quoted(pre));
        return Err(keys.invalid(PRE_KEY, rule, value));
    };
    let tokens = tokens(keys)?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, &(token, kind)) in tokens.iter().enumerate() {
        match kind {
            PieceKind::Unused => {}
            PieceKind::Normal | PieceKind::Unknown | PieceKind::Byte => {
                vocab.insert(token.to_owned(), json!(id));
            }
            PieceKind::Control => added.push(added_token(id, token, false)),
            PieceKind::UserDefined => added.push(added_token(id, token, true)),
        }
    }
    let merges = merges(keys, &vocab)?;
    let missing =
        byte_level::characters_of_texts().find(|byte| !vocab.contains_key(&byte.to_string()));
    if let Some(missing) = missing {
        let rule = "a token for each byte: without one, text would be dropped without a word";
        return Err(keys.invalid(TOKENS_KEY, rule, format!("none for {missing:?}")));
    }
    let bos = bos_id(keys, tokens.len(), false)?.map(|id| (id, tokens[id as usize].0));
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.steps(),
        "post_processor": bos_processor(bos),
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

/// Returns the merges as pairs of tokens. Each must join two tokens to a third, or the library would refuse the whole
/// without a word on where it came from.
fn merges(keys: Keys<'_, '_>, vocab: &Map<String, Value>) -> Result<Vec<Value>, ConfigError> {
    let mut pairs = Vec::new();
    for (index, merge) in keys.texts(MERGES_KEY)?.into_iter().enumerate() {
        // A token has no space, the alphabet writing it as another character.
        let pair = merge.split_once(' ').filter(|(left, right)| {
            let joined = format!("{left}{right}");
            [left, right, &joined.as_str()].iter().all(|token| vocab.contains_key(**token))
        });
        let Some((left, right)) = pair else {
            let rule = "two tokens that join to a third";
            return Err(keys.invalid(&element(MERGES_KEY, index), rule, quoted(merge)));
        };
        pairs.push(json!([left, right]));
    }
    Ok(pairs)
}

/// Returns the pieces of a SentencePiece model.
fn pieces<'a>(keys: Keys<'a, '_>) -> Result<Pieces<'a>, ConfigError> {
    let tokens = tokens(keys)?;
    let scores = keys.array(SCORES_KEY)?;
    if scores.len() != tokens.len() {
        let rule = format!("as long as `{TOKENS_KEY}` ({})", tokens.len());
        return Err(keys.invalid(SCORES_KEY, rule, scores.len()));
    }
    let num_tokens = tokens.len();
    let mut rows = Vec::with_capacity(num_tokens);
    for ((text, kind), score) in tokens.into_iter().zip(scores.values()) {
        let score = match score {
            Some(GgufValue::Float(score)) if score.is_finite() => score as f32,
            other => {
                let key = element(SCORES_KEY, rows.len());
                let value = other.map_or_else(|| "no number".to_owned(), |value| value.to_string());
                return Err(keys.invalid(&key, "a finite number", value));
            }
        };
        if text.len() > PIECE_BYTES_MAX {
            let rule = format!("at most {PIECE_BYTES_MAX} bytes");
            return Err(keys.invalid(&element(TOKENS_KEY, rows.len()), rule, text.len()));
        }
        rows.push(Piece { text: Cow::Borrowed(text), score, kind });
    }
    Ok(Pieces {
        rows,
        added: Vec::new(),
        shape: Shape::Merges,
        has_dummy_prefix: keys.flag(ADD_SPACE_KEY, true)?,
        bos_id: bos_id(keys, num_tokens, true)?,
    })
}
