//! Deletes sentinels and marks of the cursor that a model wrote as text, unless the file around it has them too.
//!
//! What is left may be a sentinel again, so a piece is kept back as long as it is made of beginnings of them.

use std::sync::Arc;

use crate::postprocess::{Ending, Flow, Gap, PostProcessor};

/// What is deleted. What code has too is not here, though it is a token of some family: `<s>`, `<filename>`, `List<MID>`,
/// `table[PREFIX]`.
pub const MARKERS: &[&str] = &[
    "<|cursor|>",
    "<new_code>",
    "</new_code>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|EOT|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|file_separator|>",
    "<fim_prefix>",
    "<fim_suffix>",
    "<fim_middle>",
    "<fim_pad>",
    "<repo_name>",
    "<file_sep>",
    "<fim-prefix>",
    "<fim-suffix>",
    "<fim-middle>",
    "<fim-pad>",
    "<[fim-prefix]>",
    "<[fim-suffix]>",
    "<[fim-middle]>",
    "<[end▁of▁sentence]>",
    "<[PAD▁TOKEN]>",
    "<[SEP▁TOKEN]>",
    "<｜fim▁begin｜>",
    "<｜fim▁hole｜>",
    "<｜fim▁end｜>",
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<start_of_turn>",
];

/// Most bytes kept back: sentinels in sentinels, some deep.
const HELD_BYTES_MAX: usize = 96;

struct SpecialTokens {
    gap: Arc<Gap>,
    held: String,
}

pub(super) fn begin(gap: Arc<Gap>) -> Box<dyn PostProcessor> {
    Box::new(SpecialTokens { gap, held: String::new() })
}

impl PostProcessor for SpecialTokens {
    fn push(&mut self, text: &str, kept: &mut String) -> Flow {
        for c in text.chars() {
            self.held.push(c);
            let marker = MARKERS.iter().find(|marker| self.held.ends_with(*marker));
            if let Some(marker) = marker
                && !self.gap.before.contains(marker)
                && !self.gap.after.contains(marker)
            {
                self.held.truncate(self.held.len() - marker.len());
            }
            let settled = self.settled();
            kept.extend(self.held.drain(..settled));
        }
        Flow::Open
    }

    fn finish(&mut self, _: &mut Ending, kept: &mut String) {
        kept.push_str(&self.held);
    }
}

impl SpecialTokens {
    /// Returns up to where the text stays whatever follows: what comes after is nothing but beginnings of markers.
    fn settled(&self) -> usize {
        let mut settled = self.held.len();
        let mut borders = vec![settled];
        // All of them begin so, which a test holds.
        for (start, _) in self.held.char_indices().rev().filter(|(_, c)| *c == '<') {
            let begins = |end: &usize| {
                let piece = &self.held[start..*end];
                MARKERS.iter().any(|m| m.len() > piece.len() && m.starts_with(piece))
            };
            if borders.iter().any(begins) {
                borders.push(start);
                settled = start;
            }
        }
        settled.max(self.held.ceil_char_boundary(self.held.len().saturating_sub(HELD_BYTES_MAX)))
    }
}
