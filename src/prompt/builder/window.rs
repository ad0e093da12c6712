//! The text before the cursor where it does not fit: its end, behind an outline of what goes.

use crate::{
    completion::Language,
    prompt::{
        budget,
        builder::{Gap, PromptBuilder},
        context::{Cut, outline},
    },
    tokenizer::TokenizerError,
};

/// Share of a cut text's tokens that its outline may take.
const OUTLINE_SHARE: f64 = 0.125;

/// Bytes of code for a token, about: a few more are encoded than fit.
const BYTES_PER_TOKEN: usize = 4;

/// The text before the cursor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    /// What is encoded: the end of the request's text, without what is typed on the cursor's line.
    pub(super) text: &'a str,
    /// Where it begins in the request's text.
    pub(super) start: usize,
    /// Its tokens.
    pub(super) ids: &'a [u32],
    /// Bytes of the request's suffix that the prompt has.
    pub(super) num_suffix_bytes: usize,
}

/// How much fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Tokens.
    pub(super) num_tokens: usize,
    /// Tokens by which a cut moves.
    pub(super) block: usize,
}

/// Returns the tokens that fit, the last ones, behind those of an outline where something is cut off.
///
/// The outline depends on what is cut off and on the first line that is kept, which stay while a person types.
pub(super) fn window(
    builder: &PromptBuilder<'_>,
    gap: &Gap<'_>,
    before: Before<'_>,
    room: Room,
) -> Result<Vec<u32>, TokenizerError> {
    let bytes_of = |id| builder.tokenizer.token_bytes(id);
    let keep = |num_tokens| budget::keep_tail(before.ids, num_tokens, room.block, bytes_of);
    let whole = keep(room.num_tokens);
    if whole.start == 0 && before.start == 0 {
        return Ok(before.ids.to_vec());
    }
    let outline_tokens = (room.num_tokens as f64 * OUTLINE_SHARE) as usize;
    let kept = keep(room.num_tokens - outline_tokens);
    let num_bytes: usize = before.ids[kept.clone()].iter().map(|id| bytes_of(*id).len()).sum();
    let split = before.text.floor_char_boundary(before.text.len().saturating_sub(num_bytes));
    let cut = Cut {
        head: &gap.prefix[..before.start + split],
        kept: &before.text[split..],
        tail: gap.suffix.get(before.num_suffix_bytes..).unwrap_or_default(),
    };
    let ids = outline_ids(builder, cut, gap.language, outline_tokens)?;
    if ids.is_empty() {
        return Ok(before.ids[whole].to_vec());
    }
    Ok([&ids[..], &before.ids[kept]].concat())
}

fn outline_ids(
    builder: &PromptBuilder<'_>,
    cut: Cut<'_>,
    language: Option<Language>,
    num_tokens: usize,
) -> Result<Vec<u32>, TokenizerError> {
    let text = outline(cut, language, num_tokens * BYTES_PER_TOKEN, builder.outlines);
    let tokenizer = builder.tokenizer;
    let mut ids = tokenizer.encode(&text)?;
    let kept = budget::keep_tail(&ids, num_tokens, 1, |id| tokenizer.token_bytes(id));
    ids.drain(..kept.start);
    Ok(ids)
}
