//! The tensors of a feed-forward part: of a dense layer, or of a mixture of experts.

use std::slice;

use kernels::backend::DType;

use crate::{error::ModelError, weights::TensorSpec};

/// The feed-forward part of a layer.
#[derive(Clone, Debug)]
pub enum FeedForwardPlan {
    /// One for all tokens.
    Dense(Box<DensePlan>),
    /// Many, of which a token goes through a few.
    Mixture(MixturePlan),
}

/// The tensors of a dense feed-forward part.
#[derive(Clone, Debug)]
pub struct DensePlan {
    /// What opens and closes each element; `None` where the elements themselves go through the function.
    pub gate: Option<TensorSpec>,
    /// Its bias.
    pub gate_bias: Option<TensorSpec>,
    /// Those elements.
    pub up: TensorSpec,
    /// Their bias.
    pub up_bias: Option<TensorSpec>,
    /// Back to the residual stream.
    pub down: TensorSpec,
    /// Its bias.
    pub down_bias: Option<TensorSpec>,
}

/// The tensors of a mixture, a list having one of each expert.
#[derive(Clone, Debug)]
pub struct MixturePlan {
    /// A row an expert, whose product with a token says how likely the expert is.
    pub router: TensorSpec,
    /// What opens and closes each element.
    pub gates: Vec<TensorSpec>,
    /// Those elements.
    pub ups: Vec<TensorSpec>,
    /// Back to the residual stream.
    pub downs: Vec<TensorSpec>,
}

/// What a matrix is to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Every token meets it.
    Plain,
    /// Every token meets it, and it is kept as exact as it is stored.
    Router,
    /// Tokens that were routed to its expert meet it.
    Expert,
}

impl MixturePlan {
    /// Refuses experts that a GPU has no products for, `found` being the type of a tensor once it is loaded.
    ///
    /// # Errors
    /// [`ModelError::PlainExperts`], [`ModelError::UnlikeExperts`], and those of `found`.
    pub(crate) fn check_on_gpu(
        &self,
        found: impl Fn(&TensorSpec) -> Result<&'static str, ModelError>,
    ) -> Result<(), ModelError> {
        for tensor in self.gates.iter().chain(&self.ups).chain(&self.downs) {
            let (tensor, found) = (&tensor.name, found(tensor)?);
            if [DType::F16, DType::F32].iter().any(|plain| plain.name() == found) {
                return Err(ModelError::PlainExperts { tensor: tensor.clone(), found });
            }
        }
        for (gate, up) in self.gates.iter().zip(&self.ups) {
            let (gate, tensor, up) = (found(gate)?, up.name.clone(), found(up)?);
            if gate != up {
                return Err(ModelError::UnlikeExperts { tensor, gate, up });
            }
        }
        Ok(())
    }
}

impl FeedForwardPlan {
    /// Returns the experts, where there are any.
    pub(crate) fn mixture(&self) -> Option<&MixturePlan> {
        match self {
            Self::Dense(_) => None,
            Self::Mixture(mixture) => Some(mixture),
        }
    }

    /// Returns every matrix, and what it is.
    pub(crate) fn matrices(&self) -> Vec<(&[TensorSpec], Role)> {
        let all = match self {
            Self::Dense(dense) => {
                let all = [dense.gate.as_ref(), Some(&dense.up), Some(&dense.down)];
                all.into_iter().flatten().map(|tensor| (tensor, Role::Plain)).collect()
            }
            Self::Mixture(MixturePlan { router, gates, ups, downs }) => {
                let experts = gates.iter().chain(ups).chain(downs);
                let mut all = vec![(router, Role::Router)];
                all.extend(experts.map(|tensor| (tensor, Role::Expert)));
                all
            }
        };
        all.into_iter().map(|(tensor, role)| (slice::from_ref(tensor), role)).collect()
    }

    /// Returns the matrices that lead back to the residual stream.
    pub(crate) fn downs(&self) -> &[TensorSpec] {
        match self {
            Self::Dense(dense) => slice::from_ref(&dense.down),
            Self::Mixture(mixture) => &mixture.downs,
        }
    }

    /// Returns the matrices, and the biases.
    pub(super) fn tensors(&self) -> [Vec<&TensorSpec>; 2] {
        match self {
            Self::Dense(dense) => {
                let DensePlan { gate, gate_bias, up, up_bias, down, down_bias } = &**dense;
                let biases = [gate_bias, up_bias, down_bias].into_iter().flatten();
                [gate.iter().chain([up, down]).collect(), biases.collect()]
            }
            Self::Mixture(MixturePlan { router, gates, ups, downs }) => {
                let experts = gates.iter().chain(ups).chain(downs);
                [slice::from_ref(router).iter().chain(experts).collect(), Vec::new()]
            }
        }
    }

    /// The same, to be changed.
    pub(super) fn tensors_mut(&mut self) -> [Vec<&mut TensorSpec>; 2] {
        match self {
            Self::Dense(dense) => {
                let DensePlan { gate, gate_bias, up, up_bias, down, down_bias } = &mut **dense;
                let biases = [gate_bias, up_bias, down_bias].into_iter().flatten();
                [gate.iter_mut().chain([up, down]).collect(), biases.collect()]
            }
            Self::Mixture(MixturePlan { router, gates, ups, downs }) => {
                let experts = gates.iter_mut().chain(ups).chain(downs);
                [slice::from_mut(router).iter_mut().chain(experts).collect(), Vec::new()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_takes_experts_whose_gates_and_ups_are_alike_and_not_plain() {
        let matrix = |name: &str| TensorSpec::matrix(name, 4, 4);
        let mixture = MixturePlan {
            router: matrix("router"),
            gates: vec![matrix("gate")],
            ups: vec![matrix("up")],
            downs: vec![matrix("down")],
        };
        let check = |gate, up, down| {
            let found = |tensor: &TensorSpec| match tensor.name.as_str() {
                "gate" => Ok(gate),
                "up" => Ok(up),
                _ => Ok(down),
            };
            mixture.check_on_gpu(found).map_err(|error| error.to_string())
        };
        assert_eq!(check("q4_k", "q4_k", "q6_k"), Ok(()));
        assert_eq!(check("bf16", "bf16", "bf16"), Ok(()));
        let plain = "experts must be bf16 or codes on a GPU, got f32 (`down`)";
        assert!(check("bf16", "bf16", "f32").unwrap_err().starts_with(plain));
        let unlike = "of one type on a GPU, got q4_k and q5_k (`up`)";
        assert!(check("q4_k", "q5_k", "q6_k").unwrap_err().contains(unlike));
    }
}
