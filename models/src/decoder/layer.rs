//! One layer: attention, then the feed-forward part, each added to the residual stream.

use std::slice::from_ref;

use kernels::{
    backend::{Backend, BackendError},
    group::Member,
    lora::Lora,
    parts::{Affine, HeadNorms, Norm},
};

use crate::{
    config::DecoderSpec,
    decoder::{
        activations::{Activations, LoraRoom},
        feed_forward::FeedForwardWeights,
    },
    error::ModelError,
    kv_cache::LayerKvCache,
    weights::{LayerPlan, NormPlan, TensorSpec, WeightReader},
};

/// What all layers of a step share.
#[derive(Debug)]
pub(super) struct Pass<'a, B: Backend> {
    pub(super) spec: &'a DecoderSpec,
    pub(super) member: Option<&'a Member>,
    pub(super) rope: &'a B::RopeTable,
    pub(super) step: &'a B::Step,
    pub(super) num_tokens: usize,
    /// Whether a token has an adapter.
    pub(super) is_adapted: bool,
}

/// A norm's weights on a device.
#[derive(Debug)]
pub(super) struct NormWeights<B: Backend> {
    weight: B::Vector,
    /// Of norms by mean and variance.
    bias: Option<B::Vector>,
}

impl<B: Backend> NormWeights<B> {
    pub(super) fn new(
        backend: &B,
        plan: &NormPlan,
        reader: &mut WeightReader<'_>,
    ) -> Result<Self, ModelError> {
        let weight = reader.vector(backend, from_ref(&plan.weight))?;
        Ok(Self { weight, bias: optional_vector(backend, plan.bias.as_ref(), reader)? })
    }

    pub(super) fn with_eps(&self, eps: f32) -> Norm<'_, B::Vector> {
        let weight = &self.weight;
        match &self.bias {
            None => Norm::Rms { weight, eps },
            Some(bias) => Norm::Layer { weight, bias, eps },
        }
    }
}

/// A product's weights on a device.
#[derive(Debug)]
pub(super) struct Product<B: Backend> {
    matrix: B::Matrix,
    bias: Option<B::Vector>,
    /// What adapters add to it.
    pairs: Option<<B::Lora as Lora<B>>::Pairs>,
}

impl<B: Backend> Product<B> {
    /// Parts are stacked by rows; so are their biases.
    pub(super) fn new(
        backend: &mut B,
        parts: &[TensorSpec],
        bias: Option<&[TensorSpec]>,
        reader: &mut WeightReader<'_>,
        room: &Activations<B>,
    ) -> Result<Self, ModelError> {
        let bias = match bias {
            Some(bias) => Some(reader.vector(backend, bias)?),
            None => None,
        };
        let matrix = reader.matrix(backend, parts)?;
        let pairs = match &room.lora {
            Some(room) => reader.pairs(backend, &room.lora, parts)?,
            None => None,
        };
        Ok(Self { matrix, bias, pairs })
    }

    /// Returns whether adapters add to it.
    pub(super) fn is_adapted(&self) -> bool {
        self.pairs.is_some()
    }

    pub(super) fn affine(&self) -> Affine<'_, B::Matrix, B::Vector> {
        Affine { matrix: &self.matrix, bias: self.bias.as_ref() }
    }
}

fn optional_vector<B: Backend>(
    backend: &B,
    tensor: Option<&TensorSpec>,
    reader: &mut WeightReader<'_>,
) -> Result<Option<B::Vector>, ModelError> {
    tensor.map(|tensor| reader.vector(backend, from_ref(tensor))).transpose()
}

