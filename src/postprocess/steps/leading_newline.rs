//! Puts a line break before generated code where the cursor's line has something in it and the code brings none.

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
            let line = self.gap.before.rsplit('\n').next().unwrap_or_default();
            if !line.trim().is_empty() && !text.starts_with(['\n', '\r']) {
                kept.push_str(self.gap.line_break());
            }
        }
        kept.push_str(text);
        Flow::Open
    }

    fn finish(&mut self, _: &mut Ending, _: &mut String) {}
}
