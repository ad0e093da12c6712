//! Typing, replayed: a stretch of a file is taken out and written again, a key at a time.

/// Why nothing can be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypingError {
    /// The file has fewer lines, or the line is 0.
    #[error("--start must be a line between 1 and {num_lines}, got {line}")]
    NoSuchLine {
        /// What was asked for.
        line: usize,
        /// Lines of the file.
        num_lines: usize,
    },
    /// From that line on there is nothing but blanks.
    #[error("the file has no text from line {line} on")]
    NothingToType {
        /// Where it was looked for.
        line: usize,
    },
}

/// A stretch of a text that is typed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typing {
    before: String,
    keys: Vec<String>,
    after: String,
}

/// The text around the cursor after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keystroke<'a> {
    /// All before the cursor's line.
    pub above: &'a str,
    /// What stands on the line, before the cursor.
    pub line: &'a str,
    /// All after the cursor.
    pub after: &'a str,
}

impl Typing {
    /// Takes up to `num_keys` keys out of `text`, from the first written character of `line` on (from 1; `None` is three
    /// quarters into the file), together with the rest of the last key's line: who types sees nothing behind the cursor
    /// but the lines below. An Enter brings the next line's indentation along, as editors do.
    ///
    /// # Errors
    /// [`TypingError`].
    pub fn new(text: &str, line: Option<usize>, num_keys: usize) -> Result<Self, TypingError> {
        let num_lines = text.lines().count();
        let line = line.unwrap_or_else(|| (num_lines * 3 / 4 + 1).min(num_lines.max(1)));
        if !(1..=num_lines).contains(&line) {
            return Err(TypingError::NoSuchLine { line, num_lines });
        }
        let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        let blanks = text[start..].len() - text[start..].trim_start().len();
        let start = start + blanks;
        let keys: Vec<String> = keys(&text[start..]).take(num_keys).map(str::to_owned).collect();
        if keys.is_empty() {
            return Err(TypingError::NothingToType { line });
        }
        let end = start + keys.iter().map(String::len).sum::<usize>();
        let line_end = text[end..].find(['\r', '\n']).map_or(text.len(), |offset| end + offset);
        Ok(Self { before: text[..start].to_owned(), keys, after: text[line_end..].to_owned() })
    }

    /// Returns the number of keys.
    pub fn num_keys(&self) -> usize {
        self.keys.len()
    }

    /// Writes the text before the cursor once the keys up to `key_index` were pressed, and returns the places around it.
    ///
    /// # Panics
    /// Where there is no such key.
    pub fn keystroke<'a>(&'a self, key_index: usize, before: &'a mut String) -> Keystroke<'a> {
        before.clear();
        before.push_str(&self.before);
        before.extend(self.keys[..=key_index].iter().map(String::as_str));
        let line_start = before.rfind('\n').map_or(0, |offset| offset + 1);
        let (above, line) = before.split_at(line_start);
        Keystroke { above, line, after: &self.after }
    }
}

/// Returns what each key writes: a character, or a line break with the blanks that follow it.
fn keys(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let len = if matches!(first, '\r' | '\n') {
            let visible = rest.trim_start_matches(['\r', '\n', ' ', '\t']);
            rest.len() - visible.len()
        } else {
            first.len_utf8()
        };
        let (key, next) = rest.split_at(len);
        rest = next;
        Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fn a() {\n    b(é);\n\n    c();\n}\n";

    fn played(line: Option<usize>, num_keys: usize) -> Vec<(String, String, String)> {
        let typing = Typing::new(TEXT, line, num_keys).unwrap();
        let mut before = String::new();
        (0..typing.num_keys())
            .map(|key| {
                let Keystroke { above, line, after } = typing.keystroke(key, &mut before);
                (above.to_owned(), line.to_owned(), after.to_owned())
            })
            .collect()
    }

    #[test]
    fn keys_grow_the_line_and_leave_the_rest_alone() {
        let keys = played(Some(2), 4);
        let lines: Vec<&str> = keys.iter().map(|key| key.1.as_str()).collect();
        assert_eq!(lines, ["    b", "    b(", "    b(é", "    b(é)"]);
        for (above, _, after) in &keys {
            assert_eq!((above.as_str(), after.as_str()), ("fn a() {\n", "\n\n    c();\n}\n"));
        }
    }

    #[test]
    fn enter_brings_the_indentation() {
        let keys = played(Some(2), 7);
        assert_eq!(keys[4].1, "    b(é);");
        assert_eq!((keys[5].0.as_str(), keys[5].1.as_str()), ("fn a() {\n    b(é);\n\n", "    "));
        assert_eq!((keys[6].1.as_str(), keys[6].2.as_str()), ("    c", "\n}\n"));
    }

    #[test]
    fn typing_ends_with_the_file_and_begins_late_in_it() {
        assert_eq!(played(Some(5), 100).last().unwrap().1, "");
        assert_eq!(played(None, 1)[0].1, "    c");
        let one_line = Typing::new("abc", None, 9).unwrap();
        assert_eq!(one_line.num_keys(), 3);
    }

    #[test]
    fn refuses_what_cannot_be_typed() {
        let no_line = |line, num_lines| TypingError::NoSuchLine { line, num_lines };
        assert_eq!(Typing::new(TEXT, Some(0), 1), Err(no_line(0, 5)));
        assert_eq!(Typing::new(TEXT, Some(6), 1), Err(no_line(6, 5)));
        assert_eq!(Typing::new("", None, 1), Err(no_line(1, 0)));
        let nothing = Err(TypingError::NothingToType { line: 2 });
        assert_eq!(Typing::new("a\n \n\n", Some(2), 1), nothing);
    }
}
