//! The feed-forward part of a layer, dense or a mixture of experts, added to the residual stream.

use std::slice::from_ref;

use kernels::{
    backend::{Backend, BackendError},
    mixture::{Experts, Mixture},
    parts::{Affine, FeedForward},
};

use crate::{
    config::{Activation, DecoderSpec},
    decoder::{
        activations::{Activations, LoraRoom, MixtureRoom},
        layer::{Pass, Product},
    },
    error::ModelError,
    weights::{DensePlan, FeedForwardPlan, MixturePlan, TensorSpec, WeightReader},
};

/// The weights of a feed-forward part.
#[derive(Debug)]
pub(super) enum FeedForwardWeights<B: Backend> {
    Dense(Dense<B>),
    Mixture(ExpertWeights<B>),
}

/// One part for all tokens.
#[derive(Debug)]
pub(super) struct Dense<B: Backend> {
    gate: Option<Product<B>>,
    up: Product<B>,
    down: Product<B>,
}

/// What a backend has of all experts of a layer.
type Matrices<B> = <<B as Backend>::Mixture as Mixture<B>>::Experts;

/// A router and its experts.
#[derive(Debug)]
pub(super) struct ExpertWeights<B: Backend> {
    router: B::Matrix,
    gate: Matrices<B>,
    up: Matrices<B>,
    down: Matrices<B>,
}

impl<B: Backend> FeedForwardWeights<B> {
    /// Brings the weights to the device; `room` has that of mixtures where the decoder has any.
    pub(super) fn new(
        backend: &mut B,
        plan: &FeedForwardPlan,
        reader: &mut WeightReader<'_>,
        room: &Activations<B>,
    ) -> Result<Self, ModelError> {
        match plan {
            FeedForwardPlan::Dense(plan) => {
                Dense::new(backend, plan, reader, room).map(Self::Dense)
            }
            FeedForwardPlan::Mixture(plan) => {
                let Some(room) = &room.mixture else {
                    unreachable!("a decoder of mixtures has their room")
                };
                let MixturePlan { router, gates, ups, downs } = plan;
                let router = reader.exact_matrix(backend, from_ref(router))?;
                let mut experts = |tensors| reader.experts(backend, &room.mixture, tensors);
                let (gate, up, down) = (experts(gates)?, experts(ups)?, experts(downs)?);
                Ok(Self::Mixture(ExpertWeights { router, gate, up, down }))
            }
        }
    }

    /// Adds what the part makes of `x.normed` to `x.hidden`.
    pub(super) fn forward(
        &self,
        backend: &mut B,
        pass: &Pass<'_, B>,
        x: &mut Activations<B>,
    ) -> Result<(), BackendError> {
        match self {
            Self::Dense(dense) => dense.forward(backend, pass, x),
            Self::Mixture(experts) => experts.forward(backend, pass, x),
        }
    }
}

impl<B: Backend> Dense<B> {
    fn new(
        backend: &mut B,
        plan: &DensePlan,
        reader: &mut WeightReader<'_>,
        room: &Activations<B>,
    ) -> Result<Self, ModelError> {
        let mut product = |tensor, bias: &Option<TensorSpec>| {
            Product::new(backend, from_ref(tensor), bias.as_ref().map(from_ref), reader, room)
        };
        Ok(Self {
            gate: match &plan.gate {
                Some(gate) => Some(product(gate, &plan.gate_bias)?),
                None => None,
            },
            up: product(&plan.up, &plan.up_bias)?,
            down: product(&plan.down, &plan.down_bias)?,
        })
    }

    fn forward(
        &self,
        backend: &mut B,
        pass: &Pass<'_, B>,
        x: &mut Activations<B>,
    ) -> Result<(), BackendError> {
        // normed [num_tokens, hidden_size] -> ffn [num_tokens, ffn_size]
        let is_adapted =
            self.up.is_adapted() || self.gate.as_ref().is_some_and(Product::is_adapted);
        match &mut x.lora {
            Some(room) if pass.is_adapted && is_adapted => {
                self.adapted(backend, pass, &x.normed, room, &mut x.ffn)?;
            }
            _ => {
                let parts = self.parts(pass.spec);
                backend.feed_forward(pass.num_tokens, &x.normed, parts, &mut x.ffn)?;
            }
        }
        pass.add(backend, &x.ffn, &self.down, &mut x.hidden, x.lora.as_mut())
    }

    /// The wide half with adapters, which add to gates and ups before they meet.
    fn adapted(
        &self,
        backend: &mut B,
        pass: &Pass<'_, B>,
        normed: &B::Buffer,
        room: &mut LoraRoom<B>,
        ffn: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        let LoraRoom { lora, gate, up } = room;
        let mut product = |backend: &mut B, product: &Product<B>, out: &mut B::Buffer| {
            let Affine { matrix, bias } = product.affine();
            backend.linear(pass.num_tokens, normed, matrix, bias, out)?;
            pass.adapt(backend, normed, product, out, Some(lora))
        };
        product(backend, &self.up, up)?;
        let (gate, up) = match &self.gate {
            Some(own) => {
                product(backend, own, gate)?;
                (&*gate, Some(&*up))
            }
            None => (&*up, None),
        };
        let (rows, spec) = (pass.num_tokens, pass.spec);
        backend.activate((rows, spec.ffn_size), spec.activation, gate, up, ffn)
    }

    /// What the function is applied to is the gate where there is one, else what goes up.
    fn parts(&self, spec: &DecoderSpec) -> FeedForward<'_, B::Matrix, B::Vector> {
        let activation = spec.activation;
        let up = self.up.affine();
        match &self.gate {
            Some(gate) => FeedForward { activation, gate: gate.affine(), up: Some(up) },
            None => FeedForward { activation, gate: up, up: None },
        }
    }
}

impl<B: Backend> ExpertWeights<B> {
    fn forward(
        &self,
        backend: &mut B,
        pass: &Pass<'_, B>,
        x: &mut Activations<B>,
    ) -> Result<(), BackendError> {
        let Activations { hidden, normed, mixture, .. } = x;
        let Some(MixtureRoom { mixture, logits }) = mixture else {
            unreachable!("a decoder of mixtures has their room")
        };
        let (rows, width) = (pass.num_tokens, pass.spec.hidden_size);
        // normed [num_tokens, hidden_size] -> logits [num_tokens, num_experts]
        backend.linear(rows, normed, &self.router, None, logits)?;
        mixture.route(backend, pass.step, logits)?;
        let experts = self.experts(pass.spec.activation);
        let Some(member) = pass.member else {
            return mixture.add(backend, normed, &experts, hidden);
        };
        // Each rank has a part of every expert's sum, and rank 0 the residual stream.
        if member.rank() > 0 {
            backend.scale(rows, width, 0.0, hidden)?;
        }
        mixture.add(backend, normed, &experts, hidden)?;
        backend.all_reduce(member, rows, width, hidden)
    }

    fn experts(&self, activation: Activation) -> Experts<'_, Matrices<B>> {
        Experts { activation, gate: &self.gate, up: &self.up, down: &self.down }
    }
}
