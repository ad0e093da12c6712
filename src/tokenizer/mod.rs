//! Text to token ids and back, byte for byte.
//!
//! User text must never become a control token: `definition` closes all ways from one to the other, and a control
//! token is spliced in by its id. What is encoded comes back as it was, for any text.

use std::collections::{HashMap, HashSet};

pub mod byte_level;
mod definition;
pub mod detokenizer;
mod pieces;
mod sentencepiece;
pub mod stop;

pub use detokenizer::Detokenizer;
pub use stop::StopMatcher;

use models::{config::VOCAB_MAX, tokenizer::byte_level::characters_of_texts};

use crate::tokenizer::{
    definition::{AddedToken, DocumentSpace, Spelling},
    sentencepiece::{BytePieces, Part},
};

/// Why a `tokenizer.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not JSON.
    #[error("`tokenizer.json` is not valid JSON")]
    Json(#[from] serde_json::Error),
    /// A part is missing or has an unexpected form.
    #[error("`tokenizer.json`: {0}")]
    Form(String),
    /// The library refused the definition or a text.
    #[error("`tokenizer.json`: {0}")]
    Library(String),
}

/// How texts are taken apart before the library sees them.
#[derive(Debug)]
enum Parts {
    /// Not at all: each byte has a character.
    Whole,
    /// [`sentencepiece::parts`].
    SentencePiece { bytes: BytePieces, cuts_byte_names: bool },
}

