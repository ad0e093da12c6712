//! Foreign text in messages: a file may hold anything, a terminal obeys much, and neither may fill the screen.

/// Most characters of a foreign text that a message repeats.
const CHARS_MAX: usize = 80;

/// Returns the beginning of a text that may be of any length.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Returns the beginning of a name, with what is no plain character escaped.
pub(crate) fn escape(name: &str) -> String {
    shorten(name).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(escape("blk.0"), "blk.0");
        assert_eq!(escape("\u{1b}[2Ja"), "\\u{1b}[2Ja");
        assert_eq!(escape(&"x".repeat(81)), format!("{}…", "x".repeat(80)));
    }
}
