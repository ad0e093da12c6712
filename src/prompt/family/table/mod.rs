//! The rows. A fact is here because its source says so; what nobody says is left out.

mod bigcode;
mod own;
mod qwen;

use crate::prompt::family::Family;

/// All families. Where signs and names leave several, the first is taken.
pub const FAMILIES: &[Family] = &[
    qwen::QWEN2_5_CODER,
    qwen::QWEN3_CODER,
    qwen::QWEN3,
    own::CODESTRAL,
    own::DEVSTRAL,
    own::DEEPSEEK_CODER,
    own::DEEPSEEK_CODER_V2,
    own::CODE_LLAMA,
    qwen::CODE_GEMMA,
    bigcode::STARCODER2,
    bigcode::STARCODER,
    bigcode::SANTACODER,
    bigcode::GRANITE_CODE,
    qwen::GRANITE_4,
    bigcode::MELLUM,
    own::SEED_CODER,
    bigcode::STABLE_CODE,
    bigcode::OPENCODER,
    bigcode::YI_CODER,
    qwen::DEMO,
];

const LLAMA: &[&str] = &["LlamaForCausalLM"];
/// A GGUF file of Mistral's says that it is Llama's.
const MISTRAL: &[&str] = &["MistralForCausalLM", "LlamaForCausalLM"];
