//! An architecture's second row: how a GGUF file writes its sizes and names its tensors.

use kernels::backend::DType;
use serde_json::json;

use crate::{
    config::{Activation, Biases, DecoderSpec, Fields, LAYERS_MAX, NormKind, Rope},
    error::ConfigError,
    weights::{Stack, Stored, WeightPlan},
};

/// What stands beside an [`Architecture`](crate::arch::Architecture) that is published as GGUF too.
#[derive(Debug)]
pub(crate) struct GgufForm {
    /// As `general.architecture` has it; the keys of its sizes begin so.
    pub(crate) name: &'static str,
    /// Reads the sizes. What the tensors tell (vocabulary, a tied head, dtype) is filled in behind it, and the
    /// end-of-text ids are common to all.
    pub(crate) translate: fn(&Fields<'_>) -> Result<DecoderSpec, ConfigError>,
    /// Which biases there are; `None` where the tensors tell.
    pub(crate) biases: Option<Biases>,
    /// How a tensor of a layer is stored, by its name as above; those outside of the layers are stored as they are.
    pub(crate) stored: fn(&DecoderSpec, &str) -> Stored,
}

/// What a norm by the root mean square adds.
pub(super) const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";

/// The embedding.
pub(crate) const EMBEDDING: &str = "token_embd.weight";

/// The head; a file without it ties the head to the embedding.
pub(crate) const HEAD: &str = "output.weight";

/// A layer's router; a layer without it is dense.
const ROUTER: &str = "ffn_gate_inp.weight";

/// Returns the name of a layer's router.
pub(crate) fn router_of(layer: usize) -> String {
    format!("blk.{layer}.{ROUTER}")
}

/// Fields of a spec, as `config.json` names them, with their keys: for errors about two of them.
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", RMS_EPS),
    ("norm_epsilon", "attention.layer_norm_epsilon"),
    ("rope_theta", "rope.freq_base"),
];

/// Tensors outside of the layers, by the names of the plan.
const TENSORS: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", EMBEDDING),
    ("model.norm.weight", "output_norm.weight"),
    ("model.norm.bias", "output_norm.bias"),
    ("lm_head.weight", HEAD),
];

/// Tensors of a layer, as they follow `model.layers.N.` in the plan and `blk.N.` in the file: all that any decoder has.
const LAYER_TENSORS: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("input_layernorm.bias", "attn_norm.bias"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("post_attention_layernorm.bias", "ffn_norm.bias"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.gate_proj.bias", "ffn_gate.bias"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.up_proj.bias", "ffn_up.bias"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("mlp.down_proj.bias", "ffn_down.bias"),
    ("mlp.gate.weight", ROUTER),
    ("mlp.c_fc.weight", "ffn_up.weight"),
    ("mlp.c_fc.bias", "ffn_up.bias"),
    ("mlp.c_proj.weight", "ffn_down.weight"),
    ("mlp.c_proj.bias", "ffn_down.bias"),
];

/// Tensors of experts, as they follow `model.layers.N.mlp.experts.E.` in the plan; the file stacks those of all experts.
const EXPERT_TENSORS: &[(&str, &str)] = &[
    ("gate_proj.weight", "ffn_gate_exps.weight"),
    ("up_proj.weight", "ffn_up_exps.weight"),
    ("down_proj.weight", "ffn_down_exps.weight"),
];

/// Reads the sizes of a decoder as Llama is; families change what they have otherwise. `eps` is the key of what norms add.
pub(super) fn read_gguf(
    name: &'static str,
    fields: &Fields<'_>,
    eps: &str,
) -> Result<DecoderSpec, ConfigError> {
    let hidden_size = fields.count("embedding_length")?;
    let num_heads = fields.count("attention.head_count")?;
    let num_layers = fields.count("block_count")?;
    let context = fields.count("context_length")?;
    let head_dim = read_head_dim(fields, hidden_size, num_heads)?;
    // A window as wide as the context hides nothing.
    if let Some(window) = fields.optional_count("attention.sliding_window")?
        && window < context
    {
        let key = fields.path("context_length");
        let rule =
            format!("at least `{key}` ({context}), for windows are not read from GGUF files");
        return Err(fields.invalid("attention.sliding_window", &rule, &json!(window)));
    }
    Ok(DecoderSpec {
        architecture: name,
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
        mixture: None,
        norm: NormKind::Rms,
        norm_eps: fields.number(eps)? as f32,
        has_head_norms: false,
        biases: Biases::NONE,
        activation: Activation::Silu,
        is_gated: true,
        embedding_scale: None,
        rope: Rope::read_gguf(fields)?,
        max_position_embeddings: context,
        // A spec with too many layers is refused later; it must not cost memory first.
        windows: vec![None; num_layers.min(LAYERS_MAX + 1)],
        eos_token_ids: Vec::new(),
    })
}

fn read_head_dim(
    fields: &Fields<'_>,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, ConfigError> {
    let head_dim = match fields.optional_count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            let key = fields.path("embedding_length");
            let rule = format!("a divisor of `{key}` ({hidden_size})");
            return Err(fields.invalid("attention.head_count", &rule, &json!(num_heads)));
        }
    };
    // Values and rotations of another width would need another attention.
    for field in ["attention.value_length", "rope.dimension_count"] {
        let found = fields.optional_count(field)?.unwrap_or(head_dim);
        if found != head_dim {
            let rule = format!("the head's width ({head_dim})");
            return Err(fields.invalid(field, &rule, &json!(found)));
        }
    }
    Ok(head_dim)
}

impl GgufForm {
    /// Gives every tensor of the plan the name that the file has for it. One that the row lacks keeps its own, and is
    /// then missing from the file; a test compares row and plan.
    pub(crate) fn rename(&self, spec: &DecoderSpec, plan: &mut WeightPlan) {
        for tensor in plan.tensors_mut() {
            tensor.stored =
                part_of(&tensor.name).map_or(Stored::AsIs, |(_, part)| (self.stored)(spec, part));
            if let Some((name, index)) = stack_of(&tensor.name) {
                let len = spec.mixture.as_ref().map_or(0, |mixture| mixture.num_experts);
                (tensor.name, tensor.stack) = (name, Some(Stack { index, len }));
            } else if let Some(name) = name_of(&tensor.name) {
                tensor.name = name;
            }
        }
        plan.ignored_suffixes.clear();
    }
}

/// Returns the name that files have for a tensor of the plan.
fn name_of(name: &str) -> Option<String> {
    if let Some(name) = find(TENSORS, name) {
        return Some(name.to_owned());
    }
    let (layer, part) = part_of(name)?;
    find(LAYER_TENSORS, part).map(|part| format!("blk.{layer}.{part}"))
}

/// Returns the name that files have for the stack in which an expert's tensor of the plan is, and its place there.
fn stack_of(name: &str) -> Option<(String, usize)> {
    let (layer, part) = part_of(name)?;
    let (expert, part) = part.strip_prefix("mlp.experts.")?.split_once('.')?;
    let stack = find(EXPERT_TENSORS, part)?;
    Some((format!("blk.{layer}.{stack}"), expert.parse().ok()?))
}

fn find(rows: &[(&str, &'static str)], wanted: &str) -> Option<&'static str> {
    rows.iter().find(|row| row.0 == wanted).map(|row| row.1)
}

/// Splits the name of a layer's tensor into the layer's number and the rest.
fn part_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("model.layers.")?.split_once('.')
}
