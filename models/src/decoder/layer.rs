//! One layer: attention, then the feed-forward part, each added to the residual stream.

use std::slice::from_ref;

use kernels::{
    backend::{Backend, BackendError},
    group::Member,
};

use crate::{
    config::DecoderSpec,
    decoder::activations::Activations,
    error::ModelError,
    kv_cache::LayerKvCache,
    weights::{LayerPlan, WeightReader},
};

/// What all layers of a step share.
#[derive(Debug)]
pub(super) struct Pass<'a, B: Backend> {
    pub(super) spec: &'a DecoderSpec,
    pub(super) member: Option<&'a Member>,
    pub(super) rope: &'a B::RopeTable,
    pub(super) step: &'a B::Step,
    pub(super) num_tokens: usize,
}

impl<B: Backend> Pass<'_, B> {
    /// `hidden += x Wᵀ`, over all ranks: each has columns of W and a part of the sum, to which rank 0 adds the residual
    /// stream. So nothing needs room or a pass over it beside the sum itself, at the cost of a rounding a rank more.
    fn add(
        &self,
        backend: &mut B,
        x: &B::Buffer,
        matrix: &B::Matrix,
        hidden: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        let rows = self.num_tokens;
        let Some(member) = self.member else {
            return backend.linear_add(rows, x, matrix, hidden);
        };
        if member.rank() == 0 {
            backend.linear_add(rows, x, matrix, hidden)?;
        } else {
            backend.linear(rows, x, matrix, None, hidden)?;
        }
        backend.all_reduce(member, rows, self.spec.hidden_size, hidden)
    }
}

/// The weights and the cache of a layer.
#[derive(Debug)]
pub(super) struct Layer<B: Backend> {
    attention_norm: B::Vector,
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    cache: LayerKvCache<B>,
    attention_output: B::Matrix,
    ffn_norm: B::Vector,
    gate: B::Matrix,
    up: B::Matrix,
    down: B::Matrix,
}

impl<B: Backend> Layer<B> {
    pub(super) fn new(
        backend: &mut B,
        plan: &LayerPlan,
        reader: &mut WeightReader<'_>,
        cache: LayerKvCache<B>,
    ) -> Result<Self, ModelError> {
        let qkv_bias = match &plan.qkv_bias {
            Some(bias) => Some(reader.vector(backend, bias)?),
            None => None,
        };
        Ok(Self {
            attention_norm: reader.vector(backend, from_ref(&plan.attention_norm))?,
            qkv: reader.matrix(backend, &plan.qkv)?,
            qkv_bias,
            cache,
            attention_output: reader.matrix(backend, from_ref(&plan.attention_output))?,
            ffn_norm: reader.vector(backend, from_ref(&plan.ffn_norm))?,
            gate: reader.matrix(backend, from_ref(&plan.gate))?,
            up: reader.matrix(backend, from_ref(&plan.up))?,
            down: reader.matrix(backend, from_ref(&plan.down))?,
        })
    }

    /// Adds this layer to `x.hidden`.
    pub(super) fn forward(
        &mut self,
        backend: &mut B,
        pass: &Pass<'_, B>,
        x: &mut Activations<B>,
    ) -> Result<(), BackendError> {
        let (rows, eps) = (pass.num_tokens, pass.spec.norm_eps);
        let LayerKvCache { shape, slots } = &mut self.cache;
        // hidden [num_tokens, hidden_size] -> qkv [num_tokens, qkv_width]
        backend.rms_norm(rows, &x.hidden, &self.attention_norm, eps, &mut x.normed)?;
        backend.linear(rows, &x.normed, &self.qkv, self.qkv_bias.as_ref(), &mut x.qkv)?;
        backend.rope_and_cache_write(pass.step, shape, pass.rope, &mut x.qkv, slots)?;
        // qkv [num_tokens, qkv_width] -> attention [num_tokens, query_width]
        backend.attention(pass.step, shape, &x.qkv, slots, &mut x.attention)?;
        pass.add(backend, &x.attention, &self.attention_output, &mut x.hidden)?;

        // hidden [num_tokens, hidden_size] -> ffn [num_tokens, ffn_size]
        backend.rms_norm(rows, &x.hidden, &self.ffn_norm, eps, &mut x.normed)?;
        backend.linear_silu_mul(rows, &x.normed, (&self.gate, &self.up), &mut x.ffn)?;
        pass.add(backend, &x.ffn, &self.down, &mut x.hidden)
    }
}
