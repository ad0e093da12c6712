//! Deletes the end of a completion that the text after the cursor says already.
//!
//! A piece goes only if it is a copy of that text's first lines, and if the file is better without it: fewer mistakes
//! by its grammar; where that says nothing, fewer brackets without a partner. So a completion that begins by closing a
//! block, before a text that closes another, stays whole.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, lexical, steps::Tail};

/// Most lines after the cursor that are compared.
const NUM_LINES_MAX: usize = 8;
/// As many letters or digits in two lines or more are no accident: what follows them is cut too.
const NUM_LETTERS_MIN: usize = 4;
/// Most times that the grammar is asked.
const NUM_QUESTIONS_MAX: u32 = 16;

struct SuffixOverlap {
    gap: Arc<Gap>,
    /// The first lines after the cursor, trimmed, none of them blank.
    lines: Vec<String>,
    tail: Tail,
    num_questions: u32,
    has_ended: bool,
}

/// How a text copies the lines after the cursor.
struct Copied {
    num_whole_lines: usize,
    num_letters: usize,
    has_part: bool,
}

pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    let lines = gap.after.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.take(NUM_LINES_MAX).map(str::to_owned).collect();
    let tail = Tail::default();
    Box::new(SuffixOverlap { gap, lines, tail, num_questions: 0, has_ended: false })
}

impl PostProcessor for SuffixOverlap {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        for piece in text.split_inclusive('\n') {
            if self.has_ended {
                break;
            }
            self.tail.text.push_str(piece);
            if piece.ends_with('\n') {
                self.end_if_reached();
            }
        }
        if self.has_ended {
            return Flow::Ended;
        }
        let settled = self.settled();
        self.tail.keep_to(settled, kept);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        // Copies may follow one another, so that the end is a copy again.
        while let Some(start) = self.copy_at_end() {
            let end = self.gap.without_loose_end(&self.tail.text[..start]).len();
            self.tail.cut_to(end);
            ending.is_cut = false;
        }
        self.tail.keep_all(kept);
    }
}

impl SuffixOverlap {
    /// Ends the completion if its last lines are those after the cursor beyond doubt.
    fn end_if_reached(&mut self) {
        for start in self.starts() {
            let is_all = self.tail.text[..start].trim().is_empty();
            let is_reached = self.copied(&self.tail.text[start..]).is_some_and(|copied| {
                !copied.has_part
                    && copied.num_whole_lines >= 2
                    && copied.num_letters >= NUM_LETTERS_MIN
            });
            if is_reached && !is_all && self.is_better_without(start) {
                let end = self.gap.without_loose_end(&self.tail.text[..start]).len();
                self.tail.cut_to(end);
                self.has_ended = true;
                return;
            }
        }
    }

    /// Returns where a copy begins that reaches to the end and should go.
    fn copy_at_end(&mut self) -> Option<usize> {
        let end = self.tail.text.trim_end().len();
        self.starts().into_iter().filter(|start| *start < end).find(|start| {
            let copied = self.copied(&self.tail.text[*start..end]);
            let least = |copied: &Copied| if copied.has_part { 2 } else { 1 };
            copied.is_some_and(|copied| copied.num_whole_lines >= least(&copied))
                && self.is_better_without(*start)
        })
    }

    /// Returns where copies may begin in what was kept back, the earliest first.
    fn starts(&self) -> Vec<usize> {
        let Some(first) = self.lines.first().and_then(|line| line.chars().next()) else {
            return Vec::new();
        };
        let held = &self.tail.text[self.tail.num_kept..];
        held.match_indices(first).map(|(at, _)| self.tail.num_kept + at).collect()
    }

    /// Returns up to where the text stays whatever follows: behind it there is nothing but copies.
    fn settled(&self) -> usize {
        let text = &self.tail.text;
        let start = self.starts().into_iter().find(|start| self.is_copies(&text[*start..]));
        text[..start.unwrap_or(text.len())].trim_end().len()
    }

    /// Returns whether a text is copies of the lines after the cursor one after the other, the last one begun.
    fn is_copies(&self, text: &str) -> bool {
        let mut rest = text.trim_start();
        let mut index = 0;
        while !rest.is_empty() {
            let line = self.lines.get(index).map_or("", String::as_str);
            if line.starts_with(rest.trim_end()) {
                return true;
            }
            match rest.strip_prefix(line).filter(|_| !line.is_empty()) {
                Some(after) => {
                    rest = after.trim_start();
                    let is_next = after[..after.len() - rest.len()].contains('\n');
                    index = if is_next { index + 1 } else { 0 };
                }
                None if index > 0 => index = 0,
                None => return false,
            }
        }
        true
    }

    /// Returns how a text copies the lines after the cursor, if it is nothing else.
    fn copied(&self, text: &str) -> Option<Copied> {
        let mut copied = Copied { num_whole_lines: 0, num_letters: 0, has_part: false };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        while let Some(line) = lines.next() {
            let expected = self.lines.get(copied.num_whole_lines)?;
            if line == expected {
                copied.num_whole_lines += 1;
                copied.num_letters += line.chars().filter(|c| c.is_alphanumeric()).count();
            } else if lines.peek().is_none() && expected.starts_with(line) {
                copied.has_part = true;
            } else {
                return None;
            }
        }
        Some(copied)
    }

    /// Returns whether the file is better without what follows a place of the completion.
    fn is_better_without(&mut self, start: usize) -> bool {
        if self.num_questions == NUM_QUESTIONS_MAX {
            return false;
        }
        self.num_questions += 1;
        let (without, with) = (&self.tail.text[..start], self.tail.text.as_str());
        if let (Some(without), Some(with)) =
            (self.gap.num_errors(without), self.gap.num_errors(with))
            && without != with
        {
            return without < with;
        }
        let num_loose = |middle: &str| {
            let text = [&self.gap.before, middle, &self.gap.after].concat();
            lexical::loose(&text, &self.gap).len()
        };
        let (without, with) = (num_loose(without), num_loose(with));
        // A copy without brackets of its own is a copy and no more.
        let has_brackets = lexical::loose(&self.tail.text[start..], &self.gap).len() > 0;
        without < with || (without == with && !has_brackets)
    }
}
