//! Tells a user's text from the template's own after both went through the template.
//!
//! A control token's spelling begins with a character such as `<` or `[`. Behind each such character of a user's text a
//! mark is written, so that no spelling is left in it; what the template writes has none. The mark of the two is like a
//! change of alphabet: a text is part of another, begins or ends it, just when that holds of both when marked. So a
//! template may trim, cut, split and compare texts as it would without.
//!
//! What it can see of marks: lengths, the places that `find` returns, slices and single characters count them, all in the
//! same way, so that a place found is the place cut at. A cut between a character and its mark leaves the character
//! without one: it is the template's then, and a control token where the template writes the rest of one behind it. A
//! user's text equals (`==`) a text of the template's own only where neither has such a character; our own methods and
//! the question whether one stands in another know better.

use std::collections::BTreeSet;

use crate::{prompt::chat::ChatPiece, tokenizer::Tokenizer};

/// No text has it: it is set aside for a program's own use. One that has it all the same gets it back.
const MARK: char = '\u{10FFFF}';

/// What one tokenizer's control tokens begin with.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    first: BTreeSet<char>,
}

impl Mask {
    /// Looks at the control tokens. One that begins like a word stays out of reach: marks in words would be in the way.
    pub(super) fn new(tokenizer: &Tokenizer) -> Self {
        let is_sign = |c: &char| !c.is_alphanumeric() && !c.is_whitespace();
        let first = tokenizer.control_tokens().filter_map(|token| token.chars().next());
        Self { first: first.filter(is_sign).collect() }
    }

    /// Returns the text with its marks.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        for c in text.chars() {
            hidden.push(c);
            if c == MARK || self.first.contains(&c) {
                hidden.push(MARK);
            }
        }
        hidden
    }

    /// Returns `part` as it stands in `text`, which may be a user's or the template's own.
    pub(super) fn as_in(&self, text: &str, part: &str) -> String {
        let is_hidden = text.contains(MARK) && !part.contains(MARK);
        if is_hidden { self.hide(part) } else { part.to_owned() }
    }

    /// Takes a rendered conversation apart. Only what the template itself wrote becomes control tokens.
    pub(super) fn pieces(&self, rendered: &str, tokenizer: &Tokenizer) -> Vec<ChatPiece> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = rendered;
        while let Some(c) = rest.chars().next() {
            let behind = &rest[c.len_utf8()..];
            let unmarked = behind.strip_prefix(MARK);
            if c == MARK {
                // Two of them are the user's one; a single one lost its character to the template.
                text.extend(unmarked.is_some().then_some(MARK));
                rest = unmarked.unwrap_or(behind);
                continue;
            }
            let control = || tokenizer.control_token_at(rest);
            match (self.first.contains(&c), unmarked) {
                (true, Some(unmarked)) => {
                    text.push(c);
                    rest = unmarked;
                }
                (true, None) if let Some((id, num_bytes)) = control() => {
                    push_text(&mut pieces, &mut text);
                    pieces.push(ChatPiece::Special(id));
                    rest = &rest[num_bytes..];
                }
                (true | false, _) => {
                    text.push(c);
                    rest = behind;
                }
            }
        }
        push_text(&mut pieces, &mut text);
        pieces
    }
}

/// Returns whether a character is no one's.
pub(super) fn is_mark(c: char) -> bool {
    c == MARK
}

fn push_text(pieces: &mut Vec<ChatPiece>, text: &mut String) {
    if !text.is_empty() {
        pieces.push(ChatPiece::Text(std::mem::take(text)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        Tokenizer::from_json(include_bytes!("../../../models/demo/tokenizer.json")).unwrap()
    });

    proptest! {
        #[test]
        fn a_users_text_comes_back_without_a_control_token(text in "(<|\\|im_end\\|>|im|\\||>|a|\u{10FFFF}| ){0,12}") {
            let mask = Mask::new(&TOKENIZER);
            let pieces = mask.pieces(&mask.hide(&text), &TOKENIZER);
            let expected = Vec::from_iter((!text.is_empty()).then_some(ChatPiece::Text(text)));
            prop_assert_eq!(pieces, expected);
        }

        #[test]
        fn a_part_is_a_part_when_hidden(text in "[<|a\u{10FFFF}]{0,8}", part in "[<|a\u{10FFFF}]{0,3}") {
            let mask = Mask::new(&TOKENIZER);
            prop_assert_eq!(text.contains(&part), mask.hide(&text).contains(&mask.hide(&part)));
            prop_assert_eq!(text.ends_with(&part), mask.hide(&text).ends_with(&mask.hide(&part)));
        }
    }

    #[test]
    fn what_a_template_writes_becomes_control_tokens() {
        let mask = Mask::new(&TOKENIZER);
        let id = |token| ChatPiece::Special(TOKENIZER.added_token_id(token).unwrap());
        let text = |text: &str| ChatPiece::Text(text.to_owned());
        let user = mask.hide("<|im_end|> <|im_");
        let rendered = format!("<|im_start|>user\n{user}end|><|im_end|>\n<|im_");
        let expected = vec![
            id("<|im_start|>"),
            text("user\n<|im_end|> <|im_end|>"),
            id("<|im_end|>"),
            text("\n<|im_"),
        ];
        assert_eq!(mask.pieces(&rendered, &TOKENIZER), expected);
    }
}
