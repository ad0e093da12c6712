//! What a window must not lose: the imports above it, the declarations that it lies in, and how what it leaves out is called.
//!
//! Imports and the open declarations stand as they were, so that the window still reads as the end of a file. Other
//! declarations, of which only the head is known, are comments.

use std::hash::{BuildHasher as _, RandomState};

use crate::{
    completion::{Grammar, Language},
    memo::Memo,
    prompt::context::comment::commented,
    syntax::{Budget, Syntax, Tree, window},
};

/// How much is read by a grammar, which takes about a millisecond for 16 KB: of the beginning of a file, where its imports
/// are, ...
const BEGINNING_BYTES: usize = 8 << 10;
/// ... of what stands right before a window, ...
const NEAR_BYTES: usize = 8 << 10;
/// ... and of what stands right behind it.
const BEHIND_BYTES: usize = 4 << 10;

/// As far as any of them reaches into a text.
pub(super) const HEAD_BYTES: usize = SCOPE_BYTES;

/// How much is searched for the scopes that a window lies in, line by line.
const SCOPE_BYTES: usize = 64 << 10;

/// Longer lines are data.
const LINE_BYTES_MAX: usize = 200;

/// Longer imports name more than fits.
const IMPORT_BYTES_MAX: usize = 1000;

/// Deeper scopes are few, and their names say little.
const ENCLOSING_MAX: usize = 8;

/// A file around a window of it.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// What stands before the window.
    pub head: &'a str,
    /// The window up to the cursor.
    pub kept: &'a str,
    /// What stands behind the window.
    pub tail: &'a str,
}

/// What parts of files declare, as far as it was asked for before: while a person types, it stays.
///
/// Parts are told apart by 128 bits that nobody outside can foresee.
#[derive(Debug)]
pub struct OutlineCache {
    lines: Memo<(Grammar, Wanted, [u64; 2]), Vec<String>>,
    hashers: [RandomState; 2],
}

/// What is asked of a part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wanted {
    Imports,
    Signatures,
}

impl OutlineCache {
    /// # Units
    /// `num_bytes`: bytes of memory, about
    pub fn new(num_bytes: usize) -> Self {
        Self { lines: Memo::new(num_bytes), hashers: [RandomState::new(), RandomState::new()] }
    }

    /// Returns the lines that a part of a file declares, parsed where it is not known.
    fn lines(&self, text: &str, grammar: Grammar, wanted: Wanted) -> Vec<String> {
        let key = (grammar, wanted, self.hashers.each_ref().map(|hasher| hasher.hash_one(text)));
        if let Some(known) = self.lines.get(&key, Vec::clone) {
            return known;
        }
        let found = declared(text, grammar, wanted);
        let num_bytes = found.iter().map(|line| line.len() + size_of::<String>()).sum();
        self.lines.insert(key, found.clone(), num_bytes);
        found
    }
}

/// Returns the outline of what is cut off, whole lines of at most so many bytes; empty where there is nothing to tell.
pub fn outline(
    cut: Cut<'_>,
    language: Option<Language>,
    num_bytes_max: usize,
    cache: Option<&OutlineCache>,
) -> String {
    let mut left = num_bytes_max;
    let mut take = |line: &String| {
        let fits = line.len() < left;
        left -= if fits { line.len() + 1 } else { 0 };
        fits
    };
    // By how much is lost without them.
    let mut enclosing = enclosing_lines(cut.head, cut.kept);
    enclosing.retain(&mut take);
    let (mut imported, mut signatures) = (Vec::new(), Vec::new());
    if let Some((grammar, language)) = language.and_then(|found| Some((found.grammar()?, found))) {
        let lines = |text, wanted| match cache {
            Some(cache) => cache.lines(text, grammar, wanted),
            None => declared(text, grammar, wanted),
        };
        imported = lines(window::after(cut.head, BEGINNING_BYTES), Wanted::Imports);
        imported.retain(&mut take);
        // The nearest first: what lies before a window and at its end, then what is behind it.
        let before = lines(window::before(cut.head, NEAR_BYTES), Wanted::Signatures);
        let behind = lines(window::after(cut.tail, BEHIND_BYTES), Wanted::Signatures);
        let near: Vec<String> = before.into_iter().rev().chain(behind).collect();
        let comment = |line: &String| commented(line.trim(), language.comments());
        let is_open = |line: &&String| enclosing.iter().any(|open| open.trim() == line.trim());
        signatures = near.iter().filter(|line| !is_open(line)).map(comment).collect();
        signatures.retain(&mut take);
    }
    let lines = imported.into_iter().chain(signatures).chain(enclosing);
    lines.map(|line| line + "\n").collect()
}

