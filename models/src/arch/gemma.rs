//! Gemma, of which `CodeGemma` is one: scaled embeddings, norms whose weights are stored less one, a gate by `GELU`, wide
//! heads, a tied head.

use kernels::activation::Activation;
use serde_json::json;

use crate::{
    arch::{
        common::{self, Defaults, read_attention_bias},
        gguf::{GgufForm, RMS_EPS, read_gguf},
    },
    config::{Biases, DecoderSpec, Fields, read_activation},
    error::ConfigError,
    weights::{Stored, WeightPlan},
};

/// The name in `architectures`.
pub(super) const NAME: &str = "GemmaForCausalLM";

/// # Source
/// transformers' `GemmaConfig`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-6, has_tied_head: true, head_dim: Some(256) };

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    if let Some(value) = fields.value("use_bidirectional_attention")
        && *value != json!(false)
    {
        return Err(fields.invalid("use_bidirectional_attention", "false", value));
    }
    let common = common::read(NAME, fields, DEFAULTS)?;
    let biases = read_attention_bias(fields)?;
    let activation = read_gemma_activation(fields)?;
    Ok(DecoderSpec { biases, activation, ..with_scale(common) })
}

/// Published files say "gelu" and mean its tanh form; later ones say what they mean in `hidden_activation`.
///
/// # Source
/// `GemmaConfig` in transformers, which reads the old name as the tanh form.
fn read_gemma_activation(fields: &Fields<'_>) -> Result<Activation, ConfigError> {
    let old = match read_activation(fields, "hidden_act", Activation::GeluTanh)? {
        Activation::GeluErf => Activation::GeluTanh,
        activation @ (Activation::GeluTanh | Activation::Silu) => activation,
    };
    read_activation(fields, "hidden_activation", old)
}

/// Rows of the embedding enter the residual stream times the root of its width.
fn with_scale(common: DecoderSpec) -> DecoderSpec {
    let scale = (common.hidden_size as f64).sqrt() as f32;
    DecoderSpec { embedding_scale: Some(scale), ..common }
}

pub(super) fn plan(spec: &DecoderSpec) -> WeightPlan {
    let mut plan = common::plan(spec);
    for norm in plan.norms_mut() {
        norm.weight.stored = Stored::LessOne;
    }
    plan
}

/// How GGUF files write it, where norms have their one.
///
/// # Source
/// `LLM_ARCH_GEMMA` in llama.cpp's `llama-arch.cpp`; `GemmaModel` in its `convert_hf_to_gguf.py`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "gemma",
    translate: translate_gguf,
    biases: Some(Biases::NONE),
    stored: |_, _| Stored::AsIs,
};

fn translate_gguf(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let common = read_gguf(NAME, fields, RMS_EPS)?;
    Ok(DecoderSpec { activation: Activation::GeluTanh, ..with_scale(common) })
}
