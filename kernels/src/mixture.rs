//! Mixtures of experts: a router gives each token a few of many feed-forward parts, whose results are weighed and added.
//!
//! A [`Mixture`] is a backend's room for that and its operators, one for all layers: what one layer routes is forgotten when
//! the next does. Which expert computes which tokens is found on the device, so that a step asks for the same whatever its
//! tokens are.

use std::fmt::Debug;

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, MatrixData, WeightFormat};
use crate::checks::Check;

/// The sizes that the mixtures of a model share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixtureShape {
    /// Feed-forward parts of a layer.
    pub num_experts: usize,
    /// Those that a token goes through.
    pub experts_per_token: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of an expert.
    pub expert_size: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub has_normed_weights: bool,
}

/// The experts of a layer: each computes `down(activation(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct Experts<'a, E> {
    /// What is done to the gate.
    pub activation: Activation,
    /// `[num_experts, expert_size, hidden_size]`
    pub gate: &'a E,
    /// `[num_experts, expert_size, hidden_size]`
    pub up: &'a E,
    /// `[num_experts, hidden_size, expert_size]`
    pub down: &'a E,
}

/// A backend's operators of mixtures, and the room that they need beside their buffers.
pub trait Mixture<B: Backend>: Send + Debug + Sized {
    /// One matrix of every expert of a layer.
    type Experts: Send + Debug;

    /// Allocates room for steps of at most so many tokens.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the shape cannot be computed; [`BackendError::OutOfMemory`].
    fn new(
        backend: &mut B,
        shape: &MixtureShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError>;

    /// Stores a matrix of each expert, all of one shape and type. To be called before [`Backend::reserve`].
    ///
    /// # Errors
    /// As [`Backend::matrix`]; [`BackendError::Shape`] also where the matrices differ or their type is not computed here.
    fn experts(
        &self,
        backend: &mut B,
        matrices: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self::Experts, BackendError>;

    /// As [`Backend::is_finite`], of all experts.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn are_finite(backend: &mut B, experts: &Self::Experts) -> Result<bool, BackendError>;

    /// Chooses each token's experts and their weights: the greatest of `logits`, `[num_tokens, num_experts]`, the lower id of
    /// equals, weighed by the softmax over all. A token with a logit that is no number has weights that are none.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn route(
        &mut self,
        backend: &mut B,
        step: &B::Step,
        logits: &B::Buffer,
    ) -> Result<(), BackendError>;

    /// `residual += Σ weight * expert(x)` over each token's experts as they were routed last; `x` and `residual`
    /// `[num_tokens, hidden_size]`. The order in which a token's experts are added up is its own, whoever shares the step;
    /// the products within an expert are as a backend's other products, whose last bits may change with the step's size.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn add(
        &mut self,
        backend: &mut B,
        x: &B::Buffer,
        experts: &Experts<'_, Self::Experts>,
        residual: &mut B::Buffer,
    ) -> Result<(), BackendError>;
}

impl MixtureShape {
    /// Returns the rows that the experts compute for so many tokens.
    pub(crate) fn num_pairs(&self, num_tokens: usize) -> usize {
        num_tokens.saturating_mul(self.experts_per_token)
    }

    /// Each token must have experts, and no more than there are.
    pub(crate) fn check(&self) -> Result<(), BackendError> {
        let check = Check("mixture");
        if self.experts_per_token == 0 {
            return check.refuse("`experts_per_token` must be at least 1, got 0".to_owned());
        }
        check.at_most("`experts_per_token`", self.experts_per_token, self.num_experts)
    }

    /// A matrix of each expert must be there, each of the first's shape, which is a gate's or a way back's, and type.
    pub(crate) fn check_matrices(&self, matrices: &[MatrixData<'_>]) -> Result<(), BackendError> {
        let check = Check("experts");
        check.equal("matrices", matrices.len(), self.num_experts)?;
        let (wide, narrow) = (self.expert_size, self.hidden_size);
        let first = &matrices[0];
        if ![(wide, narrow), (narrow, wide)].contains(&(first.rows, first.cols)) {
            let (rows, cols) = (first.rows, first.cols);
            return check.refuse(format!(
                "matrices must be [{wide}, {narrow}] or [{narrow}, {wide}], got [{rows}, {cols}]"
            ));
        }
        for matrix in matrices {
            check.equal("rows of each expert", matrix.rows, first.rows)?;
            check.equal("columns of each expert", matrix.cols, first.cols)?;
            if matrix.dtype != first.dtype {
                let (found, expected) = (matrix.dtype.name(), first.dtype.name());
                return check.refuse(format!(
                    "the experts of a layer must be of one type, got {found} beside {expected}"
                ));
            }
        }
        Ok(())
    }
}
