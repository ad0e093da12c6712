//! The memory of the paged cache of keys and values: how much a block takes, and how many blocks a budget buys.

use kernels::{
    backend::{Backend, BackendError},
    cpu::CpuBackend,
    metadata::{AttentionShape, KvDType},
};

use crate::{config::DecoderSpec, error::ModelError};

/// Longest block: beyond some hundred tokens, paging has lost its sense and a last block is mostly empty.
const BLOCK_SIZE_MAX: usize = 1 << 12;

/// How large the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// A number of blocks.
    Blocks(usize),
    /// As many blocks as fit into this many bytes.
    Bytes(u64),
}

/// Returns the memory that one block takes over all layers on the CPU, keys and values, before anything is loaded.
///
/// # Units
/// bytes
pub fn kv_bytes_per_block(spec: &DecoderSpec, block_size: usize, kv_dtype: KvDType) -> u64 {
    bytes_per_block::<CpuBackend>(spec, block_size, kv_dtype)
}

/// Returns the most blocks that a cache can have: a slot is `block_id * block_size + offset` in 32 bits.
pub fn num_blocks_max(block_size: usize) -> usize {
    u32::MAX as usize / block_size
}

fn bytes_per_block<B: Backend>(spec: &DecoderSpec, block_size: usize, kv_dtype: KvDType) -> u64 {
    let shapes =
        (0..spec.num_layers).map(|layer| spec.attention_shape(layer, block_size, kv_dtype));
    shapes.map(|shape| B::kv_bytes_per_block(&shape) as u64).sum()
}

/// Returns how many blocks a cache of this size has on a backend.
///
/// # Errors
/// [`ModelError::Option`] where that is none, or more than 32-bit slots can name.
pub fn num_blocks<B: Backend>(
    spec: &DecoderSpec,
    block_size: usize,
    kv_dtype: KvDType,
    size: KvCacheSize,
) -> Result<usize, ModelError> {
    let broken = |option, rule, value| Err(ModelError::Option { option, rule, value });
    if !(1..=BLOCK_SIZE_MAX).contains(&block_size) {
        return broken("block_size", format!("from 1 to {BLOCK_SIZE_MAX}"), block_size as u64);
    }
    let blocks_max = num_blocks_max(block_size) as u64;
    let bytes_per_block = bytes_per_block::<B>(spec, block_size, kv_dtype);
    match size {
        KvCacheSize::Blocks(blocks) if !(1..=blocks_max).contains(&(blocks as u64)) => {
            broken("num_blocks", format!("from 1 to {blocks_max}"), blocks as u64)
        }
        KvCacheSize::Blocks(blocks) => Ok(blocks),
        KvCacheSize::Bytes(bytes) if bytes < bytes_per_block => {
            broken("kv_cache_bytes", format!("at least a block ({bytes_per_block} bytes)"), bytes)
        }
        KvCacheSize::Bytes(bytes) => Ok((bytes / bytes_per_block).min(blocks_max) as usize),
    }
}

/// The cache of one layer on a device.
#[derive(Debug)]
pub(crate) struct LayerKvCache<B: Backend> {
    /// The layer's attention, which the slots are laid out for.
    pub(crate) shape: AttentionShape,
    /// Its keys and values.
    pub(crate) slots: B::LayerCache,
}

/// Allocates the caches of all layers.
pub(crate) fn allocate<B: Backend>(
    backend: &B,
    spec: &DecoderSpec,
    block_size: usize,
    kv_dtype: KvDType,
    num_blocks: usize,
) -> Result<Vec<LayerKvCache<B>>, BackendError> {
    let mut caches = Vec::with_capacity(spec.num_layers);
    for layer_index in 0..spec.num_layers {
        let shape = spec.attention_shape(layer_index, block_size, kv_dtype);
        caches.push(LayerKvCache { shape, slots: backend.layer_cache(&shape, num_blocks)? });
    }
    Ok(caches)
}
