//! The buffers that a step writes, allocated once for the largest step and shared by all layers.

use kernels::{
    backend::{Backend, BackendError},
    lora::{Lora, LoraShape},
    mixture::Mixture,
};

use crate::{config::DecoderSpec, decoder::DecoderLimits};

/// Rows of activations, `max_num_tokens` of them unless said otherwise.
#[derive(Debug)]
pub(super) struct Activations<B: Backend> {
    /// The residual stream: `[num_tokens, hidden_size]`.
    pub(super) hidden: B::Buffer,
    /// What a norm wrote: `[num_tokens, hidden_size]`.
    pub(super) normed: B::Buffer,
    /// Queries, keys and values: `[num_tokens, query_width + 2 * kv_width]`.
    pub(super) qkv: B::Buffer,
    /// What attention wrote: `[num_tokens, query_width]`.
    pub(super) attention: B::Buffer,
    /// The gated elements of a dense feed-forward part: `[num_tokens, ffn_size]`.
    pub(super) ffn: B::Buffer,
    /// Where there are mixtures of experts.
    pub(super) mixture: Option<MixtureRoom<B>>,
    /// Where there are adapters.
    pub(super) lora: Option<LoraRoom<B>>,
    /// Hidden states whose logits are wanted: `[num_logit_rows, hidden_size]`.
    pub(super) gathered: B::Buffer,
    /// `[num_logit_rows, vocab_size]`.
    pub(super) logits: B::Buffer,
}

/// What mixtures of experts need.
#[derive(Debug)]
pub(super) struct MixtureRoom<B: Backend> {
    pub(super) mixture: B::Mixture,
    /// What routers wrote: `[num_tokens, num_experts]`.
    pub(super) logits: B::Buffer,
}

/// What adapters need.
#[derive(Debug)]
pub(super) struct LoraRoom<B: Backend> {
    pub(super) lora: B::Lora,
    /// What gates and ups come to, to be added to before they meet: `[num_tokens, ffn_size]` each, where an adapter adds.
    pub(super) gate: B::Buffer,
    pub(super) up: B::Buffer,
}

impl<B: Backend> LoraRoom<B> {
    fn new(
        backend: &mut B,
        (shape, gate_width): &(LoraShape, usize),
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        let [gate, up] = [(); 2].map(|()| backend.buffer(max_num_tokens * gate_width));
        let (gate, up) = (gate?, up?);
        Ok(Self { lora: B::Lora::new(backend, shape, max_num_tokens)?, gate, up })
    }
}

impl<B: Backend> MixtureRoom<B> {
    fn new(
        backend: &mut B,
        spec: &DecoderSpec,
        max_num_tokens: usize,
    ) -> Result<Option<Self>, BackendError> {
        let Some(mixture) = &spec.mixture else { return Ok(None) };
        let logits = backend.buffer(max_num_tokens * mixture.num_experts)?;
        let shape = mixture.shape(spec.hidden_size);
        let mixture = B::Mixture::new(backend, &shape, max_num_tokens)?;
        Ok(Some(Self { mixture, logits }))
    }
}

impl<B: Backend> Activations<B> {
    pub(super) fn new(
        backend: &mut B,
        spec: &DecoderSpec,
        limits: &DecoderLimits,
        adapters: Option<&(LoraShape, usize)>,
    ) -> Result<Self, BackendError> {
        let mixture = MixtureRoom::new(backend, spec, limits.max_num_tokens)?;
        let lora = match adapters {
            Some(sizes) => Some(LoraRoom::new(backend, sizes, limits.max_num_tokens)?),
            None => None,
        };
        let tokens = |width: usize| backend.buffer(limits.max_num_tokens * width);
        let operands = |width: usize| backend.operand(limits.max_num_tokens * width);
        // A device may pad a step of decodes to as many rows as there can be sequences.
        let num_logit_rows = limits.max_num_logit_rows.max(limits.max_num_seqs);
        let logit_rows = |width: usize| backend.buffer(num_logit_rows * width);
        Ok(Self {
            hidden: tokens(spec.hidden_size)?,
            normed: operands(spec.hidden_size)?,
            qkv: tokens(spec.query_width() + 2 * spec.kv_width())?,
            attention: operands(spec.query_width())?,
            ffn: operands(spec.ffn_size)?,
            mixture,
            lora,
            gathered: logit_rows(spec.hidden_size)?,
            logits: logit_rows(spec.vocab_size)?,
        })
    }
}
