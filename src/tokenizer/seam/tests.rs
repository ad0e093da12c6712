//! Seams of the families, and that what is cut there gives the pieces of the whole.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizer as _};

use super::*;

fn split(expression: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false })
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn sequence(steps: &[Value]) -> Value {
    json!({ "type": "Sequence", "pretokenizers": steps })
}

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Pre-tokenisers of families, and the seams that they have.
fn steps() -> Vec<(&'static str, Value, Kind)> {
    let deepseek = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"];
    let deepseek: Vec<Value> = deepseek.into_iter().map(split).chain([byte_level(false)]).collect();
    let digits = json!({ "type": "Digits", "individual_digits": true });
    vec![
        ("Qwen2.5-Coder", sequence(&[split(QWEN2), byte_level(false)]), Kind::Behind),
        (
            "Llama 3",
            sequence(&[split(&QWEN2.replace("N}|", "N}{1,3}|")), byte_level(false)]),
            Kind::Behind,
        ),
        ("Seed-Coder", sequence(&[split(SEED_CODER), byte_level(false)]), Kind::Behind),
        ("Mistral Nemo", sequence(&[split(TEKKEN), byte_level(false)]), Kind::Behind),
        ("DeepSeek-Coder", sequence(&deepseek), Kind::Behind),
        ("Mellum", byte_level(true), Kind::Before),
        ("StarCoder2", sequence(&[digits, byte_level(true)]), Kind::Before),
    ]
}

fn definition(pre_tokenizer: &Value) -> Value {
    json!({ "added_tokens": [], "pre_tokenizer": pre_tokenizer, "model": { "type": "BPE", "vocab": {}, "merges": [] } })
}

fn found(definition: &Value, tokens: &[&str]) -> Option<Kind> {
    let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
    Seams::find(definition, &tokens).map(|seams| seams.kind)
}

/// Tokens that stand over every border.
const ACROSS: &[&str] = &["\na", "a\n", "/\n/"];

#[test]
fn families_have_seams_whatever_their_tokens_are() {
    for (name, step, kind) in steps() {
        assert_eq!(found(&definition(&step), ACROSS), Some(kind), "{name}");
    }
}

#[test]
fn without_a_cut_it_depends_on_the_tokens() {
    let space =
        json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious" });
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never" });
    for step in [Value::Null, space, metaspace, split(r"\p{N}"), byte_level(false)] {
        let definition = definition(&step);
        for (tokens, expected) in [
            (&["a", "\n", "\n\n", "a\n", "\n/"][..], Some(Kind::Behind)),
            (&["a", "\n ", "\n\n"], Some(Kind::Before)),
            (ACROSS, None),
            (&["\n ", "\u{e9}\n"], None),
        ] {
            assert_eq!(found(&definition, tokens), expected, "{step} {tokens:?}");
        }
        for (key, value) in [
            ("ignore_merges", json!(true)),
            ("end_of_word_suffix", json!("</w>")),
            ("continuing_subword_prefix", json!("##")),
        ] {
            let mut definition = definition.clone();
            definition["model"][key] = value;
            assert_eq!(found(&definition, &["a"]), None, "{step} {key}");
        }
    }
}

