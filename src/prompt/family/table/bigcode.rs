//! Families that spell their sentinels as `BigCode` does, and two that have them without the training.

use crate::prompt::family::{
    ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs, Training,
    table::LLAMA,
};

/// The words of `StarCoder`, which three families share.
const BIGCODE_FIM: Fim<'static> = Fim {
    bos: None,
    prefix: "<fim_prefix>",
    suffix: "<fim_suffix>",
    middle: Some("<fim_middle>"),
    order: Order::Psm,
    layout: Layout::Plain,
    suffix_tokens_max: None,
    files: None,
    stop_tokens: &[
        "<|endoftext|>",
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        "<fim_pad>",
        "<filename>",
        "<reponame>",
    ],
    stop_texts: &[],
};

pub(super) const STARCODER2: Family = Family {
    name: "starcoder2",
    models: "StarCoder2 3B, 7B and 15B",
    signs: Signs {
        tokens: &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"],
        architectures: &["Starcoder2ForCausalLM"],
        num_ids: None,
        names: &["starcoder2"],
    },
    training: Training::Fim(Fim {
        files: Some(FilesForm {
            repo_name: Some(("<repo_name>", "")),
            file: FileMark::Token("<file_sep>"),
            place: FilesPlace::BeforeGap,
        }),
        stop_tokens: &[
            "<|endoftext|>",
            "<fim_prefix>",
            "<fim_suffix>",
            "<fim_middle>",
            "<fim_pad>",
            "<repo_name>",
            "<file_sep>",
        ],
        ..BIGCODE_FIM
    }),
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 16_384,
    licence: "BigCode OpenRAIL-M",
    is_gated: Some(false),
    source: "arXiv 2402.19173, §5.1",
};

pub(super) const STARCODER: Family = Family {
    name: "starcoder",
    models: "StarCoder, StarCoderBase",
    signs: Signs {
        tokens: &["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
        architectures: &["GPTBigCodeForCausalLM"],
        num_ids: None,
        names: &["starcoder"],
    },
    training: Training::Fim(BIGCODE_FIM),
    context_tokens: 8_192,
    is_gated: Some(true),
    source: "arXiv 2305.06161; model card",
    ..STARCODER2
};

pub(super) const SANTACODER: Family = Family {
    name: "santacoder",
    models: "SantaCoder",
    signs: Signs {
        tokens: &["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
        architectures: &["GPT2LMHeadCustomModel", "GPTBigCodeForCausalLM"],
        num_ids: None,
        names: &["santacoder"],
    },
    training: Training::Fim(Fim {
        prefix: "<fim-prefix>",
        suffix: "<fim-suffix>",
        middle: Some("<fim-middle>"),
        stop_tokens: &[
            "<|endoftext|>",
            "<fim-prefix>",
            "<fim-suffix>",
            "<fim-middle>",
            "<fim-pad>",
        ],
        ..BIGCODE_FIM
    }),
    context_tokens: 2_048,
    is_gated: Some(false),
    source: "model card",
    ..STARCODER
};

pub(super) const GRANITE_CODE: Family = Family {
    name: "granite-code",
    models: "Granite-code 3B and 8B, base and instruct",
    signs: Signs {
        architectures: LLAMA,
        num_ids: Some((49_152, 49_407)),
        names: &["granite"],
        ..STARCODER.signs
    },
    training: Training::Fim(BIGCODE_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    context_tokens: 2_048,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "arXiv 2405.04324; model card",
    ..STARCODER
};

pub(super) const MELLUM: Family = Family {
    name: "mellum",
    models: "Mellum-4b, base and fine-tuned",
    signs: Signs {
        tokens: &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>"],
        num_ids: Some((97_000, 98_304)),
        names: &["mellum"],
        ..GRANITE_CODE.signs
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
    context_tokens: 8_192,
    source: "model card",
    ..GRANITE_CODE
};

pub(super) const STABLE_CODE: Family = Family {
    name: "stable-code",
    models: "Stable Code 3B",
    signs: Signs {
        architectures: &["StableLmForCausalLM"],
        names: &["stable-code"],
        ..STARCODER.signs
    },
    context_tokens: 16_384,
    licence: "Stability AI Community",
    is_gated: None,
    source: "model card",
    ..STARCODER
};

pub(super) const OPENCODER: Family = Family {
    name: "opencoder",
    models: "OpenCoder 1.5B and 8B",
    signs: Signs {
        tokens: &[],
        architectures: LLAMA,
        num_ids: Some((96_000, 96_640)),
        names: &["opencoder"],
    },
    training: Training::Without("its makers say so, though the tokens are there"),
    chat_template: ChatTemplate::OfCheckpoint,
    context_tokens: 4_096,
    licence: "INF",
    is_gated: Some(false),
    source: "discussion 4 of infly/OpenCoder-8B-Base",
    ..STARCODER
};

pub(super) const YI_CODER: Family = Family {
    name: "yi-coder",
    models: "Yi-Coder 1.5B and 9B, and Yi's general models",
    signs: Signs {
        num_ids: Some((63_900, 64_100)),
        names: &["yi-coder", "yi-"],
        ..OPENCODER.signs
    },
    training: Training::Without("its card knows of no such training"),
    context_tokens: 131_072,
    licence: "Apache-2.0",
    source: "model card",
    ..OPENCODER
};
