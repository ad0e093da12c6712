//! Families of makers that have one.

use crate::prompt::family::{
    ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs, Training,
    table::{
        LLAMA,
        bigcode::{BIGCODE_FIM, BIGCODE_TOKENS},
    },
};

pub(super) const CODE_LLAMA: Family = Family {
    name: "codellama",
    models: "Code Llama 7B and 13B, base and Instruct; 34B, 70B and Python have no sentinels",
    signs: Signs {
        tokens: &["▁<PRE>", "▁<SUF>", "▁<MID>"],
        architectures: LLAMA,
        num_ids: None,
        names: &["code-llama"],
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

pub(super) const MELLUM: Family = Family {
    name: "mellum",
    models: "Mellum-4b, base and fine-tuned",
    signs: Signs {
        tokens: &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>"],
        architectures: LLAMA,
        num_ids: Some((97_000, 98_304)),
        names: &[],
    },
    training: Training::Fim(Fim {
        order: Order::Spm,
        files: Some(FilesForm {
            repo_name: None,
            file: FileMark::Token("<filename>"),
            place: FilesPlace::BeforeGap,
        }),
        ..BIGCODE_FIM
    }),
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 8_192,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model card",
};

pub(super) const SEED_CODER: Family = Family {
    name: "seed-coder",
    models: "Seed-Coder-8B Base",
    signs: Signs {
        tokens: &["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
        architectures: LLAMA,
        num_ids: None,
        names: &[],
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

pub(super) const STABLE_CODE: Family = Family {
    name: "stable-code",
    models: "Stable Code 3B",
    signs: Signs {
        tokens: BIGCODE_TOKENS,
        architectures: &["StableLmForCausalLM"],
        num_ids: None,
        names: &[],
    },
    training: Training::Fim(BIGCODE_FIM),
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 16_384,
    licence: "Stability AI Community",
    is_gated: None,
    source: "model card",
};

pub(super) const OPENCODER: Family = Family {
    name: "opencoder",
    models: "OpenCoder 1.5B and 8B",
    signs: Signs { tokens: &[], architectures: LLAMA, num_ids: Some((96_000, 96_640)), names: &[] },
    training: Training::Without("its makers say so, though the tokens are there"),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 4_096,
    licence: "INF",
    is_gated: Some(false),
    source: "discussion 4 of infly/OpenCoder-8B-Base",
};

pub(super) const YI_CODER: Family = Family {
    name: "yi-coder",
    models: "Yi-Coder 1.5B and 9B, and Yi's general models",
    signs: Signs {
        tokens: &[],
        architectures: LLAMA,
        num_ids: Some((63_900, 64_100)),
        names: &["yi"],
    },
    training: Training::Without("its card knows of no such training"),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: None,
    context_tokens: 131_072,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model card",
};
