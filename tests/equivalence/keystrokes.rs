//! Typing through a file on the embedded model: what a key costs, counted in tokens of the prompt that are computed.
//!
//! With the typed part of the line behind the middle sentinel a key changes the end of the prompt only. All before it is
//! in the cache in whole blocks, so that a key computes its line and at most the rest of one block.

use lacuna::{
    completion::ContextItem,
    prompt::{
        FimTemplate, Gap, Origin, Prompt, PromptBuilder,
        budget::Shares,
        family::{self, Layout},
    },
    tokenizer::Tokenizer,
};
use models::demo;

use super::*;

const FILE: &str = include_str!("../../src/engine/scheduler.rs");
const OTHER_FILE: &str = include_str!("../../src/engine/sequence.rs");
/// Lines that are typed: nested ones, a long comment, an empty line.
const NUM_LINES: usize = 8;
const MAX_TOKENS: usize = 48;

/// Lines of a file, some of which are typed again.
#[derive(Clone, Copy, Debug)]
struct Typing {
    name: &'static str,
    /// Lines before those that are typed, and behind them.
    num_before: usize,
    num_after: usize,
    has_other_file: bool,
    /// Whether all of it fits into a prompt.
    is_whole: bool,
}

/// What one key cost.
#[derive(Clone, Copy, Debug)]
struct Key {
    is_new_line: bool,
    num_prompt_tokens: usize,
    num_cached_tokens: usize,
    /// Tokens of the prompt up to the typed part of the line.
    num_before_typed: usize,
    /// Tokens up to the end of the text before the line.
    num_to_prefix_end: usize,
}

impl Key {
    fn num_computed(&self) -> usize {
        self.num_prompt_tokens - self.num_cached_tokens
    }

    fn of(prompt: &Prompt, num_cached_tokens: usize, is_new_line: bool) -> Self {
        let end = |origin: Origin| {
            let span = prompt.spans.iter().find(|(found, _)| *found == origin);
            span.map_or(0, |(_, range)| range.end)
        };
        let typed = prompt.spans.last().filter(|(origin, _)| *origin == Origin::Typed);
        Self {
            is_new_line,
            num_prompt_tokens: prompt.token_ids.len(),
            num_cached_tokens,
            num_before_typed: typed.map_or(prompt.token_ids.len(), |(_, range)| range.start),
            num_to_prefix_end: end(Origin::Prefix),
        }
    }
}

/// Returns the prompts of each key: one a character, the first of a line with its indentation.
fn prompts(typing: Typing, layout: Layout) -> Vec<(Prompt, bool)> {
    let tokenizer = Tokenizer::from_json(demo::TOKENIZER_JSON).unwrap();
    let fim = family::fim_by_name("qwen2.5-coder").unwrap();
    let template =
        FimTemplate::resolve("qwen2.5-coder", fim, |token| tokenizer.added_token_id(token))
            .unwrap();
    let template = template.with_layout(layout);
    let builder = PromptBuilder {
        tokenizer: &tokenizer,
        context_tokens_max: CONTEXT_TOKENS,
        shares: Shares { suffix: 0.2, context: 0.3 },
        outlines: None,
    };
    let other = ContextItem { name: "sequence.rs".to_owned(), content: OTHER_FILE.to_owned() };
    let context = if typing.has_other_file { vec![other] } else { Vec::new() };
    let lines: Vec<&str> = FILE.split_inclusive('\n').collect();
    let (before, rest) = lines.split_at(typing.num_before);
    let (typed, after) = rest.split_at(NUM_LINES);
    let after = format!("\n{}", after[..typing.num_after].concat());
    let mut prefix = before.concat();
    let mut prompts = Vec::new();
    for line in typed {
        let indentation = line.len() - line.trim_start_matches(' ').len();
        prefix.push_str(&line[..indentation]);
        for (index, character) in line[indentation..].trim_end().chars().enumerate() {
            prefix.push(character);
            let gap = Gap {
                prefix: &prefix,
                suffix: &after,
                file_name: Some("scheduler.rs"),
                repository: None,
                language: None,
                context: &context,
            };
            prompts.push((builder.gap(&template, gap, MAX_TOKENS).unwrap(), index == 0));
        }
        prefix.push('\n');
    }
    prompts
}

