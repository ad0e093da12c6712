//! What the translations of decoders share: sizes, and the names of tensors that most families took from Llama.

use kernels::backend::DType;
use serde_json::json;

use crate::{
    config::{
        Activation, Biases, DecoderSpec, Fields, LAYERS_MAX, MixtureSpec, NormKind, Rope,
        read_activation,
    },
    error::ConfigError,
    weights::{
        DensePlan, FeedForwardPlan, LayerPlan, MixturePlan, NormPlan, TensorSpec, WeightPlan,
    },
};

/// What stands where a configuration is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) norm_eps: f64,
    pub(super) has_tied_head: bool,
    /// `None` divides the hidden size by the heads.
    pub(super) head_dim: Option<usize>,
}

/// Reads a decoder as Llama is: no bias, no window, a norm by the root mean square, a gate by `hidden_act`. Families change
/// what they have otherwise.
pub(super) fn read(
    name: &'static str,
    fields: &Fields<'_>,
    defaults: Defaults,
) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = fields.count("hidden_size")?;
    let num_heads = fields.count("num_attention_heads")?;
    let num_layers = fields.count("num_hidden_layers")?;
    let head_dim = match fields.optional_count("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => derive_head_dim(fields, hidden_size, num_heads)?,
    };
    let rope = Rope::read(fields)?;
    let context = rope.context(fields.count("max_position_embeddings")?);
    let eps = fields.optional_number("rms_norm_eps")?.unwrap_or(defaults.norm_eps);
    let has_tied_head = fields.optional_flag("tie_word_embeddings")?;
    Ok(DecoderSpec {
        architecture: name,
        vocab_size: fields.count("vocab_size")?,
        hidden_size,
        num_layers,
        num_heads,
        num_kv_heads: fields.optional_count("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        ffn_size: fields.count("intermediate_size")?,
        mixture: None,
        norm: NormKind::Rms,
        norm_eps: eps as f32,
        has_head_norms: false,
        biases: Biases::NONE,
        activation: read_activation(fields, "hidden_act", Activation::Silu)?,
        is_gated: true,
        embedding_scale: None,
        rope,
        max_position_embeddings: context,
        has_tied_head: has_tied_head.unwrap_or(defaults.has_tied_head),
        // A spec with too many layers is refused later; it must not cost memory first.
        windows: vec![None; num_layers.min(LAYERS_MAX + 1)],
        dtype: DType::F32,
        eos_token_ids: Vec::new(),
    })
}

fn derive_head_dim(
    fields: &Fields<'_>,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, ConfigError> {
    if num_heads == 0 || !hidden_size.is_multiple_of(num_heads) {
        let rule = format!("a divisor of `hidden_size` ({hidden_size})");
        return Err(fields.invalid("num_attention_heads", &rule, &json!(num_heads)));
    }
    Ok(hidden_size / num_heads)
}

/// Reads `attention_bias`, which is of queries, keys, values and of the way back.
pub(super) fn read_attention_bias(fields: &Fields<'_>) -> Result<Biases, ConfigError> {
    let has_bias = fields.optional_flag("attention_bias")?.unwrap_or(false);
    Ok(Biases { qkv: has_bias, attention_output: has_bias, ffn: false })
}

/// The names of the feed-forward part.
#[derive(Clone, Copy, Debug)]
pub(super) struct FfnNames {
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
}

/// As Llama has them.
pub(super) const FFN_NAMES: FfnNames =
    FfnNames { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

/// Names every tensor as Llama and most others do.
pub(super) fn plan(spec: &DecoderSpec) -> WeightPlan {
    plan_named(spec, FFN_NAMES)
}

/// Names every tensor, those of the feed-forward part by `names`.
pub(super) fn plan_named(spec: &DecoderSpec, names: FfnNames) -> WeightPlan {
    let table = |name: &str| TensorSpec::matrix(name, spec.vocab_size, spec.hidden_size);
    // Early files keep the rotary frequencies, and a tied head is often stored all the same.
    let mut ignored_suffixes = vec![".rotary_emb.inv_freq"];
    if spec.has_tied_head {
        ignored_suffixes.push("lm_head.weight");
    }
    WeightPlan {
        embedding: table("model.embed_tokens.weight"),
        layers: (0..spec.num_layers).map(|layer| plan_layer(spec, layer, names)).collect(),
        final_norm: plan_norm(spec, "model.norm"),
        head: (!spec.has_tied_head).then(|| table("lm_head.weight")),
        ignored_suffixes,
    }
}

fn plan_norm(spec: &DecoderSpec, name: &str) -> NormPlan {
    let vector = |part| TensorSpec::vector(format!("{name}.{part}"), spec.hidden_size);
    NormPlan {
        weight: vector("weight"),
        bias: match spec.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some(vector("bias")),
        },
    }
}

