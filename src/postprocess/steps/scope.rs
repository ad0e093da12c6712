//! Ends a completion where the scope ends in which it began: the rest of the file is not asked for.
//!
//! The scope is the smallest block of two lines or more around the first character that does not close something, so
//! that a completion may close an inner block and go on. The grammar is asked at the end of each line that looks like
//! the end of a scope: it has a closing brace, it begins with `end`, or it is indented less than the first.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, lexical, steps::Tail};

/// Most questions to the grammar.
const NUM_QUESTIONS_MAX: u32 = 16;

struct Scope {
    gap: Arc<Gap>,
    tail: Tail,
    num_questions: u32,
    has_ended: bool,
}

pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(Scope { gap, tail: Tail::default(), num_questions: 0, has_ended: false })
}

impl PostProcessor for Scope {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        if self.gap.grammar().is_none() {
            kept.push_str(text);
            return Flow::Open;
        }
        for piece in text.split_inclusive('\n') {
            if self.has_ended {
                break;
            }
            self.tail.text.push_str(piece);
            if piece.ends_with('\n') {
                self.ask();
            }
        }
        if self.has_ended {
            return Flow::Ended;
        }
        self.tail.keep_to(self.doubtful(), kept);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        if !self.has_ended && self.gap.grammar().is_some() {
            self.ask();
            ending.is_cut &= !self.has_ended;
        }
        self.tail.keep_all(kept);
    }
}

impl Scope {
    /// Asks the grammar whether the scope has ended, where the last line looks like it.
    fn ask(&mut self) {
        let text = &self.tail.text;
        let doubtful = self.doubtful();
        let Some(first) = first_own(text) else { return };
        if text[doubtful..].trim().is_empty() || self.num_questions == NUM_QUESTIONS_MAX {
            return;
        }
        self.num_questions += 1;
        let Some(end) = self.gap.scope_end(text, first) else { return };
        // Brackets around a block close on its last line: `});`.
        let closes = |c: char| lexical::is_closing(c) || matches!(c, ';' | ',');
        let rest = text.get(end..).unwrap_or_default();
        let end = text.len() - rest.trim_start_matches(closes).len();
        if end >= doubtful && !text[end..].trim().is_empty() {
            self.tail.cut_to(end);
            self.has_ended = true;
        }
    }

    /// Returns up to where the text stays whatever follows: the beginning of the last line if it looks like the end of
    /// a scope, with the blank lines before it.
    fn doubtful(&self) -> usize {
        let text = &self.tail.text;
        let content = text.trim_end();
        let line = content.rfind('\n').map_or(0, |newline| newline + 1);
        // A line that is complete was asked about, and stays; what follows it is blank so far.
        let is_complete = text[content.len()..].contains('\n');
        let content_line = &text[line..content.len()];
        let indentation = content_line.len() - content_line.trim_start().len();
        let word = content_line.trim_start();
        let is_less = line > 0 && indentation < self.indentation();
        let may_be_end = word.starts_with("end") || "end".starts_with(word);
        let before_blank = text[..line].trim_end().len();
        if is_less || may_be_end {
            return before_blank;
        }
        match content_line.find('}') {
            Some(brace) => line + brace,
            None if is_complete => content.len(),
            None => text.len(),
        }
    }

    /// Returns the indentation of the first line of the completion that has something in it.
    fn indentation(&self) -> usize {
        let text = &self.tail.text;
        let first = text.len() - text.trim_start().len();
        let spaces = |line: &str| line.len() - line.trim_start().len();
        if let Some(newline) = text[..first].rfind('\n') {
            return first - newline - 1;
        }
        let typed = self.gap.before.rsplit('\n').next().unwrap_or_default();
        if typed.trim().is_empty() { typed.len() + first } else { spaces(typed) }
    }
}

/// Returns where a completion begins something of its own: behind what it closes.
fn first_own(text: &str) -> Option<usize> {
    text.find(|c: char| !c.is_whitespace() && !lexical::is_closing(c) && !matches!(c, ';' | ','))
}
