//! Tokenizers of each kind that families have, equal to their makers' libraries, and without loss for any text.
//!
//! The vocabularies are small and of the families' own structure; `tests/golden/make_tokenizers.py` made them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use lacuna::{
    completion::ContextItem,
    prompt::{FimTemplate, Gap, PromptBuilder, budget::Shares, family},
    tokenizer::{Detokenizer, Tokenizer},
};
use models::{Source, tokenizer_json};
use proptest::prelude::*;
use serde::Deserialize;

use crate::{
    gguf::tokenizer_of,
    gguf_writer::{Value, Writer},
};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    family: Option<String>,
    bos_id: Option<u32>,
    lead: String,
    texts: Vec<Text>,
    fim: Vec<Fim>,
    #[serde(default)]
    pieces: Vec<(String, f32, i32)>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Fim {
    prefix: String,
    suffix: String,
    ids: Vec<u32>,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let text = include_str!("../golden/tokenizers/cases.json");
    serde_json::from_str::<Golden>(text).unwrap().cases
});

/// The same with a cache, which is so small that it forgets all the time, or keeps all.
static CACHED: LazyLock<Vec<[Tokenizer; 2]>> = LazyLock::new(|| {
    let cached =
        |case: &Case| [2_000, 1 << 20].map(|bytes| tokenizer(&case.name).with_cache(bytes));
    CASES.iter().map(cached).collect()
});

static TOKENIZERS: LazyLock<Vec<Tokenizer>> =
    LazyLock::new(|| CASES.iter().map(|case| tokenizer(&case.name)).collect());

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers").join(name)
}

fn tokenizer(name: &str) -> Tokenizer {
    let json = tokenizer_json(Source::Directory(&folder(name))).unwrap();
    Tokenizer::from_json(&json).unwrap()
}

/// Checks texts and prompts against what the maker's library gave.
fn check(case: &Case, tokenizer: &Tokenizer, what: &str) {
    let name = format!("{} {what}", case.name);
    assert_eq!(tokenizer.bos_token_id(), case.bos_id, "{name}");
    assert_eq!(tokenizer.document_lead(), case.lead, "{name}");
    for Text { text, ids } in &case.texts {
        assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(ids), *text, "{name}: {text:?}");
    }
    let Some(family) = &case.family else { return };
    let fim = family::fim_by_name(family).unwrap();
    let template =
        FimTemplate::resolve(family, fim, |token| tokenizer.added_token_id(token)).unwrap();
    let shares = Shares { suffix: 0.25, context: 0.25 };
    let builder = PromptBuilder { tokenizer, context_tokens_max: 4096, shares, outlines: None };
    for Fim { prefix, suffix, ids } in &case.fim {
        let gap =
            Gap { prefix, suffix, file_name: None, repository: None, language: None, context: &[] };
        let prompt = builder.gap(&template, gap, 16).unwrap();
        assert_eq!(prompt.token_ids, *ids, "{name}: {prefix:?} {suffix:?}");
    }
    let text = "def f(x):\n";
    let document = tokenizer.encode(&format!("{}{text}", case.lead)).unwrap();
    let expected: Vec<u32> = case.bos_id.into_iter().chain(document).collect();
    assert_eq!(builder.text(text, 16).unwrap().token_ids, expected, "{name}");
}

#[test]
fn texts_and_prompts_are_those_of_the_makers_libraries() {
    for (case, tokenizer) in CASES.iter().zip(TOKENIZERS.iter()) {
        check(case, tokenizer, "as published");
        let cached = self::tokenizer(&case.name).with_cache(1 << 20);
        check(case, &cached, "as published, first");
        check(case, &cached, "as published, known");
    }
}

/// The likeliest pieces of a whole text need not be those of its lines.
#[test]
fn lines_are_cached_for_all_but_unigrams() {
    for (case, cached) in CASES.iter().zip(CACHED.iter()) {
        for cached in cached {
            assert_eq!(cached.has_cache(), case.name != "unigram", "{}", case.name);
        }
        assert!(!tokenizer(&case.name).with_cache(0).has_cache());
    }
}

