//! A place in a text, as editors show it: line and column, both from 1.

/// A place that the text does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There are fewer lines, or the line is 0.
    #[error("--line must be between 1 and {num_lines}, got {line}")]
    Line {
        /// What was asked for.
        line: usize,
        /// Lines of the text; an empty last one counts.
        num_lines: usize,
    },
    /// The line is shorter, or the column is 0.
    #[error("--column must be between 1 and {column_max} on line {line}, got {column}")]
    Column {
        /// The line.
        line: usize,
        /// What was asked for.
        column: usize,
        /// The place behind the line's last character.
        column_max: usize,
    },
}

/// Returns the text before and after the place. A column counts characters (Unicode scalar values); one more than the
/// line has is its end, before its line break.
///
/// # Errors
/// [`PlaceError`].
pub fn split(text: &str, line: usize, column: usize) -> Result<(&str, &str), PlaceError> {
    let mut start = 0;
    let mut num_lines = 0;
    for whole in text.split('\n') {
        num_lines += 1;
        if num_lines == line {
            let visible = whole.strip_suffix('\r').unwrap_or(whole);
            let offset = offset(visible, column).ok_or_else(|| PlaceError::Column {
                line,
                column,
                column_max: visible.chars().count() + 1,
            })?;
            return Ok(text.split_at(start + offset));
        }
        start += whole.len() + 1;
    }
    Err(PlaceError::Line { line, num_lines })
}

fn offset(line: &str, column: usize) -> Option<usize> {
    let ends = line.char_indices().map(|(offset, _)| offset).chain([line.len()]);
    ends.enumerate().find(|(index, _)| index + 1 == column).map(|(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_characters() {
        let rows = [
            ("", 1, 1, ("", "")),
            ("abc", 1, 1, ("", "abc")),
            ("abc", 1, 3, ("ab", "c")),
            ("abc", 1, 4, ("abc", "")),
            ("a\nbc\n", 2, 2, ("a\nb", "c\n")),
            ("a\nbc\n", 2, 3, ("a\nbc", "\n")),
            ("a\nbc\n", 3, 1, ("a\nbc\n", "")),
            ("a\r\nbc\r\n", 2, 3, ("a\r\nbc", "\r\n")),
            ("é😀x", 1, 3, ("é😀", "x")),
            ("e\u{301}x", 1, 2, ("e", "\u{301}x")),
        ];
        for (text, line, column, expected) in rows {
            assert_eq!(split(text, line, column), Ok(expected), "{text:?} {line}:{column}");
        }
    }

    #[test]
    fn refuses_places_outside() {
        let no_line = |line, num_lines| Err(PlaceError::Line { line, num_lines });
        let no_column =
            |line, column, column_max| Err(PlaceError::Column { line, column, column_max });
        let rows = [
            ("a\nb", 0, 1, no_line(0, 2)),
            ("a\nb", 3, 1, no_line(3, 2)),
            ("a\nb\n", 4, 1, no_line(4, 3)),
            ("ab", 1, 0, no_column(1, 0, 3)),
            ("ab", 1, 4, no_column(1, 4, 3)),
            ("ab\r\n", 1, 4, no_column(1, 4, 3)),
        ];
        for (text, line, column, expected) in rows {
            assert_eq!(split(text, line, column), expected, "{text:?} {line}:{column}");
        }
    }
}