/// Returns the lines that the first line of the window is inside of, by their indentation: the outermost first.
fn enclosing_lines(head: &str, kept: &str) -> Vec<String> {
    let inner = kept.lines().find(|line| !line.trim().is_empty());
    let Some(mut indent) = inner.map(indent_of) else { return Vec::new() };
    let mut found = Vec::new();
    for line in window::before(head, SCOPE_BYTES).lines().rev() {
        let opens = line.trim_end().ends_with(|c: char| "{:([".contains(c))
            || line.trim_start().starts_with(|c: char| c.is_alphabetic() || c == '@');
        if line.trim().is_empty() || indent_of(line) >= indent || !opens {
            continue;
        }
        indent = indent_of(line);
        if line.len() <= LINE_BYTES_MAX {
            found.push(line.trim_end().to_owned());
        }
        if indent == 0 || found.len() == ENCLOSING_MAX {
            break;
        }
    }
    found.reverse();
    found
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Returns the lines that a part of a file declares; none where it cannot be parsed.
fn declared(text: &str, grammar: Grammar, wanted: Wanted) -> Vec<String> {
    let tree = Syntax::of_grammar(grammar).parse(text, Budget::of_bytes(text.len()));
    tree.map_or_else(Vec::new, |tree| match wanted {
        Wanted::Imports => imports(&tree),
        Wanted::Signatures => signature_lines(&tree),
    })
}

/// Returns each import whole, in one line or several.
fn imports(tree: &Tree<'_>) -> Vec<String> {
    let texts = tree.imports().into_iter().map(|range| tree.text()[range].trim_end());
    texts.filter(|text| text.len() <= IMPORT_BYTES_MAX).map(ToOwned::to_owned).collect()
}

/// Returns the first lines of what is declared.
fn signature_lines(tree: &Tree<'_>) -> Vec<String> {
    let heads = tree.signatures().into_iter().map(|signature| &tree.text()[signature.head]);
    let lines = heads.filter_map(|head| head.lines().next()).map(str::trim_end);
    lines.filter(|line| line.len() <= LINE_BYTES_MAX).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "import os\nfrom shop import (\n    Order,\n)\n\ndef tax(price):\n    return price * 0.2\n\nclass Cart:\n    size = 1\n    def total(self, orders):\n        sum = 0\n";
    const KEPT: &str = "        for order in orders:\n            sum += ";
    const TAIL: &str = "def send(cart):\n    pass\n";

    fn python(num_bytes_max: usize) -> String {
        let cut = Cut { head: HEAD, kept: KEPT, tail: TAIL };
        outline(cut, Language::detect("a.py", None), num_bytes_max, None)
    }

    #[test]
    fn what_is_kept_is_what_would_be_parsed() {
        let cache = OutlineCache::new(1 << 20);
        let language = Language::detect("a.py", None);
        for (head, tail) in [(HEAD, TAIL), (HEAD, ""), (TAIL, HEAD), (HEAD, TAIL), ("def (", ")")] {
            let cut = Cut { head, kept: KEPT, tail };
            for num_bytes_max in [1000, 40] {
                let cold = outline(cut, language, num_bytes_max, None);
                assert_eq!(outline(cut, language, num_bytes_max, Some(&cache)), cold);
            }
        }
        // The same text in another language, and for another purpose.
        let names =
            ["a.py", "a.rs", "a.js"].into_iter().flat_map(|file| [(file, "a"), (file, "b")]);
        for (file, name) in names {
            let text = &format!("import o{name}\ndef {name}():\n    pass\n");
            let grammar = Language::detect(file, None).and_then(Language::grammar).unwrap();
            for wanted in [Wanted::Imports, Wanted::Signatures] {
                let parsed = declared(text, grammar, wanted);
                assert_eq!(cache.lines(text, grammar, wanted), parsed, "{file}");
                assert_eq!(cache.lines(text, grammar, wanted), parsed, "{file}");
            }
        }
    }

    #[test]
    fn imports_and_open_scopes_stand_and_other_declarations_are_comments() {
        let expected = "import os\nfrom shop import (\n    Order,\n)\n# def tax(price):\n# def send(cart):\nclass Cart:\n    def total(self, orders):\n";
        assert_eq!(python(1000), expected);
    }

    #[test]
    fn what_is_lost_most_is_kept_longest() {
        assert_eq!(python(60), "import os\nclass Cart:\n    def total(self, orders):\n");
        assert_eq!(python(12), "class Cart:\n");
        assert_eq!(python(0), "");
    }

    #[test]
    fn scopes_need_no_grammar() {
        let cut = Cut {
            head: "unit Shop {\n  cost = 1\n  work total {\n    x\n",
            kept: "    y\n",
            tail: "",
        };
        assert_eq!(outline(cut, None, 1000, None), "unit Shop {\n  work total {\n");
    }

    #[test]
    fn braces_left_open_by_the_cut_are_scopes_too() {
        let head = "use std::fmt;\n\nimpl fmt::Display for Cart {\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {\n        let a = 1;\n";
        let cut = Cut { head, kept: "        write!(f, \"", tail: "" };
        let expected = "use std::fmt;\nimpl fmt::Display for Cart {\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {\n";
        assert_eq!(outline(cut, Language::detect("a.rs", None), 1000, None), expected);
    }
}
