//! An architecture's second row: how a GGUF file writes its sizes and names its tensors.

use crate::{config::DecoderSpec, config::Fields, error::ConfigError, weights::WeightPlan};

/// What stands beside an [`Architecture`](crate::arch::Architecture) that is published as GGUF too.
#[derive(Debug)]
pub(crate) struct GgufForm {
    /// As `general.architecture` has it; the keys of its sizes begin so.
    pub(crate) name: &'static str,
    /// Reads the sizes. What the tensors tell (vocabulary, a tied head, dtype) is filled in behind it, and the
    /// end-of-text ids are common to all.
    pub(crate) translate: fn(&Fields<'_>) -> Result<DecoderSpec, ConfigError>,
    /// Fields of a spec, as `config.json` names them, with their keys: for errors about two of them.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// The embedding.
    pub(crate) embedding: &'static str,
    /// The head; a file without it ties the head to the embedding.
    pub(crate) head: &'static str,
    /// Tensors outside of the layers, by the names of the plan.
    pub(crate) tensors: &'static [(&'static str, &'static str)],
    /// Tensors of a layer, as they follow `model.layers.N.` in the plan and `blk.N.` in the file.
    pub(crate) layer_tensors: &'static [(&'static str, &'static str)],
    /// Endings of the names of tensors that may be stored and have no use.
    pub(crate) ignored_suffixes: &'static [&'static str],
}

/// Keys that all decoders share.
pub(super) const COMMON_FIELDS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
];

/// Names outside of the layers that all decoders share.
pub(super) const COMMON_TENSORS: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

impl GgufForm {
    /// Gives every tensor of the plan the name that the file has for it. One that the row lacks keeps its own, and is
    /// then missing from the file; a test compares row and plan.
    pub(crate) fn rename(&self, plan: &mut WeightPlan) {
        for tensor in plan.tensors_mut() {
            if let Some(name) = self.name_of(&tensor.name) {
                tensor.name = name;
            }
        }
        plan.ignored_suffixes = self.ignored_suffixes.to_vec();
    }

    fn name_of(&self, name: &str) -> Option<String> {
        let find = |rows: &[(&str, &'static str)], wanted: &str| {
            rows.iter().find(|row| row.0 == wanted).map(|row| row.1)
        };
        if let Some(name) = find(self.tensors, name) {
            return Some(name.to_owned());
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        find(self.layer_tensors, part).map(|part| format!("blk.{layer}.{part}"))
    }
}
