//! Drops a completion that is comments and nothing else, unless the cursor stands in a comment.

use crate::postprocess::{Ending, Gap};

pub(super) fn apply(gap: &Gap, _: &mut Ending, text: &mut String) {
    let Some(comments) = gap.comments() else { return };
    let typed = gap.before.rsplit('\n').next().unwrap_or_default();
    let opens = [comments.line, comments.block.map(|(open, _)| open)];
    if opens.into_iter().flatten().any(|open| typed.contains(open)) {
        return;
    }
    // Without a grammar the lines themselves tell: each that is not blank begins a comment.
    let is_comments = gap.with_tree(text, |tree| tree.is_only_comments()).unwrap_or_else(|| {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        let is_any = lines.peek().is_some();
        is_any && lines.all(|line| comments.line.is_some_and(|open| line.starts_with(open)))
    });
    if is_comments {
        text.clear();
    }
}
