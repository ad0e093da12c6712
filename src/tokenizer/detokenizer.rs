//! Bytes of tokens to text, as they come: only whole characters leave, and none twice.
//!
//! A token may end within a character. The tail of at most three bytes waits for its rest; bytes that can become no
//! character are U+FFFD at once, exactly as [`String::from_utf8_lossy`] would write them over the whole.

/// The tail of one choice.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    tail: Vec<u8>,
}

impl Detokenizer {
    /// Takes a token's bytes and appends the characters that are whole now.
    pub fn push(&mut self, bytes: &[u8], text: &mut String) {
        self.tail.extend_from_slice(bytes);
        let mut start = 0;
        for chunk in self.tail.utf8_chunks() {
            text.push_str(chunk.valid());
            start += chunk.valid().len();
            let is_last = start + chunk.invalid().len() == self.tail.len();
            if chunk.invalid().is_empty() || (is_last && may_grow(chunk.invalid())) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            start += chunk.invalid().len();
        }
        self.tail.drain(..start);
    }

    /// Ends the text: a character that never became whole is one U+FFFD.
    pub fn finish(&mut self, text: &mut String) {
        if !self.tail.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.tail.clear();
        }
    }
}

/// Returns whether more bytes could make a character of these.
fn may_grow(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_cut_gives_the_same_text(bytes in prop::collection::vec(any::<u8>(), 0..40), cuts in prop::collection::vec(0_usize..5, 0..40)) {
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            let mut detokenizer = Detokenizer::default();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                detokenizer.push(now, &mut text);
                prop_assert!(expected.starts_with(&text));
                rest = later;
            }
            detokenizer.push(rest, &mut text);
            detokenizer.finish(&mut text);
            prop_assert_eq!(text, expected);
        }
    }

    #[test]
    fn holds_back_half_a_character() {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        detokenizer.push(b"a\xf0\x9f", &mut text);
        assert_eq!(text, "a");
        detokenizer.push(b"\xa6\x80b", &mut text);
        assert_eq!(text, "a🦀b");
    }
}
