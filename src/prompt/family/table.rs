//! The rows. A fact is here because its source says so; what nobody says is left out.

use crate::prompt::family::{
    ChatSampling, ChatTemplate, Family, FileMark, FilesForm, FilesPlace, Fim, Layout, Order, Signs,
    Training,
};

/// All families. Where signs and names leave several, the first is taken.
pub const FAMILIES: &[Family] = &[
    QWEN2_5_CODER,
    QWEN3_CODER,
    QWEN3,
    CODESTRAL,
    DEVSTRAL,
    DEEPSEEK_CODER,
    DEEPSEEK_CODER_V2,
    CODE_LLAMA,
    CODE_GEMMA,
    STARCODER2,
    STARCODER,
    SANTACODER,
    GRANITE_CODE,
    GRANITE_4,
    MELLUM,
    SEED_CODER,
    STABLE_CODE,
    OPENCODER,
    YI_CODER,
    DEMO,
];

const LLAMA: &[&str] = &["LlamaForCausalLM"];
/// A GGUF file of Mistral's says that it is Llama's.
const MISTRAL: &[&str] = &["MistralForCausalLM", "LlamaForCausalLM"];

const QWEN_TOKENS: &[&str] =
    &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];

const QWEN_FIM: Fim<'static> = Fim {
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

const QWEN2_5_CODER: Family = Family {
    name: "qwen2.5-coder",
    models: "Qwen2.5-Coder 0.5B to 32B, base and Instruct",
    signs: Signs {
        tokens: QWEN_TOKENS,
        architectures: &["Qwen2ForCausalLM"],
        num_ids: None,
        names: &["qwen2.5-coder", "qwen-coder", "codeqwen", "qwen"],
    },
    training: Training::Fim(QWEN_FIM),
    chat_template: ChatTemplate::OfCheckpoint,
    chat_sampling: Some(QWEN_SAMPLING),
    context_tokens: 32_768,
    licence: "Apache-2.0; 3B: Qwen Research",
    is_gated: Some(false),
    source: "model card; arXiv 2409.12186, §3.2",
};

const QWEN3_CODER: Family = Family {
    name: "qwen3-coder",
    models: "Qwen3-Coder-30B-A3B, 480B-A35B (Instruct)",
    signs: Signs {
        architectures: &["Qwen3MoeForCausalLM"],
        names: &["qwen3-coder"],
        ..QWEN2_5_CODER.signs
    },
    context_tokens: 262_144,
    licence: "Apache-2.0",
    source: "README of QwenLM/Qwen3-Coder, which puts the same form into a chat turn",
    ..QWEN2_5_CODER
};

const QWEN3: Family = Family {
    name: "qwen3",
    models: "Qwen3's general models",
    signs: Signs {
        architectures: &["Qwen3ForCausalLM", "Qwen3MoeForCausalLM"],
        names: &["qwen3"],
        ..QWEN2_5_CODER.signs
    },
    training: Training::Without("its cards know of no such training, though the tokens are there"),
    context_tokens: 32_768,
    licence: "Apache-2.0",
    source: "model cards",
    ..QWEN2_5_CODER
};

const CODESTRAL: Family = Family {
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

const DEVSTRAL: Family = Family {
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

const DEEPSEEK_CODER: Family = Family {
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

const DEEPSEEK_CODER_V2: Family = Family {
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

const CODE_LLAMA: Family = Family {
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

const CODE_GEMMA: Family = Family {
    name: "codegemma",
    models: "CodeGemma 2B and 7B",
    signs: Signs {
        tokens: &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>"],
        architectures: &["GemmaForCausalLM"],
        num_ids: None,
        names: &["codegemma"],
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

/// StarCoder's words, which three families share.
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

const STARCODER2: Family = Family {
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

const STARCODER: Family = Family {
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

const SANTACODER: Family = Family {
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

const GRANITE_CODE: Family = Family {
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

const GRANITE_4: Family = Family {
    name: "granite-4",
    models: "Granite 4.0",
    signs: Signs {
        tokens: &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
        architectures: &["GraniteMoeHybridForCausalLM"],
        num_ids: None,
        names: &["granite-4"],
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
    context_tokens: 131_072,
    source: "model card",
    ..GRANITE_CODE
};

const MELLUM: Family = Family {
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

const SEED_CODER: Family = Family {
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

const STABLE_CODE: Family = Family {
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

const OPENCODER: Family = Family {
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

const YI_CODER: Family = Family {
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

/// The embedded demo model: Qwen's sentinels, trained on one file at a time and on suffixes of at most 96 tokens,
/// most of them under 28.
///
/// It is too small for more than a line, so that a line is what it gives where the request says nothing else.
const DEMO: Family = Family {
    name: "lacuna-demo",
    models: "the embedded model",
    signs: Signs { num_ids: Some((8_000, 8_192)), names: &["lacuna-demo"], ..QWEN2_5_CODER.signs },
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
    ..QWEN2_5_CODER
};
