//! The alphabet of byte-level BPE: each byte is written as one printable character.
//!
//! # Source
//! GPT-2's encoder: bytes that print in Latin-1 stand for themselves, the others follow from U+0100 on.

use std::collections::HashMap;

/// Maps the characters of token names to bytes.
#[derive(Debug)]
pub struct Alphabet {
    byte_of: HashMap<char, u8>,
}

impl Alphabet {
    /// Builds the table of 256 characters.
    pub fn new() -> Self {
        let mut next = 0x100;
        let byte_of = (0..=255_u8)
            .map(|byte| {
                let is_printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
                let code = if is_printable {
                    u32::from(byte)
                } else {
                    next += 1;
                    next - 1
                };
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), byte)
            })
            .collect();
        Self { byte_of }
    }

    /// Returns the characters of the bytes that texts in UTF-8 have: some vocabularies lack the others.
    pub fn of_texts(&self) -> impl Iterator<Item = char> {
        let is_of_text = |byte: u8| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        self.byte_of
            .iter()
            .filter(move |(_, byte)| is_of_text(**byte))
            .map(|(&character, _)| character)
    }

    /// Appends the bytes of a token's name; a character outside of the alphabet stands for itself.
    pub fn push_bytes(&self, token: &str, bytes: &mut Vec<u8>) {
        for character in token.chars() {
            match self.byte_of.get(&character) {
                Some(&byte) => bytes.push(byte),
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

impl Default for Alphabet {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        let alphabet = Alphabet::new();
        let mut bytes: Vec<u8> = alphabet.byte_of.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn knows_the_usual_ones() {
        let mut bytes = Vec::new();
        Alphabet::new().push_bytes("Ġaĉ你", &mut bytes);
        assert_eq!(bytes, [b" a\t".as_slice(), "你".as_bytes()].concat());
    }
}
