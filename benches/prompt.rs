//! What a request costs beside the device: building prompts, matching stops, detokenising.

#![expect(clippy::expect_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna::{
    prompt::{FimTemplate, Gap, PromptBuilder, budget::Shares, family},
    tokenizer::{Detokenizer, StopMatcher, Tokenizer},
};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(models::demo::TOKENIZER_JSON).expect("the embedded tokenizer is valid")
}

/// Source text of `num_lines` lines, some 30 bytes each.
fn code(num_lines: usize) -> String {
    "    let value = compute(previous);\n".repeat(num_lines)
}

fn prompt_building(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let fim = family::fim_by_name("lacuna-demo").expect("the family is in the table");
    let template =
        FimTemplate::resolve("lacuna-demo", fim, |token| tokenizer.added_token_id(token))
            .expect("the sentinels are tokens");
    let builder = PromptBuilder {
        tokenizer: &tokenizer,
        context_tokens_max: 2048,
        shares: Shares { suffix: 0.2, context: 0.3 },
    };
    let mut group = criterion.benchmark_group("prompt");
    for (name, num_lines) in [("1 KB", 32), ("16 KB", 512), ("1 MB", 32_768)] {
        let (prefix, suffix) = (code(num_lines / 2), code(num_lines / 2));
        let gap = Gap {
            prefix: &prefix,
            suffix: &suffix,
            file_name: None,
            repository: None,
            language: None,
            context: &[],
        };
        group.bench_function(name, |bench| {
            bench.iter(|| builder.gap(&template, black_box(gap), 64));
        });
    }
    group.finish();
}

fn text_out(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode(&code(64)).expect("plain text is encoded");
    let mut group = criterion.benchmark_group(format!("{} tokens out", ids.len()));
    group.bench_function("detokenise", |bench| {
        bench.iter(|| {
            let mut detokenizer = Detokenizer::default();
            let mut text = String::new();
            for &id in black_box(&ids) {
                detokenizer.push(tokenizer.token_bytes(id), &mut text);
            }
            text
        });
    });
    let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.token_text(id)).collect();
    let stops: std::sync::Arc<[String]> = (0..16).map(|index| format!("\n\nstop{index}")).collect();
    group.bench_function("match 16 stops", |bench| {
        bench.iter(|| {
            let mut matcher = StopMatcher::new(std::sync::Arc::clone(&stops));
            pieces.iter().map(|piece| matcher.push(black_box(piece)).len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, prompt_building, text_out);
criterion_main!(benches);
