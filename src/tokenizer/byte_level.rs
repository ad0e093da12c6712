//! From the names of byte-level tokens back to bytes.

use std::collections::HashMap;

use models::tokenizer::byte_level::characters;

/// Maps the characters of token names to bytes.
#[derive(Debug)]
pub struct Alphabet {
    byte_of: HashMap<char, u8>,
}

impl Alphabet {
    /// Builds the table of 256 characters.
    pub fn new() -> Self {
        Self { byte_of: characters().into_iter().zip(u8::MIN..=u8::MAX).collect() }
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
    fn knows_the_usual_ones() {
        let mut bytes = Vec::new();
        Alphabet::new().push_bytes("Ġaĉ你", &mut bytes);
        assert_eq!(bytes, [b" a\t".as_slice(), "你".as_bytes()].concat());
    }
}
