//! Qwen2 and Qwen2.5, the Coder models among them: biased QKV, grouped queries, gated `SiLU`, head tied in small ones.

use kernels::backend::DType;
use serde_json::json;

use crate::{
    arch::gguf::{COMMON_FIELDS, COMMON_TENSORS, GgufForm},
    config::{DecoderSpec, Fields, LAYERS_MAX, Rope, read_windows},
    error::ConfigError,
    weights::{LayerPlan, TensorSpec, WeightPlan},
};

/// The name in `architectures`.
pub(super) const NAME: &str = "Qwen2ForCausalLM";

/// The default of `rms_norm_eps` in transformers' `Qwen2Config`.
const NORM_EPS_DEFAULT: f64 = 1e-6;

pub(super) fn translate(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    match fields.value("hidden_act") {
        Some(value) if *value != json!("silu") => {
            return Err(fields.invalid("hidden_act", "\"silu\"", value));
        }
        _ => {}
    }
    let hidden_size = fields.count("hidden_size")?;
    let num_heads = fields.count("num_attention_heads")?;
    let num_layers = fields.count("num_hidden_layers")?;
    let head_dim = match fields.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None => derive_head_dim(fields, hidden_size, num_heads)?,
    };
    Ok(DecoderSpec {
        architecture: NAME,
        vocab_size: fields.count("vocab_size")?,
        hidden_size,
        num_layers,
        num_heads,
        num_kv_heads: fields.optional_count("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        ffn_size: fields.count("intermediate_size")?,
        norm_eps: fields.optional_number("rms_norm_eps")?.unwrap_or(NORM_EPS_DEFAULT) as f32,
        rope: Rope::read(fields)?,
        max_position_embeddings: fields.count("max_position_embeddings")?,
        has_tied_head: fields.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        has_qkv_bias: true,
        windows: read_windows(fields, num_layers)?,
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

pub(super) fn plan(spec: &DecoderSpec) -> WeightPlan {
    let table = |name: &str| TensorSpec::matrix(name, spec.vocab_size, spec.hidden_size);
    // Early files keep the rotary frequencies, and a tied head is often stored all the same.
    let mut ignored_suffixes = vec![".rotary_emb.inv_freq"];
    if spec.has_tied_head {
        ignored_suffixes.push("lm_head.weight");
    }
    WeightPlan {
        embedding: table("model.embed_tokens.weight"),
        layers: (0..spec.num_layers).map(|layer| plan_layer(spec, layer)).collect(),
        final_norm: TensorSpec::vector("model.norm.weight", spec.hidden_size),
        head: (!spec.has_tied_head).then(|| table("lm_head.weight")),
        ignored_suffixes,
    }
}

fn plan_layer(spec: &DecoderSpec, layer: usize) -> LayerPlan {
    let (hidden, ffn) = (spec.hidden_size, spec.ffn_size);
    let name = |part: &str| format!("model.layers.{layer}.{part}");
    let matrix = |part, rows, cols| TensorSpec::matrix(name(part), rows, cols);
    let vector = |part, len| TensorSpec::vector(name(part), len);
    LayerPlan {
        attention_norm: vector("input_layernorm.weight", hidden),
        qkv: vec![
            matrix("self_attn.q_proj.weight", spec.query_width(), hidden),
            matrix("self_attn.k_proj.weight", spec.kv_width(), hidden),
            matrix("self_attn.v_proj.weight", spec.kv_width(), hidden),
        ],
        qkv_bias: spec.has_qkv_bias.then(|| {
            vec![
                vector("self_attn.q_proj.bias", spec.query_width()),
                vector("self_attn.k_proj.bias", spec.kv_width()),
                vector("self_attn.v_proj.bias", spec.kv_width()),
            ]
        }),
        attention_output: matrix("self_attn.o_proj.weight", hidden, spec.query_width()),
        ffn_norm: vector("post_attention_layernorm.weight", hidden),
        gate: matrix("mlp.gate_proj.weight", ffn, hidden),
        up: matrix("mlp.up_proj.weight", ffn, hidden),
        down: matrix("mlp.down_proj.weight", hidden, ffn),
    }
}

/// How GGUF files write it.
///
/// # Source
/// `LLM_ARCH_QWEN2` in llama.cpp's `llama-arch.cpp`.
pub(super) const GGUF: GgufForm = GgufForm {
    name: "qwen2",
    translate: translate_gguf,
    fields: COMMON_FIELDS,
    embedding: "token_embd.weight",
    head: "output.weight",
    tensors: COMMON_TENSORS,
    layer_tensors: &[
        ("input_layernorm.weight", "attn_norm.weight"),
        ("self_attn.q_proj.weight", "attn_q.weight"),
        ("self_attn.k_proj.weight", "attn_k.weight"),
        ("self_attn.v_proj.weight", "attn_v.weight"),
        ("self_attn.q_proj.bias", "attn_q.bias"),
        ("self_attn.k_proj.bias", "attn_k.bias"),
        ("self_attn.v_proj.bias", "attn_v.bias"),
        ("self_attn.o_proj.weight", "attn_output.weight"),
        ("post_attention_layernorm.weight", "ffn_norm.weight"),
        ("mlp.gate_proj.weight", "ffn_gate.weight"),
        ("mlp.up_proj.weight", "ffn_up.weight"),
        ("mlp.down_proj.weight", "ffn_down.weight"),
    ],
    ignored_suffixes: &[],
};

fn translate_gguf(fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = fields.count("embedding_length")?;
    let num_heads = fields.count("attention.head_count")?;
    let num_layers = fields.count("block_count")?;
    let context = fields.count("context_length")?;
    let head_dim = match fields.optional_count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let rule = format!("a divisor of `qwen2.embedding_length` ({hidden_size})");
            return Err(fields.invalid("attention.head_count", &rule, &json!(num_heads)));
        }
    };
    // Values and rotations of another width would need another attention.
    for field in ["attention.value_length", "rope.dimension_count"] {
        let found = fields.optional_count(field)?.unwrap_or(head_dim);
        if found != head_dim {
            return Err(fields.invalid(
                field,
                &format!("the head's width ({head_dim})"),
                &json!(found),
            ));
        }
    }
    // A window as wide as the context hides nothing.
    if let Some(window) = fields.optional_count("attention.sliding_window")?
        && window < context
    {
        let rule =
            format!("at least `qwen2.context_length` ({context}), windows being unsupported");
        return Err(fields.invalid("attention.sliding_window", &rule, &json!(window)));
    }
    Ok(DecoderSpec {
        architecture: NAME,
        // Told by the table of tensors.
        vocab_size: 0,
        has_tied_head: true,
        dtype: DType::F32,
        hidden_size,
        num_layers,
        num_heads,
        num_kv_heads: fields.optional_count("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        ffn_size: fields.count("feed_forward_length")?,
        norm_eps: fields.number("attention.layer_norm_rms_epsilon")? as f32,
        rope: Rope::read_gguf(fields)?,
        max_position_embeddings: context,
        has_qkv_bias: true,
        // A spec with too many layers is refused later; it must not cost memory first.
        windows: vec![None; num_layers.min(LAYERS_MAX + 1)],
        eos_token_ids: Vec::new(),
    })
}
