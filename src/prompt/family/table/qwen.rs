//! Qwen's families, and the embedded model that has their sentinels.

use crate::prompt::family::{
    ChatSampling, ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs,
    Training,
};

const QWEN_TOKENS: &[&str] =
    &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];

/// The form of Qwen2.5-Coder.
pub(super) const QWEN_FIM: Fim<'static> = Fim {
    bos: None,
    prefix: "<|fim_prefix|>",
    suffix: "<|fim_suffix|>",
    middle: Some("<|fim_middle|>"),
    order: Order::Psm,
    layout: Layout::LineStart,
    suffix_tokens_max: None,
    files: Some(FilesForm {
        repo_name: Some(("<|repo_name|>", "\n")),
        file: FileMark::Token("<|file_sep|>"),
        place: FilesPlace::BeforeGap,
    }),
    stop_tokens: &[
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
    ],
    stop_texts: &[],
};

const QWEN_SAMPLING: ChatSampling =
    ChatSampling { temperature: 0.7, top_p: Some(0.8), top_k: Some(20) };

/// What those say of themselves that are no coders.
const WITHOUT: Training =
    Training::Without("its cards know of no such training, though the tokens are there");

pub(super) const QWEN2_5_CODER: Family = Family {
    name: "qwen2.5-coder",
    models: "Qwen2.5-Coder 0.5B to 32B, base and Instruct",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen2ForCausalLM"],
        num_ids: None,
        names: &["qwen-coder"],
    },
    training: Training::Fim(QWEN_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(QWEN_SAMPLING),
    context_tokens: 32_768,
    licence: "Apache-2.0; 3B: Qwen Research",
    is_gated: Some(false),
    source: "model card; arXiv 2409.12186, §3.2",
};

pub(super) const QWEN2_5: Family = Family {
    name: "qwen2.5",
    models: "Qwen2.5's general models and what was distilled into them",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen2ForCausalLM"],
        num_ids: None,
        names: &["qwen2", "qwq", "deepseek-r1-distill-qwen"],
    },
    training: WITHOUT,
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(QWEN_SAMPLING),
    context_tokens: 32_768,
    licence: "Apache-2.0; 3B: Qwen Research; 72B: Qwen",
    is_gated: Some(false),
    source: "model cards",
};

pub(super) const QWEN3_CODER: Family = Family {
    name: "qwen3-coder",
    models: "Qwen3-Coder-30B-A3B, 480B-A35B (Instruct)",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen3MoeForCausalLM"],
        num_ids: None,
        names: &[],
    },
    training: Training::Fim(QWEN_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(QWEN_SAMPLING),
    context_tokens: 262_144,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "README of QwenLM/Qwen3-Coder, which puts the same form into a chat turn",
};

pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    models: "Qwen3's general models",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"],
        num_ids: None,
        names: &[],
    },
    training: WITHOUT,
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(QWEN_SAMPLING),
    context_tokens: 32_768,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model cards",
};

/// The embedded demo model: Qwen's sentinels, trained on one file at a time and on suffixes of at most 96 tokens,
/// most of them under 28.
///
/// It is too small for more than a line, so that a line is what it gives where the request says nothing else.
pub(super) const DEMO: Family = Family {
    name: "lacuna-demo",
    models: "the embedded model",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen2ForCausalLM"],
        num_ids: Some((8_000, 8_192)),
        names: &[],
    },
    training: Training::Fim(Fim {
        suffix_tokens_max: Some(32),
        files: None,
        stop_texts: &["\n"],
        ..QWEN_FIM
    }),
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 2_048,
    licence: "as Lacuna's",
    is_gated: Some(false),
    source: "models/demo/README.md",
};
