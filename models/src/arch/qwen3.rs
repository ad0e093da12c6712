//! Qwen3's dense models: as Qwen2, with normed queries and keys in place of biases.

use crate::{
    arch::{
        common::{self, Defaults, read_attention_bias},
        gguf::{GgufForm, RMS_EPS, read_gguf},
    },
    config::{Biases, DecoderSpec, Fields, read_windows},
    error::ConfigError,
    weights::Stored,
};

/// The name in `architectures`.
pub(super) const NAME: &str = "Qwen3ForCausalLM";

/// # Source
/// transformers' `Qwen3Config`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-6, has_tied_head: false, head_dim: Some(128) };

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let common = common::read(NAME, fields, DEFAULTS)?;
    let windows = read_windows(fields, common.num_layers)?;
    let biases = read_attention_bias(fields)?;
    Ok(DecoderSpec { has_head_norms: true, biases, windows, ..common })
}

/// How GGUF files write it.
///
/// # Source
/// `LLM_ARCH_QWEN3` in llama.cpp's `llama-arch.cpp`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "qwen3",
    translate: translate_gguf,
    biases: Some(Biases::NONE),
    stored: |_, _| Stored::AsIs,
};

fn translate_gguf(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    Ok(DecoderSpec { has_head_norms: true, ..read_gguf(NAME, fields, RMS_EPS)? })
}
