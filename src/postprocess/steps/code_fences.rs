//! Deletes the lines that fence code in Markdown, and backticks at the end, unless the file has fences itself.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, steps::Tail};

const FENCE: &str = "```";

struct CodeFences {
    tail: Tail,
    has_fences: bool,
}

#[expect(clippy::needless_pass_by_value, reason = "as all steps begin")]
pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    let has_fences = gap.before.contains(FENCE) || gap.after.contains(FENCE);
    Box::new(CodeFences { tail: Tail::default(), has_fences })
}

impl PostProcessor for CodeFences {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        for piece in text.split_inclusive('\n') {
            self.tail.text.push_str(piece);
            if piece.ends_with('\n') && !self.has_fences {
                self.drop_fence();
            }
        }
        let end = if self.has_fences { self.tail.text.len() } else { self.settled() };
        self.tail.keep_to(end, kept);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        if !self.has_fences {
            let line = self.line();
            if is_fence(&self.tail.text[line..]) {
                self.tail.cut_to(line);
                ending.is_cut = false;
            }
            let end = without_backticks(&self.tail.text).len();
            if end < self.tail.text.len() {
                self.tail.cut_to(end);
                ending.is_cut = false;
            }
        }
        self.tail.keep_all(kept);
    }
}

impl CodeFences {
    /// Returns where the last line begins.
    fn line(&self) -> usize {
        let text = self.tail.text.strip_suffix('\n').unwrap_or(&self.tail.text);
        text.rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn drop_fence(&mut self) {
        let line = self.line();
        if is_fence(&self.tail.text[line..]) {
            self.tail.cut_to(line);
        }
    }

    /// Returns up to where the text stays whatever follows.
    fn settled(&self) -> usize {
        let text = &self.tail.text;
        let line = if text.ends_with('\n') { text.len() } else { self.line() };
        let backticks = text.trim_end_matches(|c: char| c == '`' || c.is_whitespace());
        // White space before the backticks stays even if they go.
        let tail = &text[backticks.len()..];
        let backticks = backticks.len() + tail.find('`').unwrap_or(tail.len());
        let may_be_fence = {
            let rest = text[line..].trim_start();
            let ticks = rest.trim_start_matches('`');
            let num_ticks = rest.len() - ticks.len();
            (num_ticks == FENCE.len() && is_word(ticks.trim_end()))
                || (ticks.is_empty() && num_ticks < FENCE.len())
        };
        if may_be_fence { line.min(backticks) } else { backticks }
    }
}

fn is_fence(line: &str) -> bool {
    line.trim().strip_prefix(FENCE).is_some_and(is_word)
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '#' | '.'))
}

/// Returns a text without the runs of backticks that end it; a text without such a run as it is.
fn without_backticks(text: &str) -> &str {
    let mut kept = text;
    loop {
        let end = kept.trim_end();
        let without = end.trim_end_matches('`');
        if end.len() - without.len() < FENCE.len() {
            return kept;
        }
        kept = without;
    }
}
