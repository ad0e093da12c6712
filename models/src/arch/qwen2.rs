//! Qwen2 and Qwen2.5, the Coder models among them: biased QKV, grouped queries, gated `SiLU`, head tied in small ones.

use crate::{
    arch::{
        common::{self, Defaults},
        gguf::{GgufForm, RMS_EPS, read_gguf},
    },
    config::{Biases, DecoderSpec, Fields, read_windows},
    error::ConfigError,
    weights::Stored,
};

/// The name in `architectures`.
pub(super) const NAME: &str = "Qwen2ForCausalLM";

/// # Source
/// transformers' `Qwen2Config`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-6, has_tied_head: false, head_dim: None };

/// Queries, keys and values, and nothing else.
const BIASES: Biases = Biases { qkv: true, attention_output: false, ffn: false };

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let common = common::read(NAME, fields, DEFAULTS)?;
    let windows = read_windows(fields, common.num_layers)?;
    Ok(DecoderSpec { biases: BIASES, windows, ..common })
}

/// How GGUF files write it.
///
/// # Source
/// `LLM_ARCH_QWEN2` in llama.cpp's `llama-arch.cpp`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "qwen2",
    translate: |fields| read_gguf(NAME, fields, RMS_EPS),
    biases: Some(BIASES),
    stored: |_, _| Stored::AsIs,
};
