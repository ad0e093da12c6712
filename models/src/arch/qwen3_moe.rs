//! Qwen3's mixtures of experts, Qwen3-Coder-30B-A3B among them: Qwen3 with many small feed-forward parts, of which a token goes
//! through a few.

use serde_json::json;

use crate::{
    arch::{
        gguf::{GgufForm, RMS_EPS, read_gguf},
        qwen3,
    },
    config::{Biases, DecoderSpec, Fields, MixtureSpec, read_mixture},
    error::ConfigError,
    weights::Stored,
};

/// The name in `architectures`.
pub(super) const NAME: &str = "Qwen3MoeForCausalLM";

/// # Source
/// transformers' `Qwen3MoeConfig`; published files write what differs from Qwen3's defaults.
pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let dense = qwen3::translate(fields)?;
    let mixture = read_mixture(fields, dense.num_layers)?;
    Ok(DecoderSpec { architecture: NAME, mixture: Some(mixture), ..dense })
}

/// How GGUF files write it.
///
/// # Source
/// `LLM_ARCH_QWEN3MOE` in llama.cpp's `llama-arch.cpp` and `llama-model.cpp`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "qwen3moe",
    translate: translate_gguf,
    biases: Some(Biases::NONE),
    stored: |_, _| Stored::AsIs,
};

/// Weights are always normed, for the file does not say, and which layers are mixtures is told by the tensors.
fn translate_gguf(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let dense = read_gguf(NAME, fields, RMS_EPS)?;
    let num_experts = fields.count("expert_count")?;
    if num_experts == 0 {
        return Err(fields.invalid("expert_count", "at least 1", &json!(num_experts)));
    }
    let mixture = MixtureSpec {
        num_experts,
        experts_per_token: fields.count("expert_used_count")?,
        expert_size: fields.count("expert_feed_forward_length")?,
        has_normed_weights: true,
        layers: vec![true; dense.windows.len()],
    };
    Ok(DecoderSpec { has_head_norms: true, mixture: Some(mixture), ..dense })
}
