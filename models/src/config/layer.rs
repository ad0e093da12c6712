//! What layers are made of, beside their sizes.

use kernels::activation::Activation;

use crate::{config::Fields, error::ConfigError};

/// How rows are brought to a common size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root mean square, with a weight.
    Rms,
    /// By mean and variance, with a weight and a bias.
    Layer,
}

/// Which products have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// From the heads back to the residual stream.
    pub attention_output: bool,
    /// All of the feed-forward part.
    pub ffn: bool,
}

impl Biases {
    /// On no product.
    pub const NONE: Self = Self { qkv: false, attention_output: false, ffn: false };
}

/// Names of functions in `config.json`. The tanh form has several, of implementations that differ in their rounding.
///
/// # Source
/// `ACT2CLS` in transformers' `activations.py`.
const ACTIVATIONS: [(&str, Activation); 6] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::GeluErf),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
];

/// Reads the function of the feed-forward part.
pub(crate) fn read_activation(
    fields: &Fields<'_>,
    field: &str,
    default: Activation,
) -> Result<Activation, ConfigError> {
    let Some(value) = fields.value(field) else { return Ok(default) };
    let found = ACTIVATIONS.iter().find(|(name, _)| value == name);
    found.map(|(_, activation)| *activation).ok_or_else(|| {
        let names: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
        fields.invalid(field, &format!("one of {}", names.join(", ")), value)
    })
}