impl<B: Backend> Pass<'_, B> {
    /// Adds to `out`, what `product` made of `x`, what each token's adapter does.
    pub(super) fn adapt(
        &self,
        backend: &mut B,
        x: &B::Buffer,
        product: &Product<B>,
        out: &mut B::Buffer,
        lora: Option<&mut B::Lora>,
    ) -> Result<(), BackendError> {
        match (&product.pairs, lora) {
            (Some(pairs), Some(lora)) if self.is_adapted => lora.add(backend, x, pairs, out),
            _ => Ok(()),
        }
    }

    /// `hidden += x Wᵀ + bias`, over all ranks: each has columns of W and a part of the sum, to which rank 0 adds the residual
    /// stream and the bias. So nothing needs room or a pass over it beside the sum itself, at the cost of a rounding a rank
    /// more.
    pub(super) fn add(
        &self,
        backend: &mut B,
        x: &B::Buffer,
        product: &Product<B>,
        hidden: &mut B::Buffer,
        lora: Option<&mut LoraRoom<B>>,
    ) -> Result<(), BackendError> {
        let rows = self.num_tokens;
        let Affine { matrix, bias } = product.affine();
        if self.member.is_none_or(|member| member.rank() == 0) {
            backend.linear_add(rows, x, matrix, bias, hidden)?;
        } else {
            backend.linear(rows, x, matrix, None, hidden)?;
        }
        // Of an adapter each rank has columns of A, hence a part of what B makes of its sum.
        self.adapt(backend, x, product, hidden, lora.map(|room| &mut room.lora))?;
        match self.member {
            Some(member) => backend.all_reduce(member, rows, self.spec.hidden_size, hidden),
            None => Ok(()),
        }
    }
}

/// The weights and the cache of a layer.
#[derive(Debug)]
pub(super) struct Layer<B: Backend> {
    attention_norm: NormWeights<B>,
    qkv: Product<B>,
    /// Of queries and of keys.
    head_norms: Option<[B::Vector; 2]>,
    cache: LayerKvCache<B>,
    attention_output: Product<B>,
    ffn_norm: NormWeights<B>,
    ffn: FeedForwardWeights<B>,
}

impl<B: Backend> Layer<B> {
    pub(super) fn new(
        backend: &mut B,
        plan: &LayerPlan,
        reader: &mut WeightReader<'_>,
        cache: LayerKvCache<B>,
        room: &Activations<B>,
    ) -> Result<Self, ModelError> {
        let head_norms = match &plan.head_norms {
            None => None,
            Some([query, key]) => Some([
                reader.vector(backend, from_ref(query))?,
                reader.vector(backend, from_ref(key))?,
            ]),
        };
        let attention_norm = NormWeights::new(backend, &plan.attention_norm, reader)?;
        let ffn_norm = NormWeights::new(backend, &plan.ffn_norm, reader)?;
        let qkv = Product::new(backend, &plan.qkv, plan.qkv_bias.as_deref(), reader, room)?;
        let output_bias = plan.attention_output_bias.as_ref().map(from_ref);
        let output = from_ref(&plan.attention_output);
        let output = Product::new(backend, output, output_bias, reader, room)?;
        Ok(Self {
            attention_norm,
            qkv,
            head_norms,
            cache,
            attention_output: output,
            ffn_norm,
            ffn: FeedForwardWeights::new(backend, &plan.ffn, reader, room)?,
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
        backend.norm(rows, &x.hidden, self.attention_norm.with_eps(eps), &mut x.normed)?;
        let Affine { matrix, bias } = self.qkv.affine();
        backend.linear(rows, &x.normed, matrix, bias, &mut x.qkv)?;
        let lora = x.lora.as_mut().map(|room| &mut room.lora);
        pass.adapt(backend, &x.normed, &self.qkv, &mut x.qkv, lora)?;
        if let Some([query, key]) = &self.head_norms {
            backend.head_norm(rows, shape, HeadNorms { query, key, eps }, &mut x.qkv)?;
        }
        backend.rope_and_cache_write(pass.step, shape, pass.rope, &mut x.qkv, slots)?;
        // qkv [num_tokens, qkv_width] -> attention [num_tokens, query_width]
        backend.attention(pass.step, shape, &x.qkv, slots, &mut x.attention)?;
        let output = &self.attention_output;
        pass.add(backend, &x.attention, output, &mut x.hidden, x.lora.as_mut())?;

        backend.norm(rows, &x.hidden, self.ffn_norm.with_eps(eps), &mut x.normed)?;
        self.ffn.forward(backend, pass, x)
    }
}
