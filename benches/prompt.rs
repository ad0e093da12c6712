//! What a request costs beside the device: building prompts, matching stops, detokenising.

#![expect(clippy::expect_used, reason = "a bench fails by panicking")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lacuna::{
    completion::{ContextItem, Language},
    prompt::{
        FimTemplate, Gap, PromptBuilder,
        budget::{self, Shares},
        context::{self, ContextOptions, Cut, OutlineCache, Texts},
        family,
    },
    tokenizer::{Detokenizer, StopMatcher, Tokenizer},
};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(models::demo::TOKENIZER_JSON).expect("the embedded tokenizer is valid")
}

fn template(tokenizer: &Tokenizer) -> FimTemplate {
    let fim = family::fim_by_name("lacuna-demo").expect("the family is in the table");
    FimTemplate::resolve("lacuna-demo", fim, |token| tokenizer.added_token_id(token))
        .expect("the sentinels are tokens")
}

fn builder(tokenizer: &Tokenizer) -> PromptBuilder<'_> {
    let shares = Shares { suffix: 0.2, context: 0.3 };
    PromptBuilder { tokenizer, context_tokens_max: 2048, shares, outlines: None }
}

/// Source text of `num_lines` lines, some 30 bytes each.
fn code(num_lines: usize) -> String {
    "    let value = compute(previous);\n".repeat(num_lines)
}

fn prompt_building(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let (template, builder) = (template(&tokenizer), builder(&tokenizer));
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

/// Real code, in which each prompt has one character more before the cursor than the one before it.
fn keystrokes(criterion: &mut Criterion) {
    let file = include_str!("../kernels/src/backend.rs");
    let text = file.repeat(64_000 / file.len() + 1);
    let keys = "let value = compute(previous) + other.total();";
    let mut group = criterion.benchmark_group("keystroke");
    for (cache, num_bytes) in [("cold", 0), ("cached", 32 << 20)] {
        let tokenizer = tokenizer().with_cache(num_bytes);
        let outlines = (num_bytes > 0).then(|| OutlineCache::new(num_bytes));
        let template = template(&tokenizer);
        let builder = PromptBuilder { outlines: outlines.as_ref(), ..builder(&tokenizer) };
        for (size, num_bytes) in [("1 KB", 1 << 10), ("16 KB", 16 << 10), ("64 KB", 64 << 10)] {
            let middle = text[..num_bytes / 2].rfind('\n').map_or(0, |index| index + 1);
            let end = text.floor_char_boundary(num_bytes);
            let prefixes: Vec<String> =
                (0..keys.len()).map(|typed| text[..middle].to_owned() + &keys[..typed]).collect();
            let mut prefixes = prefixes.iter().cycle();
            group.bench_function(format!("{size}, {cache}"), |bench| {
                bench.iter(|| {
                    let gap = Gap {
                        prefix: prefixes.next().expect("there are keys"),
                        suffix: &text[middle..end],
                        file_name: None,
                        repository: None,
                        language: Language::detect("a.rs", None),
                        context: &[],
                    };
                    builder.gap(&template, black_box(gap), 64)
                });
            });
        }
    }
    group.finish();
}

/// Real code: 50 KB around the cursor and eight other files, of which the window has room for a part.
fn context(criterion: &mut Criterion) {
    let tokenizer = tokenizer();
    let (template, builder) = (template(&tokenizer), builder(&tokenizer));
    let file = include_str!("../kernels/src/backend.rs");
    let (prefix, suffix) = (file.repeat(2), file.to_owned());
    let items: Vec<ContextItem> = (0..8)
        .map(|index| ContextItem {
            name: format!("a{index}.rs"),
            content: format!("{file}{index}"),
        })
        .collect();
    let language = Language::detect("a.rs", None);
    let options = ContextOptions {
        is_ranked: true,
        masks_secrets: true,
        bytes_max: budget::bytes_worth_encoding(2048),
    };
    let texts = || Texts { prefix: prefix.clone(), suffix: suffix.clone(), items: items.clone() };
    let mut group = criterion.benchmark_group(format!("context of {} KB", prefix.len() * 5 / 1000));
    group.bench_function("arrange", |bench| {
        let arrange = |texts| context::arrange(texts, Some("a.rs"), language, options);
        bench.iter_batched(texts, arrange, BatchSize::LargeInput);
    });
    group.bench_function("mask", |bench| bench.iter(|| context::mask(black_box(&prefix))));
    group.bench_function("outline", |bench| {
        let cut = Cut { head: &prefix, kept: "    fn a() {\n", tail: &suffix };
        bench.iter(|| context::outline(black_box(cut), language, 1024, None));
    });
    group.bench_function("prompt", |bench| {
        let arranged = context::arrange(texts(), Some("a.rs"), language, options);
        let gap = Gap {
            prefix: &arranged.prefix,
            suffix: &arranged.suffix,
            file_name: Some("a.rs"),
            repository: None,
            language,
            context: &arranged.items,
        };
        bench.iter(|| builder.gap(&template, black_box(gap), 64));
    });
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

criterion_group!(benches, prompt_building, keystrokes, context, text_out);
criterion_main!(benches);
