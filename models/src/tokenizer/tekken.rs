//! Mistral's `tekken.json`: byte-level BPE as ranked bytes, behind ids that are kept for control tokens.
//!
//! # Source
//! mistral-common's `tokens/tokenizers/tekken.py` and its documentation: the fields; control tokens have the first ids,
//! a piece its rank behind them, and files of the first versions do not list the control tokens.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    config::VOCAB_MAX,
    error::ConfigError,
    tokenizer::{PIECE_BYTES_MAX, added_token, bos_processor, byte_level, invalid},
};

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<Entry>,
    #[serde(default)]
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct Entry {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// Control tokens of files that do not list them.
const SPECIAL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];
const BOS: &str = "<s>";

/// Returns the text of a `tokenizer.json`.
///
/// # Errors
/// [`ConfigError::Json`]; [`ConfigError::Invalid`] with the field.
pub(super) fn to_json(name: &str, text: &[u8]) -> Result<Vec<u8>, ConfigError> {
    let file: File = serde_json::from_slice(text)
        .map_err(|source| ConfigError::Json { file: name.to_owned(), source })?;
    let (size, num_special) =
        (file.config.default_vocab_size, file.config.default_num_special_tokens);
    if size > VOCAB_MAX || num_special > size {
        let rule = format!("at most {VOCAB_MAX}, `config.default_num_special_tokens` of it");
        return Err(invalid(
            name,
            "config.default_vocab_size",
            rule,
            format!("{size}, {num_special}"),
        ));
    }
    let special = special_tokens(name, &file, num_special)?;
    let bos = special.iter().position(|token| token == BOS).map(|id| (id as u32, BOS));
    let tokens = ranked(name, &file, size - num_special)?;
    let characters = byte_level::characters();
    let spell =
        |bytes: &[u8]| bytes.iter().map(|&byte| characters[usize::from(byte)]).collect::<String>();
    let id = |rank: usize| rank + num_special;
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(rank, token)| (spell(token), json!(id(rank)))).collect();
    let merges: Vec<Value> = merges(&tokens)
        .into_iter()
        .map(|(left, right)| json!([spell(&tokens[left]), spell(&tokens[right])]))
        .collect();
    let added: Vec<Value> =
        special.iter().enumerate().map(|(id, token)| added_token(id, token, false)).collect();
    let split = json!({
        "type": "Split", "pattern": { "Regex": file.config.pattern }, "behavior": "Isolated", "invert": false
    });
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
    });
    let definition = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes] },
        "post_processor": bos_processor(bos),
        "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": true, "vocab": vocab, "merges": merges
        }
    });
    Ok(definition.to_string().into_bytes())
}

/// Returns the control tokens by id; places without one are named as Mistral's own reader does.
fn special_tokens(name: &str, file: &File, num_special: usize) -> Result<Vec<String>, ConfigError> {
    let mut tokens: Vec<String> = (0..num_special).map(|id| format!("<SPECIAL_{id}>")).collect();
    let listed: Vec<(usize, &str)> = match &file.special_tokens {
        Some(list) => list.iter().map(|token| (token.rank, token.token_str.as_str())).collect(),
        None => SPECIAL.into_iter().enumerate().collect(),
    };
    for (rank, text) in listed {
        let place = tokens.get_mut(rank).ok_or_else(|| {
            let rule = format!("with ranks below {num_special}");
            invalid(name, "special_tokens", rule, rank)
        })?;
        text.clone_into(place);
    }
    Ok(tokens)
}

/// Returns the bytes of the first `num_tokens` ranks: what lies behind them is not part of the vocabulary.
fn ranked(name: &str, file: &File, num_tokens: usize) -> Result<Vec<Vec<u8>>, ConfigError> {
    let mut tokens = vec![Vec::new(); num_tokens.min(file.vocab.len())];
    for (index, entry) in file.vocab.iter().enumerate() {
        let Some(place) = tokens.get_mut(entry.rank) else { continue };
        let bytes = STANDARD.decode(&entry.token_bytes).ok();
        let bytes = bytes.filter(|bytes| (1..=PIECE_BYTES_MAX).contains(&bytes.len()));
        *place = bytes.ok_or_else(|| {
            let rule = format!("1 to {PIECE_BYTES_MAX} bytes in base64");
            invalid(name, format!("vocab[{index}].token_bytes"), rule, "another text")
        })?;
    }
    match tokens.iter().position(Vec::is_empty) {
        None => Ok(tokens),
        Some(rank) => {
            Err(invalid(name, "vocab", "with a token for each rank", format!("none for {rank}")))
        }
    }
}

/// Returns the pairs of ranks that join to a token, in the order of those tokens: any two neighbours whose bytes are a
/// token are joined, that of the lowest rank first.
fn merges(tokens: &[Vec<u8>]) -> Vec<(usize, usize)> {
    let ranks: HashMap<&[u8], usize> =
        tokens.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut merges = Vec::new();
    for token in tokens {
        let borders = 1..token.len();
        let mut pairs: Vec<(usize, usize)> = borders
            .filter_map(|border| {
                let (left, right) = token.split_at(border);
                Some((*ranks.get(left)?, *ranks.get(right)?))
            })
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs);
    }
    merges
}
