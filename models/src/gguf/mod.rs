//! GGUF, the file of llama.cpp and its relatives: a header that names every value and every tensor, then their bytes.
//!
//! [`Gguf::parse`] reads a header from bytes that may be anything at all. It allocates by what it has read, never by a
//! length that the file states, and what it returns lies inside the file: text and arrays are borrowed, tensors are
//! ranges that were compared with the file's end and with each other.
//!
//! | file | concept |
//! |---|---|
//! | `cursor` | reads numbers and texts, each with its place in an error |
//! | `value` | metadata: twelve kinds of scalars, texts, arrays |
//! | `tensor` | the table of tensors |
//! | `split` | a model in several files |
//! | `spec` | metadata to a [`DecoderSpec`](crate::DecoderSpec) |
//! | `tokenizer`, `pre_tokenizer` | metadata to the text of a `tokenizer.json` |
//!
//! # Source
//! The format's description in ggml's repository, `docs/gguf.md`.

mod cursor;
mod error;
mod keys;
mod pre_tokenizer;
mod spec;
mod split;
mod tensor;
mod tokenizer;
mod value;

pub use error::GgufError;
pub(crate) use spec::read_spec;
pub use split::PartName;
pub(crate) use split::files_of;
pub use tensor::GgufTensor;
pub(crate) use tokenizer::tokenizer_json;
pub use value::{GgufArray, GgufValue};

use std::collections::BTreeMap;

use crate::gguf::cursor::{Cursor, Part, shown};

/// The first four bytes, `GGUF`.
const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
/// Versions that count with 64 bits. The first counted with 32 and was in use for two months of 2023.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Where the metadata names no other.
const ALIGNMENT_DEFAULT: u64 = 32;
/// The key that does.
const ALIGNMENT_KEY: &str = "general.alignment";

/// The header of a file, borrowed from its bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    file: &'a str,
    metadata: BTreeMap<&'a str, GgufValue<'a>>,
    tensors: Vec<GgufTensor<'a>>,
}

impl<'a> Gguf<'a> {
    /// Reads the header of `bytes`, a whole file whose name in errors is `file`.
    ///
    /// # Errors
    /// [`GgufError`] with the file, the part, the rule and the value.
    pub fn parse(file: &'a str, bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::read(Cursor::new(file, bytes))
    }

    /// Returns whether `start`, the first bytes of a file, ends inside of its header, so that more of it may help. What
    /// cannot be a header is not cut.
    pub fn is_cut(start: &'a [u8]) -> bool {
        matches!(Self::read(Cursor::of_start(start)), Err(GgufError::Short { .. }))
    }

    fn read(mut cursor: Cursor<'a>) -> Result<Self, GgufError> {
        let magic = cursor.u32(Part::Header)?;
        if magic != MAGIC {
            return Err(cursor.broken(Part::Magic, "\"GGUF\"", format!("{:?}", magic_text(magic))));
        }
        let version = cursor.u32(Part::Header)?;
        if VERSIONS.contains(&version.swap_bytes()) {
            return Err(cursor.broken(Part::Version, "little-endian", "a big-endian file"));
        }
        if !VERSIONS.contains(&version) {
            return Err(cursor.broken(Part::Version, "2 or 3", version));
        }
        let num_tensors = cursor.u64(Part::Header)?;
        let num_entries = cursor.u64(Part::Header)?;
        let mut metadata = BTreeMap::new();
        for index in 0..num_entries {
            let key = cursor.text(Part::Key(index))?;
            if metadata.insert(key, GgufValue::read(&mut cursor, key)?).is_some() {
                return Err(cursor.broken(
                    Part::Key(index),
                    "new",
                    format!("{} again", shown(key)),
                ));
            }
        }
        let alignment = alignment(&cursor, &metadata)?;
        let tensors = tensor::read_table(&mut cursor, num_tensors, alignment)?;
        Ok(Self { file: cursor.file(), metadata, tensors })
    }

    /// Returns the file's name.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Returns all metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<&'a str, GgufValue<'a>> {
        &self.metadata
    }

    /// Returns the tensors, in the order of the table.
    pub fn tensors(&self) -> &[GgufTensor<'a>] {
        &self.tensors
    }

    /// Returns the tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<&GgufTensor<'a>> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Returns what a file that is no GGUF begins with.
fn magic_text(magic: u32) -> String {
    String::from_utf8_lossy(&magic.to_le_bytes()).into_owned()
}

fn alignment(
    cursor: &Cursor<'_>,
    metadata: &BTreeMap<&str, GgufValue<'_>>,
) -> Result<u64, GgufError> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(GgufValue::Unsigned(alignment)) if alignment.is_power_of_two() => Ok(*alignment),
        Some(value) => Err(cursor.broken(Part::Value(ALIGNMENT_KEY), "a power of two", value)),
    }
}
