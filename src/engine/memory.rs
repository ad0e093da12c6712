//! How large the KV cache is: what was asked for, else what the batch could use, else a share of the machine.

use models::{DecoderSpec, KvDType, kv_bytes_per_block};

pub use models::num_blocks_max;

pub use crate::engine::free_memory::free_bytes;

/// Share of the memory that is free at start, less what the weights take once they are copied out of their files. The
/// rest stays for activations, for the page cache through which the files are read, and for other programs.
pub const HOST_SHARE: f64 = 0.5;

/// Why the cache cannot be sized.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The model alone would not fit.
    #[error(
        "the weights and a step take {model_bytes} bytes once loaded, and {free_bytes} are free; free some, raise the limit of \
         this process's container or `engine.gpu_memory_utilization`, or take a smaller model or format (`model.quantize`, a GGUF file)"
    )]
    ModelDoesNotFit {
        /// What they take.
        model_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// The cache that was asked for would not fit beside the weights.
    #[error(
        "the weights and a step take {model_bytes} bytes once loaded and `engine.kv_cache_memory` asks for {kv_cache_bytes}, and \
         {free_bytes} are free; lower it, or set it to \"auto\""
    )]
    CacheDoesNotFit {
        /// What the model takes.
        model_bytes: u64,
        /// What was asked for.
        kv_cache_bytes: u64,
        /// What there is.
        free_bytes: u64,
    },
    /// Not one sequence of the model's context would fit.
    #[error(
        "a KV cache of {kv_cache_bytes} bytes holds {num_tokens} tokens, and the context has {context_tokens}; \
         raise `engine.kv_cache_memory` to {needed_bytes} or lower `model.max_context_tokens`"
    )]
    ContextDoesNotFit {
        /// What there is.
        kv_cache_bytes: u64,
        /// What that holds.
        num_tokens: u64,
        /// What one sequence may take.
        context_tokens: usize,
        /// What that would need.
        needed_bytes: u64,
    },
}

/// What the cache is sized for.
#[derive(Clone, Copy, Debug)]
pub struct CacheDemand {
    /// Memory asked for; `None` sizes it.
    pub kv_cache_bytes: Option<u64>,
    /// Tokens of a block.
    pub block_size: usize,
    /// Elements of the cache.
    pub kv_dtype: KvDType,
    /// Tokens of the longest sequence.
    pub context_tokens: usize,
    /// Sequences computed together.
    pub num_seqs_max: usize,
    /// Memory of the weights.
    pub weight_bytes: u64,
    /// Memory of a step between the layers.
    pub activation_bytes: u64,
}

impl CacheDemand {
    /// Returns what the model takes without its cache.
    pub fn model_bytes(&self) -> u64 {
        self.weight_bytes.saturating_add(self.activation_bytes)
    }

    /// Returns what one sequence of the whole context takes.
    pub fn context_bytes(&self, spec: &DecoderSpec) -> u64 {
        self.block_bytes(spec) * self.blocks_per_seq()
    }

    fn block_bytes(&self, spec: &DecoderSpec) -> u64 {
        kv_bytes_per_block(spec, self.block_size, self.kv_dtype)
    }

    fn blocks_per_seq(&self) -> u64 {
        self.context_tokens.div_ceil(self.block_size) as u64
    }
}

/// What a model finds in the memory that it is to be placed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What it may take in all.
    pub free_bytes: u64,
    /// Most for a cache that nobody sized.
    pub cache_bytes: u64,
}

/// Returns the number of cache blocks. To be asked before anything is loaded: a process that takes more than there is
/// would be killed without a word, half-way.
///
/// # Errors
/// [`MemoryError`].
pub fn plan_num_blocks(
    spec: &DecoderSpec,
    demand: &CacheDemand,
    room: Room,
) -> Result<usize, MemoryError> {
    let (model_bytes, free_bytes) = (demand.model_bytes(), room.free_bytes);
    if model_bytes > free_bytes {
        return Err(MemoryError::ModelDoesNotFit { model_bytes, free_bytes });
    }
    if let Some(kv_cache_bytes) = demand.kv_cache_bytes
        && model_bytes.saturating_add(kv_cache_bytes) > free_bytes
    {
        return Err(MemoryError::CacheDoesNotFit { model_bytes, kv_cache_bytes, free_bytes });
    }
    let (block_bytes, blocks_per_seq) = (demand.block_bytes(spec), demand.blocks_per_seq());
    let context_bytes = demand.context_bytes(spec);
    let useful = context_bytes * demand.num_seqs_max as u64;
    let kv_cache_bytes = demand.kv_cache_bytes.unwrap_or_else(|| useful.min(room.cache_bytes));
    let num_blocks = kv_cache_bytes / block_bytes;
    if num_blocks < blocks_per_seq {
        return Err(MemoryError::ContextDoesNotFit {
            kv_cache_bytes,
            num_tokens: num_blocks * demand.block_size as u64,
            context_tokens: demand.context_tokens,
            needed_bytes: context_bytes,
        });
    }
    Ok(num_blocks.min(num_blocks_max(demand.block_size) as u64) as usize)
}

#[cfg(test)]
mod tests {
    use models::{Source, read_spec};

    use super::*;

    #[test]
    fn sizes_by_what_was_asked_else_by_use_else_by_memory() {
        let spec = read_spec(Source::Demo).unwrap();
        let block_bytes = kv_bytes_per_block(&spec, 16, KvDType::F16);
        let demand = CacheDemand {
            kv_cache_bytes: None,
            block_size: 16,
            kv_dtype: KvDType::F16,
            context_tokens: 160,
            num_seqs_max: 4,
            weight_bytes: 900,
            activation_bytes: 100,
        };
        let room =
            |free_bytes: u64| Room { free_bytes, cache_bytes: free_bytes.saturating_sub(1000) / 2 };
        let asked = |kv_cache_bytes| CacheDemand { kv_cache_bytes, ..demand };
        assert_eq!(plan_num_blocks(&spec, &demand, room(1 << 40)), Ok(40));
        assert_eq!(plan_num_blocks(&spec, &demand, room(1000 + 40 * block_bytes)), Ok(20));
        let some = 99 * block_bytes + 1;
        assert_eq!(plan_num_blocks(&spec, &asked(Some(some)), room(1000 + some)), Ok(99));
        let error = plan_num_blocks(&spec, &asked(Some(some)), room(999 + some)).unwrap_err();
        assert!(
            matches!(error, MemoryError::CacheDoesNotFit { kv_cache_bytes, .. } if kv_cache_bytes == some)
        );
        let error =
            plan_num_blocks(&spec, &asked(Some(9 * block_bytes)), room(1 << 40)).unwrap_err();
        let MemoryError::ContextDoesNotFit { num_tokens, needed_bytes, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((num_tokens, needed_bytes), (144, 10 * block_bytes));
        for asked_bytes in [None, Some(99 * block_bytes)] {
            let error = plan_num_blocks(&spec, &asked(asked_bytes), room(999)).unwrap_err();
            let expected = MemoryError::ModelDoesNotFit { model_bytes: 1000, free_bytes: 999 };
            assert_eq!(error, expected);
        }
    }
}
