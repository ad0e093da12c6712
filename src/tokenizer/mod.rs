//! Text to token ids and back, byte for byte.
//!
//! User text must never become a control token: `definition` closes all ways from one to the other, and a control
//! token is spliced in by its id. What is encoded comes back as it was, for any text.

use std::collections::{HashMap, HashSet};

pub mod byte_level;
mod definition;
pub mod detokenizer;
mod expression;
mod pieces;
mod seam;
mod sentencepiece;
pub mod stop;

pub use detokenizer::Detokenizer;
pub use stop::StopMatcher;

use models::{config::VOCAB_MAX, tokenizer::byte_level::characters_of_texts};

use crate::{
    memo::Memo,
    tokenizer::{
        definition::{AddedToken, DocumentSpace, Spelling},
        seam::Seams,
        sentencepiece::{BytePieces, Part},
    },
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

/// The tokens of lines that were encoded before: from one keystroke to the next, nearly all lines stay.
type Lines = Memo<Box<str>, Box<[u32]>>;

/// Longer lines, such as minified code, are encoded anew: few of them would take all of the room.
const LINE_BYTES_MAX: usize = 4096;

/// Appends the tokens of a line; false where they are not known.
fn push_known(lines: &Lines, line: &str, ids: &mut Vec<u32>) -> bool {
    let is_short = line.len() <= LINE_BYTES_MAX;
    is_short && lines.get(line, |known| ids.extend_from_slice(known)).is_some()
}

fn keep(lines: &Lines, line: &str, ids: &[u32]) {
    if line.len() <= LINE_BYTES_MAX {
        lines.insert(line.into(), ids.into(), line.len() + size_of_val(ids));
    }
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
    seams: Option<Seams>,
    lines: Option<Lines>,
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
        let tokens: Vec<&[u8]> =
            starts.zip(&ends).map(|(start, end)| &bytes[*start as usize..*end as usize]).collect();
        let longest = tokens.iter().map(|token| token.len()).max();
        let seams = Seams::find(&definition.json, &tokens);
        let control_bytes_max = ids_of_added.keys().map(String::len).max().unwrap_or(0);
        Ok(Self {
            library,
            parts,
            seams,
            lines: None,
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

    /// Keeps the tokens of lines for the texts to come, where its definition says that lines can be encoded by
    /// themselves; 0 keeps nothing.
    ///
    /// # Units
    /// `num_bytes`: bytes of memory, about
    #[must_use]
    pub fn with_cache(self, num_bytes: usize) -> Self {
        let lines = (num_bytes > 0 && self.seams.is_some()).then(|| Memo::new(num_bytes));
        Self { lines, ..self }
    }

    /// Returns whether the tokens of lines are kept.
    pub fn has_cache(&self) -> bool {
        self.lines.is_some()
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
            match (&self.lines, self.seams) {
                (Some(lines), Some(seams)) => {
                    for line in seams.parts(piece) {
                        if !push_known(lines, line, &mut ids) {
                            let start = ids.len();
                            self.push_piece(line, &mut ids)?;
                            keep(lines, line, &ids[start..]);
                        }
                    }
                }
                _ => self.push_piece(piece, &mut ids)?,
            }
        }
        Ok(ids)
    }

    fn push_piece(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let Parts::SentencePiece { bytes, cuts_byte_names } = &self.parts else {
            return self.push_text(piece, ids);
        };
        for part in sentencepiece::parts(piece, *cuts_byte_names) {
            match part {
                Part::Text(text) => self.push_text(text, ids)?,
                Part::Bytes(text) => bytes.push_ids(text, ids),
            }
        }
        Ok(())
    }

    fn push_text(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
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
mod tests;
