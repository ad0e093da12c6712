//! Drops a completion that begins with a run of asterisks: some models rule lines without end.
//!
//! Asterisks on a later line are left: they may be a comment's.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor, steps::Tail};

/// As many make a run.
const NUM_RUN: usize = 5;

#[derive(Default)]
struct Asterisks(Tail);

pub(super) fn begin(_: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(Asterisks::default())
}

impl PostProcessor for Asterisks {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        self.0.text.push_str(text);
        let begun = self.0.text.trim_start();
        let num_asterisks = begun.bytes().take(NUM_RUN).take_while(|byte| *byte == b'*').count();
        if self.0.num_kept == 0 && num_asterisks == NUM_RUN {
            self.0.text.clear();
            return Flow::Ended;
        }
        if num_asterisks < begun.len() {
            self.0.keep_all(kept);
        }
        Flow::Open
    }

    fn finish(&mut self, _: &mut Ending, kept: &mut String) {
        self.0.keep_all(kept);
    }
}
