//! Brackets of code without a grammar: what a text closes that it did not open, and what it leaves open.

use crate::{
    completion::{Comments, Grammar},
    postprocess::Gap,
};

/// Brackets that have no partner in a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loose {
    /// Closing ones, in the order of the text.
    pub(super) closing: Vec<char>,
    /// Opening ones, in the order of the text.
    pub(super) opening: Vec<char>,
}

/// Grammars where an apostrophe quotes one character and no more.
const QUOTE_ONE: &[Grammar] = &[
    Grammar::C,
    Grammar::Cpp,
    Grammar::CSharp,
    Grammar::Go,
    Grammar::Java,
    Grammar::Kotlin,
    Grammar::Rust,
    Grammar::Scala,
];

/// The longest character literal that is looked for: `'\u{10ffff}'`.
const CHARACTER_BYTES_MAX: usize = 12;

/// Finds the brackets of a text that have no partner in it; those in strings and comments are none.
pub(super) fn loose(text: &str, gap: &Gap) -> Loose {
    Scanner::new(text, gap).loose()
}

impl Loose {
    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.closing.len() + self.opening.len()
    }
}

/// Returns whether a character is a closing bracket.
pub(super) fn is_closing(c: char) -> bool {
    matches!(c, ')' | ']' | '}')
}

fn partner(closing: char) -> char {
    match closing {
        ')' => '(',
        ']' => '[',
        _ => '{',
    }
}

/// Reads a text once, from its beginning to its end. What it looks ahead for and does not find it remembers, so that the
/// work grows with the text and no faster.
struct Scanner<'t> {
    text: &'t str,
    position: usize,
    /// Where the line ends that the position is in.
    line_end: usize,
    comments: Comments,
    quotes_one: bool,
    /// By kind of quote: up to where there is no other that closes.
    unclosed_to: [usize; 3],
    #[cfg(test)]
    num_bytes_read: usize,
}

impl<'t> Scanner<'t> {
    fn new(text: &'t str, gap: &Gap) -> Self {
        Self {
            text,
            position: 0,
            line_end: 0,
            comments: gap.comments().unwrap_or(Comments { line: None, block: None }),
            quotes_one: gap.grammar().is_some_and(|grammar| QUOTE_ONE.contains(&grammar)),
            unclosed_to: [0; 3],
            #[cfg(test)]
            num_bytes_read: 0,
        }
    }

    fn loose(&mut self) -> Loose {
        let mut loose = Loose::default();
        while let Some(c) = self.rest().chars().next() {
            if let Some(length) = self.skipped(c) {
                self.position += length;
                continue;
            }
            match c {
                '(' | '[' | '{' => loose.opening.push(c),
                ')' | ']' | '}' => {
                    if loose.opening.last() == Some(&partner(c)) {
                        loose.opening.pop();
                    } else {
                        loose.closing.push(c);
                    }
                }
                _ => {}
            }
            self.position += c.len_utf8();
        }
        loose
    }

    fn rest(&self) -> &'t str {
        &self.text[self.position..]
    }

    /// Returns the length of the comment or string that begins here, with this character.
    fn skipped(&mut self, first: char) -> Option<usize> {
        let rest = self.rest();
        if let Some((open, close)) = self.comments.block
            && let Some(inside) = rest.strip_prefix(open)
        {
            let end = inside.find(close);
            return Some(end.map_or(rest.len(), |end| open.len() + end + close.len()));
        }
        if self.comments.line.is_some_and(|line| rest.starts_with(line)) {
            return Some(self.line_end() - self.position);
        }
        let kind = ['`', '"', '\''].into_iter().position(|quote| quote == first)?;
        let quotes_one = first == '\'' && self.quotes_one;
        let end = match first {
            '`' => self.text.len(),
            _ if quotes_one => {
                let end = self.line_end().min(self.position + CHARACTER_BYTES_MAX);
                self.text.floor_char_boundary(end)
            }
            _ => self.line_end(),
        };
        // Whether a quote closes is told by the backslashes before it, whatever it is that it closes: where none was
        // found once, there is none for those who begin later.
        if self.position < self.unclosed_to[kind] {
            return None;
        }
        let within = &self.text[self.position..end];
        let length = quoted(within, first);
        self.count(length.unwrap_or(within.len()));
        let Some(length) = length else {
            if !quotes_one {
                self.unclosed_to[kind] = end;
            }
            return None;
        };
        let inside = &within[1..length - 1];
        // `'a, 'b` are lifetimes; `'a'` and `'\n'` are characters.
        let is_one = || inside.starts_with('\\') || inside.chars().count() == 1;
        (!quotes_one || is_one()).then_some(length)
    }

    /// Returns where the line ends that the position is in.
    fn line_end(&mut self) -> usize {
        if self.line_end < self.position || self.line_end == 0 {
            let length = self.rest().find('\n').unwrap_or(self.rest().len());
            self.count(length);
            self.line_end = self.position + length;
        }
        self.line_end
    }

    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests count"))]
    fn count(&mut self, num_bytes: usize) {
        #[cfg(test)]
        {
            self.num_bytes_read += num_bytes;
        }
        #[cfg(not(test))]
        let _ = num_bytes;
    }
}

/// Returns the length of the string that a text begins with, if it ends there.
fn quoted(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if c == quote => return Some(index + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Language;

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        for (file, text, closing, opening) in [
            ("a.rs", "fn f<'a>(x: &'a T) { '{'; '\\''; \"((\" // (\n", "", "{"),
            ("a.rs", "/* ( */ ) ] { (", ")]", "{("),
            ("a.py", "f('(', \"[\") # {\n}", "}", ""),
            ("a.js", "`${(` + f(", "", "("),
            ("a.unknown", "don't (", "", "("),
            ("a.go", "(]", "]", "("),
        ] {
            let gap = Gap::new("", "", Language::detect(file, None));
            let found = loose(text, &gap);
            let both = (found.closing.iter().collect(), found.opening.iter().collect());
            assert_eq!(both, (closing.to_owned(), opening.to_owned()), "{file}: {text}");
        }
    }

    #[test]
    fn a_long_line_is_read_a_few_times_at_most() {
        for (file, piece) in [
            ("a.py", "x"),
            ("a.py", "\\'"),
            ("a.py", "'\\\""),
            ("a.js", "\\`"),
            ("a.js", "`\\'\""),
            ("a.rs", "'a, "),
            ("a.c", "/"),
            ("a.unknown", "(\\\""),
        ] {
            let text = piece.repeat(2000);
            let gap = Gap::new("", "", Language::detect(file, None));
            let mut scanner = Scanner::new(&text, &gap);
            scanner.loose();
            // Each kind of quote and the line's end are looked for, and characters some bytes ahead.
            let most = (4 + CHARACTER_BYTES_MAX) * text.len();
            assert!(scanner.num_bytes_read <= most, "{piece}: {}", scanner.num_bytes_read);
        }
    }
}
