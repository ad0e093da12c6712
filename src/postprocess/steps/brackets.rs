//! Deletes brackets at the end that close too much: the text after the cursor closes what is open already.
//!
//! Nothing is ever closed for the model: what it left open may be what its author types next.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, lexical, steps::Tail};

struct Brackets {
    gap: Arc<Gap>,
    tail: Tail,
}

pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(Brackets { gap, tail: Tail::default() })
}

impl PostProcessor for Brackets {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        self.tail.text.push_str(text);
        let settled = self.tail.text.trim_end_matches(is_end).len();
        self.tail.keep_to(settled, kept);
        Flow::Open
    }

    fn finish(&mut self, ending: &mut Ending, kept: &mut String) {
        if let Some(end) = end_without_excess(&self.gap, &self.tail.text) {
            let end = self.gap.without_loose_end(&self.tail.text[..end]).len();
            self.tail.cut_to(end);
            ending.is_cut = false;
        }
        self.tail.keep_all(kept);
    }
}

fn is_end(c: char) -> bool {
    c.is_whitespace() || lexical::is_closing(c) || matches!(c, ';' | ',')
}

/// Returns where the brackets begin that close too much, if there are any.
fn end_without_excess(gap: &Gap, text: &str) -> Option<usize> {
    let settled = text.trim_end_matches(is_end).len();
    if !text[settled..].contains(lexical::is_closing) {
        return None;
    }
    let open = lexical::loose(&gap.before, gap).opening.len();
    let closed_after = lexical::loose(&gap.after, gap).closing.len();
    let own = lexical::loose(text, gap);
    // What closes more than is open closes too much, unless it was opened before what is seen of the file.
    let num_closed = own.closing.len();
    let num_open = open + own.opening.len();
    if num_closed > num_open && !gap.has_file_start {
        return None;
    }
    let closed_twice = open.min(closed_after);
    let excess = (closed_twice + num_closed).saturating_sub(num_open);
    // Where the text after the cursor closes nothing, a bracket may be a sign like any other: `1)`.
    if closed_twice == 0 || excess == 0 {
        return None;
    }
    let mut closing = text[settled..].char_indices().rev().filter(|(_, c)| lexical::is_closing(*c));
    let (start, _) = closing.nth(excess - 1)?;
    let end = settled + start;
    (gap.num_errors(&text[..end]) <= gap.num_errors(text)).then_some(end)
}
