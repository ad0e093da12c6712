//! What the operators of a layer are given: weights with what belongs to them.

use crate::activation::Activation;

/// How a row is brought to a common size before a product reads it.
#[derive(Debug)]
pub enum Norm<'a, V: ?Sized> {
    /// `x / sqrt(mean(x²) + eps) * weight`
    Rms {
        /// `[width]`
        weight: &'a V,
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`
    Layer {
        /// `[width]`
        weight: &'a V,
        /// `[width]`
        bias: &'a V,
        /// Added to the variance.
        eps: f32,
    },
}

impl<V: ?Sized> Norm<'_, V> {
    /// Returns the operator's name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rms { .. } => "rms_norm",
            Self::Layer { .. } => "layer_norm",
        }
    }

    /// Returns the weight.
    pub(crate) fn weight(&self) -> &V {
        match self {
            Self::Rms { weight, .. } | Self::Layer { weight, .. } => weight,
        }
    }
}

/// Norms of each head's query and key, by their root mean square.
#[derive(Debug)]
pub struct HeadNorms<'a, V: ?Sized> {
    /// Of queries: `[head_dim]`.
    pub query: &'a V,
    /// Of keys: `[head_dim]`.
    pub key: &'a V,
    /// Added to the mean square.
    pub eps: f32,
}

/// A product and its bias: `x Wᵀ + bias`.
#[derive(Debug)]
pub struct Affine<'a, M, V> {
    /// `[rows, cols]`
    pub matrix: &'a M,
    /// `[rows]`
    pub bias: Option<&'a V>,
}

// Not derived: that would ask the same of `M` and `V`.
impl<M, V> Clone for Affine<'_, M, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, V> Copy for Affine<'_, M, V> {}

/// The first half of a feed-forward part: `activation(gate(x)) * up(x)`, or `activation(gate(x))` without `up`.
#[derive(Debug)]
pub struct FeedForward<'a, M, V> {
    /// What is done to the gate.
    pub activation: Activation,
    /// What the function is applied to.
    pub gate: Affine<'a, M, V>,
    /// What that is multiplied with, of the gate's shape.
    pub up: Option<Affine<'a, M, V>>,
}
