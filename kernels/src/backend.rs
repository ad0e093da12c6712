//! What a device must be able to do for a decoder: the operators, each on flat buffers of rows.
//!
//! The layer loop in `models` is written once over this trait; a backend says how. Buffers are allocated when the
//! model is loaded; no operator allocates. Each operator's truth is its namesake in [`crate::reference`].

use std::sync::Arc;

pub use crate::dtype::DType;
pub use crate::error::BackendError;

use crate::activation::Activation;
use crate::group::Member;
use crate::lora::Lora;
use crate::metadata::{AttentionShape, SampleRow, StepInput};
use crate::mixture::Mixture;
use crate::parts::{FeedForward, HeadNorms, Norm};

/// What weights become in the device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// As exact as they are stored: plain types stay what they are, blocks of integers stay integers.
    #[default]
    Stored,
    /// Single precision.
    F32,
    /// Eight-bit integers with a scale for each block of 32 along `cols`.
    Int8,
    /// Eight-bit numbers, E4M3, with a scale for each block of 128 along `cols`.
    Fp8,
}

/// Rows of a weight matrix as they lie in a file: row-major `[rows, cols]`, little-endian, not necessarily aligned.
#[derive(Clone, Copy, Debug)]
pub struct MatrixData<'a> {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Element type of `bytes`.
    pub dtype: DType,
    /// `rows * cols` elements; `cols` is a multiple of the type's block.
    pub bytes: &'a [u8],
}

impl MatrixData<'_> {
    /// Returns a row, whose bytes are its share of all.
    ///
    /// # Panics
    /// Where there is no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> Self {
        let num_bytes = self.bytes.len() / self.rows;
        let bytes = &self.bytes[index * num_bytes..(index + 1) * num_bytes];
        Self { rows: 1, bytes, ..*self }
    }
}

/// The memory of a device that has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnMemory {
    /// What could be allocated now, in bytes.
    pub free_bytes: u64,
    /// All of it, in bytes.
    pub total_bytes: u64,
}

/// How many rows the operators of a step compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// Rows of the layers.
    pub num_tokens: usize,
    /// Rows of logits.
    pub num_logit_rows: usize,
}

/// The ids of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vocabulary {
    /// Logits of a row.
    pub size: usize,
    /// Leading ids that may be sampled; those behind pad the row.
    pub num_ids: usize,
}

