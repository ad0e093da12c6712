//! Deletes the lines that fence code in Markdown, backticks behind code, and all that is said behind a closing fence,
//! unless the file has fences itself.
//!
//! A fence is a line that begins with three backticks and names a language at most, indented by three spaces at most, as
//! Markdown has it. One with a language opens. One without opens where nothing was said yet and else closes what was
//! open, or what was meant to be; its line break is no part of the code before it.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, lexical, steps::Tail};

const FENCE: &str = "```";

/// A line that is indented further is code.
const INDENT_MAX: usize = 3;

struct CodeFences {
    tail: Tail,
    has_fences: bool,
    /// Whether a fence was seen that opens.
    is_inside: bool,
    has_ended: bool,
}

enum Line {
    /// A fence with a language, or one before all code.
    Opens,
    /// A fence that ends the code.
    Closes,
    /// Code, and from this byte of the line on a fence that closes it.
    ClosedCode(usize),
    Code,
}

#[expect(clippy::needless_pass_by_value, reason = "as all steps begin")]
pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    // Who talks puts fences around code whatever the code is; who fills a gap writes what the file has.
    let file_has = gap.before.contains(FENCE) || gap.after.contains(FENCE);
    let has_fences = file_has && !gap.is_talk;
    let tail = Tail::default();
    Box::new(CodeFences { tail, has_fences, is_inside: false, has_ended: false })
}

impl PostProcessor for CodeFences {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        if self.has_fences {
            kept.push_str(text);
            return Flow::Open;
        }
        for piece in text.split_inclusive('\n') {
            if self.has_ended {
                break;
            }
            self.tail.text.push_str(piece);
            if piece.ends_with('\n') {
                self.take_line();
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
        if !self.has_ended && !self.tail.text.ends_with('\n') {
            let num_bytes = self.tail.text.len();
            self.take_line();
            ending.is_cut &= self.tail.text.len() == num_bytes;
        }
        ending.is_cut &= !self.has_ended;
        self.tail.keep_all(kept);
    }
}

impl CodeFences {
    /// Returns where the last line begins.
    fn line(&self) -> usize {
        let text = self.tail.text.strip_suffix('\n').unwrap_or(&self.tail.text);
        text.rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Takes the last line, which is whole.
    fn take_line(&mut self) {
        let start = self.line();
        let text = &self.tail.text;
        let has_code = !text[..start].trim().is_empty();
        let end = match read(&text[start..], self.is_inside || has_code) {
            Line::Code => return,
            Line::Opens => {
                self.is_inside = true;
                start
            }
            Line::Closes => {
                self.has_ended = true;
                without_break(&text[..start]).len()
            }
            Line::ClosedCode(end) => {
                self.has_ended = true;
                start + end
            }
        };
        self.tail.cut_to(end);
    }

    /// Returns up to where the text stays whatever follows: the last line may become a fence or end in one, and a fence
    /// takes the line break before it along.
    fn settled(&self) -> usize {
        let text = &self.tail.text;
        let start = if text.ends_with('\n') { text.len() } else { self.line() };
        let line = &text[start..];
        let begun = line.trim_start_matches(' ');
        let is_indented = line.len() - begun.len() > INDENT_MAX;
        if !is_indented && (begun.starts_with(FENCE) || FENCE.starts_with(begun)) {
            return without_break(&text[..start]).len();
        }
        // White space before the backticks stays even if they go.
        let end = line.trim_end_matches(|c: char| c == '`' || c.is_whitespace()).len();
        start + end + line[end..].find('`').unwrap_or(line.len() - end)
    }
}

/// Reads a whole line; `is_begun` says whether a fence or code stands above.
fn read(line: &str, is_begun: bool) -> Line {
    let line = line.trim_end();
    if let Some(info) = fence(line) {
        return if info.is_empty() && is_begun { Line::Closes } else { Line::Opens };
    }
    let code = without_backticks(line);
    if code.len() == line.len() {
        return Line::Code;
    }
    if fence(code).is_some() {
        return Line::Closes;
    }
    // What is no code belongs to a comment whose text has fences of its own: `///` and three backticks.
    let is_code = |c: char| c.is_alphanumeric() || lexical::is_closing(c);
    if code.contains(is_code) { Line::ClosedCode(code.len()) } else { Line::Code }
}

/// Returns what a fence says of the code behind it; `None` where a line is no fence.
fn fence(line: &str) -> Option<&str> {
    let begun = line.trim_start_matches(' ');
    if line.len() - begun.len() > INDENT_MAX {
        return None;
    }
    let info = begun.trim_end().strip_prefix(FENCE)?.trim_start_matches(['`', ' ', '\t']);
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '#' | '.');
    info.chars().all(is_word).then_some(info)
}

/// Returns a text without the line break that ends it.
fn without_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
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
