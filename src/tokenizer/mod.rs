//! Text to token ids and back, byte for byte.
//!
//! User text must never become a control token. The library matches added tokens anywhere in its input, and Qwen's
//! sentinels are not even marked special, so its switch for special tokens would not cover them. Therefore the
//! added tokens are taken out of the definition before the library sees it, and kept in a table of our own:
//! encoding knows no control token at all, and a control token is spliced in by its id.

use std::collections::HashMap;

use serde_json::Value;

pub mod byte_level;
pub mod detokenizer;
mod pieces;
pub mod stop;

pub use detokenizer::Detokenizer;
pub use stop::StopMatcher;

/// Some 16 times the largest published vocabulary, and the limit of a model's.
const IDS_MAX: u32 = 1 << 22;

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

/// A token outside the merges: a sentinel, an end mark, a role tag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AddedToken {
    content: String,
    is_special: bool,
}

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    added: HashMap<u32, AddedToken>,
    ids_of_added: HashMap<String, u32>,
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
    /// [`TokenizerError`] where it is malformed or not byte-level.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let mut definition: Value = serde_json::from_slice(json)?;
        let added = take_added_tokens(&mut definition)?;
        if !is_byte_level(&definition["decoder"]) {
            return Err(TokenizerError::Form("only byte-level decoders are supported".to_owned()));
        }
        // A post-processor would add tokens of its own, and cutting is the prompt builder's work.
        for key in ["post_processor", "truncation", "padding"] {
            definition[key] = Value::Null;
        }
        let library = tokenizers::Tokenizer::from_bytes(definition.to_string())
            .map_err(|error| TokenizerError::Library(error.to_string()))?;
        check_ids(&library, &added)?;
        let (bytes, ends) = bytes_of_tokens(&library, &added);
        let ids_of_added = added.iter().map(|(&id, token)| (token.content.clone(), id)).collect();
        let starts = std::iter::once(&0).chain(&ends);
        let longest = starts.zip(&ends).map(|(start, end)| (end - start) as usize).max();
        let token_bytes_max = longest.unwrap_or(0).max(1);
        Ok(Self { library, added, ids_of_added, bytes, ends, token_bytes_max })
    }

    /// Returns the number of ids, holes included.
    pub fn num_ids(&self) -> u32 {
        self.ends.len() as u32
    }

    /// Returns the id of an added token such as a sentinel, by its exact spelling.
    pub fn added_token_id(&self, content: &str) -> Option<u32> {
        self.ids_of_added.get(content).copied()
    }

    /// Encodes plain text; no control token can come out of it.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] where the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        for piece in pieces::pieces(text) {
            let encoding = self
                .library
                .encode_fast(piece, false)
                .map_err(|error| TokenizerError::Library(error.to_string()))?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
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

fn take_added_tokens(definition: &mut Value) -> Result<HashMap<u32, AddedToken>, TokenizerError> {
    let form = |what: &str| TokenizerError::Form(what.to_owned());
    let object = definition.as_object_mut().ok_or_else(|| form("not an object"))?;
    let Some(Value::Array(list)) =
        object.insert("added_tokens".to_owned(), Value::Array(Vec::new()))
    else {
        return Err(form("`added_tokens` is not a list"));
    };
    let mut added = HashMap::with_capacity(list.len());
    for token in &list {
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| form("an added token has no `id`"))?;
        let content =
            token["content"].as_str().ok_or_else(|| form("an added token has no `content`"))?;
        let is_special = token["special"].as_bool().unwrap_or(false);
        added.insert(id, AddedToken { content: content.to_owned(), is_special });
    }
    Ok(added)
}

fn is_byte_level(decoder: &Value) -> bool {
    decoder["type"] == "ByteLevel"
        || decoder["decoders"].as_array().is_some_and(|list| list.iter().any(is_byte_level))
}

/// Refuses ids that no vocabulary has, before memory is taken by the largest of them.
fn check_ids(
    library: &tokenizers::Tokenizer,
    added: &HashMap<u32, AddedToken>,
) -> Result<(), TokenizerError> {
    let vocab = library.get_vocab(false);
    match vocab.values().chain(added.keys()).find(|id| **id >= IDS_MAX) {
        None => Ok(()),
        Some(id) => {
            Err(TokenizerError::Form(format!("token ids must lie below {IDS_MAX}, got {id}")))
        }
    }
}

/// Lays the bytes of all tokens into one buffer; holes between ids take no bytes.
fn bytes_of_tokens(
    library: &tokenizers::Tokenizer,
    added: &HashMap<u32, AddedToken>,
) -> (Vec<u8>, Vec<u32>) {
    let vocab = library.get_vocab(false);
    let num_ids = vocab.values().chain(added.keys()).max().map_or(0, |&id| id as usize + 1);
    let mut by_id: Vec<&str> = vec![""; num_ids];
    for (token, &id) in &vocab {
        by_id[id as usize] = token;
    }
    let alphabet = byte_level::Alphabet::new();
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(num_ids);
    for (id, token) in by_id.into_iter().enumerate() {
        match added.get(&(id as u32)) {
            Some(token) if token.is_special || is_control(&token.content) => {}
            Some(token) => bytes.extend_from_slice(token.content.as_bytes()),
            None => alphabet.push_bytes(token, &mut bytes),
        }
        ends.push(bytes.len() as u32);
    }
    (bytes, ends)
}

/// Sentinels that a definition forgot to mark special (Qwen2.5-Coder's are not) must not show in a completion.
fn is_control(content: &str) -> bool {
    content.starts_with("<|") && content.ends_with("|>")
}

#[cfg(test)]
mod tests {
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
    fn refuses_what_is_no_byte_level_tokenizer() {
        let rows: [(&[u8], &str); 5] = [
            (b"{", "not valid JSON"),
            (b"[]", "not an object"),
            (br#"{"added_tokens": 1}"#, "not a list"),
            (br#"{"added_tokens": [], "decoder": {"type": "Metaspace"}}"#, "byte-level"),
            (
                br#"{"added_tokens": [{"id": 4294967295, "content": "x"}], "decoder": {"type": "ByteLevel",
                    "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
                    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#,
                "below 4194304",
            ),
        ];
        for (json, expected) in rows {
            let error = Tokenizer::from_json(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
