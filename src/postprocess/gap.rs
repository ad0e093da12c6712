//! What stands around a completion, as far as steps look.

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    completion::{Comments, Grammar, Language},
    syntax::{Budget, Syntax, Tree, window},
};

/// How far steps look before the cursor and behind it: some two screens of code, which a grammar reads in a millisecond.
const BEFORE_BYTES: usize = 4 << 10;
const AFTER_BYTES: usize = 2 << 10;

/// Most bytes of a completion that are parsed together with what stands around it.
const PARSED_BYTES_MAX: usize = BEFORE_BYTES + AFTER_BYTES + (8 << 10);

/// Most steps that the grammar may take for a completion, over all questions. Plain code takes about one for each 100
/// bytes, hostile text many times that, and each the longer the more of it there is.
const NUM_STEPS_MAX: u32 = 1536;

/// What is left of the grammar's steps; a copy begins anew.
#[derive(Debug)]
struct Allowance(AtomicU32);

impl Default for Allowance {
    fn default() -> Self {
        Self(AtomicU32::new(NUM_STEPS_MAX))
    }
}

impl Clone for Allowance {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What stands around a completion: the file's own text, without what a prompt adds.
#[derive(Clone, Debug)]
pub struct Gap {
    pub(super) before: String,
    /// Whether that is all of it.
    pub(super) has_file_start: bool,
    pub(super) after: String,
    pub(super) language: Option<Language>,
    /// Least mean log-probability of a completion that is kept.
    pub(super) min_score: Option<f32>,
    /// Whether the model talks about code, rather than going on with it.
    pub(super) is_talk: bool,
    allowance: Allowance,
}

impl Gap {
    /// Looks at the file around a cursor.
    pub fn new(prefix: &str, suffix: &str, language: Option<Language>) -> Self {
        let before = window::before(prefix, BEFORE_BYTES).to_owned();
        Self {
            has_file_start: before.len() == prefix.len(),
            before,
            after: window::after(suffix, AFTER_BYTES).to_owned(),
            language,
            min_score: None,
            is_talk: false,
            allowance: Allowance::default(),
        }
    }

    /// Sets the least mean log-probability of a completion that is kept.
    #[must_use]
    pub fn with_min_score(self, min_score: Option<f32>) -> Self {
        Self { min_score, ..self }
    }

    /// Says whether the model talks about code, rather than going on with it.
    #[must_use]
    pub fn with_talk(self, is_talk: bool) -> Self {
        Self { is_talk, ..self }
    }

    pub(super) fn grammar(&self) -> Option<Grammar> {
        self.language.and_then(Language::grammar)
    }

    pub(super) fn comments(&self) -> Option<Comments> {
        self.language.map(Language::comments)
    }

    /// Calls `ask` with the tree of a text, where the language has a grammar that can make something of it.
    pub(super) fn with_tree<T>(&self, text: &str, ask: impl FnOnce(Tree<'_>) -> T) -> Option<T> {
        let syntax = self.language.and_then(Syntax::of)?;
        if text.len() > PARSED_BYTES_MAX {
            return None;
        }
        let left = self.allowance.0.load(Ordering::Relaxed);
        let own = Budget::of_bytes(text.len());
        let budget = Budget { num_steps_max: own.num_steps_max.min(left), ..own };
        let (tree, num_steps) = syntax.parse_counted(text, budget);
        self.allowance.0.store(left.saturating_sub(num_steps), Ordering::Relaxed);
        tree.map(ask)
    }

    /// Returns the number of mistakes in the file with this in the gap, where a grammar can tell.
    pub(super) fn num_errors(&self, middle: &str) -> Option<usize> {
        let text = [&self.before, middle, &self.after].concat();
        self.with_tree(&text, |tree| tree.num_errors(0..text.len()))
    }

    /// Returns where the scope ends in which a place of the completion stands, as a place of the completion.
    pub(super) fn scope_end(&self, completion: &str, position: usize) -> Option<usize> {
        let text = [&self.before, completion].concat();
        let from = self.before.len();
        let block = |tree: Tree<'_>| tree.smallest_block(from + position, 2);
        let Range { start, end } = self.with_tree(&text, block)??;
        // A brace that the grammar made up closes nothing.
        let is_closed = !text[start..].starts_with('{') || text[..end].ends_with('}');
        is_closed.then(|| end.saturating_sub(from))
    }

    /// Returns how the file breaks its lines.
    pub(super) fn line_break(&self) -> &'static str {
        if self.before.contains("\r\n") || self.after.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// Returns what stays of a completion whose end was taken off because the text behind the cursor has it: the
    /// space before it goes too, but a line break stays where that text does not bring its own.
    pub(super) fn without_loose_end<'t>(&self, completion: &'t str) -> &'t str {
        let kept = completion.trim_end();
        let space = &completion[kept.len()..];
        let brings_break = self.after.trim_start_matches([' ', '\t', '\r']).starts_with('\n');
        if brings_break || kept.is_empty() {
            return kept;
        }
        let line_break = space.find('\n').map_or(0, |newline| newline + 1);
        &completion[..kept.len() + line_break]
    }
}