#[test]
fn what_is_not_understood_has_no_seams() {
    let qwen2 = sequence(&[split(QWEN2), byte_level(false)]);
    let rows = [
        ("/model/type", json!("Unigram")),
        ("/model/dropout", json!(0.1)),
        ("/added_tokens", json!([{ "content": "\na" }, { "content": "a\n" }])),
        ("/pre_tokenizer", json!({ "type": "UnicodeScripts" })),
        (
            "/pre_tokenizer",
            json!({ "type": "Split", "pattern": { "String": "\n" }, "behavior": "MergedWithNext" }),
        ),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Contiguous")),
        ("/pre_tokenizer/pretokenizers/0/invert", json!(true)),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({ "Regex": r"(?<=\n)a" })),
        (
            "/pre_tokenizer/pretokenizers/0/pattern",
            json!({ "Regex": r"\s+(?!\S)|\s*[\r\n]+|[^\s]+[\r\n]*" }),
        ),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({ "Regex": r"\w+(?!\S)|\s*[\r\n]+|\s+" })),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({ "Regex": r"[^a]+|\s*[\r\n]+|\s+" })),
    ];
    let rows = rows.into_iter().chain([
        // Behind bytes that are written as letters, and behind what is not understood.
        ("/pre_tokenizer", sequence(&[byte_level(false), split(QWEN2)])),
        ("/pre_tokenizer", sequence(&[sequence(&[byte_level(false)]), split(QWEN2)])),
        ("/pre_tokenizer", sequence(&[json!({ "type": "Punctuation" }), byte_level(true)])),
        ("/pre_tokenizer", split(r"(?x)z|[^\s\p{L}]+ [\r\n]*|\s+(?!\S)|\s+")),
        ("/model/type", Value::Null),
    ]);
    for (place, value) in rows {
        let mut definition = definition(&qwen2);
        let at = definition.pointer_mut(place);
        match at {
            Some(at) => *at = value.clone(),
            None => definition["model"]["dropout"] = value.clone(),
        }
        assert_eq!(found(&definition, ACROSS), None, "{place} {value}");
    }
}

#[test]
fn lines_are_parts() {
    let rows: [(Kind, &str, &[&str]); 9] = [
        (Kind::Behind, "", &[]),
        (Kind::Behind, "a", &["a"]),
        (Kind::Behind, "a\n", &["a\n"]),
        (Kind::Behind, "a\n  b;\r\n\n\n\tc\n \n  ", &["a\n", "  b;\r\n\n\n", "\tc\n \n", "  "]),
        (Kind::Behind, "a\n/b\n /c\n", &["a\n/b\n", " /c\n"]),
        (Kind::Behind, "\n\na", &["\n\n", "a"]),
        (Kind::Before, "a\n  b;\r\n\n\n\tc\n \n  ", &["a", "\n  b;", "\r\n\n\n\tc", "\n \n  "]),
        (Kind::Before, "\n\na", &["\n\na"]),
        (Kind::Before, "a \nb\u{2028}\né\n", &["a \nb\u{2028}\né", "\n"]),
    ];
    for (kind, text, expected) in rows {
        assert_eq!(Seams { kind }.parts(text).collect::<Vec<_>>(), expected, "{text:?}");
    }
}

/// The families' pre-tokenisers, in the library.
static LIBRARY: LazyLock<Vec<(&str, tokenizers::PreTokenizerWrapper, Kind)>> = LazyLock::new(
    || {
        let built = |step: &Value| {
            let json = json!({ "version": "1.0", "pre_tokenizer": step, "model": { "type": "BPE", "vocab": {}, "merges": [] } });
            let library = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
            library.get_pre_tokenizer().unwrap().clone()
        };
        steps().into_iter().map(|(name, step, kind)| (name, built(&step), kind)).collect()
    },
);

fn pieces(step: &tokenizers::PreTokenizerWrapper, text: &str) -> Vec<String> {
    let mut split = tokenizers::PreTokenizedString::from(text);
    step.pre_tokenize(&mut split).unwrap();
    let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
}

/// Texts of what the expressions tell apart.
fn text() -> impl Strategy<Value = String> {
    let signs = [
        "\n", "\n", "\r", "\r\n", " ", " ", "\t", "\u{85}", "\u{2028}", "\u{3000}", "\u{180e}",
        "/", "//", ";", "{", "'s", "'", "a", "B", "é", "e\u{301}", "日", "1", "٣", "_", "\u{0}",
        "\u{feff}", "🦀", "\u{17f}",
    ];
    prop::collection::vec(prop::sample::select(signs.to_vec()), 0..40)
        .prop_map(|signs| signs.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn parts_by_themselves_are_cut_as_the_whole(text in text()) {
        for (name, step, kind) in LIBRARY.iter() {
            let parts: Vec<&str> = Seams { kind: *kind }.parts(&text).collect();
            prop_assert_eq!(parts.concat(), text.as_str());
            let apart: Vec<String> = parts.iter().flat_map(|part| pieces(step, part)).collect();
            prop_assert_eq!(apart, pieces(step, &text), "{}", name);
        }
    }
}