/// Asks for one token after each of the first keys, on an engine that has seen nothing.
async fn play(typing: Typing, layout: Layout, num_keys: usize) -> Vec<Key> {
    let shape = Shape { num_batched_tokens_max: 512, has_prefix_cache: true, ..ALONE };
    let (_engine, handle) = start(shape);
    let mut keys = Vec::new();
    for (prompt, is_new_line) in prompts(typing, layout).into_iter().take(num_keys) {
        let request = SequenceRequest {
            prompt_token_ids: prompt.token_ids.clone(),
            max_tokens: 1,
            sampling: SamplingParams::greedy(),
            stop_token_ids: Arc::from([]),
            logprobs: None,
            priority: 0,
            adapter: None,
        };
        let mut stream = handle.submit(request).unwrap();
        let output = stream.next().await.unwrap().unwrap();
        keys.push(Key::of(&prompt, output.num_cached_tokens as usize, is_new_line));
    }
    keys
}

const TYPINGS: [Typing; 3] = [
    Typing {
        name: "a whole file",
        num_before: 60,
        num_after: 30,
        has_other_file: false,
        is_whole: true,
    },
    Typing {
        name: "more than fits",
        num_before: 190,
        num_after: 90,
        has_other_file: false,
        is_whole: false,
    },
    Typing {
        name: "beside another file",
        num_before: 60,
        num_after: 30,
        has_other_file: true,
        is_whole: false,
    },
];

#[tokio::test]
async fn a_key_computes_its_line_and_the_rest_of_a_block() {
    for typing in TYPINGS {
        let keys = play(typing, Layout::LineStart, usize::MAX).await;
        assert!(keys.len() > 100, "{}: {} keys", typing.name, keys.len());
        for (index, key) in keys.iter().enumerate().filter(|(_, key)| !key.is_new_line) {
            let num_typed = key.num_prompt_tokens - key.num_before_typed;
            assert!(
                key.num_computed() < num_typed + BLOCK_SIZE,
                "{}, key {index}: {key:?}",
                typing.name
            );
        }
    }
}

#[tokio::test]
async fn a_line_break_keeps_what_stands_above_it() {
    for typing in TYPINGS {
        let keys = play(typing, Layout::LineStart, usize::MAX).await;
        let (mut num_moves, mut num_kept) = (0, 0);
        for pair in keys.windows(2).filter(|pair| pair[1].is_new_line) {
            let above = pair[0].num_to_prefix_end / BLOCK_SIZE * BLOCK_SIZE;
            let is_kept = pair[1].num_cached_tokens >= above;
            num_kept += usize::from(is_kept);
            num_moves += usize::from(!is_kept);
        }
        // A window that is full moves once for each block of tokens that was typed: here once or twice.
        let num_moves_max = if typing.is_whole { 0 } else { 2 };
        assert!(num_kept >= 3 && num_moves <= num_moves_max, "{}: {num_moves} moves", typing.name);
    }
}

#[tokio::test]
async fn the_plain_layout_computes_the_text_behind_the_cursor_again() {
    // What the layout is for: the same keys, and what they cost without it.
    let mean = |keys: &[Key]| {
        let same_line: Vec<_> = keys.iter().filter(|key| !key.is_new_line).collect();
        same_line.iter().map(|key| key.num_computed()).sum::<usize>() / same_line.len()
    };
    let line_start = mean(&play(TYPINGS[0], Layout::LineStart, 40).await);
    let plain = mean(&play(TYPINGS[0], Layout::Plain, 40).await);
    assert!(line_start < 32 && plain > 8 * line_start, "{line_start} and {plain} tokens a key");
}
