//! The rows. A fact is here because its source says so; what nobody says is left out.
//!
//! Each row is whole, for what is true of one family says nothing of another; only forms that are the same are shared.

mod bigcode;
mod deepseek;
mod gemma;
mod granite;
mod mistral;
mod others;
mod qwen;

use crate::prompt::family::Family;

/// All families. Where signs and names leave several, the first is taken.
pub const FAMILIES: &[Family] = &[
    qwen::QWEN2_5_CODER,
    qwen::QWEN2_5,
    qwen::QWEN3_CODER,
    qwen::QWEN3,
    mistral::CODESTRAL,
    mistral::DEVSTRAL,
    deepseek::DEEPSEEK_CODER,
    deepseek::DEEPSEEK_CODER_V2,
    others::CODE_LLAMA,
    gemma::CODE_GEMMA,
    bigcode::STARCODER2,
    bigcode::STARCODER,
    bigcode::SANTACODER,
    granite::GRANITE_CODE,
    granite::GRANITE_4,
    others::MELLUM,
    others::SEED_CODER,
    others::STABLE_CODE,
    others::OPENCODER,
    others::YI_CODER,
    qwen::DEMO,
];

const LLAMA: &[&str] = &["LlamaForCausalLM"];
