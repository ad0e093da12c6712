//! A line of text as a comment of a language.

use crate::completion::{Comments, Language};

/// How comments are spelled where nobody knows: as in most configurations and scripts.
const UNKNOWN: Comments = Comments { line: Some("#"), block: None };

/// Returns how a file's comments are spelled.
pub fn comments_of(language: Option<Language>) -> Comments {
    let known = language.map(Language::comments);
    known.filter(|comments| comments.line.is_some() || comments.block.is_some()).unwrap_or(UNKNOWN)
}

/// Returns a line as a comment, without its end.
pub fn commented(line: &str, comments: Comments) -> String {
    match comments {
        Comments { line: Some(mark), .. } => format!("{mark} {line}").trim_end().to_owned(),
        Comments { line: None, block: Some((open, close)) } => {
            // What closes the comment early would make code of the rest.
            format!("{open} {} {close}", line.replace(close, " "))
        }
        Comments { line: None, block: None } => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_comments_of_their_language() {
        let rows = [
            ("a.py", "x = 1", "# x = 1"),
            ("a.rs", "", "//"),
            ("a.sql", "  x", "--   x"),
            ("a.unknown", "x", "# x"),
        ];
        for (file, line, expected) in rows {
            let comments = comments_of(Language::detect(file, None));
            assert_eq!(commented(line, comments), expected, "{file}");
        }
        let markup = Comments { line: None, block: Some(("<!--", "-->")) };
        assert_eq!(commented("<b> --> </b>", markup), "<!-- <b>   </b> -->");
    }
}
