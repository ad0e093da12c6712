//! Layers whose feed-forward part is a mixture of experts: how many, how wide, and which layers.

use std::fmt::Display;

use kernels::mixture::MixtureShape;
use serde_json::json;

use crate::{
    config::{CONFIG_FILE, Fields, LAYERS_MAX, WIDTH_MAX},
    error::ConfigError,
};

/// Some 8 times the most experts of a layer of a published decoder.
const EXPERTS_MAX: usize = 1 << 12;
/// Experts of all layers, some 5 times those of the largest published decoder: each has tensors to be planned, which a
/// short `config.json` must not let take gigabytes.
const EXPERTS_IN_ALL_MAX: usize = 1 << 17;

/// The mixtures of a decoder, all of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureSpec {
    /// Experts of a layer.
    pub num_experts: usize,
    /// Those that a token goes through.
    pub experts_per_token: usize,
    /// Width of an expert's feed-forward part.
    pub expert_size: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub has_normed_weights: bool,
    /// For each layer, whether it is a mixture; others are dense.
    pub layers: Vec<bool>,
}

impl MixtureSpec {
    /// Returns what backends must know.
    pub fn shape(&self, hidden_size: usize) -> MixtureShape {
        let Self { num_experts, experts_per_token, expert_size, has_normed_weights, .. } = *self;
        MixtureShape {
            num_experts,
            experts_per_token,
            hidden_size,
            expert_size,
            has_normed_weights,
        }
    }

    /// Checks ranges and the rules between fields.
    pub(super) fn check(&self, num_layers: usize) -> Result<(), ConfigError> {
        for (field, value, max) in [
            ("num_experts", self.num_experts, EXPERTS_MAX),
            ("num_experts_per_tok", self.experts_per_token, self.num_experts),
            ("moe_intermediate_size", self.expert_size, WIDTH_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(invalid(field, format!("from 1 to {max}"), value));
            }
        }
        let in_all = self.num_experts.saturating_mul(num_layers);
        if in_all > EXPERTS_IN_ALL_MAX {
            let rule = format!("at most {EXPERTS_IN_ALL_MAX} in all {num_layers} layers");
            return Err(invalid("num_experts", rule, in_all));
        }
        if self.layers.len() != num_layers {
            let rule = format!("for as many layers as there are ({num_layers})");
            return Err(invalid("mlp_only_layers", rule, self.layers.len()));
        }
        Ok(())
    }
}

fn invalid(field: &str, rule: String, value: impl Display) -> ConfigError {
    let (file, field) = (CONFIG_FILE.to_owned(), field.to_owned());
    ConfigError::Invalid { file, field, rule, value: value.to_string() }
}

/// Reads mixtures as Qwen's `config.json` has them: every `decoder_sparse_step`-th layer is one, but for `mlp_only_layers`.
/// transformers 5 writes `num_local_experts` for `num_experts`.
///
/// # Source
/// transformers' `Qwen3MoeConfig` and `Qwen3MoeDecoderLayer`.
pub(crate) fn read_mixture(
    fields: &Fields<'_>,
    num_layers: usize,
) -> Result<MixtureSpec, ConfigError> {
    let num_experts = match fields.optional_count("num_experts")? {
        Some(num_experts) => num_experts,
        None => fields
            .optional_count("num_local_experts")?
            .ok_or_else(|| fields.missing("num_experts"))?,
    };
    let step = fields.optional_count("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(fields.invalid("decoder_sparse_step", "at least 1", &json!(step)));
    }
    // A spec with too many layers is refused later; it must not cost memory first.
    let layers = (1..=num_layers.min(LAYERS_MAX + 1)).map(|layer| layer.is_multiple_of(step));
    let mut layers: Vec<bool> = layers.collect();
    let field = "mlp_only_layers";
    for value in fields.optional_list(field)?.unwrap_or_default() {
        let layer = value.as_u64().and_then(|layer| layers.get_mut(layer as usize));
        let Some(layer) = layer else {
            let rule = format!("a list of layers below {num_layers}");
            return Err(fields.invalid(field, &rule, value));
        };
        *layer = false;
    }
    Ok(MixtureSpec {
        num_experts,
        experts_per_token: fields.count("num_experts_per_tok")?,
        expert_size: fields.count("moe_intermediate_size")?,
        has_normed_weights: fields.optional_flag("norm_topk_prob")?.unwrap_or(false),
        layers,
    })
}
