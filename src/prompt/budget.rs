//! Cuts texts to a number of tokens, on line borders, so that the next keystroke cuts them the same way.
//!
//! A prompt that slides by one line at each new line would share nothing with the one before: every token moves. So
//! the text before the cursor loses whole blocks, and its start stays put until a block more must go.

use std::ops::Range;

/// Bytes that a token stands for at most, on the average of any real text; a longer text is cut before encoding, so
/// that a megabyte costs no more than what can be used of it. Code has 3 to 4; long runs of spaces or a base64 blob
/// come near 8.
const BYTES_PER_TOKEN_MAX: usize = 12;

/// Blocks in a context. More blocks waste less of the window, and its start moves more often.
const BLOCKS_PER_CONTEXT: usize = 16;

/// Returns the tokens by which a window moves. It depends on the model alone: a block that shrank with what was
/// typed would move all borders at each keystroke.
pub fn block_tokens(context_tokens_max: usize) -> usize {
    (context_tokens_max / BLOCKS_PER_CONTEXT).max(1)
}

/// Tokens given to each part of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Before the cursor.
    pub prefix: usize,
    /// After the cursor.
    pub suffix: usize,
    /// Other files.
    pub context: usize,
}

/// Tokens that each part would take whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Before the cursor.
    pub prefix: usize,
    /// After the cursor.
    pub suffix: usize,
    /// Other files.
    pub context: usize,
}

/// Shares of the prompt, in [0, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// Kept for the text after the cursor.
    pub suffix: f64,
    /// Most for other files.
    pub context: f64,
}

/// Divides `total` tokens. What one side of the cursor does not need goes to the other, and what both do not need
/// goes to other files, up to their share. Where a part must be cut that grows or shrinks while a person types, it is
/// cut to whole blocks of `block` tokens.
pub fn divide(total: usize, demand: Demand, shares: Shares, block: usize) -> Budget {
    let share = |share: f64| ((total as f64 * share) as usize).min(total);
    let suffix_kept = demand.suffix.min(share(shares.suffix));
    let prefix = demand.prefix.min(total - suffix_kept);
    let room = total - prefix;
    // A share of less than a block is better than nothing behind the cursor.
    let suffix = in_blocks(demand.suffix, room, block.min(room.max(1)));
    let left = share(shares.context).min(total - prefix - suffix);
    Budget { prefix, suffix, context: in_blocks(demand.context, left, block) }
}

/// Returns the demand where there is room for it, else the room in whole blocks.
fn in_blocks(demand: usize, room: usize, block: usize) -> usize {
    if demand <= room { demand } else { room / block * block }
}

/// Returns the bytes of text that a model of `context_tokens_max` has room for at most.
pub fn bytes_worth_encoding(context_tokens_max: usize) -> usize {
    context_tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX)
}

/// Returns where the end of a text begins that is worth encoding for a model of `context_tokens_max`: on a line border
/// that stays where it is while the text grows by some lines.
pub fn tail_worth_encoding(text: &str, context_tokens_max: usize) -> usize {
    let block = bytes_worth_encoding(block_tokens(context_tokens_max));
    let window = bytes_worth_encoding(context_tokens_max);
    next_line(text, drop_whole_blocks(text.len(), window, block))
}

/// Returns where the beginning of a text ends that is worth encoding for `num_tokens` tokens.
pub fn head_worth_encoding(text: &str, num_tokens: usize) -> usize {
    let window = bytes_worth_encoding(num_tokens);
    if text.len() <= window { text.len() } else { text.floor_char_boundary(window) }
}

/// Returns the end of a text of at most `num_bytes`, for models whose tokenizer is not here: whole blocks of `block` bytes
/// go, and what is left of a line.
pub fn tail_of(text: &str, num_bytes: usize, block: usize) -> &str {
    &text[next_line(text, drop_whole_blocks(text.len(), num_bytes, block.max(1)))..]
}

/// Returns the beginning of a text of at most `num_bytes`, up to the last line end in it where there is one.
pub fn head_of(text: &str, num_bytes: usize) -> &str {
    if text.len() <= num_bytes {
        return text;
    }
    let head = &text[..text.floor_char_boundary(num_bytes)];
    head.rfind('\n').map_or(head, |index| &head[..=index])
}

/// Returns how many of `len` units go from the front so that at most `window` stay: none, or whole blocks.
fn drop_whole_blocks(len: usize, window: usize, block: usize) -> usize {
    (len.saturating_sub(window).div_ceil(block) * block).min(len)
}

/// Returns the tokens to keep at the end: after whole blocks went, from the next line's first token on, where a
/// line begins within a block more.
pub fn keep_tail<'a>(
    ids: &[u32],
    window: usize,
    block: usize,
    bytes_of: impl Fn(u32) -> &'a [u8],
) -> Range<usize> {
    let start = drop_whole_blocks(ids.len(), window, block);
    if start == 0 {
        return 0..ids.len();
    }
    let ends_line = |index: &usize| bytes_of(ids[*index]).ends_with(b"\n");
    // From the last dropped token on: it may be the one that ends a line.
    let line_end = (start - 1..ids.len().min(start + block)).find(ends_line);
    let start = line_end.map_or(start, |index| index + 1);
    if start == ids.len() { ids.len().saturating_sub(window)..ids.len() } else { start..ids.len() }
}

