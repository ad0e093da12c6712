//! What a decoder is, as a value: everything that the layer loop must know, whichever family it came from.
//!
//! [`DecoderSpec::check`] holds the rules between fields; [`from_json`] reads both spellings of `config.json`
//! (transformers 4 and 5) and ends in it, so a spec that was read is one that can be run.

mod fields;
mod json;
mod layer;
mod mixture;
mod quantization;
mod rope;
mod window;

pub(crate) use fields::Fields;
pub use json::from_json;
pub(crate) use json::read_quantization_config;
pub(crate) use layer::read_activation;
pub use layer::{Biases, NormKind};
pub use mixture::MixtureSpec;
pub(crate) use mixture::read_mixture;
pub(crate) use quantization::{QUANTIZATION_FIELD, Quantization};
pub use rope::{Llama3, Rope, RopeKind, Yarn};
pub(crate) use window::{read_window_of_all, read_windows};

use std::fmt::Display;

pub use kernels::activation::Activation;
use kernels::{
    backend::DType,
    metadata::{AttentionShape, KvDType},
};

use crate::error::ConfigError;

/// The file that most fields come from.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// The file that the end-of-text ids come from.
pub(crate) const GENERATION_FILE: &str = "generation_config.json";

// Upper limits: some 8 times the largest published decoder, so that no product of sizes can overflow 64 bits and a
// mistyped digit is an error of the field instead of a failed allocation.
/// Most ids of a vocabulary, and of a tokenizer.
pub const VOCAB_MAX: usize = 1 << 22;
pub(crate) const WIDTH_MAX: usize = 1 << 18;
pub(crate) const LAYERS_MAX: usize = 1 << 10;
pub(crate) const HEADS_MAX: usize = 1 << 10;
pub(crate) const HEAD_DIM_MAX: usize = 1 << 10;
pub(crate) const POSITIONS_MAX: usize = 1 << 24;

/// A decoder-only transformer: pre-norm, grouped-query attention with rotary positions, one residual stream.
///
/// Fields bear the names of `config.json` where that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Name of the architecture, a row of [`crate::arch::ARCHITECTURES`].
    pub architecture: &'static str,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Query heads of a layer.
    pub num_heads: usize,
    /// Key/value heads of a layer; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Width of the feed-forward part of dense layers.
    pub ffn_size: usize,
    /// Layers that are mixtures of experts; `None` where all are dense.
    pub mixture: Option<MixtureSpec>,
    /// How rows are normed.
    pub norm: NormKind,
    /// Added to the mean square or the variance in a norm.
    pub norm_eps: f32,
    /// Whether each head's query and key are normed before they are rotated.
    pub has_head_norms: bool,
    /// Which products have a bias.
    pub biases: Biases,
    /// The function of the feed-forward part.
    pub activation: Activation,
    /// Whether what the function gives is multiplied with a second product.
    pub is_gated: bool,
    /// Factor on the rows of the embedding, not on those of a tied head; `None` is 1.
    pub embedding_scale: Option<f32>,
    /// How positions are told apart.
    pub rope: Rope,
    /// Longest sequence. Loading may lower it to what was asked for.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub has_tied_head: bool,
    /// For each layer, the number of last positions that a token sees, itself included; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Element type of the stored weights, by the configuration.
    pub dtype: DType,
    /// Tokens that end a text, ascending; empty where the files name none.
    pub eos_token_ids: Vec<u32>,
}

impl DecoderSpec {
    /// Checks ranges and the rules between fields.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the field as `config.json` spells it, and its value.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (field, value, max) in [
            ("vocab_size", self.vocab_size, VOCAB_MAX),
            ("hidden_size", self.hidden_size, WIDTH_MAX),
            ("num_hidden_layers", self.num_layers, LAYERS_MAX),
            ("num_attention_heads", self.num_heads, HEADS_MAX),
            ("num_key_value_heads", self.num_kv_heads, HEADS_MAX),
            ("head_dim", self.head_dim, HEAD_DIM_MAX),
            ("intermediate_size", self.ffn_size, WIDTH_MAX),
            ("max_position_embeddings", self.max_position_embeddings, POSITIONS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(invalid(field, format!("from 1 to {max}"), value));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let rule = format!("a divisor of `num_attention_heads` ({})", self.num_heads);
            return Err(invalid("num_key_value_heads", rule, self.num_kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid("head_dim", "even, its halves being rotated", self.head_dim));
        }
        // The comparisons are written so that NaN fails them.
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            let field = match self.norm {
                NormKind::Rms => "rms_norm_eps",
                NormKind::Layer => "norm_epsilon",
            };
            return Err(invalid(field, "above 0 and below 1", self.norm_eps));
        }
        if !(self.rope.theta >= 1.0 && self.rope.theta.is_finite()) {
            return Err(invalid("rope_theta", "finite and at least 1", self.rope.theta));
        }
        if self.windows.len() != self.num_layers {
            let rule = format!("one entry a layer ({})", self.num_layers);
            return Err(invalid("layer_types", rule, self.windows.len()));
        }
        if let Some(mixture) = &self.mixture {
            mixture.check(self.num_layers)?;
        }
        if self.windows.contains(&Some(0)) {
            return Err(invalid("sliding_window", "at least 1", 0));
        }
        match self.eos_token_ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(id) => {
                let rule = format!("below `vocab_size` ({})", self.vocab_size);
                Err(invalid("eos_token_id", rule, id))
            }
        }
    }

    /// Returns the width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Returns the width of all key heads together, which is that of the value heads.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Returns the mixture of layer `layer_index`; `None` where it is dense.
    ///
    /// # Panics
    /// Where the spec has no such layer.
    pub fn mixture_of(&self, layer_index: usize) -> Option<&MixtureSpec> {
        self.mixture.as_ref().filter(|mixture| mixture.layers[layer_index])
    }

    /// Returns the shape of the attention of layer `layer_index`.
    ///
    /// # Panics
    /// Where the spec has no such layer.
    pub fn attention_shape(
        &self,
        layer_index: usize,
        block_size: usize,
        kv_dtype: KvDType,
    ) -> AttentionShape {
        AttentionShape {
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            block_size,
            kv_dtype,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.windows[layer_index],
        }
    }
}

fn invalid(field: &str, rule: impl Into<String>, value: impl Display) -> ConfigError {
    ConfigError::Invalid {
        file: CONFIG_FILE.to_owned(),
        field: field.to_owned(),
        rule: rule.into(),
        value: value.to_string(),
    }
}
