//! `StarCoder2`: norms by mean and variance, a bias on every product, a feed-forward part without a gate, a window.

use kernels::activation::Activation;

use crate::{
    arch::{
        common::{self, Defaults, FFN_NAMES, FfnNames},
        gguf::{GgufForm, read_gguf},
    },
    config::{Biases, DecoderSpec, Fields, NormKind, read_activation, read_window_of_all},
    error::ConfigError,
    weights::{Stored, WeightPlan},
};

/// The name in `architectures`.
pub(super) const NAME: &str = "Starcoder2ForCausalLM";

/// # Source
/// transformers' `Starcoder2Config`.
const DEFAULTS: Defaults = Defaults { norm_eps: 1e-5, has_tied_head: true, head_dim: None };

/// The window of all published models. GGUF files do not say it.
///
/// # Source
/// `sliding_window` in the `config.json` of starcoder2-3b, -7b and -15b.
const WINDOW_PUBLISHED: usize = 4096;

const BIASES: Biases = Biases { qkv: true, attention_output: true, ffn: true };

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    for (field, supported) in [("norm_type", "layer_norm"), ("mlp_type", "default")] {
        if let Some(value) = fields.value(field)
            && value != supported
        {
            return Err(fields.invalid(field, &format!("\"{supported}\""), value));
        }
    }
    let common = common::read(NAME, fields, DEFAULTS)?;
    let has_bias = fields.optional_flag("use_bias")?.unwrap_or(true);
    let eps = fields.optional_number("norm_epsilon")?.unwrap_or(DEFAULTS.norm_eps);
    Ok(DecoderSpec {
        norm: NormKind::Layer,
        norm_eps: eps as f32,
        biases: if has_bias { BIASES } else { Biases::NONE },
        activation: read_activation(fields, "hidden_act", Activation::GeluTanh)?,
        is_gated: false,
        windows: read_window_of_all(fields, common.num_layers, None)?,
        ..common
    })
}

pub(super) fn plan(spec: &DecoderSpec) -> WeightPlan {
    common::plan_named(spec, FfnNames { up: "mlp.c_fc", down: "mlp.c_proj", ..FFN_NAMES })
}

/// How GGUF files write it.
///
/// # Source
/// `LLM_ARCH_STARCODER2` in llama.cpp's `llama-arch.cpp`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "starcoder2",
    translate: translate_gguf,
    biases: Some(BIASES),
    stored: |_, _| Stored::AsIs,
};

fn translate_gguf(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let common = read_gguf(NAME, fields, "attention.layer_norm_epsilon")?;
    Ok(DecoderSpec {
        norm: NormKind::Layer,
        activation: Activation::GeluTanh,
        is_gated: false,
        windows: vec![Some(WINDOW_PUBLISHED); common.windows.len()],
        ..common
    })
}
