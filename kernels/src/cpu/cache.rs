//! The paged cache of one layer, in f16 or f32, laid out for attention.
//!
//! `[num_blocks, num_kv_heads, keys | values]`, so that a head's keys and values of a block are one stretch of
//! memory, and a head is a column of blocks that one thread writes:
//!
//! - keys `[tiles, head_dim, TILE]`: sixteen positions side by side, so that scores come out as vectors of positions
//!   and a key needs no sum over lanes;
//! - values `[block_size, padded head_dim]`: so that the weighted sum is a vector of elements.
//!
//! Blocks of a multiple of 16 tokens and heads of a multiple of 16 elements waste nothing. An f16 is widened when it is
//! loaded; everything is computed in f32.

use std::ops::Range;

use half::f16;

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::simd::{Simd, TILE};
use crate::metadata::{AttentionShape, KvDType};
use crate::narrow::narrow_to_f16;

/// Elements of the largest head: attention keeps a tile of running outputs on the stack.
pub(crate) const HEAD_DIM_MAX: usize = 256;

/// The keys and values of one layer.
#[derive(Debug)]
pub struct CpuLayerCache {
    pub(crate) shape: AttentionShape,
    pub(crate) num_blocks: usize,
    pub(crate) layout: CacheLayout,
    pub(crate) slots: Slots,
}

/// The elements, by type.
#[derive(Debug)]
pub(crate) enum Slots {
    F16(AlignedSlice<f16>),
    F32(AlignedSlice<f32>),
}

/// Where things lie in a head's part of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheLayout {
    pub(crate) block_size: usize,
    pub(crate) head_dim: usize,
    pub(crate) num_kv_heads: usize,
}

/// An element of a cache.
pub(crate) trait CacheElement: Copy + Send + Sync {
    /// Zero.
    const ZERO: Self;

    /// Writes what comes nearest to the values, which are scratch afterwards.
    fn narrow(values: &mut [f32], out: &mut [Self]);

    /// Loads vector `v` of sixteen elements.
    fn load<S: Simd>(simd: S, elements: &[Self; TILE], v: usize) -> S::F32;
}

impl CacheElement for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn narrow(values: &mut [f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self; TILE], v: usize) -> S::F32 {
        simd.load(&S::chunks(elements)[v])
    }
}

impl CacheElement for f16 {
    const ZERO: Self = f16::ZERO;

    #[inline(always)]
    fn narrow(values: &mut [f32], out: &mut [Self]) {
        narrow_to_f16(values, out);
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self; TILE], v: usize) -> S::F32 {
        simd.load_f16(&S::f16_chunks(elements)[v])
    }
}

impl CpuLayerCache {
    pub(crate) fn new(shape: &AttentionShape, num_blocks: usize) -> Result<Self, BackendError> {
        let check = Check("layer_cache");
        check.attention_shape(shape)?;
        check.at_most("`head_dim`", shape.head_dim, HEAD_DIM_MAX)?;
        let layout = CacheLayout::of(shape);
        let len = num_blocks.saturating_mul(layout.block_len());
        let slots = match shape.kv_dtype {
            KvDType::F16 => Slots::F16(AlignedSlice::zeroed(len, DEVICE)?),
            KvDType::F32 => Slots::F32(AlignedSlice::zeroed(len, DEVICE)?),
        };
        Ok(Self { shape: *shape, num_blocks, layout, slots })
    }

    pub(crate) fn bytes_per_block(shape: &AttentionShape) -> usize {
        CacheLayout::of(shape).block_len() * shape.kv_dtype.num_bytes()
    }
}

impl CacheLayout {
    fn of(shape: &AttentionShape) -> Self {
        Self {
            block_size: shape.block_size,
            head_dim: shape.head_dim,
            num_kv_heads: shape.num_kv_heads,
        }
    }

    /// Returns a head's part of a block.
    #[inline(always)]
    pub(crate) fn head<E>(self, slots: &[E], block: usize, kv_head: usize) -> &[E] {
        let start = (block * self.num_kv_heads + kv_head) * self.head_len();
        &slots[start..start + self.head_len()]
    }

    /// Values of a block, all heads.
    pub(crate) fn block_len(self) -> usize {
        self.num_kv_heads.saturating_mul(self.head_len())
    }

    /// Values of a head in a block.
    #[inline(always)]
    pub(crate) fn head_len(self) -> usize {
        self.keys_len() + self.block_size * self.padded_dim()
    }

    /// Elements of a head's value with its padding.
    #[inline(always)]
    pub(crate) fn padded_dim(self) -> usize {
        self.head_dim.next_multiple_of(TILE)
    }

    #[inline(always)]
    fn keys_len(self) -> usize {
        self.block_size.div_ceil(TILE) * self.head_dim * TILE
    }

    /// Where the keys of sixteen positions lie in a head's part: `[head_dim, TILE]`.
    #[inline(always)]
    pub(crate) fn key_tile(self, tile: usize) -> Range<usize> {
        let len = self.head_dim * TILE;
        tile * len..(tile + 1) * len
    }

    /// Where a position's value lies, padding included.
    #[inline(always)]
    pub(crate) fn value(self, offset: usize) -> Range<usize> {
        let start = self.keys_len() + offset * self.padded_dim();
        start..start + self.padded_dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_the_bytes_that_are_allocated_for_it() {
        // (key heads, elements of a head, tokens of a block, tokens and elements as padded)
        for (num_kv_heads, head_dim, block_size, num_tokens, num_elements) in
            [(2, 64, 16, 16, 64), (2, 6, 16, 16, 16), (1, 16, 9, 16, 16), (3, 10, 20, 32, 16)]
        {
            let num_heads = num_kv_heads;
            let num_values = num_tokens * head_dim + block_size * num_elements;
            for (kv_dtype, element_bytes) in [(KvDType::F16, 2), (KvDType::F32, 4)] {
                let shape = AttentionShape {
                    num_heads,
                    num_kv_heads,
                    head_dim,
                    block_size,
                    kv_dtype,
                    scale: 1.0,
                    window: None,
                };
                let bytes = CpuLayerCache::bytes_per_block(&shape);
                let allocated = match CpuLayerCache::new(&shape, 7).unwrap().slots {
                    Slots::F16(slots) => slots.len() * size_of::<f16>(),
                    Slots::F32(slots) => slots.len() * size_of::<f32>(),
                };
                assert_eq!(allocated, 7 * bytes);
                assert_eq!(bytes, num_kv_heads * num_values * element_bytes, "{shape:?}");
            }
        }
    }
}
