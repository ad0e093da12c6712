//! The spelling of SentencePiece: a space is written `▁` (U+2581), a byte that has no piece `<0xNN>`.
//!
//! That a space and `▁` become one character loses which it was. So a `▁` that somebody wrote is never handed to the
//! library: it is spelt by its three bytes, and texts come back as they were.

use std::collections::HashMap;

use models::tokenizer::byte_level::bytes_of_texts;

/// What a space is written as.
const SPACE: char = '▁';

/// How the name of a byte begins.
const BYTE_NAME: &str = "<0x";

/// Returns the byte that a piece's name stands for.
pub(super) fn byte_of(name: &str) -> Option<u8> {
    let digits = name.strip_prefix(BYTE_NAME)?.strip_suffix('>')?;
    let is_exact =
        digits.len() == 2 && digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'A'..=b'F'));
    u8::from_str_radix(digits, 16).ok().filter(|_| is_exact)
}

/// Appends the bytes of a text in which spaces are written as pieces have them.
pub(super) fn push_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(text.replace(SPACE, " ").as_bytes());
}

/// Appends the bytes of a piece.
pub(super) fn push_bytes(piece: &str, bytes: &mut Vec<u8>) {
    match byte_of(piece) {
        Some(byte) => bytes.push(byte),
        None => push_text(piece, bytes),
    }
}

/// The ids of the byte pieces, by byte.
#[derive(Debug)]
pub(super) struct BytePieces {
    ids: Vec<u32>,
}

impl BytePieces {
    /// Takes them out of a vocabulary; `None` where a byte has no piece, so that text could be lost.
    pub(super) fn find(vocab: &HashMap<String, u32>) -> Option<Self> {
        let mut ids = vec![0; 256];
        // Bytes that no text in UTF-8 has need none.
        for byte in bytes_of_texts() {
            // Gemma's vocabulary has the tab itself in the place of its byte.
            let as_character =
                || vocab.get(&char::from(byte).to_string()).filter(|_| byte.is_ascii());
            let id = vocab.get(&format!("{BYTE_NAME}{byte:02X}>")).or_else(as_character)?;
            ids[usize::from(byte)] = *id;
        }
        Some(Self { ids })
    }

    /// Appends the ids that spell `text` byte by byte.
    pub(super) fn push_ids(&self, text: &str, out: &mut Vec<u32>) {
        out.extend(text.bytes().map(|byte| self.ids[usize::from(byte)]));
    }
}

/// A stretch of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// For the library.
    Text(&'a str),
    /// To be spelt by its bytes.
    Bytes(&'a str),
}

/// Returns the parts of a text, in order; none is empty.
///
/// With `cuts_byte_names` what looks like the name of a byte is cut in two: to a unigram model names are pieces like
/// any other, and the text would be taken for the byte.
pub(super) fn parts(text: &str, cuts_byte_names: bool) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        if first == SPACE {
            let (part, behind) = rest.split_at(SPACE.len_utf8());
            rest = behind;
            return Some(Part::Bytes(part));
        }
        let mark = rest.find(SPACE).unwrap_or(rest.len());
        let name = rest[..mark].find(BYTE_NAME).filter(|_| cuts_byte_names);
        let (part, behind) = rest.split_at(name.map_or(mark, |start| start + 1));
        rest = behind;
        Some(Part::Text(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_names_of_bytes() {
        assert_eq!(byte_of("<0x0A>"), Some(b'\n'));
        assert_eq!(byte_of("<0xFF>"), Some(0xFF));
        for name in ["<0x0a>", "<0xA>", "<0x+A>", "0x0A", "<0x0A", "<0x0A0>", "\n"] {
            assert_eq!(byte_of(name), None, "{name}");
        }
    }

    #[test]
    fn every_byte_of_texts_has_a_piece_or_its_own_character() {
        let mut vocab: HashMap<String, u32> =
            (0..=255_u32).map(|byte| (format!("<0x{byte:02X}>"), byte + 3)).collect();
        assert!(BytePieces::find(&vocab).is_some());
        vocab.remove("<0x09>");
        vocab.remove("<0xFF>");
        assert!(BytePieces::find(&vocab).is_none());
        vocab.insert("\t".to_owned(), 1);
        let mut ids = Vec::new();
        BytePieces::find(&vocab).unwrap().push_ids("\t▁", &mut ids);
        assert_eq!(ids, [1, 0xE2 + 3, 0x96 + 3, 0x81 + 3]);
        vocab.remove("<0x81>");
        assert!(BytePieces::find(&vocab).is_none());
    }

    #[test]
    fn a_mark_that_somebody_wrote_stands_alone() {
        use Part::{Bytes, Text};
        let of = |text, cuts| parts(text, cuts).collect::<Vec<_>>();
        assert_eq!(of("", true), []);
        assert_eq!(of(" a b", true), [Text(" a b")]);
        assert_eq!(of("▁▁a▁", true), [Bytes("▁"), Bytes("▁"), Text("a"), Bytes("▁")]);
        assert_eq!(of("a<0x0A>b", true), [Text("a<"), Text("0x0A>b")]);
        assert_eq!(of("a<0x0A>b", false), [Text("a<0x0A>b")]);
        assert_eq!(of("▁<0x▁", true), [Bytes("▁"), Text("<"), Text("0x"), Bytes("▁")]);
    }
}
