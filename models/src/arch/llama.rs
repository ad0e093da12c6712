//! Llama and what is published as it: Code Llama, DeepSeek-Coder, Seed-Coder, Mellum, and Granite's small code models, which
//! have biases.

use crate::{
    arch::{
        common::{self, Defaults, read_attention_bias},
        gguf::{GgufForm, RMS_EPS, read_gguf},
    },
    config::{Biases, DecoderSpec, Fields},
    error::ConfigError,
    weights::Stored,
};

/// The name in `architectures`.
pub(super) const NAME: &str = "LlamaForCausalLM";

/// # Source
/// transformers' `LlamaConfig`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-6, has_tied_head: false, head_dim: None };

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let ffn = fields.optional_flag("mlp_bias")?.unwrap_or(false);
    let biases = Biases { ffn, ..read_attention_bias(fields)? };
    Ok(DecoderSpec { biases, ..common::read(NAME, fields, DEFAULTS)? })
}

/// How GGUF files write it, and Mistral's models too.
///
/// # Source
/// `LLM_ARCH_LLAMA` in llama.cpp's `llama-arch.cpp`; `LlamaModel` in its `convert_hf_to_gguf.py`, which turns the rows of
/// queries and keys so that the two elements that are rotated against each other are neighbours.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "llama",
    translate: |fields| read_gguf(NAME, fields, RMS_EPS),
    biases: None,
    stored: |spec, part| match part {
        "self_attn.q_proj.weight"
        | "self_attn.k_proj.weight"
        | "self_attn.q_proj.bias"
        | "self_attn.k_proj.bias" => Stored::NeighbouringPairs { head_dim: spec.head_dim },
        _ => Stored::AsIs,
    },
};
