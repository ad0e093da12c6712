//! The geometry of one step: which tokens of which sequences are computed, and where their keys and values live.

/// With this bit, a token id names a row of the tokens that the device sampled in the step before. So a step can be asked
/// for before the host knows what the last one gave.
pub const LAST_SAMPLED: u32 = 1 << 31;

/// The flat arrays that describe one step over a ragged batch, borrowed from the caller.
///
/// A sequence contributes `cu_seqlens_q[i + 1] - cu_seqlens_q[i]` new tokens and attends over
/// `context_lens[i]` tokens, the new ones included. Prefill, a chunk of a prefill and decode differ in these
/// numbers only.
///
/// # Shapes
/// `token_ids`, `positions`, `slot_mapping`: `[num_tokens]`; `cu_seqlens_q`: `[num_seqs + 1]`, from 0 to `num_tokens`;
/// `context_lens`: `[num_seqs]`; `block_tables`: `[num_seqs, max_blocks_per_seq]`, entries behind a sequence's
/// last block unread; `logit_rows`: `[num_logit_rows]`; `adapters`: `[num_tokens]`, or empty.
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// The tokens whose hidden states are computed; those with the bit [`LAST_SAMPLED`] on devices with a sampler only.
    pub token_ids: &'a [u32],
    /// The position of each token in its sequence, from 0.
    pub positions: &'a [u32],
    /// Where each token's key and value go: `block_id * block_size + offset`.
    pub slot_mapping: &'a [u32],
    /// Running count of new tokens, a sequence each.
    pub cu_seqlens_q: &'a [u32],
    /// Tokens in the cache of each sequence once this step's were written.
    pub context_lens: &'a [u32],
    /// Block ids of each sequence, padded to the same width.
    pub block_tables: &'a [u32],
    /// The width of `block_tables`.
    pub max_blocks_per_seq: usize,
    /// The rows of `token_ids` whose logits are wanted, ascending.
    pub logit_rows: &'a [u32],
    /// The adapter of each token, [`NO_ADAPTER`](crate::lora::NO_ADAPTER) where it has none; empty where none has one.
    pub adapters: &'a [u32],
}

impl StepInput<'_> {
    /// Returns the number of tokens computed in this step.
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns the number of sequences in this step.
    pub fn num_seqs(&self) -> usize {
        self.context_lens.len()
    }
}

/// The element type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvDType {
    /// Half the bytes: eleven bits of mantissa, up to 65504; larger values are cut to that.
    F16,
    /// What the layers computed.
    F32,
}

impl KvDType {
    /// Returns the size of an element.
    ///
    /// # Units
    /// bytes
    pub fn num_bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Returns the name that users read and write.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// The shape of one attention layer and its paged cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Tokens of one cache block.
    pub block_size: usize,
    /// Elements of the cache.
    pub kv_dtype: KvDType,
    /// Factor on the scores, as a rule `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Number of last positions that a token sees, itself included; `None` sees all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Returns the width of a fused row `[q heads | k heads | v heads]`.
    pub const fn qkv_width(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Returns the first position that a token at `position` sees.
    pub fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// How a token is chosen from a row of logits, on a device that chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampleRow<'a> {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Number of likeliest tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Probability mass kept, in (0, 1].
    pub top_p: f32,
    /// Logits further than this below the largest are left out; not above 0.
    pub log_min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in `seen`; 1 is none.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token in the output, once.
    pub presence_penalty: f32,
    /// Taken from the logit of each token in the output, for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens, each of which is named once.
    pub bias: &'a [(u32, f32)],
    /// Tokens of prompt and output, each once, and how often they stand in the output.
    pub seen: &'a [(u32, u32)],
    /// The random number, in 0..1, as 64 bits after the point.
    pub point: u64,
}