/// A tokenizer: byte-level BPE, or SentencePiece's merges or unigrams with a piece for each byte.
pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    parts: Parts,
    added: HashMap<u32, AddedToken>,
    ids_of_added: HashMap<String, u32>,
    bos_token_id: Option<u32>,
    document_space: DocumentSpace,
    /// Bytes of the longest spelling of a control token.
    control_bytes_max: usize,
    /// Bytes of all tokens, one after the other; token `i` is `bytes[ends[i - 1]..ends[i]]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    token_bytes_max: usize,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("num_ids", &self.ends.len()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] where it is malformed, or would lose or change texts.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let definition = definition::read(json)?;
        let library = tokenizers::Tokenizer::from_bytes(definition.json.to_string())
            .map_err(|error| TokenizerError::Library(error.to_string()))?;
        let added = definition.added;
        let vocab = library.get_vocab(false);
        check_ids(&vocab, &added)?;
        check_texts(&library, &added)?;
        let parts = parts(&vocab, definition.spelling)?;
        let (bytes, ends) = bytes_of_tokens(&vocab, &added, definition.spelling);
        let ids_of_added: HashMap<String, u32> =
            added.iter().map(|(&id, token)| (token.content.clone(), id)).collect();
        let bos_token_id = definition.bos_token.and_then(|token| ids_of_added.get(&token).copied());
        let starts = std::iter::once(&0).chain(&ends);
        let longest = starts.zip(&ends).map(|(start, end)| (end - start) as usize).max();
        let control_bytes_max = ids_of_added.keys().map(String::len).max().unwrap_or(0);
        Ok(Self {
            library,
            parts,
            control_bytes_max,
            added,
            ids_of_added,
            bos_token_id,
            document_space: definition.document_space,
            bytes,
            ends,
            token_bytes_max: longest.unwrap_or(0).max(1),
        })
    }

    /// Returns the number of ids, holes included.
    pub fn num_ids(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Returns the id of a control token such as a sentinel, by its exact spelling. No text becomes it.
    pub fn added_token_id(&self, content: &str) -> Option<u32> {
        if let Some(&id) = self.ids_of_added.get(content) {
            return self.added.get(&id).is_some_and(|token| !token.is_text).then_some(id);
        }
        // Code Llama's are pieces like any other, which no merge leads to.
        let id = self.library.token_to_id(content)?;
        let text = std::str::from_utf8(self.token_bytes(id)).ok()?;
        let is_reached = self.encode(text).is_ok_and(|ids| ids.contains(&id));
        (!text.is_empty() && !is_reached).then_some(id)
    }

    /// Returns the spellings of all control tokens.
    pub fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.added.values().filter(|token| !token.is_text).map(|token| token.content.as_str())
    }

    /// Returns the longest control token that `text` begins with: its id and the bytes of its spelling. For templates,
    /// which are allowed to name them; never for a user's text.
    pub fn control_token_at(&self, text: &str) -> Option<(u32, usize)> {
        let longest = self.control_bytes_max.min(text.len());
        let mut spellings = (1..=longest).rev().filter_map(|end| text.get(..end));
        spellings.find_map(|spelling| {
            let &id = self.ids_of_added.get(spelling)?;
            self.added.get(&id).is_some_and(|token| !token.is_text).then_some((id, spelling.len()))
        })
    }

    /// Puts `bos` before each text, where its own definition says nothing of it.
    #[must_use]
    pub fn or_bos(self, bos: Option<u32>) -> Self {
        Self { bos_token_id: self.bos_token_id.or(bos), ..self }
    }

    /// Returns the token that comes before each text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// Returns what the model saw before the first word of each document, where its definition writes it there: a
    /// space or nothing. [`Self::encode`] leaves it out.
    pub fn document_lead(&self) -> &'static str {
        match self.document_space {
            DocumentSpace::None => "",
            DocumentSpace::First | DocumentSpace::Each => " ",
        }
    }

    /// Returns the same for a text behind a control token.
    pub fn segment_lead(&self) -> &'static str {
        match self.document_space {
            DocumentSpace::None | DocumentSpace::First => "",
            DocumentSpace::Each => " ",
        }
    }

    /// Encodes plain text as it stands; no control token can come out of it.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] where the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in pieces::pieces(text) {
            let Parts::SentencePiece { bytes, cuts_byte_names } = &self.parts else {
                self.encode_part(piece, &mut ids)?;
                continue;
            };
            for part in sentencepiece::parts(piece, *cuts_byte_names) {
                match part {
                    Part::Text(text) => self.encode_part(text, &mut ids)?,
                    Part::Bytes(text) => bytes.push_ids(text, &mut ids),
                }
            }
        }
        Ok(ids)
    }

    fn encode_part(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let encoding = self.library.encode_fast(text, false);
        let encoding = encoding.map_err(|error| TokenizerError::Library(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Returns the length of the longest token, at least 1.
    ///
    /// # Units
    /// bytes
    pub fn token_bytes_max(&self) -> usize {
        self.token_bytes_max
    }

    /// Returns the bytes that a token stands for: none for a special token or an id that is not in use.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let index = id as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Returns a token as a person would read it: special tokens by name, broken characters as U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        match self.added.get(&id) {
            Some(token) => token.content.clone(),
            None => String::from_utf8_lossy(self.token_bytes(id)).into_owned(),
        }
    }

    /// Decodes a whole sequence; special tokens vanish, broken characters become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Returns how texts are taken apart, if each byte of them has a token.
fn parts(vocab: &HashMap<String, u32>, spelling: Spelling) -> Result<Parts, TokenizerError> {
    let lost = |what: &str| {
        TokenizerError::Form(format!("{what}: without one, text would be dropped without a word"))
    };
    if spelling == Spelling::ByteLevel {
        return match characters_of_texts().find(|c| !vocab.contains_key(&c.to_string())) {
            None => Ok(Parts::Whole),
            Some(missing) => {
                Err(lost(&format!("no token for the byte that is written {missing:?}")))
            }
        };
    }
    let bytes = BytePieces::find(vocab);
    let bytes = bytes.ok_or_else(|| lost("neither byte-level nor with a piece for each byte"))?;
    Ok(Parts::SentencePiece { bytes, cuts_byte_names: spelling == Spelling::Unigram })
}

/// Refuses ids that no vocabulary has, before memory is taken by the largest of them, and one id for two texts.
fn check_ids(
    vocab: &HashMap<String, u32>,
    added: &HashMap<u32, AddedToken>,
) -> Result<(), TokenizerError> {
    match vocab.values().chain(added.keys()).find(|id| **id as usize >= VOCAB_MAX) {
        None => {}
        Some(id) => {
            let rule = format!("token ids must lie below {VOCAB_MAX}, got {id}");
            return Err(TokenizerError::Form(rule));
        }
    }
    let mut seen = HashSet::with_capacity(vocab.len());
    match vocab.values().find(|id| !seen.insert(**id)) {
        None => Ok(()),
        Some(id) => Err(TokenizerError::Form(format!("two tokens have the id {id}"))),
    }
}

/// Refuses added texts that the library gives another id, as it does where their own is a hole or another's.
fn check_texts(
    library: &tokenizers::Tokenizer,
    added: &HashMap<u32, AddedToken>,
) -> Result<(), TokenizerError> {
    for (&id, token) in added.iter().filter(|(_, token)| token.is_text) {
        let found = library.token_to_id(&token.content);
        if found != Some(id) {
            let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
            let what = format!("the text of the added token {id} has another id: {found}");
            return Err(TokenizerError::Form(what));
        }
    }
    Ok(())
}

/// Lays the bytes of all tokens into one buffer; holes between ids take no bytes.
fn bytes_of_tokens(
    vocab: &HashMap<String, u32>,
    added: &HashMap<u32, AddedToken>,
    spelling: Spelling,
) -> (Vec<u8>, Vec<u32>) {
    let num_ids = vocab.values().chain(added.keys()).max().map_or(0, |&id| id as usize + 1);
    let mut by_id: Vec<&str> = vec![""; num_ids];
    for (token, &id) in vocab {
        by_id[id as usize] = token;
    }
    let alphabet = byte_level::Alphabet::new();
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(num_ids);
    for (id, token) in by_id.into_iter().enumerate() {
        match (added.get(&(id as u32)), spelling) {
            (Some(token), _) if token.is_silent => {}
            (Some(token), Spelling::ByteLevel) => bytes.extend_from_slice(token.content.as_bytes()),
            (Some(token), _) => sentencepiece::push_text(&token.content, &mut bytes),
            (None, Spelling::ByteLevel) => alphabet.push_bytes(token, &mut bytes),
            (None, _) => sentencepiece::push_bytes(token, &mut bytes),
        }
        ends.push(bytes.len() as u32);
    }
    (bytes, ends)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn demo() -> Tokenizer {
        Tokenizer::from_json(include_bytes!("../../models/demo/tokenizer.json")).unwrap()
    }

    #[test]
    fn round_trips_any_text() {
        let tokenizer = demo();
        for text in [
            "",
            "def f(x):\n    return x\r\n",
            "héllo ∑ 日本 🦀\u{200d}",
            "\0\t \n\n  ",
            "a\u{feff}b",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }

    #[test]
    fn user_text_never_becomes_a_control_token() {
        let tokenizer = demo();
        for sentinel in ["<|fim_middle|>", "<|endoftext|>", "<|file_sep|>"] {
            let id = tokenizer.added_token_id(sentinel).unwrap();
            let ids = tokenizer.encode(&format!("a {sentinel} b")).unwrap();
            assert!(!ids.contains(&id), "{sentinel}");
            assert_eq!(tokenizer.decode(&ids), format!("a {sentinel} b"));
            assert_eq!(tokenizer.token_bytes(id), b"");
            assert_eq!(tokenizer.token_text(id), sentinel);
        }
    }

    #[test]
    fn an_id_out_of_range_stands_for_nothing() {
        let tokenizer = demo();
        assert_eq!(tokenizer.token_bytes(tokenizer.num_ids()), b"");
        assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    }

    #[test]
    fn refuses_what_would_lose_or_change_texts() {
        let byte_level = r#""decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}"#;
        let model = r#""model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}"#;
        let with = |more: &str| format!(r#"{{"added_tokens": [], {more}, {model}}}"#);
        let rows = [
            ("{".to_owned(), "not valid JSON"),
            ("[]".to_owned(), "not an object"),
            (format!(r#"{{"added_tokens": 1, {byte_level}, {model}}}"#), "not a list"),
            (with(r#""decoder": {"type": "Metaspace"}"#), "a piece for each byte: without one"),
            (with(byte_level), "no token for the byte that is written"),
            (
                format!(
                    r#"{{"added_tokens": [{{"id": 4294967295, "content": "x", "special": true}}], {byte_level}, {model}}}"#
                ),
                "below 4194304",
            ),
            (with(r#""normalizer": {"type": "Lowercase"}"#), "\"Lowercase\" would change texts"),
            (
                with(r#""pre_tokenizer": {"type": "Whitespace"}"#),
                "\"Whitespace\" would change texts",
            ),
            (
                with(
                    r#""pre_tokenizer": {"type": "Split", "pattern": {"String": "-"}, "behavior": "Removed"}"#,
                ),
                "would remove text",
            ),
            (
                r#"{"added_tokens": [], "model": {"type": "WordPiece"}}"#.to_owned(),
                "must be BPE or Unigram, got \"WordPiece\"",
            ),
        ];
        for (json, expected) in rows {
            let error = Tokenizer::from_json(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}\n{error}");
        }
    }

    #[test]
    fn characters_that_could_be_composed_stay_apart() {
        let tokenizer = demo();
        for text in ["e\u{301}", "\u{1100}\u{1161}", "\u{212b}", "a\u{328}\u{301}"] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
        }
    }

    fn added(id: u64, content: &str, is_special: bool) -> Value {
        json!({
            "id": id, "content": content, "special": is_special,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false
        })
    }

    fn with_added(id: u64, content: &str, is_special: bool) -> Result<Tokenizer, TokenizerError> {
        let mut json: Value = serde_json::from_slice(models::demo::TOKENIZER_JSON).unwrap();
        json["added_tokens"].as_array_mut().unwrap().push(added(id, content, is_special));
        Tokenizer::from_json(json.to_string().as_bytes())
    }

    #[test]
    fn an_id_has_one_text_and_a_text_one_id() {
        let tokenizer = demo();
        let sentinel = tokenizer.added_token_id("<|fim_prefix|>").unwrap();
        let [word] = tokenizer.encode(" return").unwrap()[..] else { panic!("not one token") };
        let next = u64::from(tokenizer.num_ids());
        let (sentinel, word) = (u64::from(sentinel), u64::from(word));
        let rows = [
            (sentinel, "<|own|>", true, "two added tokens have the id"),
            (next, "<|fim_prefix|>", true, "have one text"),
            (word, "qzqz", false, "two tokens have the id"),
            (next, "Ġreturn", false, "has another id"),
        ];
        for (id, content, is_special, expected) in rows {
            let error = with_added(id, content, is_special).unwrap_err().to_string();
            assert!(error.contains(expected), "{content}: {error}");
        }
        assert!(with_added(next, "<|own|>", true).is_ok());
    }

    #[test]
    fn a_text_whose_id_a_control_token_has_is_spelt_otherwise() {
        let [word] = demo().encode(" return").unwrap()[..] else { panic!("not one token") };
        let tokenizer = with_added(u64::from(word), "<|own|>", true).unwrap();
        assert_eq!(tokenizer.added_token_id("<|own|>"), Some(word));
        let ids = tokenizer.encode(" return <|own|>").unwrap();
        assert!(!ids.contains(&word));
        assert_eq!(tokenizer.decode(&ids), " return <|own|>");
    }

    /// A unigram model with a piece for each byte, a space and two letters.
    fn unigram() -> Value {
        let mut vocab = vec![json!(["<unk>", 0.0])];
        vocab.extend((0..=255).map(|byte| json!([format!("<0x{byte:02X}>"), -9.0])));
        vocab.extend(["▁", "a", "b", "ab"].map(|piece| json!([piece, -2.0])));
        json!({
            "added_tokens": [added(0, "<unk>", true)],
            "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": vocab }
        })
    }

    #[test]
    fn a_unigram_model_loses_nothing_or_is_refused() {
        let read = |json: &Value| Tokenizer::from_json(json.to_string().as_bytes());
        let tokenizer = read(&unigram()).unwrap();
        for text in ["ab é", "control 0", "control▁0", "<unk>", "<0x41>"] {
            let ids = tokenizer.encode(text).unwrap();
            assert!(!ids.contains(&0), "{text}");
            assert_eq!(tokenizer.decode(&ids), text);
        }
        let rows = [
            ("/normalizer", Value::Null, "needs a step that writes spaces"),
            ("/model/unk_id", Value::Null, "needs the `unk_id`"),
            ("/model/unk_id", json!(261), "needs the `unk_id`"),
            // The library would give it the next id.
            ("/added_tokens/0", added(300, "abab", false), "has another id"),
        ];
        for (place, value, expected) in rows {
            let mut json = unigram();
            *json.pointer_mut(place).unwrap() = value;
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(expected), "{place}: {error}");
        }
    }
}