/// Codestral's other files are text in the prefix, in which no space may appear that nobody wrote.
#[test]
fn files_in_the_prefix_stand_as_they_are() {
    let tokenizer = tokenizer("codestral");
    let fim = family::fim_by_name("codestral").unwrap();
    let template =
        FimTemplate::resolve("codestral", fim, |token| tokenizer.added_token_id(token)).unwrap();
    let shares = Shares { suffix: 0.25, context: 0.25 };
    let builder =
        PromptBuilder { tokenizer: &tokenizer, context_tokens_max: 1024, shares, outlines: None };
    let file = |name: &str, content: &str| ContextItem {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    let context = [file("a.py", "a = 1\n"), file("b.py", "b = 2\n")];
    let (prefix, suffix, file_name) = ("def f():\n", "\nf()\n", Some("c.py"));
    let gap =
        Gap { prefix, suffix, file_name, repository: None, language: None, context: &context };
    let prompt = builder.gap(&template, gap, 16).unwrap();
    let expected = "\nf()\n+++++ b.py\nb = 2\n\n\n+++++ a.py\na = 1\n\n\n+++++ c.py\ndef f():\n";
    assert_eq!(tokenizer.decode(&prompt.token_ids), expected);
    let gap = Gap { context: &[], ..gap };
    let alone = builder.gap(&template, gap, 16).unwrap();
    // A document begins with the space that the model saw there.
    assert_eq!(tokenizer.decode(&alone.token_ids), "\nf()\n def f():\n");
}

/// The path of the edited file stands between the sentinel of the prefix and the prefix.
#[test]
fn starcoder2_is_shown_files_as_it_was_trained() {
    let tokenizer = tokenizer("starcoder2");
    let fim = family::fim_by_name("starcoder2").unwrap();
    let template =
        FimTemplate::resolve("starcoder2", fim, |token| tokenizer.added_token_id(token)).unwrap();
    let shares = Shares { suffix: 0.25, context: 0.25 };
    let builder =
        PromptBuilder { tokenizer: &tokenizer, context_tokens_max: 1024, shares, outlines: None };
    let context = [ContextItem { name: "a.py".to_owned(), content: "a = 1\n".to_owned() }];
    let (prefix, suffix) = ("def f():\n", "\nf()\n");
    let (file_name, repository) = (Some("c.py"), Some("shop"));
    let gap = Gap { prefix, suffix, file_name, repository, language: None, context: &context };
    let prompt = builder.gap(&template, gap, 16).unwrap();
    let written: String = prompt.token_ids.iter().map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(
        written,
        "<repo_name>shop<file_sep>a.py\na = 1\n<file_sep><fim_prefix>c.py\ndef f():\n\
         <fim_suffix>\nf()\n<fim_middle>"
    );
}

/// Returns the metadata that llama.cpp's converter makes of a SentencePiece model.
fn metadata(case: &Case) -> Writer {
    let mut writer = Writer::new();
    let list = |value: fn(&(String, f32, i32)) -> Value| {
        Value::Array(case.pieces.iter().map(value).collect())
    };
    writer.set("tokenizer.ggml.model", "llama".into());
    writer.set("tokenizer.ggml.tokens", list(|piece| piece.0.as_str().into()));
    writer.set("tokenizer.ggml.scores", list(|piece| Value::F32(piece.1)));
    writer.set("tokenizer.ggml.token_type", list(|piece| Value::I32(piece.2)));
    writer.set("tokenizer.ggml.bos_token_id", Value::U32(case.bos_id.unwrap()));
    writer.set("tokenizer.ggml.add_space_prefix", Value::Flag(!case.lead.is_empty()));
    writer
}

#[test]
fn a_gguf_file_of_the_same_vocabulary_gives_the_same() {
    let of_gguf: Vec<&Case> = CASES.iter().filter(|case| !case.pieces.is_empty()).collect();
    assert_eq!(of_gguf.len(), 2);
    for case in of_gguf {
        check(case, &tokenizer_of(&metadata(case), &case.name), "as GGUF");
        let mut writer = metadata(case);
        writer.set("tokenizer.ggml.add_bos_token", Value::Flag(false));
        let tokenizer = tokenizer_of(&writer, &format!("{}-no-bos", case.name));
        assert_eq!(tokenizer.bos_token_id(), None);
    }
}

/// Sentinels that a vocabulary has as plain pieces are found where no text leads to them, and only there.
#[test]
fn a_sentinel_among_the_plain_pieces_is_one_that_no_text_becomes() {
    let case = CASES.iter().find(|case| case.name == "codellama-model").unwrap();
    let mut writer = metadata(case);
    let is_sentinel = |text: &str| text.starts_with("▁<") && text.ends_with('>') && text.len() > 5;
    let kind = |(text, _, kind): &(String, f32, i32)| {
        Value::I32(if is_sentinel(text) { 1 } else { *kind })
    };
    let kinds = Value::Array(case.pieces.iter().map(kind).collect());
    writer.set("tokenizer.ggml.token_type", kinds);
    let tokenizer = tokenizer_of(&writer, "plain-sentinels");
    check(case, &tokenizer, "with plain sentinels");
    assert_eq!(tokenizer.added_token_id("▁"), None);
    assert_eq!(tokenizer.added_token_id("▁self"), None);
}

#[test]
fn a_folder_without_tokenizer_json_names_the_field_at_fault() {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("lacuna-{}-broken-vocabulary", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    fs::write(copy.join("config.json"), "{}").unwrap();
    let refused = |file: &str, bytes: &[u8]| {
        fs::write(copy.join(file), bytes).unwrap();
        let made = tokenizer_json(Source::Directory(&copy));
        fs::remove_file(copy.join(file)).unwrap();
        made.map(|_| ()).map_err(|error| error.to_string())
    };
    let model = fs::read(folder("codellama-model").join("tokenizer.model")).unwrap();
    assert_eq!(refused("tokenizer.model", &model), Ok(()));
    // A normaliser that replaces characters, or takes spaces away: field 3 of the model.
    let charsmap = [&model[..], &[0x1A, 5, 0x12, 1, b'x', 0x20, 0]].concat();
    let spaces = [&model[..], &[0x1A, 2, 0x20, 1]].concat();
    let words = [&model[..], &[0x12, 2, 0x18, 3]].concat();
    // A piece of 5000 bytes: field 1 of the model, whose field 1 is its text.
    let long = [&model[..], &[0x0A, 0x8B, 0x27, 0x0A, 0x88, 0x27], &[b'a'; 5000]].concat();
    let rows: [(&str, &[u8], &str); 9] = [
        ("tokenizer.model", &model[..model.len() - 1], "must be a whole message"),
        ("tokenizer.model", b"", "`pieces` must be a list of pieces, got none"),
        ("tokenizer.model.v3", b"", "tokenizer.model.v3: `pieces` must be a list of pieces"),
        ("tokenizer.model", &charsmap, "`normalizer_spec.precompiled_charsmap` must be empty"),
        ("tokenizer.model", &long, "must be 1 to 4096 bytes in UTF-8"),
        ("tokenizer.model", &spaces, "`normalizer_spec.remove_extra_whitespaces` must be false"),
        ("tokenizer.model", &words, "`trainer_spec.model_type` must be 1 (unigram) or 2 (bpe), got 3"),
        ("tekken.json", b"{}", "tekken.json is not a JSON object"),
        (
            "tekken.json",
            br#"{"config": {"pattern": ".", "default_vocab_size": 21, "default_num_special_tokens": 20},
                "vocab": [{"rank": 0, "token_bytes": "?"}]}"#,
            "`vocab[0].token_bytes` must be 1 to 4096 bytes in base64",
        ),
    ];
    for (file, bytes, expected) in rows {
        let error = refused(file, bytes).unwrap_err();
        assert!(error.contains(expected), "{error}\nis not\n{expected}");
    }
    fs::remove_dir_all(&copy).unwrap();
}

/// A file that was damaged is refused, or read as a vocabulary that loses nothing.
#[test]
fn what_is_read_of_a_damaged_vocabulary_loses_no_text() {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("lacuna-{}-damaged-vocabulary", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    fs::write(copy.join("config.json"), "{}").unwrap();
    let text = "def f(x):\n\t  return ▁x + '<s>' # é 🦀 <0x41>\r\n";
    let (mut num_read, mut num_refused) = (0, 0);
    for (name, file) in [
        ("codellama-model", "tokenizer.model"),
        ("unigram", "tokenizer.model"),
        ("codegemma-model", "tokenizer.model"),
        ("tekken", "tekken.json"),
    ] {
        let whole = fs::read(folder(name).join(file)).unwrap();
        for seed in 0..80_usize {
            let mut damaged = whole.clone();
            for step in 1..=1 + seed % 3 {
                let place = seed * step * 7919 % damaged.len();
                damaged[place] ^= 1 << ((seed + step) % 8);
            }
            fs::write(copy.join(file), &damaged).unwrap();
            let json = tokenizer_json(Source::Directory(&copy));
            let Some(tokenizer) = json.ok().and_then(|json| Tokenizer::from_json(&json).ok())
            else {
                num_refused += 1;
                continue;
            };
            num_read += 1;
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids), text, "{name}, seed {seed}");
        }
        fs::remove_file(copy.join(file)).unwrap();
    }
    fs::remove_dir_all(&copy).unwrap();
    assert!(num_read > 50 && num_refused > 50, "{num_read} read, {num_refused} refused");
}

