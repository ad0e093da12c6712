//! Puts a line break before generated code where neither side has one, so that it does not go on from the line above.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor};

struct LeadingNewline {
    gap: Arc<Gap>,
    has_begun: bool,
}

pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(LeadingNewline { gap, has_begun: false })
}

impl PostProcessor for LeadingNewline {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        if !self.has_begun && !text.is_empty() {
            self.has_begun = true;
            let is_first_line = self.gap.before.is_empty() || self.gap.before.ends_with('\n');
            if !is_first_line && !text.starts_with(['\n', '\r']) {
                kept.push_str(self.gap.line_break());
            }
        }
        kept.push_str(text);
        Flow::Open
    }

    fn finish(&mut self, _: &mut Ending, _: &mut String) {}
}
