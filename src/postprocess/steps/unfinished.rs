//! Takes the last piece off a completion that the limit of tokens cut: half a word is worse than none.
//!
//! The piece is what follows the last space of the last line, or all of that line where it has none. It stays if
//! nothing would be left, or if the code would have more mistakes without it.

use crate::postprocess::{Ending, Gap};

pub(super) fn apply(gap: &Gap, ending: &mut Ending, text: &mut String) {
    if !ending.is_cut || text.ends_with(char::is_whitespace) {
        return;
    }
    let line = text.rfind('\n').map_or(0, |newline| newline + 1);
    let content = line + text[line..].len() - text[line..].trim_start().len();
    let end = text[content..].rfind([' ', '\t']).map_or(line, |space| content + space);
    let kept = text[..end].trim_end();
    if kept.is_empty() || gap.num_errors(kept) > gap.num_errors(text) {
        return;
    }
    text.truncate(kept.len());
    ending.is_cut = false;
}