/// A device that runs a decoder's operators in the order of the calls.
///
/// `num_rows` is the number of leading rows of a buffer that take part; buffers may be longer.
pub trait Backend: Send + Sized + 'static {
    /// A flat buffer of activations.
    type Buffer: Send + std::fmt::Debug;
    /// A weight matrix `[rows, cols]`, in the layout that the device likes best.
    type Matrix: Send + std::fmt::Debug;
    /// A norm's weight or a bias, f32.
    type Vector: Send + std::fmt::Debug;
    /// The keys and values of one layer: `[num_blocks, block_size]` slots of `num_kv_heads * head_dim`, twice.
    type LayerCache: Send + std::fmt::Debug;
    /// Cosines and sines: `[num_positions, head_dim / 2]`.
    type RopeTable: Send + std::fmt::Debug;
    /// The operators of mixtures of experts.
    type Mixture: Mixture<Self>;
    /// The operators of adapters.
    type Lora: Lora<Self>;
    /// The device's copy of a [`StepInput`].
    type Step: Send + std::fmt::Debug;

    /// Memory of an element of an [operand](Backend::operand).
    ///
    /// # Units
    /// bytes
    const OPERAND_BYTES: usize = size_of::<f32>();

    /// Returns a name for messages, such as `cpu (avx2, 2 threads)`.
    fn name(&self) -> String;

    /// Returns the device's own memory, free and in all; `None` where it computes in the host's.
    ///
    /// # Units
    /// bytes
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn own_memory(&self) -> Result<Option<OwnMemory>, BackendError> {
        Ok(None)
    }

    /// Returns the memory that a block of one layer's cache takes, with the padding of the device's layout. No device
    /// is needed, so that a cache can be planned before anything is loaded.
    ///
    /// # Units
    /// bytes
    fn kv_bytes_per_block(shape: &AttentionShape) -> usize;

    /// Returns the memory that a matrix of these parts takes in the device's layout; their `bytes` are not looked at, and
    /// no device is needed. What the parts of an impossible matrix take means nothing.
    ///
    /// # Units
    /// bytes
    fn matrix_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64;

    /// Makes the device a rank of a group, whose sums [`Backend::all_reduce`] then computes. To be called before the first
    /// matrix; waits for the other ranks where the device has a library of its own for it.
    ///
    /// # Errors
    /// [`BackendError::Device`] where the device cannot be one of several; [`BackendError::RankFailed`].
    fn join(&mut self, member: &Arc<Member>) -> Result<(), BackendError> {
        let _ = member;
        Ok(())
    }

    // Memory: called while loading, never in a step.

    /// Allocates a zeroed buffer of `len` activations.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn buffer(&self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// Allocates a zeroed buffer of `len` activations that products read and nothing else: a device may round what is
    /// written to it, to what its products take.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn operand(&self, len: usize) -> Result<Self::Buffer, BackendError> {
        self.buffer(len)
    }

    /// Stores the parts, stacked by rows, as one matrix; fused projections are several parts. Parts of different types
    /// are stored in one that holds them all: exactly where any is a plain type, else in integers of the same codes, with
    /// scales and minimums in half precision. Int8 rounds plain parts and keeps the codes of others.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the parts differ in `cols` or a byte count is off; [`BackendError::OutOfMemory`].
    fn matrix(
        &mut self,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self::Matrix, BackendError>;

    /// Returns whether every element of a matrix is a number; of integers, every scale and minimum. Products with others
    /// would be no numbers either.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn is_finite(&mut self, matrix: &Self::Matrix) -> Result<bool, BackendError>;

    /// Allocates what operators need beside their buffers, for steps of at most `max_num_rows` rows over all the
    /// matrices made so far. To be called once, after the last matrix and before the first step.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn reserve(&mut self, max_num_rows: usize) -> Result<(), BackendError>;

    /// Stores a vector.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn vector(&self, values: &[f32]) -> Result<Self::Vector, BackendError>;

    /// Allocates the cache of one layer.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the shape cannot be computed; [`BackendError::OutOfMemory`].
    fn layer_cache(
        &self,
        shape: &AttentionShape,
        num_blocks: usize,
    ) -> Result<Self::LayerCache, BackendError>;

    /// Computes the rotation of every position, in f32: `angle = position * inv_freq`, times `amplitude` on both.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn rope_table(
        &self,
        inv_freq: &[f32],
        num_positions: usize,
        amplitude: f32,
    ) -> Result<Self::RopeTable, BackendError>;

    /// Allocates room for the metadata of the largest step.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn step(
        &self,
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
    ) -> Result<Self::Step, BackendError>;

    // The step. Order of a layer: norm, linear (QKV), head_norm where there is one, rope_and_cache_write, attention,
    // linear_add (O), norm, feed_forward (gate and up), linear_add (down); of a mixture linear (router), route, add.

    /// Brings a step's metadata to the device.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the arrays disagree with each other or pass the room of `step`.
    fn load_step(
        &mut self,
        input: &StepInput<'_>,
        step: &mut Self::Step,
    ) -> Result<(), BackendError>;

    /// Returns how many rows the operators of a step compute: its tokens, and padding where a device takes whole buckets.
    fn rows(step: &Self::Step) -> StepRows;

    /// Runs the operators of a step. A device may keep what `body` asked for, and ask for the same again, without calling
    /// it, in a later step of the same size; so `body` must ask for the same in all of them.
    ///
    /// # Errors
    /// Those of `body`.
    fn run(
        &mut self,
        step: &Self::Step,
        body: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let _ = step;
        body(self)
    }

    /// Writes the rows of `table` that the step's token ids name: `out` `[num_tokens, cols]`.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where an id is not a row of `table`.
    fn embed(
        &mut self,
        step: &Self::Step,
        table: &Self::Matrix,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `x *= factor`; `x` `[num_rows, width]`.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn scale(
        &mut self,
        num_rows: usize,
        width: usize,
        factor: f32,
        x: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = norm(x)`, a row each; `x`, `out` `[num_rows, width]`, the width being the weight's.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn norm(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        norm: Norm<'_, Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Norms each head's query and key in place, before they are rotated; `qkv` `[num_rows, qkv_width]`.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn head_norm(
        &mut self,
        num_rows: usize,
        shape: &AttentionShape,
        norms: HeadNorms<'_, Self::Vector>,
        qkv: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = x Wᵀ + bias`; `x` `[num_rows, cols]`, `out` `[num_rows, rows]`. Accumulates in f32.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn linear(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        matrix: &Self::Matrix,
        bias: Option<&Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `residual += x Wᵀ + bias`; `x` `[num_rows, cols]`, `residual` `[num_rows, rows]`.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn linear_add(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        matrix: &Self::Matrix,
        bias: Option<&Self::Vector>,
        residual: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = activation(x Gᵀ + g) * (x Uᵀ + u)`, the wide half of a feed-forward part, or without the second factor;
    /// `x` `[num_rows, cols]`, gate and up `[rows, cols]`, `out` `[num_rows, rows]`. Accumulates in f32.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn feed_forward(
        &mut self,
        num_rows: usize,
        x: &Self::Buffer,
        parts: FeedForward<'_, Self::Matrix, Self::Vector>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// `out = activation(gate) * up`, or without the second factor: what [`Backend::feed_forward`] does with its sums, for
    /// products that something was added to. All are `[num_rows, width]`, and `out` is an operand.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn activate(
        &mut self,
        rows: (usize, usize),
        activation: Activation,
        gate: &Self::Buffer,
        up: Option<&Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Rotates queries in place and writes rotated keys and plain values into their slots.
    /// `qkv` `[num_tokens, qkv_width]`, halves rotated against each other (`rotate_half`, as in Qwen and Llama).
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn rope_and_cache_write(
        &mut self,
        step: &Self::Step,
        shape: &AttentionShape,
        rope: &Self::RopeTable,
        qkv: &mut Self::Buffer,
        cache: &mut Self::LayerCache,
    ) -> Result<(), BackendError>;

    /// Causal attention of the step's queries over their sequences' blocks: `out` `[num_tokens, num_heads * head_dim]`.
    /// Scores, softmax and sums in f32.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn attention(
        &mut self,
        step: &Self::Step,
        shape: &AttentionShape,
        qkv: &Self::Buffer,
        cache: &Self::LayerCache,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Replaces `buffer`, `[num_rows, width]` of activations, by its sum over the ranks of the group that was joined, the
    /// same on each. All ranks must ask for the same sums in the same order.
    ///
    /// # Errors
    /// [`BackendError::Shape`], also where the ranks disagree; [`BackendError::RankFailed`].
    fn all_reduce(
        &mut self,
        member: &Member,
        num_rows: usize,
        width: usize,
        buffer: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Copies the rows of `x` whose logits are wanted: `x` `[num_tokens, width]`, `out` `[num_logit_rows, width]`.
    ///
    /// # Errors
    /// [`BackendError::Shape`].
    fn gather_logit_rows(
        &mut self,
        step: &Self::Step,
        width: usize,
        x: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

    /// Returns whether the device can choose tokens itself.
    fn has_sampler() -> bool {
        false
    }

    /// Brings to the device how the tokens of a loaded step are chosen, a row each of its logits; before [`Backend::run`],
    /// whose body then asks for [`Backend::sample`].
    ///
    /// # Errors
    /// [`BackendError::Shape`], also where the device has no sampler.
    fn load_sampling(
        &mut self,
        step: &mut Self::Step,
        vocabulary: Vocabulary,
        rows: &[SampleRow<'_>],
    ) -> Result<(), BackendError> {
        let _ = (step, vocabulary, rows);
        no_sampler(&self.name())
    }

    /// Chooses a token for each row of `logits`, `[num_logit_rows, vocab_size]`, as [`Backend::load_sampling`] said. Bias
    /// and penalties are written into `logits`. The tokens stay on the device, where the next step may name them by
    /// [`LAST_SAMPLED`](crate::metadata::LAST_SAMPLED).
    ///
    /// # Errors
    /// [`BackendError::Shape`], also where the device has no sampler.
    fn sample(&mut self, step: &Self::Step, logits: &mut Self::Buffer) -> Result<(), BackendError> {
        let _ = (step, logits);
        no_sampler(&self.name())
    }

    /// Asks for the tokens that were sampled to be brought to the host, and does not wait for them.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where the device has no sampler.
    fn send_sampled(&mut self, step: &Self::Step) -> Result<(), BackendError> {
        let _ = step;
        no_sampler(&self.name())
    }

    /// Waits for the tokens that were asked for first and not received yet; `tokens` is as long as that step's rows.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where none were asked for, or the device has no sampler.
    fn receive_sampled(&mut self, tokens: &mut [u32]) -> Result<(), BackendError> {
        let _ = tokens;
        no_sampler(&self.name())
    }

    /// Brings the first `out.len()` activations of `x` to the host, after all that was asked before.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where `x` is shorter.
    fn read(&mut self, x: &Self::Buffer, out: &mut [f32]) -> Result<(), BackendError>;
}

fn no_sampler<T>(device: &str) -> Result<T, BackendError> {
    Err(BackendError::Shape { operator: "sample", what: format!("{device} has no sampler") })
}
