//! Cuts texts to a number of tokens, on line borders, so that the next keystroke cuts them the same way.
//!
//! A prompt that slides by one line at each new line would share nothing with the one before: every token moves. So
//! the text before the cursor loses whole blocks, and its start stays put until a block more must go.

use std::ops::Range;

/// Bytes that a token stands for at most, on the average of any real text; a longer text is cut before encoding, so
/// that a megabyte costs no more than what can be used of it. Code has 3 to 4; long runs of spaces or a base64 blob
/// come near 8.
const BYTES_PER_TOKEN_MAX: usize = 12;

/// Blocks in a full window. More blocks waste less of the context and move more often.
const BLOCKS_PER_WINDOW: usize = 8;

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
/// goes to other files, up to their share.
pub fn divide(total: usize, demand: Demand, shares: Shares) -> Budget {
    let share = |share: f64| ((total as f64 * share) as usize).min(total);
    let suffix_kept = demand.suffix.min(share(shares.suffix));
    let prefix = demand.prefix.min(total - suffix_kept);
    let suffix = demand.suffix.min(total - prefix);
    let context = demand.context.min(share(shares.context)).min(total - prefix - suffix);
    Budget { prefix, suffix, context }
}

/// Returns where the end of a text begins that is worth encoding for `num_tokens` tokens: on a line border that
/// stays where it is while the text grows.
pub fn tail_worth_encoding(text: &str, num_tokens: usize) -> usize {
    let window = num_tokens.saturating_mul(BYTES_PER_TOKEN_MAX);
    let start = drop_whole_blocks(text.len(), window);
    next_line(text, start)
}

/// Returns where the beginning of a text ends that is worth encoding for `num_tokens` tokens.
pub fn head_worth_encoding(text: &str, num_tokens: usize) -> usize {
    let window = num_tokens.saturating_mul(BYTES_PER_TOKEN_MAX);
    if text.len() <= window { text.len() } else { text.floor_char_boundary(window) }
}

/// Returns how many of `len` units go from the front so that at most `window` stay: none, or whole blocks.
pub fn drop_whole_blocks(len: usize, window: usize) -> usize {
    if len <= window {
        return 0;
    }
    let block = (window / BLOCKS_PER_WINDOW).max(1);
    ((len - window).div_ceil(block) * block).min(len)
}

/// Returns the tokens to keep at the end: after whole blocks went, from the next line's first token on, where a
/// line begins among the kept ones.
pub fn keep_tail<'a>(
    ids: &[u32],
    window: usize,
    bytes_of: impl Fn(u32) -> &'a [u8],
) -> Range<usize> {
    let start = drop_whole_blocks(ids.len(), window);
    if start == 0 {
        return 0..ids.len();
    }
    let ends_line = |index: &usize| bytes_of(ids[*index]).ends_with(b"\n");
    // From the last dropped token on: it may be the one that ends a line.
    let line_end = (start - 1..ids.len()).find(ends_line);
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
    fn divides_by_demand_then_by_share() {
        let shares = Shares { suffix: 0.25, context: 0.5 };
        let rows = [
            // total, (prefix, suffix, context) wanted, given
            (100, (10, 10, 10), (10, 10, 10)),
            (100, (200, 200, 200), (75, 25, 0)),
            (100, (200, 10, 200), (90, 10, 0)),
            (100, (10, 200, 200), (10, 90, 0)),
            (100, (10, 10, 200), (10, 10, 50)),
            (100, (30, 30, 200), (30, 30, 40)),
            (0, (5, 5, 5), (0, 0, 0)),
        ];
        for (total, (prefix, suffix, context), given) in rows {
            let budget = divide(total, Demand { prefix, suffix, context }, shares);
            assert_eq!((budget.prefix, budget.suffix, budget.context), given);
        }
    }

    #[test]
    fn keeps_whole_lines_at_both_ends() {
        let ids = [1, 1, 10, 1, 1, 10, 1, 1, 1, 10, 1, 1];
        assert_eq!(keep_tail(&ids, 12, bytes_of), 0..12);
        assert_eq!(keep_tail(&ids, 8, bytes_of), 6..12);
        assert_eq!(keep_head(&ids, 8, bytes_of), 0..6);
        assert_eq!(keep_head(&ids, 2, bytes_of), 0..2);
        assert_eq!(keep_head(&ids, 0, bytes_of), 0..0);
        assert_eq!(keep_tail(&ids, 0, bytes_of), 12..12);
    }

    #[test]
    fn a_growing_text_keeps_its_start_for_a_whole_block() {
        let window = 800;
        let mut starts: Vec<usize> =
            (800..1200).map(|len| drop_whole_blocks(len, window)).collect();
        starts.dedup();
        assert_eq!(starts, [0, 100, 200, 300, 400]);
    }

    proptest! {
        #[test]
        fn a_cut_keeps_what_is_nearest_and_fits(ids in prop::collection::vec(prop_oneof![1_u32..5, Just(10)], 0..60), window in 0_usize..60) {
            let tail = keep_tail(&ids, window, bytes_of);
            prop_assert!(tail.len() <= window && tail.end == ids.len());
            let head = keep_head(&ids, window, bytes_of);
            prop_assert!(head.len() <= window && head.start == 0);
            if window > 0 && !ids.is_empty() {
                prop_assert!(!tail.is_empty() && !head.is_empty());
            }
        }

        #[test]
        fn a_text_is_cut_on_character_borders(text in "[aé\n🦀]{0,300}", num_tokens in 0_usize..40) {
            let tail = &text[tail_worth_encoding(&text, num_tokens)..];
            prop_assert!(tail.len() <= num_tokens * BYTES_PER_TOKEN_MAX);
            prop_assert!(text[..head_worth_encoding(&text, num_tokens)].len() <= num_tokens * BYTES_PER_TOKEN_MAX);
        }
    }
}
