//! IBM's families.

use crate::prompt::family::{
    ChatTemplate, Family, Fim, Layout, Signs, Training,
    table::{
        LLAMA,
        bigcode::{BIGCODE_FIM, BIGCODE_TOKENS},
        qwen::QWEN_FIM,
    },
};

pub(super) const GRANITE_CODE: Family = Family {
    name: "granite-code",
    models: "Granite-code 3B and 8B, base and instruct",
    signs: Signs {
        tokens: BIGCODE_TOKENS,
        architectures: LLAMA,
        num_ids: Some((49_152, 49_407)),
        names: &["granite-3b-code", "granite-8b-code"],
    },
    training: Training::Fim(BIGCODE_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 2_048,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "arXiv 2405.04324; model card",
};

pub(super) const GRANITE_4: Family = Family {
    name: "granite-4",
    models: "Granite 4.0",
    signs: Signs {
        tokens: &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        architectures: &["GraniteMoeHybridForCausalLM"],
        num_ids: None,
        names: &["granite-4.0", "granite4"],
    },
    training: Training::Fim(Fim {
        layout: Layout::Plain,
        files: None,
        stop_tokens: &[
            "<|end_of_text|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            "<|fim_pad|>",
        ],
        ..QWEN_FIM
    }),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 131_072,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model card",
};
