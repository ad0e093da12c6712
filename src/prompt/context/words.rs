//! The identifiers of a text: what two pieces of code have in common when one is about the other.

/// Shorter words say nothing: loop variables, `if`, `do`.
const CHARS_MIN: usize = 3;

/// Longer runs are data, not names.
const BYTES_MAX: usize = 80;

/// Returns the identifiers of a text, as often as they are there.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let words = text.split(move |c| !is_part(c));
    words.filter(|word| {
        (CHARS_MIN..=BYTES_MAX).contains(&word.len())
            && !word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().nth(CHARS_MIN - 1).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_numbers_and_crumbs_are_not() {
        let text = "let total_1 = a.open(0x1f, 12abc) + größe; // ab $el";
        let found: Vec<&str> = words(text).collect();
        assert_eq!(found, ["let", "total_1", "open", "größe", "$el"]);
        assert_eq!(words(&"x".repeat(81)).count(), 0);
    }
}
