//! The identifiers of a text: what two pieces of code have in common when one is about the other.

use std::collections::HashSet;

/// Shorter words say nothing: loop variables, `if`, `do`.
const CHARS_MIN: usize = 3;

/// Longer runs are data, not names.
const BYTES_MAX: usize = 80;

/// Returns the identifiers of a text, each once.
pub(super) fn words(text: &str) -> HashSet<&str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let words = text.split(|c| !is_part(c));
    let is_name = |word: &&str| {
        word.len() <= BYTES_MAX
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().nth(CHARS_MIN - 1).is_some()
    };
    words.filter(is_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_numbers_and_crumbs_are_not() {
        let text = "let total_1 = a.open(0x1f, 12abc) + größe; // ab $el";
        let mut found: Vec<&str> = words(text).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, ["$el", "größe", "let", "open", "total_1"]);
        assert!(words(&"x".repeat(81)).is_empty());
    }
}
