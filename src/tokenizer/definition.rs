//! What a `tokenizer.json` says, made safe: no step left in it writes a control token or changes a text.
//!
//! The library matches added tokens anywhere in its input, and Qwen's sentinels are not even marked special, so its
//! switch for special tokens would not cover them. Some vocabularies hold control tokens as pieces that merges can
//! reach. So both ways are closed here, before the library sees the definition.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::tokenizer::{TokenizerError, sentencepiece};

/// A token outside the merges: a sentinel, an end mark, a role tag; or a text that is one token wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    /// Its spelling.
    pub(super) content: String,
    /// Whether texts may become it, and it shows in them.
    pub(super) is_text: bool,
    /// Whether it stands for nothing in a text.
    pub(super) is_silent: bool,
}

/// How the names of tokens spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet, [`crate::tokenizer::byte_level`].
    ByteLevel,
    /// [`sentencepiece`], merged.
    Merges,
    /// [`sentencepiece`], the likeliest pieces.
    Unigram,
}

/// Where a model saw a space before the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DocumentSpace {
    /// Nowhere.
    None,
    /// At the beginning of a document.
    First,
    /// There, and behind each control token.
    Each,
}

/// A definition that was read.
#[derive(Debug)]
pub(super) struct Definition {
    /// For the library.
    pub(super) json: Value,
    /// All added tokens, by id.
    pub(super) added: HashMap<u32, AddedToken>,
    /// How tokens are spelt.
    pub(super) spelling: Spelling,
    /// What its own templates put before a text.
    pub(super) bos_token: Option<String>,
    /// Where the model saw a space that no text has.
    pub(super) document_space: DocumentSpace,
}

/// Reads the text of a `tokenizer.json`.
///
/// # Errors
/// [`TokenizerError`] where it is malformed or would lose or change texts.
pub(super) fn read(text: &[u8]) -> Result<Definition, TokenizerError> {
    let mut json: Value = serde_json::from_slice(text)?;
    if !json.is_object() {
        return Err(form("not an object"));
    }
    let spelling = spelling(&json)?;
    // Without a name the library takes the first kind of model that fits.
    if json["model"].is_object() && json["model"]["type"].is_null() {
        json["model"]["type"] = json!("BPE");
    }
    let tokens = take_added_tokens(&mut json)?;
    let bos_token = bos_token(&json["post_processor"]);
    let mut space = DocumentSpace::None;
    json["normalizer"] = kept_normalizer(json["normalizer"].take(), &mut space)?;
    json["pre_tokenizer"] = kept_cuts(json["pre_tokenizer"].take(), &mut space)?;
    // A post-processor would add tokens of its own, and cutting is the prompt builder's work. Bytes are ours to join.
    for key in ["post_processor", "truncation", "padding", "decoder"] {
        json[key] = Value::Null;
    }
    let writes_spaces =
        has_step(&json["normalizer"], "Replace") || has_step(&json["pre_tokenizer"], "Metaspace");
    if spelling == Spelling::Unigram && !writes_spaces {
        // The names of closed pieces have one.
        return Err(form("a unigram model needs a step that writes spaces as `▁`"));
    }
    let added = by_id(tokens)?;
    close_model(&mut json["model"], &added, spelling)?;
    Ok(Definition { json, added, spelling, bos_token, document_space: space })
}

fn form(what: impl Into<String>) -> TokenizerError {
    TokenizerError::Form(what.into())
}

fn spelling(json: &Value) -> Result<Spelling, TokenizerError> {
    let model = json["model"]["type"].as_str();
    if has_step(&json["decoder"], "ByteLevel") {
        return match model {
            None | Some("BPE") => Ok(Spelling::ByteLevel),
            Some(other) => Err(form(format!("a byte-level model must be BPE, got {other:?}"))),
        };
    }
    match model {
        None | Some("BPE") => Ok(Spelling::Merges),
        Some("Unigram") => Ok(Spelling::Unigram),
        Some(other) => Err(form(format!("the model must be BPE or Unigram, got {other:?}"))),
    }
}

/// Returns whether a step or one within it is of that type.
fn has_step(step: &Value, kind: &str) -> bool {
    let lists = ["decoders", "normalizers", "pretokenizers"].map(|key| step[key].as_array());
    step["type"] == kind || lists.into_iter().flatten().flatten().any(|step| has_step(step, kind))
}

struct Numbered {
    id: u32,
    token: AddedToken,
}

