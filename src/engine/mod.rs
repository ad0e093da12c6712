//! The engine: decodes many sequences together on one device that one thread owns.
//!
//! Read in this order: [`sequence`] (what is decoded), [`scheduler`] (whose turn it is), [`kv_cache_manager`] over
//! [`block_pool`], [`block_table`] and [`prefix_cache`] (where keys and values lie), [`batch`] (a step as flat arrays),
//! [`executor`] (the device) and [`model_runner`] (a model as one), [`sampler`] (logits to a token; `sample_rows` where the
//! device does it), [`pipeline`] (one step while the one before is computed), [`engine_loop`] (the thread), [`handle`] (what the rest of the server sees), [`stats`] and its [`histogram`]s; and, before the start, [`memory`] (how large the
//! cache is) over `free_memory`, and [`memory_plan`] (what several models find of it).
//!
//! From [`sequence`] to [`batch`], and [`sampler`], all is pure: values in, values out, but for the secret that a
//! [`prefix_cache`] draws when it is made. What a sequence gets depends on its own request only, never on who shares
//! the batch, on how its prompt was cut, on what was cached, or on having been preempted; on a GPU to rounding, for the
//! length of a chunk chooses the kernel.

pub mod batch;
pub mod block_pool;
pub mod block_table;
pub mod engine_loop;
pub mod executor;
mod free_memory;
pub mod handle;
pub mod histogram;
pub mod kv_cache_manager;
pub mod memory;
pub mod memory_plan;
pub mod model_runner;
pub mod pipeline;
pub mod prefix_cache;
mod sample_rows;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod stats;

pub use batch::{Batch, LAST_SAMPLED, NO_ADAPTER, SamplingRow};
pub use engine_loop::{Engine, start};
pub use executor::{Executor, ExecutorError, SampledToken, TokenLogprobs};
pub use handle::{EngineFailure, EngineHandle, SequenceOutput, SequenceStream, SubmitError};
pub use model_runner::ModelRunner;
pub use pipeline::Pipeline;
pub use sampler::Sampler;
pub use sequence::SequenceRequest;
pub use stats::{EngineState, EngineStats};

/// What bounds the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Sequences computed together.
    pub num_seqs_max: usize,
    /// Tokens computed in one step.
    pub num_batched_tokens_max: usize,
    /// Tokens of a cache block.
    pub block_size: usize,
    /// Blocks of the KV cache.
    pub num_blocks: usize,
    /// Tokens of prompt and output together that the model can place.
    pub context_tokens_max: usize,
    /// Sequences taken and not yet begun; one more is refused.
    pub num_queued_max: usize,
    /// Whether blocks are shared between prompts that begin alike.
    pub has_prefix_cache: bool,
    /// Token ids lie below it.
    pub vocab_size: u32,
}

impl EngineLimits {
    /// Returns the longest prompt: it must fit into the context with one token after it, and into all blocks without
    /// that token, whose key and value nobody needs.
    pub fn prompt_tokens_max(&self) -> usize {
        (self.context_tokens_max - 1).min(self.num_blocks * self.block_size)
    }

    /// Returns the most tokens that may follow a prompt of `num_prompt_tokens`.
    pub fn output_tokens_max(&self, num_prompt_tokens: usize) -> usize {
        self.prompt_tokens_max() + 1 - num_prompt_tokens
    }

    /// Checks what configuration must have seen to.
    ///
    /// # Panics
    /// Where a limit lets nothing through, a slot has no 32-bit number, or the budget of a step is smaller than the
    /// number of sequences: then not all of a batch could move in each step.
    pub fn assert_valid(&self) {
        assert!(self.num_seqs_max > 0, "a batch has room for a sequence");
        assert!(self.num_batched_tokens_max >= self.num_seqs_max, "a step has a token a sequence");
        assert!(self.block_size > 0, "a block has room for a token");
        assert!(self.context_tokens_max > 1, "the context has room for a prompt and an answer");
        assert!(self.num_queued_max > 0, "the queue has a place");
        assert!(self.num_blocks <= memory::num_blocks_max(self.block_size), "slots have 32 bits");
    }
}
