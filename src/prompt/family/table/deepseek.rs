//! The families of `DeepSeek`.

use crate::prompt::family::{
    ChatTemplate, Family, Fim, Layout, Order, Signs, Training, table::LLAMA,
};

const DEEPSEEK_TOKENS: &[&str] = &["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"];

const DEEPSEEK_FIM: Fim<'static> = Fim {
    bos: Some("<｜begin▁of▁sentence｜>"),
    prefix: "<｜fim▁begin｜>",
    suffix: "<｜fim▁hole｜>",
    middle: Some("<｜fim▁end｜>"),
    order: Order::Psm,
    layout: Layout::Plain,
    suffix_tokens_max: None,
    files: None,
    stop_tokens: &[
        "<｜end▁of▁sentence｜>",
        "<|EOT|>",
        "<｜fim▁begin｜>",
        "<｜fim▁hole｜>",
        "<｜fim▁end｜>",
    ],
    stop_texts: &[],
};

pub(super) const DEEPSEEK_CODER: Family = Family {
    name: "deepseek-coder",
    models: "DeepSeek-Coder 1.3B to 33B, base and instruct",
    signs: Signs { tokens: DEEPSEEK_TOKENS, architectures: LLAMA, num_ids: None, names: &[] },
    training: Training::Fim(DEEPSEEK_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 16_384,
    licence: "DeepSeek (commercial use allowed)",
    is_gated: Some(false),
    source: "README of deepseek-ai/DeepSeek-Coder; its files are shown one after another, not as a gap",
};

pub(super) const DEEPSEEK_CODER_V2: Family = Family {
    name: "deepseek-coder-v2",
    models: "DeepSeek-Coder-V2-Lite",
    signs: Signs {
        tokens: DEEPSEEK_TOKENS,
        architectures: &["DeepseekV2ForCausalLM"],
        num_ids: None,
        names: &[],
    },
    training: Training::Fim(DEEPSEEK_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 131_072,
    licence: "DeepSeek (commercial use allowed)",
    is_gated: Some(false),
    source: "README of deepseek-ai/DeepSeek-Coder-V2",
};
