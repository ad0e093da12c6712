//! Decoder-only architectures as values, run by one layer loop over a [`kernels`] backend. Knows no request.
//!
//! The way of a model, in reading order:
//! - [`config`]: `config.json` becomes a [`DecoderSpec`], checked once;
//! - [`arch`]: the registry; a row translates a family's configuration and names its tensors;
//! - [`gguf`]: the other file format: a header that says all of that by itself;
//! - [`weights`]: stored tensors, compared with the plan before anything is allocated, then brought to the backend;
//! - [`adapter`]: what was trained on top of a model, and to which of its matrices it adds;
//! - [`kv_cache`]: what the paged cache costs;
//! - [`decoder`]: the layer loop, over any [`Backend`](kernels::backend::Backend);
//! - [`parallel`]: the same on several devices, a shard each;
//! - [`tokenizer`]: other vocabularies as the text of a `tokenizer.json`;
//! - [`source`]: which file says what;
//! - [`mod@load`]: all of it together, behind [`LanguageModel`];
//! - [`selftest`]: every operator of a device against the reference;
//! - [`mod@bench`]: how long the large operators of a device take;
//! - [`demo`]: the embedded model;
//! - [`shapes`]: published sizes by name, for benches.

pub mod adapter;
pub mod arch;
pub mod bench;
pub mod config;
pub mod decoder;
pub mod demo;
pub mod error;
pub mod gguf;
pub mod kv_cache;
pub mod load;
pub mod parallel;
pub mod selftest;
pub mod shapes;
pub mod source;
pub mod tokenizer;
pub mod weights;

mod chat;
mod shown;

pub use adapter::{ADAPTER_CONFIG_FILE, Adapter};
pub use chat::ChatDefinition;
pub use config::DecoderSpec;
pub use error::ModelError;
pub use kernels::{
    backend::{DType, OwnMemory, WeightFormat},
    cpu::{SimdTier, bandwidth::ReadStream},
    cuda::{GraphMode, graph_steps},
    lora::NO_ADAPTER,
    metadata::{KvDType, LAST_SAMPLED, SampleRow, StepInput},
};
pub use kv_cache::{KvCacheSize, kv_bytes_per_block, num_blocks_max};
pub use load::{
    AdapterFootprint, Device, DeviceOptions, LoadOptions, WeightFootprint, activation_bytes,
    adapter_footprint, gpu_room_bytes, load, load_weights, own_memory, weight_footprint,
};
pub use parallel::rank_spec;
pub use shapes::{shape, shape_names};
pub use source::{Source, chat_definition, open_weights, read_spec, tokenizer_json};
pub use weights::{Progress, random_weights};

/// A loaded model: one step over a ragged batch in, rows of logits out.
pub trait LanguageModel: Send {
    /// Returns what the model is; its context is the one in force, cut where the options asked for it.
    fn spec(&self) -> &DecoderSpec;

    /// Returns what it runs on, for messages.
    fn backend_name(&self) -> String;

    /// Returns the number of cache blocks.
    fn num_blocks(&self) -> usize;

    /// Returns the number of tokens of a cache block.
    fn block_size(&self) -> usize;

    /// Returns the number of adapters that a token can have.
    fn num_adapters(&self) -> usize;

    /// Computes one step and returns its logits, valid until the next. They are the caller's to change: penalties and
    /// bias are written into them, and a copy of a vocabulary a row would cost more than the sampling.
    ///
    /// # Shapes
    /// `[num_logit_rows, vocab_size]`, in the order of `input.logit_rows`.
    ///
    /// # Errors
    /// [`ModelError::LogitRows`]; [`ModelError::Backend`] where the device failed or refused arrays that disagree,
    /// after which the cache's contents mean nothing.
    fn forward(&mut self, input: &StepInput<'_>) -> Result<&mut [f32], ModelError>;

    /// Returns whether the device chooses tokens itself, so that [`LanguageModel::start_sample`] can be called.
    fn has_sampler(&self) -> bool;

    /// Starts one step, whose tokens the device chooses among the first `num_ids`, one for each logit row; does not wait for
    /// them. Logits stay on the device. The next step may be started before these tokens are taken, and then names them by
    /// [`LAST_SAMPLED`].
    ///
    /// # Shapes
    /// `rows`: `[num_logit_rows]`, in the order of `input.logit_rows`.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`]; where the device has no sampler.
    fn start_sample(
        &mut self,
        input: &StepInput<'_>,
        num_ids: usize,
        rows: &[SampleRow<'_>],
    ) -> Result<(), ModelError>;

    /// Waits for the tokens of the first step that was started and whose tokens were not taken yet, and returns them.
    ///
    /// # Shapes
    /// `[num_logit_rows]` of that step.
    ///
    /// # Errors
    /// [`ModelError::NoStep`]; [`ModelError::Backend`] where the device failed.
    fn finish_sample(&mut self) -> Result<Vec<u32>, ModelError>;
}