/// Takes the added tokens out, but for those that are texts.
fn take_added_tokens(json: &mut Value) -> Result<Vec<Numbered>, TokenizerError> {
    let Value::Array(list) = json["added_tokens"].take() else {
        return Err(form("`added_tokens` is not a list"));
    };
    let mut kept = Vec::new();
    let mut tokens = Vec::with_capacity(list.len());
    for entry in list {
        let id = entry["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| form("an added token has no `id`"))?;
        let content =
            entry["content"].as_str().ok_or_else(|| form("an added token has no `content`"))?;
        let content = content.to_owned();
        let is_text = is_text(&entry, &content);
        let is_silent = entry["special"].as_bool().unwrap_or(false) || is_control(&content);
        if is_text {
            add_to_vocab(&mut json["model"]["vocab"], &content, id);
            kept.push(entry);
        }
        tokens.push(Numbered { id, token: AddedToken { content, is_text, is_silent } });
    }
    json["added_tokens"] = Value::Array(kept);
    Ok(tokens)
}

/// Refuses tokens that share an id or a text: which of them a text or an id means could not be said.
fn by_id(tokens: Vec<Numbered>) -> Result<HashMap<u32, AddedToken>, TokenizerError> {
    let mut ids: HashMap<String, u32> = HashMap::with_capacity(tokens.len());
    let mut added: HashMap<u32, AddedToken> = HashMap::with_capacity(tokens.len());
    for Numbered { id, token } in tokens {
        let first = *ids.entry(token.content.clone()).or_insert(id);
        if first != id {
            return Err(form(format!("the added tokens {first} and {id} have one text")));
        }
        if added.get(&id).is_some_and(|other| *other != token) {
            return Err(form(format!("two added tokens have the id {id}")));
        }
        added.insert(id, token);
    }
    Ok(added)
}

/// The library numbers added tokens itself, unless the vocabulary has them.
fn add_to_vocab(vocab: &mut Value, content: &str, id: u32) {
    if let Some(vocab) = vocab.as_object_mut() {
        vocab.entry(content).or_insert_with(|| json!(id));
    }
}

/// Sentinels that a definition forgot to mark special (Qwen2.5-Coder's are not) must not show in a completion.
fn is_control(content: &str) -> bool {
    [("<|", "|>"), ("<｜", "｜>"), ("<[", "]>"), ("▁<", ">")]
        .iter()
        .any(|(open, close)| content.starts_with(open) && content.ends_with(close))
}

/// Tags of HTML that Gemma's vocabulary has as texts.
const TAGS: &[&str] = &[
    "table",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "th",
    "td",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "ul",
    "ol",
    "li",
    "b",
    "i",
    "u",
    "em",
    "strong",
    "sub",
    "sup",
    "code",
];

/// Returns whether a token is a text: runs of white space, letters, tags of HTML. What is in brackets may be a control
/// token that a definition forgot to mark, and stays out of reach.
fn is_text(entry: &Value, content: &str) -> bool {
    let is_marked = |key: &str| entry[key].as_bool().unwrap_or(false);
    let is_tag = || {
        let inner = content.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        inner.is_some_and(|inner| TAGS.contains(&inner.strip_prefix('/').unwrap_or(inner)))
    };
    let has_brackets = content.contains(['<', '>', '[', ']', '｜']) && content.chars().count() > 1;
    // One that takes white space beside it would lose it.
    let takes_more = is_marked("lstrip") || is_marked("rstrip") || is_marked("single_word");
    !content.is_empty() && !is_marked("special") && !takes_more && (!has_brackets || is_tag())
}

/// Returns what a post-processor puts before a text.
fn bos_token(step: &Value) -> Option<String> {
    if let Some(list) = step["processors"].as_array() {
        return list.iter().find_map(bos_token);
    }
    let first = step["single"].as_array()?.first()?;
    first["SpecialToken"]["id"].as_str().map(ToOwned::to_owned)
}

/// Returns the normaliser without what changes texts. Composing characters (NFC) is left out: code is bytes, and an
/// answer must fit what stands around it.
fn kept_normalizer(step: Value, space: &mut DocumentSpace) -> Result<Value, TokenizerError> {
    match step["type"].as_str() {
        None if step.is_null() => Ok(Value::Null),
        Some("NFC") => Ok(Value::Null),
        Some("Prepend") if step["prepend"] == "▁" => {
            *space = DocumentSpace::Each;
            Ok(Value::Null)
        }
        Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => Ok(step),
        Some("Sequence") => kept_steps(step, "normalizers", space, kept_normalizer),
        _ => Err(form(format!("the normaliser {} would change texts", step["type"]))),
    }
}

/// Returns the steps that cut texts, none of which adds or loses any of it.
fn kept_cuts(mut step: Value, space: &mut DocumentSpace) -> Result<Value, TokenizerError> {
    match step["type"].as_str() {
        None if step.is_null() => Ok(step),
        Some("Sequence") => kept_steps(step, "pretokenizers", space, kept_cuts),
        Some("Metaspace") if step["replacement"].as_str().is_none_or(|mark| mark == "▁") => {
            let adds = step["add_prefix_space"] != false && step["prepend_scheme"] != "never";
            if adds {
                let is_first = step["prepend_scheme"] == "first";
                *space = if is_first { DocumentSpace::First } else { DocumentSpace::Each };
            }
            step["prepend_scheme"] = json!("never");
            step["add_prefix_space"] = json!(false);
            Ok(step)
        }
        Some("ByteLevel") => {
            if step["add_prefix_space"] == true {
                *space = DocumentSpace::Each;
            }
            step["add_prefix_space"] = json!(false);
            Ok(step)
        }
        Some("Split" | "Punctuation") if step["behavior"] == "Removed" => {
            Err(form("the pre-tokeniser would remove text"))
        }
        Some("Split" | "Digits" | "Punctuation" | "UnicodeScripts" | "FixedLength") => Ok(step),
        _ => Err(form(format!("the pre-tokeniser {} would change texts", step["type"]))),
    }
}

fn kept_steps(
    mut step: Value,
    key: &str,
    space: &mut DocumentSpace,
    keep: fn(Value, &mut DocumentSpace) -> Result<Value, TokenizerError>,
) -> Result<Value, TokenizerError> {
    let mut kept = Vec::new();
    for inner in step[key].as_array_mut().into_iter().flatten() {
        let inner = keep(inner.take(), space)?;
        if !inner.is_null() {
            kept.push(inner);
        }
    }
    step[key] = Value::Array(kept);
    Ok(step)
}

/// Takes away the ways from texts to control tokens and to the pieces of bytes.
fn close_model(
    model: &mut Value,
    added: &HashMap<u32, AddedToken>,
    spelling: Spelling,
) -> Result<(), TokenizerError> {
    let control = control_texts(&model["vocab"], added);
    if spelling == Spelling::Unigram {
        let num_pieces = close_pieces(&mut model["vocab"], &control)?;
        if model["unk_id"].as_u64().is_none_or(|id| id >= num_pieces as u64) {
            return Err(form("a unigram model needs the `unk_id` of one of its pieces"));
        }
        model["byte_fallback"] = json!(true);
        return Ok(());
    }
    let is_closed = |token: &str| {
        let is_byte = spelling == Spelling::Merges && sentencepiece::byte_of(token).is_some();
        is_byte || control.contains(token)
    };
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| {
            let pair = match merge {
                Value::String(pair) => pair.split_once(' '),
                other => other[0].as_str().zip(other[1].as_str()),
            };
            pair.is_none_or(|(left, right)| {
                !is_closed(left) && !is_closed(right) && !is_closed(&format!("{left}{right}"))
            })
        });
    }
    if let Some(vocab) = model["vocab"].as_object_mut() {
        vocab.retain(|token, _| !control.contains(token));
    }
    // Every byte has a piece, so that nothing is unknown.
    model["unk_token"] = Value::Null;
    if spelling == Spelling::Merges {
        model["byte_fallback"] = json!(true);
        model["ignore_merges"] = json!(false);
    }
    Ok(())
}

