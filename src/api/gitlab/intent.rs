//! Whether somebody at the cursor wants a few words or whole code, and what they said that it is to be.
//!
//! Told by the text alone: a comment that ends just above the cursor, a function without a body, a file with hardly any
//! code. It looks at lines, not at syntax, so that it costs nothing and knows languages by their comments alone.

use crate::completion::Language;

/// Shorter comments say nothing that could be done.
const COMMENT_CHARS_MIN: usize = 10;
/// A file with fewer lines of code is small.
const CODE_LINES_MIN: usize = 5;
/// Most lines of a comment, which bounds the work too.
const COMMENT_LINES_MAX: usize = 50;
/// What begins a comment to the end of the line where the language is unknown.
const LINE_COMMENTS: [&str; 3] = ["//", "#", "--"];
/// Words that look like a function's head and are none.
const CONTROL: [&str; 10] =
    ["if", "for", "while", "switch", "catch", "else", "do", "try", "match", "with"];
/// Words that begin a function's head where its end tells nothing.
const FUNCTION: [&str; 6] = ["def", "async", "function", "local", "sub", "fn"];

/// Why code is to be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// A comment says what.
    Comment,
    /// A function has no body yet.
    EmptyFunction,
    /// There is hardly any code.
    SmallFile,
}

/// Returns why code is to be generated at the cursor; `None` where a completion is wanted.
pub(super) fn trigger(prefix: &str, suffix: &str, language: Option<Language>) -> Option<Trigger> {
    if comment_above(prefix, language).is_some() {
        return Some(Trigger::Comment);
    }
    if is_in_empty_function(prefix, suffix) {
        return Some(Trigger::EmptyFunction);
    }
    let is_code = |line: &&str| !line.trim().is_empty() && comment_text(line, language).is_none();
    let num_lines = prefix.lines().chain(suffix.lines()).filter(is_code).take(CODE_LINES_MIN);
    (num_lines.count() < CODE_LINES_MIN).then_some(Trigger::SmallFile)
}

/// Returns what the comment says that ends just above the cursor, or in its line.
pub(super) fn comment_above(prefix: &str, language: Option<Language>) -> Option<String> {
    let (above, line) = prefix.rsplit_once('\n').unwrap_or(("", prefix));
    let above = if line.trim().is_empty() { above } else { prefix };
    let mut said: Vec<&str> = Vec::new();
    for line in above.rsplit('\n').take(COMMENT_LINES_MAX) {
        let Some(text) = comment_text(line, language) else { break };
        said.push(text);
    }
    said.reverse();
    let said = said.join("\n");
    let said = said.trim();
    (said.chars().count() >= COMMENT_CHARS_MIN).then(|| said.to_owned())
}

/// Returns what a line says that is a comment and nothing else.
fn comment_text(line: &str, language: Option<Language>) -> Option<&str> {
    let line = line.trim();
    if let Some(inner) = line.strip_prefix("/*") {
        return Some(inner.trim_start_matches('*').trim_end_matches("*/").trim());
    }
    if let Some(inner) = line.strip_prefix("<!--") {
        return Some(inner.trim_end_matches("-->").trim());
    }
    // The inner lines of a block comment; a line of code does not begin with a star and a blank.
    if line == "*/" || line == "*" || line.starts_with("* ") {
        return Some(line.trim_start_matches(['*', '/']).trim());
    }
    let signs = language.map_or(&LINE_COMMENTS[..], |_| &[]);
    let own = language.and_then(|language| language.comments().line);
    let sign = own.into_iter().chain(signs.iter().copied()).find(|sign| line.starts_with(sign))?;
    // `#!` and `#[` are code to a program and none to a reader.
    let text = &line[sign.len()..];
    (!text.starts_with(['!', '['])).then(|| text.trim_start_matches(['/', '#', '-']).trim())
}

/// Returns whether the last line of code above the cursor begins a function and what follows ends it.
fn is_in_empty_function(prefix: &str, suffix: &str) -> bool {
    let Some(head) = prefix.lines().rev().find(|line| !line.trim().is_empty()) else {
        return false;
    };
    let next = suffix.lines().find(|line| !line.trim().is_empty());
    let ends_here = match next {
        None => true,
        Some(next) => next.trim_start().starts_with('}') || indent(next) <= indent(head),
    };
    ends_here && is_function_head(head.trim())
}