/// Returns the tokens to keep at the beginning: at most `window`, up to the last line end among them.
pub fn keep_head<'a>(
    ids: &[u32],
    window: usize,
    bytes_of: impl Fn(u32) -> &'a [u8],
) -> Range<usize> {
    if ids.len() <= window {
        return 0..ids.len();
    }
    let line_end = (0..window).rev().find(|&index| bytes_of(ids[index]).ends_with(b"\n"));
    0..line_end.map_or(window, |index| index + 1)
}

/// Returns the first line border at or after `start`, or the next character where no line begins behind it.
fn next_line(text: &str, start: usize) -> usize {
    let start = text.ceil_char_boundary(start);
    if start == 0 || text.as_bytes()[start - 1] == b'\n' {
        return start;
    }
    match text[start..].find('\n') {
        Some(offset) if start + offset + 1 < text.len() => start + offset + 1,
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ids below 10 are words, 10 ends a line.
    fn bytes_of(id: u32) -> &'static [u8] {
        if id == 10 { b")\n" } else { b"x" }
    }

    #[test]
    fn texts_are_cut_on_line_borders() {
        let text = "one\ntwo\nthrée\n";
        for (num_bytes, expected) in [(99, text), (12, "two\nthrée\n"), (10, "thrée\n"), (0, "")]
        {
            assert_eq!(tail_of(text, num_bytes, 4), expected, "{num_bytes}");
        }
        for (num_bytes, expected) in [(99, text), (9, "one\ntwo\n"), (3, "one"), (0, "")] {
            assert_eq!(head_of(text, num_bytes), expected, "{num_bytes}");
        }
        assert_eq!(head_of("éé", 3), "é");
    }

    #[test]
    fn divides_by_demand_then_by_share() {
        let shares = Shares { suffix: 0.25, context: 0.5 };
        let rows = [
            // total, (prefix, suffix, context) wanted, given
            (100, (10, 10, 10), (10, 10, 10)),
            (100, (200, 200, 200), (75, 20, 0)),
            (100, (200, 10, 200), (90, 10, 0)),
            (100, (10, 200, 200), (10, 90, 0)),
            (100, (11, 200, 200), (11, 80, 0)),
            (100, (10, 10, 200), (10, 10, 50)),
            (100, (30, 30, 200), (30, 30, 40)),
            (100, (30, 25, 200), (30, 25, 40)),
            (100, (60, 25, 200), (60, 25, 10)),
            (100, (60, 35, 200), (60, 35, 0)),
            (8, (60, 35, 200), (6, 2, 0)),
            (0, (5, 5, 5), (0, 0, 0)),
        ];
        for (total, (prefix, suffix, context), given) in rows {
            let budget = divide(total, Demand { prefix, suffix, context }, shares, 10);
            assert_eq!((budget.prefix, budget.suffix, budget.context), given);
        }
    }

    #[test]
    fn keeps_whole_lines_at_both_ends() {
        let ids = [1, 1, 10, 1, 1, 10, 1, 1, 1, 10, 1, 1];
        assert_eq!(keep_tail(&ids, 12, 1, bytes_of), 0..12);
        assert_eq!(keep_tail(&ids, 8, 2, bytes_of), 6..12);
        assert_eq!(keep_head(&ids, 8, bytes_of), 0..6);
        assert_eq!(keep_head(&ids, 2, bytes_of), 0..2);
        assert_eq!(keep_head(&ids, 0, bytes_of), 0..0);
        assert_eq!(keep_tail(&ids, 0, 1, bytes_of), 12..12);
    }

    #[test]
    fn a_window_that_shrinks_while_a_line_is_typed_stays_where_it_is() {
        // A token typed is a token less for the prefix, until the line is done and belongs to it.
        let mut starts: Vec<usize> = (0..300)
            .map(|typed| drop_whole_blocks(1000 + typed / 10 * 10, 800 - typed % 10, 100))
            .collect();
        starts.dedup();
        assert_eq!(starts, [200, 300, 400, 500]);
    }

    proptest! {
        #[test]
        fn a_cut_keeps_what_is_nearest_and_fits(ids in prop::collection::vec(prop_oneof![1_u32..5, Just(10)], 0..60), window in 0_usize..60, block in 1_usize..20) {
            let tail = keep_tail(&ids, window, block, bytes_of);
            prop_assert!(tail.len() <= window && tail.end == ids.len());
            let head = keep_head(&ids, window, bytes_of);
            prop_assert!(head.len() <= window && head.start == 0);
            if window > 0 && !ids.is_empty() {
                prop_assert!(!tail.is_empty() && !head.is_empty());
            }
        }

        #[test]
        fn a_text_is_cut_on_character_borders(text in "[aé\n🦀]{0,300}", num_tokens in 1_usize..40) {
            let tail = &text[tail_worth_encoding(&text, num_tokens)..];
            prop_assert!(tail.len() <= num_tokens * BYTES_PER_TOKEN_MAX);
            prop_assert!(text[..head_worth_encoding(&text, num_tokens)].len() <= num_tokens * BYTES_PER_TOKEN_MAX);
        }
    }
}
