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
    let mut loose = Loose::default();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = skipped(rest, gap) {
            rest = &rest[length..];
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
        rest = &rest[c.len_utf8()..];
    }
    loose
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

/// Returns the length of the comment or string that a text begins with.
fn skipped(text: &str, gap: &Gap) -> Option<usize> {
    let comments = gap.comments().unwrap_or(Comments { line: None, block: None });
    let line_length = text.find('\n').unwrap_or(text.len());
    if let Some((open, close)) = comments.block
        && let Some(inside) = text.strip_prefix(open)
    {
        return Some(inside.find(close).map_or(text.len(), |end| open.len() + end + close.len()));
    }
    if comments.line.is_some_and(|line| text.starts_with(line)) {
        return Some(line_length);
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'))?;
    let quotes_one =
        quote == '\'' && gap.grammar().is_some_and(|grammar| QUOTE_ONE.contains(&grammar));
    let within = match quote {
        '`' => text,
        _ if quotes_one => &text[..text.floor_char_boundary(line_length.min(CHARACTER_BYTES_MAX))],
        _ => &text[..line_length],
    };
    let length = quoted(within, quote)?;
    let inside = &within[1..length - 1];
    // `'a, 'b` are lifetimes; `'a'` and `'\n'` are characters.
    let is_one = inside.starts_with('\\') || inside.chars().count() == 1;
    (is_one || !quotes_one).then_some(length)
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
}