fn is_function_head(line: &str) -> bool {
    let first = line.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    if CONTROL.contains(&first) || line.starts_with("} ") {
        return false;
    }
    let has_parameters = line.contains('(') && line.contains(')');
    let begins_body = line.ends_with('{') || line.ends_with(':') || line.ends_with("=>");
    (has_parameters && begins_body && !line.starts_with("class "))
        || (FUNCTION.contains(&first) && !begins_body && !line.ends_with([';', '}', ',']))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn language(file_name: &str) -> Option<Language> {
        Language::detect(file_name, None)
    }

    #[test]
    fn a_comment_just_above_the_cursor_says_what_to_write() {
        let rows = [
            ("a.py", "x = 1\n# sort the list by size\n", Some("sort the list by size")),
            ("a.py", "# sort the list\n# by size\n    ", Some("sort the list\nby size")),
            ("a.py", "# sort the list by size", Some("sort the list by size")),
            ("a.py", "# short\n", None),
            ("a.py", "# sort the list by size\nx = 1\n", None),
            ("a.py", "# sort the list by size\n\n", None),
            ("a.py", "// sort the list by size\n", None),
            ("a.py", "#!/usr/bin/env python3\n", None),
            ("a.rs", "#[derive(Clone, Debug)]\n", None),
            ("a.rs", "/// Returns the larger of two.\n", Some("Returns the larger of two.")),
            ("a.go", "/* sort the list by size */\n", Some("sort the list by size")),
            ("a.js", "/**\n * Sorts the list\n * by size\n */\n", Some("Sorts the list\nby size")),
            ("a.html", "<!-- a table of users -->\n", Some("a table of users")),
            ("a.sql", "-- all users of today\n", Some("all users of today")),
            ("notes", "// sort the list by size\n", Some("sort the list by size")),
            ("a.py", "", None),
        ];
        for (file, prefix, expected) in rows {
            let said = comment_above(prefix, language(file));
            assert_eq!(said.as_deref(), expected, "{file}: {prefix}");
        }
    }

    const LONG: &str = "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n";

    #[test]
    fn a_function_without_a_body_wants_one() {
        let rows = [
            ("a.py", "def add(a, b):\n    ", "", true),
            ("a.py", "    def add(self, b):\n        ", "\n    def sub(self):\n", true),
            ("a.py", "def add(a, b):\n    ", "\n    return a\n", false),
            ("a.py", "if (a):\n    ", "", false),
            ("a.py", "class A(B):\n    ", "", false),
            ("a.go", "func add(a, b int) int {\n\t", "\n}\n", true),
            ("a.go", "if add(a) {\n\t", "\n}\n", false),
            ("a.ts", "const add = (a, b) => {\n  ", "\n}", true),
            ("a.ts", "} else if (a) {\n  ", "\n}", false),
            ("a.rb", "def add(a, b)\n  ", "\nend\n", true),
            ("a.rb", "def name\n  ", "\nend\n", true),
            ("a.java", "  int add(int a) {\n    ", "\n    return 1;\n  }", false),
        ];
        for (file, prefix, suffix, expected) in rows {
            let found = trigger(&format!("{LONG}{prefix}"), suffix, language(file));
            let expected = expected.then_some(Trigger::EmptyFunction);
            assert_eq!(found, expected, "{file}: {prefix}");
        }
    }

    #[test]
    fn a_file_with_hardly_any_code_is_small() {
        let python = language("a.py");
        assert_eq!(trigger("", "", python), Some(Trigger::SmallFile));
        assert_eq!(trigger("# what\nimport a\n", "\n", python), Some(Trigger::SmallFile));
        assert_eq!(trigger(LONG, "", python), None);
        assert_eq!(trigger("a\nb\n# no\n", "c\nd\n", python), Some(Trigger::SmallFile));
        let said = format!("{LONG}# sort the list by size\n");
        assert_eq!(trigger(&said, "", python), Some(Trigger::Comment));
    }
}
