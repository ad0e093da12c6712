//! Drops a completion of white space; there is nothing to see in it. One with more is left as it is.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, steps::Tail};

#[derive(Default)]
struct Whitespace(Tail);

pub(super) fn begin(_: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(Whitespace::default())
}

impl PostProcessor for Whitespace {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        self.0.text.push_str(text);
        if !self.0.text.trim().is_empty() {
            self.0.keep_all(kept);
        }
        Flow::Open
    }

    fn finish(&mut self, _: &mut Ending, _: &mut String) {}
}
