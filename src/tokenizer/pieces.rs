//! Cuts texts whose encoding would take forever into pieces that do not.
//!
//! The pre-tokeniser's expression looks ahead over white space, so that a run of it costs its square; a word without
//! end is merged as one. No text that a person wrote has such runs, and bytes are bytes however they are cut: only
//! the tokens of an absurd text differ from the library's.

/// Longest run of white space in a piece. Deep indentation after empty lines has some 100.
const SPACE_RUN_CHARS_MAX: usize = 512;

/// Longest run of anything else: minified code and data blobs are cut.
const WORD_RUN_CHARS_MAX: usize = 8192;

/// Returns the text in pieces, as a rule the one that it is; none where it is empty.
pub(super) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, behind) = rest.split_at(piece_end(rest));
        rest = behind;
        Some(piece)
    })
}

fn piece_end(text: &str) -> usize {
    let (mut run_chars, mut is_space_run) = (0, false);
    for (index, character) in text.char_indices() {
        let is_space = character.is_whitespace();
        if is_space != is_space_run {
            (run_chars, is_space_run) = (0, is_space);
        }
        run_chars += 1;
        let limit = if is_space { SPACE_RUN_CHARS_MAX } else { WORD_RUN_CHARS_MAX };
        if run_chars > limit {
            return index;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_endless_runs_and_nothing_else() {
        let code = "fn main() {\n    let é = 1;\n}\n".repeat(1000);
        assert_eq!(pieces(&code).collect::<Vec<_>>(), [code.as_str()]);
        assert_eq!(pieces("").count(), 0);
        let rows = [(" ".repeat(1025), 3), ("é".repeat(8192), 1), ("é".repeat(8193), 2)];
        for (text, num_pieces) in rows {
            assert_eq!(pieces(&text).count(), num_pieces);
            assert_eq!(pieces(&text).collect::<String>(), text);
        }
    }
}