/// Returns what no text may become: control tokens, and the vocabulary's own texts for their ids. Gemma's `<unused…>`
/// are such texts, where tuned models use their ids for something else.
fn control_texts(vocab: &Value, added: &HashMap<u32, AddedToken>) -> HashSet<String> {
    let control = || added.iter().filter(|(_, token)| !token.is_text);
    let mut texts: HashSet<String> = control().map(|(_, token)| token.content.clone()).collect();
    let ids: HashSet<u64> = control().map(|(&id, _)| u64::from(id)).collect();
    match vocab {
        Value::Object(vocab) => {
            let of_ids =
                vocab.iter().filter(|(_, id)| id.as_u64().is_some_and(|id| ids.contains(&id)));
            texts.extend(of_ids.map(|(text, _)| text.clone()));
        }
        Value::Array(pieces) => {
            let of_ids = (0..).zip(pieces).filter(|(id, _)| ids.contains(id));
            texts.extend(of_ids.filter_map(|(_, piece)| Some(piece[0].as_str()?.to_owned())));
        }
        _ => {}
    }
    texts
}

/// Renames the control pieces of a unigram model and returns the number of all: ids are places in the list. No text has
/// the name, for spaces are written otherwise before pieces are looked up.
fn close_pieces(vocab: &mut Value, control: &HashSet<String>) -> Result<usize, TokenizerError> {
    let pieces = vocab.as_array_mut().ok_or_else(|| form("a unigram vocabulary is not a list"))?;
    for (id, piece) in pieces.iter_mut().enumerate() {
        if piece[0].as_str().is_some_and(|piece| control.contains(piece)) {
            piece[0] = json!(format!("control {id}"));
        }
    }
    Ok(pieces.len())
}
