//! Google's family.

use crate::prompt::family::{
    ChatTemplate, Family, Fim, Layout, Signs, Training, table::qwen::QWEN_FIM,
};

pub(super) const CODE_GEMMA: Family = Family {
    name: "codegemma",
    models: "CodeGemma 2B and 7B",
    signs: Signs {
        tokens: &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"],
        architectures: &["GemmaForCausalLM"],
        num_ids: None,
        names: &[],
    },
    training: Training::Fim(Fim {
        bos: Some("<bos>"),
        layout: Layout::Plain,
        files: None,
        stop_tokens: &[
            "<eos>",
            "<end_of_turn>",
            "<|file_separator|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
        ],
        ..QWEN_FIM
    }),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 8_192,
    licence: "Gemma terms of use",
    is_gated: Some(true),
    source: "CodeGemma's page on ai.google.dev; how paths are written for several files it does not say",
};
