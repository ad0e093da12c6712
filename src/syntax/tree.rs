//! One text's tree and what may be asked of it.
//!
//! Walks keep a cursor, whose memory is bounded by the text's, and skip what cannot hold an answer.

use std::{fmt, ops::Range};

use tree_sitter::{Node as Inner, TreeCursor};

use crate::syntax::grammars::{Kinds, Roles};

/// The syntax tree of a text; all ranges are of its bytes.
pub struct Tree<'t> {
    inner: tree_sitter::Tree,
    text: &'t str,
    kinds: &'static Kinds,
}

/// A node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The grammar's name of what it is: `identifier`, `if_statement`, or a token's own text.
    pub kind: &'static str,
    /// Whether `kind` is a name, not a token's own text.
    pub is_named: bool,
    /// Where it stands.
    pub range: Range<usize>,
}

/// How a function, method or type is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What stands before its body; all of it where it has none.
    pub head: Range<usize>,
    /// All of it.
    pub whole: Range<usize>,
}

/// Where a walk goes from a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// To the nodes in it, then to what follows.
    Inside,
    /// To what follows it.
    Past,
    /// Nowhere: the walk is done.
    Nowhere,
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("num_bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl<'t> Tree<'t> {
    pub(super) fn new(inner: tree_sitter::Tree, text: &'t str, kinds: &'static Kinds) -> Self {
        Self { inner, text, kinds }
    }

    /// Returns the text.
    pub fn text(&self) -> &'t str {
        self.text
    }

    /// Returns the number of mistakes that begin in a range: what fits nowhere and what is missing.
    pub fn num_errors(&self, range: Range<usize>) -> usize {
        let mut num_errors = 0;
        self.walk(|node| {
            if node.start_byte() >= range.end {
                return Next::Nowhere;
            }
            if !node.has_error() || node.end_byte() < range.start {
                return Next::Past;
            }
            let is_error = node.is_error() || node.is_missing();
            num_errors += usize::from(is_error && node.start_byte() >= range.start);
            Next::Inside
        });
        num_errors
    }

    /// Returns whether the text is comments and nothing else; an empty one is not.
    pub fn is_only_comments(&self) -> bool {
        let mut num_comments = 0;
        let mut is_only = true;
        self.walk(|node| {
            if self.roles(node).have(Roles::COMMENT) {
                num_comments += 1;
                return Next::Past;
            }
            // What holds children may hold comments alone; a leaf is something else, unless it is an empty end.
            if node.child_count() > 0 || node.byte_range().is_empty() {
                return Next::Inside;
            }
            is_only = false;
            Next::Nowhere
        });
        is_only && num_comments > 0 && !self.inner.root_node().has_error()
    }

    /// Returns the smallest scope around the byte at a position that has so many lines at least.
    ///
    /// Lines count from what opens it: a body of one line under its header has two.
    pub fn smallest_block(&self, position: usize, num_lines_min: usize) -> Option<Range<usize>> {
        let mut smallest = None;
        let mut cursor = self.inner.walk();
        let mut opened_at = 0;
        loop {
            let node = cursor.node();
            if !node.byte_range().contains(&position) {
                return smallest;
            }
            let is_inside = !self.kinds.row.blocks_have_heads || node.start_byte() < position;
            let num_lines = node.end_position().row + 1 - opened_at;
            if self.roles(node).have(Roles::BLOCK) && is_inside && num_lines >= num_lines_min {
                smallest = Some(node.byte_range());
            }
            opened_at = node.start_position().row;
            if cursor.goto_first_child_for_byte(position).is_none() {
                return smallest;
            }
        }
    }

    /// Returns what makes names of other files known, in the order of the text.
    pub fn imports(&self) -> Vec<Range<usize>> {
        let mut imports = Vec::new();
        self.walk(|node| {
            let roles = self.roles(node);
            if roles.have(Roles::IMPORT) {
                let range = self.without_final_space(node.byte_range());
                if self.begins_import(&self.text[range.clone()]) {
                    imports.push(range);
                }
                return Next::Past;
            }
            if roles.have(Roles::FUNCTION) { Next::Past } else { Next::Inside }
        });
        imports
    }

    /// Returns how functions, methods and types are declared, in the order of the text; none that is in a function.
    pub fn signatures(&self) -> Vec<Signature> {
        let mut signatures = Vec::new();
        self.walk(|node| {
            let roles = self.roles(node);
            if !roles.have(Roles::FUNCTION.and(Roles::TYPE)) {
                return Next::Inside;
            }
            let body = self.body(node);
            if body.is_some() || roles.have(Roles::FUNCTION) {
                let end = body.map_or(node.end_byte(), |body| body.start_byte());
                let head = self.without_final_space(node.start_byte()..end);
                signatures.push(Signature { head, whole: node.byte_range() });
            }
            if roles.have(Roles::TYPE) { Next::Inside } else { Next::Past }
        });
        signatures
    }

    /// Returns the nodes that have a byte in a range, at most so many, each before those in it.
    pub fn nodes(&self, range: Range<usize>, num_max: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.walk(|node| {
            if node.start_byte() >= range.end || nodes.len() == num_max {
                return Next::Nowhere;
            }
            if node.end_byte() <= range.start {
                return Next::Past;
            }
            nodes.push(Node {
                kind: self.kinds.language.node_kind_for_id(node.kind_id()).unwrap_or("ERROR"),
                is_named: node.is_named(),
                range: node.byte_range(),
            });
            Next::Inside
        });
        nodes
    }

    fn roles(&self, node: Inner<'_>) -> Roles {
        self.kinds.roles(node.kind_id())
    }

    fn begins_import(&self, text: &str) -> bool {
        let words = self.kinds.row.import_words;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        words.is_empty() || text.split(|c| !is_word(c)).next().is_some_and(|w| words.contains(&w))
    }

    fn body<'n>(&self, node: Inner<'n>) -> Option<Inner<'n>> {
        if let Some(body) = node.child_by_field_name("body") {
            return Some(body);
        }
        let mut cursor = node.walk();
        node.children(&mut cursor).find(|child| self.roles(*child).have(Roles::BODY))
    }

    fn without_final_space(&self, range: Range<usize>) -> Range<usize> {
        range.start..range.start + self.text[range.clone()].trim_end().len()
    }

    /// Goes through the nodes, each before those in it.
    fn walk(&self, mut visit: impl FnMut(Inner<'_>) -> Next) {
        let mut cursor = self.inner.walk();
        loop {
            match visit(cursor.node()) {
                Next::Nowhere => return,
                Next::Inside if cursor.goto_first_child() => continue,
                Next::Inside | Next::Past => {}
            }
            if !goes_past(&mut cursor) {
                return;
            }
        }
    }
}

/// Goes to the node that follows all of this one; returns whether there is one.
fn goes_past(cursor: &mut TreeCursor<'_>) -> bool {
    while !cursor.goto_next_sibling() {
        if !cursor.goto_parent() {
            return false;
        }
    }
    true
}
