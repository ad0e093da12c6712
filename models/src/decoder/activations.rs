//! The buffers that a step writes, allocated once for the largest step and shared by all layers.

use kernels::backend::{Backend, BackendError};

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
    /// The gated elements of the feed-forward part: `[num_tokens, ffn_size]`.
    pub(super) ffn: B::Buffer,
    /// Hidden states whose logits are wanted: `[num_logit_rows, hidden_size]`.
    pub(super) gathered: B::Buffer,
    /// `[num_logit_rows, vocab_size]`.
    pub(super) logits: B::Buffer,
}

impl<B: Backend> Activations<B> {
    pub(super) fn new(
        backend: &B,
        spec: &DecoderSpec,
        limits: &DecoderLimits,
    ) -> Result<Self, BackendError> {
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
            gathered: logit_rows(spec.hidden_size)?,
            logits: logit_rows(spec.vocab_size)?,
        })
    }
}
