//! The memory of the paged cache of keys and values: how much a block takes, and how many blocks a budget buys.

use kernels::{
    backend::{Backend, BackendError},
    metadata::AttentionShape,
};

use crate::{config::DecoderSpec, error::ModelError};

/// Bytes of one stored key or value element: the backends keep them in f32.
const KV_ELEMENT_BYTES: u64 = 4;

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

/// Returns the memory that one block takes over all layers, keys and values.
///
/// A backend may pad heads and blocks to its vectors: 16 on the CPU, which published head sizes and the default block
/// are multiples of.
///
/// # Units
/// bytes
pub fn kv_bytes_per_block(spec: &DecoderSpec, block_size: usize) -> u64 {
    let elements_per_token = 2 * spec.num_layers as u64 * spec.kv_width() as u64;
    elements_per_token.saturating_mul(block_size as u64).saturating_mul(KV_ELEMENT_BYTES)
}

/// Returns how many blocks a cache of this size has.
///
/// # Errors
/// [`ModelError::Option`] where that is none, or more than 32-bit slots can name.
pub fn num_blocks(
    spec: &DecoderSpec,
    block_size: usize,
    size: KvCacheSize,
) -> Result<usize, ModelError> {
    let broken = |option, rule, value| Err(ModelError::Option { option, rule, value });
    if !(1..=BLOCK_SIZE_MAX).contains(&block_size) {
        return broken("block_size", format!("from 1 to {BLOCK_SIZE_MAX}"), block_size as u64);
    }
    // A slot is `block_id * block_size + offset` in 32 bits.
    let blocks_max = u64::from(u32::MAX) / block_size as u64;
    let bytes_per_block = kv_bytes_per_block(spec, block_size);
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
    num_blocks: usize,
) -> Result<Vec<LayerKvCache<B>>, BackendError> {
    let mut caches = Vec::with_capacity(spec.num_layers);
    for layer_index in 0..spec.num_layers {
        let shape = spec.attention_shape(layer_index, block_size);
        caches.push(LayerKvCache { shape, slots: backend.layer_cache(&shape, num_blocks)? });
    }
    Ok(caches)
}
