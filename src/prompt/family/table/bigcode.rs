//! `BigCode`'s families, and the form that others have from them.

use crate::prompt::family::{
    ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs, Training,
};

/// The sentinels of `StarCoder`.
pub(super) const BIGCODE_TOKENS: &[&str] = &["<fim_prefix>", "<fim_suffix>", "<fim_middle>"];

/// The form of `StarCoder`, of one file.
pub(super) const BIGCODE_FIM: Fim<'static> = Fim {
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
        names: &[],
    },
    training: Training::Fim(Fim {
        files: Some(FilesForm {
            repo_name: Some(("<repo_name>", "")),
            file: FileMark::Token("<file_sep>"),
            place: FilesPlace::AroundPrefixSentinel,
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
        tokens: BIGCODE_TOKENS,
        architectures: &["GPTBigCodeForCausalLM"],
        num_ids: None,
        names: &["starcoderbase"],
    },
    training: Training::Fim(BIGCODE_FIM),
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 8_192,
    licence: "BigCode OpenRAIL-M",
    is_gated: Some(true),
    source: "arXiv 2305.06161; model card",
};

pub(super) const SANTACODER: Family = Family {
    name: "santacoder",
    models: "SantaCoder",
    signs: Signs {
        tokens: &["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
        architectures: &["GPT2LMHeadCustomModel", "GPTBigCodeForCausalLM"],
        num_ids: None,
        names: &[],
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
    chat_template: ChatTemplate::None,
    chat_sampling: None,
    context_tokens: 2_048,
    licence: "BigCode OpenRAIL-M",
    is_gated: Some(false),
    source: "model card",
};