/// Texts with all that is lost easily: spaces at borders, marks, bytes' names, sentinels, what could be composed.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[ \t\r\n]{0,6}",
        "[a-z<>|\\[\\]0x_]{0,6}",
        any::<char>().prop_map(String::from),
        prop::sample::select(vec![
            "▁",
            "<0x0A>",
            "<0xE2>",
            "<s>",
            "[PREFIX]",
            "▁<PRE>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<|fim_prefix|>",
            "<[fim-suffix]>",
            "e\u{301}",
            "🦀",
            "\u{200d}",
            "õ",
            "<h1>",
            "\n\n\n",
            "control 1",
            "unused 1",
            "Ġ",
            "Ċ",
        ])
        .prop_map(ToOwned::to_owned),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// Lines of code that share words and borders.
fn any_line() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "def ", "return", " x", "self", "(", "):", "),", "\"),", ",", ";", "{", "}", "//", "/",
        "# é", "\"", " ", "    ", "\t", "12", "▁", "'s",
    ]);
    let end =
        prop::sample::select(vec!["\n", "\n", "\n", "\r\n", "\n\n", " \n\n", "\r", "", "\u{2028}"]);
    (prop::collection::vec(word, 0..6), end).prop_map(|(words, end)| words.concat() + end)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_comes_back_and_becomes_no_control_token(text in any_text(), other in any_text()) {
        for (case, tokenizer) in CASES.iter().zip(TOKENIZERS.iter()) {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text.as_str(), "{}", case.name);
            prop_assert!(ids.iter().all(|&id| !tokenizer.token_bytes(id).is_empty()), "{}", case.name);
            // Pieces are joined as ids: nothing stands between them.
            let both: Vec<u32> = ids.into_iter().chain(tokenizer.encode(&other).unwrap()).collect();
            let mut detokenizer = Detokenizer::default();
            let mut streamed = String::new();
            for id in both {
                detokenizer.push(tokenizer.token_bytes(id), &mut streamed);
            }
            detokenizer.finish(&mut streamed);
            prop_assert_eq!(streamed, format!("{text}{other}"), "{}", case.name);
        }
    }

    #[test]
    fn lines_from_the_cache_are_the_texts_tokens(lines in prop::collection::vec(any_line(), 0..8), order in any::<u64>()) {
        let text = lines.concat();
        let mut others = lines;
        if !others.is_empty() {
            let middle = order as usize % others.len();
            others.rotate_left(middle);
        }
        for ((case, tokenizer), cached) in CASES.iter().zip(TOKENIZERS.iter()).zip(CACHED.iter()) {
            for text in [&text, &others.concat()] {
                let ids = tokenizer.encode(text).unwrap();
                for cached in cached {
                    prop_assert_eq!(&cached.encode(text).unwrap(), &ids, "{}", case.name);
                }
            }
        }
    }
}
