//! Mistral's families.

use crate::prompt::family::{
    ChatSampling, ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs,
    Training,
};

/// A GGUF file of Mistral's says that it is Llama's.
const MISTRAL: &[&str] = &["MistralForCausalLM", "LlamaForCausalLM"];

pub(super) const CODESTRAL: Family = Family {
    name: "codestral",
    models: "Codestral-22B-v0.1",
    signs: Signs {
        tokens: &["[PREFIX]", "[SUFFIX]"],
        architectures: MISTRAL,
        num_ids: Some((32_000, 33_000)),
        names: &[],
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
        architectures: MISTRAL,
        num_ids: Some((131_000, 131_072)),
        names: &["mistral"],
    },
    training: Training::Without("its cards know of no such training, though the tokens are there"),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(ChatSampling { temperature: 0.15, top_p: None, top_k: None }),
    context_tokens: 131_072,
    licence: "Apache-2.0",
    is_gated: Some(false),
    source: "model card",
};
