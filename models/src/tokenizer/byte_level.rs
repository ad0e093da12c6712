//! The alphabet of byte-level BPE: each byte is written as one printable character.
//!
//! # Source
//! GPT-2's encoder: bytes that print in Latin-1 stand for themselves, the others follow from U+0100 on.

/// Returns the character of each byte.
pub fn characters() -> [char; 256] {
    let mut next = 0x100_u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
    })
}

/// Returns the characters of [`bytes_of_texts`].
pub fn characters_of_texts() -> impl Iterator<Item = char> {
    let characters = characters();
    bytes_of_texts().map(move |byte| characters[usize::from(byte)])
}

/// Returns the bytes that texts in UTF-8 have: DeepSeek-Coder's vocabulary lacks the others, and may.
pub fn bytes_of_texts() -> impl Iterator<Item = u8> {
    (u8::MIN..=u8::MAX).filter(|byte| !matches!(byte, 0xC0 | 0xC1 | 0xF5..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_usual_ones() {
        let characters = characters();
        for (byte, character) in
            [(b' ', 'Ġ'), (b'\n', 'Ċ'), (b'\t', 'ĉ'), (b'a', 'a'), (0xFF, 'ÿ'), (0xAD, 'Ń')]
        {
            assert_eq!(characters[usize::from(byte)], character);
        }
        assert_eq!(characters.iter().collect::<std::collections::HashSet<_>>().len(), 256);
        assert_eq!(characters_of_texts().count(), 243);
    }
}
