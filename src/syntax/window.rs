//! The part of a file around the cursor that is worth parsing.
//!
//! Whole lines where lines are of a bearable length: half a line at the border would be a mistake of the author's.

/// Returns the end of a text, whole lines of at most so many bytes; part of a line where one alone is longer.
pub fn before(text: &str, num_bytes_max: usize) -> &str {
    if text.len() <= num_bytes_max {
        return text;
    }
    let from = text.ceil_char_boundary(text.len() - num_bytes_max);
    if text[..from].ends_with('\n') {
        return &text[from..];
    }
    text[from..].find('\n').map_or(&text[from..], |newline| &text[from + newline + 1..])
}

/// Returns the beginning of a text, whole lines of at most so many bytes; part of a line where one alone is longer.
pub fn after(text: &str, num_bytes_max: usize) -> &str {
    if text.len() <= num_bytes_max {
        return text;
    }
    let part = &text[..text.floor_char_boundary(num_bytes_max)];
    part.rfind('\n').map_or(part, |newline| &part[..=newline])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_lines_where_they_can_be() {
        for (text, num_bytes_max, end, beginning) in [
            ("a\nb\nc", 9, "a\nb\nc", "a\nb\nc"),
            ("ab\ncd\nef", 4, "ef", "ab\n"),
            ("ab\ncd\nef", 5, "cd\nef", "ab\n"),
            ("ab\ncd\nef", 6, "cd\nef", "ab\ncd\n"),
            ("abcdef", 2, "ef", "ab"),
            ("äöü", 3, "ü", "ä"),
            ("ä", 1, "", ""),
            ("abc", 0, "", ""),
            ("", 0, "", ""),
        ] {
            assert_eq!(before(text, num_bytes_max), end, "{text} {num_bytes_max}");
            assert_eq!(after(text, num_bytes_max), beginning, "{text} {num_bytes_max}");
        }
    }
}