fn plan_layer(spec: &DecoderSpec, layer: usize, names: FfnNames) -> LayerPlan {
    let (hidden, biases) = (spec.hidden_size, spec.biases);
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let matrix =
        |part: &str, rows, cols| TensorSpec::matrix(name(&format!("{part}.weight")), rows, cols);
    let bias = |has_bias: bool, part: &str, len| {
        has_bias.then(|| TensorSpec::vector(name(&format!("{part}.bias")), len))
    };
    let heads = [
        ("self_attn.q_proj", spec.query_width()),
        ("self_attn.k_proj", spec.kv_width()),
        ("self_attn.v_proj", spec.kv_width()),
    ];
    LayerPlan {
        attention_norm: plan_norm(spec, &name("input_layernorm")),
        qkv: heads.iter().map(|(part, width)| matrix(part, *width, hidden)).collect(),
        qkv_bias: biases
            .qkv
            .then(|| heads.iter().filter_map(|(part, width)| bias(true, part, *width)).collect()),
        head_norms: spec.has_head_norms.then(|| {
            ["q_norm", "k_norm"].map(|part| {
                TensorSpec::vector(name(&format!("self_attn.{part}.weight")), spec.head_dim)
            })
        }),
        attention_output: matrix("self_attn.o_proj", hidden, spec.query_width()),
        attention_output_bias: bias(biases.attention_output, "self_attn.o_proj", hidden),
        ffn_norm: plan_norm(spec, &name("post_attention_layernorm")),
        ffn: match spec.mixture_of(layer) {
            Some(mixture) => FeedForwardPlan::Mixture(plan_mixture(spec, mixture, layer)),
            None => FeedForwardPlan::Dense(Box::new(plan_dense(spec, layer, names))),
        },
    }
}

fn plan_dense(spec: &DecoderSpec, layer: usize, names: FfnNames) -> DensePlan {
    let (hidden, ffn, has_bias) = (spec.hidden_size, spec.ffn_size, spec.biases.ffn);
    let matrix = |part: &str, rows, cols| {
        TensorSpec::matrix(format!("model.layers.{layer}.{part}.weight"), rows, cols)
    };
    let bias = |has_bias: bool, part: &str, len| {
        has_bias.then(|| TensorSpec::vector(format!("model.layers.{layer}.{part}.bias"), len))
    };
    DensePlan {
        gate: spec.is_gated.then(|| matrix(names.gate, ffn, hidden)),
        gate_bias: bias(spec.is_gated && has_bias, names.gate, ffn),
        up: matrix(names.up, ffn, hidden),
        up_bias: bias(has_bias, names.up, ffn),
        down: matrix(names.down, hidden, ffn),
        down_bias: bias(has_bias, names.down, hidden),
    }
}

/// Names the tensors of a mixture as Qwen does, each expert's by themselves.
fn plan_mixture(spec: &DecoderSpec, mixture: &MixtureSpec, layer: usize) -> MixturePlan {
    let (hidden, wide) = (spec.hidden_size, mixture.expert_size);
    let name = |part: &str| format!("model.layers.{layer}.mlp.{part}.weight");
    let experts = |part: &str, rows, cols| {
        let expert =
            |index| TensorSpec::matrix(name(&format!("experts.{index}.{part}")), rows, cols);
        (0..mixture.num_experts).map(expert).collect()
    };
    MixturePlan {
        router: TensorSpec::matrix(name("gate"), mixture.num_experts, hidden),
        gates: experts("gate_proj", wide, hidden),
        ups: experts("up_proj", wide, hidden),
        downs: experts("down_proj", hidden, wide),
    }
}
