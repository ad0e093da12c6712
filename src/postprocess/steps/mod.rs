//! The steps: a row for each, with what it is for.

mod asterisks;
mod brackets;
mod code_fences;
mod comment_only;
mod leading_newline;
mod min_score;
mod repeated_lines;
mod repetition;
mod scope;
mod special_tokens;
mod suffix_overlap;
mod unfinished;
mod whitespace;

pub use special_tokens::MARKERS;

use std::sync::Arc;

use crate::{
    completion::Step,
    postprocess::{Ending, Flow, Gap, PostProcessor},
};

/// How a step works.
pub(super) enum Work {
    /// Piece by piece.
    Streams(fn(Arc<Gap>) -> Box<dyn PostProcessor>),
    /// On the whole text, which it changes in place.
    Whole(fn(&Gap, &mut Ending, &mut String)),
}

/// Returns how a step works.
pub(super) fn work(step: Step) -> Work {
    match step {
        Step::SpecialTokens => Work::Streams(special_tokens::begin),
        Step::CodeFences => Work::Streams(code_fences::begin),
        Step::Asterisks => Work::Streams(asterisks::begin),
        Step::LeadingNewline => Work::Streams(leading_newline::begin),
        Step::Repetition => Work::Streams(repetition::begin),
        Step::Scope => Work::Streams(scope::begin),
        Step::SuffixOverlap => Work::Streams(suffix_overlap::begin),
        Step::Brackets => Work::Streams(brackets::begin),
        Step::CommentOnly => Work::Whole(comment_only::apply),
        Step::RepeatedLines => Work::Whole(repeated_lines::apply),
        Step::Unfinished => Work::Whole(unfinished::apply),
        Step::Whitespace => Work::Streams(whitespace::begin),
        Step::MinScore => Work::Whole(min_score::apply),
    }
}

/// Returns whether a step may ask a grammar.
pub(super) fn parses(step: Step) -> bool {
    match step {
        Step::Scope
        | Step::SuffixOverlap
        | Step::Brackets
        | Step::CommentOnly
        | Step::Unfinished => true,
        Step::SpecialTokens
        | Step::CodeFences
        | Step::Asterisks
        | Step::LeadingNewline
        | Step::Repetition
        | Step::RepeatedLines
        | Step::Whitespace
        | Step::MinScore => false,
    }
}

/// A step that must see all before it keeps anything.
pub(super) struct Whole {
    gap: Arc<Gap>,
    apply: fn(&Gap, &mut Ending, &mut String),
    text: String,
}

impl Whole {
    pub(super) fn begin(
        gap: Arc<Gap>,
        apply: fn(&Gap, &mut Ending, &mut String),
    ) -> Box<dyn PostProcessor> {
        Box::new(Self { gap, apply, text: String::new() })
    }
}

impl PostProcessor for Whole {
    fn push(&mut self, text: &str, _: &mut String) -> Flow {
        self.text.push_str(text);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        (self.apply)(&self.gap, ending, &mut self.text);
        kept.push_str(&self.text);
    }
}

/// A completion of which a part was handed on: what a step that streams remembers.
#[derive(Debug, Default)]
struct Tail {
    text: String,
    num_kept: usize,
}

impl Tail {
    /// Hands on what stands before a place; what was handed on stays so.
    fn keep_to(&mut self, end: usize, kept: &mut String) {
        if let Some(text) = self.text.get(self.num_kept..end) {
            kept.push_str(text);
            self.num_kept = end;
        }
    }

    /// Takes off what stands behind a place, as far as it was not handed on.
    fn cut_to(&mut self, end: usize) {
        self.text.truncate(end.max(self.num_kept));
    }

    /// Hands on all.
    fn keep_all(&mut self, kept: &mut String) {
        self.keep_to(self.text.len(), kept);
    }
}
