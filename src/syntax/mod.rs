//! Syntax trees of source text: what code is, as far as a grammar can tell.
//!
//! Who asks for a tree says how much text and how much work it may cost, in numbers and not in time, so that the same
//! text always gives the same answer. What is too long or too hard gives no tree; callers then do without one.
//! No tree is walked by recursion, for its depth is the author's of the text.

mod grammars;
mod tree;
pub mod window;

use std::ops::ControlFlow;

use tree_sitter::{ParseOptions, Parser};

use crate::{
    completion::{Grammar, Language},
    syntax::grammars::Kinds,
};

pub use crate::syntax::tree::{Node, Signature, Tree};

/// Most bytes that are parsed, whatever the budget. Parsers of ambiguous text keep several stacks, whose merging takes
/// the square of their depth and some recursion: at four times this, brackets alone have overflowed a thread's stack.
pub const NUM_BYTES_MAX: usize = 16 << 10;

/// Most brackets around a place of a text that is parsed. Code has a dozen; a parser's stacks are as deep.
const DEPTH_MAX: usize = 256;

/// Most comments that begin and do not end. A grammar with comments in comments looks for the end of each as far as the
/// text goes, which no step of the parser counts: 8000 of them took Kotlin's a minute. Paths with stars have some.
const OPEN_COMMENTS_MAX: usize = 64;

/// Most that a parse may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Most bytes of text; those past [`NUM_BYTES_MAX`] do not count.
    pub num_bytes_max: usize,
    /// Most steps of the parser, of a hundred operations each.
    ///
    /// Plain code takes about one for each 100 bytes; text that a grammar makes nothing of takes many times that.
    pub num_steps_max: u32,
}

impl Budget {
    /// Returns the budget of text that is at most so long, with steps enough for code with mistakes in it.
    pub fn of_bytes(num_bytes_max: usize) -> Self {
        Self { num_bytes_max, num_steps_max: 64 + (num_bytes_max / 32) as u32 }
    }
}

/// What is known of a language's syntax.
#[derive(Clone, Copy, Debug)]
pub struct Syntax {
    kinds: &'static Kinds,
}

impl Syntax {
    /// Returns the syntax of a language, if there is a grammar for it.
    pub fn of(language: Language) -> Option<Self> {
        language.grammar().map(Self::of_grammar)
    }

    /// Returns the syntax that a grammar describes.
    pub fn of_grammar(grammar: Grammar) -> Self {
        Self { kinds: grammars::kinds(grammar) }
    }

    /// Returns the tree of a text, or nothing where the budget does not reach.
    pub fn parse(self, text: &str, budget: Budget) -> Option<Tree<'_>> {
        self.parse_counted(text, budget).0
    }

    /// As [`Syntax::parse`]; also returns the steps that it took.
    pub fn parse_counted(self, text: &str, budget: Budget) -> (Option<Tree<'_>>, u32) {
        let mut num_steps = 0;
        let tree = self.parse_counting(text, budget, &mut num_steps);
        (tree, num_steps)
    }

    fn parse_counting<'t>(
        self,
        text: &'t str,
        budget: Budget,
        num_steps: &mut u32,
    ) -> Option<Tree<'t>> {
        let is_long = text.len() > budget.num_bytes_max.min(NUM_BYTES_MAX);
        if is_long || depth(text) > DEPTH_MAX || num_open_comments(text) > OPEN_COMMENTS_MAX {
            return None;
        }
        let mut parser = Parser::new();
        parser.set_language(&self.kinds.language).ok()?;
        let mut count = |_: &_| {
            *num_steps += 1;
            if *num_steps > budget.num_steps_max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let options = ParseOptions::new().progress_callback(&mut count);
        let bytes = text.as_bytes();
        let mut read = |offset: usize, _| bytes.get(offset..).unwrap_or_default();
        let tree = parser.parse_with_options(&mut read, None, Some(options))?;
        Some(Tree::new(tree, text, self.kinds))
    }
}

/// Returns how many brackets are open at most, by their number alone.
fn depth(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Returns how many more comments begin than end, by their signs alone.
fn num_open_comments(text: &str) -> usize {
    text.matches("/*").count().saturating_sub(text.matches("*/").count())
}

#[cfg(test)]
mod tests;
