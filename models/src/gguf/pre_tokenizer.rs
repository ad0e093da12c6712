//! How a text is cut before its bytes are merged, by the name that a GGUF file gives to the way.
//!
//! The file says no more than a name, so each is a row here: what the family's own `tokenizer.json` says under
//! `normalizer`, `pre_tokenizer` and `ignore_merges`.

use serde_json::{Value, json};

/// A way to cut.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// As `tokenizer.ggml.pre` has it.
    pub(super) name: &'static str,
    /// Whether characters are composed first (NFC).
    is_composed: bool,
    /// Expressions, each cutting the pieces of the one before; a match is a piece.
    splits: &'static [&'static str],
    /// Whether GPT-2's own expression comes last.
    has_gpt2_split: bool,
    /// Whether a piece that is a token is taken as it is.
    pub(super) has_whole_tokens: bool,
}

/// GPT-4's expression, but for how many digits go together.
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-4's, with letters cut where small ones turn to capitals, and slashes kept with what they follow.
const TEKKEN_SPLIT: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4's, with line ends apart from the signs before them.
const SEED_CODER_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// All rows.
///
/// # Source
/// `tokenizer.json` of Qwen2.5-Coder, Llama 3, GPT-2, StarCoder2, DeepSeek-Coder, Seed-Coder and Mistral Nemo; that
/// Granite-code (`refact`) cuts as StarCoder2, Mellum as GPT-2, and Stable Code as Qwen2 is `llama-vocab.cpp`'s word.
/// `default` is llama.cpp's own way
/// for files that name none (`llama-vocab.cpp`), which its converter writes into no new file.
const ROWS: &[PreTokenizer] = &[
    PreTokenizer {
        name: "qwen2",
        is_composed: true,
        splits: &[QWEN2_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "llama-bpe",
        is_composed: false,
        splits: &[LLAMA3_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: true,
    },
    PreTokenizer {
        name: "gpt-2",
        is_composed: false,
        splits: &[],
        has_gpt2_split: true,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "starcoder",
        is_composed: false,
        splits: &[r"\p{N}"],
        has_gpt2_split: true,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "deepseek-coder",
        is_composed: false,
        splits: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "deepseek-r1-qwen",
        is_composed: true,
        splits: &[QWEN2_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "stablelm2",
        is_composed: false,
        splits: &[QWEN2_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "refact",
        is_composed: false,
        splits: &[r"\p{N}"],
        has_gpt2_split: true,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "mellum",
        is_composed: false,
        splits: &[],
        has_gpt2_split: true,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "seed-coder",
        is_composed: false,
        splits: &[SEED_CODER_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
    PreTokenizer {
        name: "tekken",
        is_composed: false,
        splits: &[TEKKEN_SPLIT],
        has_gpt2_split: false,
        has_whole_tokens: true,
    },
    PreTokenizer {
        name: "default",
        is_composed: false,
        splits: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        has_gpt2_split: false,
        has_whole_tokens: false,
    },
];

/// Returns the row of that name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    ROWS.iter().find(|row| row.name == name)
}

/// Returns the names of all rows.
pub(super) fn names() -> String {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

impl PreTokenizer {
    /// Returns the value of `normalizer`.
    pub(super) fn normalizer(&self) -> Value {
        if self.is_composed { json!({ "type": "NFC" }) } else { Value::Null }
    }

    /// Returns the value of `pre_tokenizer`: the splits, and bytes written as characters at the end.
    pub(super) fn steps(&self) -> Value {
        let split = |expression: &&str| json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false });
        let mut steps: Vec<Value> = self.splits.iter().map(split).collect();
        steps.push(json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": true,
            "use_regex": self.has_gpt2_split
        }));
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}
