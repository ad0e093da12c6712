//! Families with spellings of their own.

use crate::prompt::family::{
    ChatSampling, ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs,
    Training,
    table::{LLAMA, MISTRAL},
};

pub(super) const CODESTRAL: Family = Family {
    name: "codestral",
    models: "Codestral-22B-v0.1",
    signs: Signs {
        tokens: &["[PREFIX]", "[SUFFIX]"],
        architectures: MISTRAL,
        num_ids: Some((32_000, 33_000)),
        names: &["codestral"],
    },
    training: Training::Fim(Fim {
        bos: Some("<s>"),
        prefix: "[PREFIX]",
        suffix: "[SUFFIX]",
        middle: None,
        order: Order::Spm,
        layout: Layout::Plain,
        suffix_tokens_max: None,
        files: Some(FilesForm {
            repo_name: None,
            file: FileMark::Text("+++++ "),
            place: FilesPlace::InPrefix,
        }),
        stop_tokens: &["</s>", "[PREFIX]", "[SUFFIX]", "[MIDDLE]"],
        stop_texts: &["\n+++++ "],
    }),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 32_768,
    licence: "MNPL-0.1 (no production)",
    is_gated: Some(true),
    source: "mistral-common (FIM of V2 and V3); several files as Continue writes them",
};

pub(super) const DEVSTRAL: Family = Family {
    name: "devstral",
    models: "Devstral and others with Mistral's Tekken vocabulary",
    signs: Signs {
        tokens: &["[INST]"],
        num_ids: Some((131_000, 131_072)),
        names: &["devstral", "mistral"],
        ..CODESTRAL.signs
    },
    training: Training::Without("its cards know of no such training, though the tokens are there"),
    chat_sampling: Some(ChatSampling { temperature: 0.15, top_p: None, top_k: None }),
    context_tokens: 131_072,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model card",
    ..CODESTRAL
};

pub(super) const DEEPSEEK_CODER: Family = Family {
    name: "deepseek-coder",
    models: "DeepSeek-Coder 1.3B to 33B, base and instruct",
    signs: Signs {
        tokens: &["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
        architectures: LLAMA,
        num_ids: None,
        names: &["deepseek-coder", "deepseek"],
    },
    training: Training::Fim(Fim {
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
    }),
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
        architectures: &["DeepseekV2ForCausalLM"],
        names: &["deepseek-coder-v2"],
        ..DEEPSEEK_CODER.signs
    },
    context_tokens: 131_072,
    source: "README of deepseek-ai/DeepSeek-Coder-V2",
    ..DEEPSEEK_CODER
};

pub(super) const CODE_LLAMA: Family = Family {
    name: "codellama",
    models: "Code Llama 7B and 13B, base and Instruct; 34B, 70B and Python have no sentinels",
    signs: Signs {
        tokens: &["▁<PRE>", "▁<SUF>", "▁<MID>"],
        architectures: LLAMA,
        num_ids: None,
        names: &["codellama", "code-llama"],
    },
    training: Training::Fim(Fim {
        bos: Some("<s>"),
        prefix: "▁<PRE>",
        suffix: "▁<SUF>",
        middle: Some("▁<MID>"),
        order: Order::Psm,
        layout: Layout::Plain,
        suffix_tokens_max: None,
        files: None,
        stop_tokens: &["</s>", "▁<EOT>", "▁<PRE>", "▁<SUF>", "▁<MID>"],
        stop_texts: &[],
    }),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 16_384,
    licence: "Llama 2 Community",
    is_gated: Some(false),
    source: "arXiv 2308.12950, §2.3; generation.py of meta-llama/codellama",
};

pub(super) const SEED_CODER: Family = Family {
    name: "seed-coder",
    models: "Seed-Coder-8B Base",
    signs: Signs {
        tokens: &["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
        architectures: LLAMA,
        num_ids: None,
        names: &["seed-coder"],
    },
    training: Training::Fim(Fim {
        bos: None,
        prefix: "<[fim-prefix]>",
        suffix: "<[fim-suffix]>",
        middle: Some("<[fim-middle]>"),
        order: Order::Spm,
        layout: Layout::Plain,
        suffix_tokens_max: None,
        files: None,
        stop_tokens: &[
            "<[end▁of▁sentence]>",
            "<[fim-prefix]>",
            "<[fim-suffix]>",
            "<[fim-middle]>",
            "<[PAD▁TOKEN]>",
            "<[SEP▁TOKEN]>",
        ],
        stop_texts: &[],
    }),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 32_768,
    licence: "MIT",
    is_gated: Some(false),
    source: "arXiv 2506.03524, §3.3",
};
