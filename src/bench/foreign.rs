//! Text that a server chose, made fit for a terminal: it can neither steer it nor fill it.

/// A name fits into a table's line beside the address; paths of models are seldom longer.
const NAME_CHARS_MAX: usize = 60;

/// A reason says what it has to within a few lines.
const REASON_CHARS_MAX: usize = 200;

/// Returns a name as it is shown.
pub fn name(text: &str) -> String {
    shown(text, NAME_CHARS_MAX)
}

/// Returns a server's own words about a failure as they are shown.
pub fn reason(text: &str) -> String {
    shown(text, REASON_CHARS_MAX)
}

/// Escapes what is not printable, and cuts between characters, so that no escape is halved.
fn shown(text: &str, num_chars_max: usize) -> String {
    let mut shown = String::new();
    let mut num_chars = 0;
    for char in text.chars() {
        // Quotes and backslashes steer nothing, and paths have them.
        let is_plain = matches!(char, '"' | '\'' | '\\');
        let escaped =
            if is_plain { char.to_string() } else { char.escape_debug().collect::<String>() };
        num_chars += escaped.chars().count();
        if num_chars > num_chars_max {
            shown.push('…');
            break;
        }
        shown.push_str(&escaped);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        let rows = [
            ("org/Müller-7B \"it's\" C:\\x", "org/Müller-7B \"it's\" C:\\x"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc\r", "a\\nb\\tc\\r"),
            ("\u{9b}1m\u{7f}", "\\u{9b}1m\\u{7f}"),
            ("\u{202e}evil\u{2028}", "\\u{202e}evil\\u{2028}"),
        ];
        for (text, expected) in rows {
            assert_eq!(name(text), expected);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(name(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(name(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
        let escaped = format!("{}\u{1b}b", "a".repeat(58));
        assert_eq!(name(&escaped), format!("{}…", "a".repeat(58)));
        assert_eq!(reason(&"a".repeat(1 << 20)).chars().count(), REASON_CHARS_MAX + 1);
    }
}
