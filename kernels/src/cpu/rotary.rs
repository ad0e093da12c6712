//! Norms of heads, rotary embedding, and the way of keys and values into the cache.
//!
//! Plain loops: the compiler vectorises them, and with the products and the sum rounded apart they are Hugging Face's
//! `q * cos + rotate_half(q) * sin` to the bit. Two passes, because each cuts its own matrix: queries by rows of the
//! batch, the cache by heads, where a thread writes all slots of its head and no two threads one slot.

use crate::cpu::cache::{CacheElement, CacheLayout, CpuLayerCache, HEAD_DIM_MAX, Slots};
use crate::cpu::grid::{Grid, RowTiles, Tile, rows_per_task};
use crate::cpu::norm::RmsNorm;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{TILE, Vectors};
use crate::host_step::HostStep;
use crate::metadata::AttentionShape;
use crate::parts::HeadNorms;
use crate::rope_table::RopeTable;

/// Rotates the queries of `qkv` `[num_tokens, qkv_width]` in place.
pub(crate) fn rotate_queries(
    pool: &mut Pool,
    step: &HostStep,
    shape: &AttentionShape,
    rope: &RopeTable,
    qkv: &mut [f32],
) {
    Grid::of_rows(step.num_tokens(), shape.qkv_width()).for_each_tile(pool, qkv, &|mut tile| {
        for token in tile.rows() {
            let (cos, sin) = rope.row(step.positions()[token] as usize);
            let queries = &mut tile.row(token)[..shape.num_heads * shape.head_dim];
            for query in queries.chunks_exact_mut(shape.head_dim) {
                let (low, high) = query.split_at_mut(cos.len());
                for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    (*low, *high) = rotated(*low, *high, *cos, *sin);
                }
            }
        }
    });
}

/// Norms each head's query and key of `qkv` `[num_rows, qkv_width]` in place.
pub(crate) fn norm_heads(
    pool: &mut Pool,
    vectors: Vectors,
    (num_rows, shape): (usize, &AttentionShape),
    norms: &HeadNorms<'_, [f32]>,
    qkv: &mut [f32],
) {
    Grid::of_rows(num_rows, shape.qkv_width()).for_each_tile(pool, qkv, &|mut tile| {
        // The kernel reads one row and writes another.
        let mut copy = [0.0; HEAD_DIM_MAX];
        let x = &mut copy[..shape.head_dim];
        for row in tile.rows() {
            let normed = (shape.num_heads + shape.num_kv_heads) * shape.head_dim;
            let heads = tile.row(row)[..normed].chunks_exact_mut(shape.head_dim);
            for (index, out) in heads.enumerate() {
                x.copy_from_slice(out);
                let weight = if index < shape.num_heads { norms.query } else { norms.key };
                vectors.run(RmsNorm { x, weight, eps: norms.eps, out });
            }
        }
    });
}

/// Writes rotated keys and plain values of `qkv` `[num_tokens, qkv_width]` into their slots.
pub(crate) fn write_cache(
    pool: &mut Pool,
    step: &HostStep,
    shape: &AttentionShape,
    rope: &RopeTable,
    qkv: &[f32],
    cache: &mut CpuLayerCache,
) {
    let layout = cache.layout;
    // A few tokens are written before another thread could have been told.
    let is_small = step.num_tokens() <= rows_per_task(2 * shape.num_kv_heads * shape.head_dim);
    let tile_width = if is_small { layout.block_len() } else { layout.head_len() };
    let rows = RowTiles::Even { num_rows: cache.num_blocks, height: cache.num_blocks.max(1) };
    let grid = Grid { rows, width: layout.block_len(), tile_width };
    let tokens = NewTokens { step, shape, rope, qkv, layout };
    match &mut cache.slots {
        Slots::F16(slots) => {
            grid.for_each_tile(pool, slots.as_mut_slice(), &|tile| tokens.write(tile));
        }
        Slots::F32(slots) => {
            grid.for_each_tile(pool, slots.as_mut_slice(), &|tile| tokens.write(tile));
        }
    }
}

/// What a step brings to the cache.
struct NewTokens<'a> {
    step: &'a HostStep,
    shape: &'a AttentionShape,
    rope: &'a RopeTable,
    /// `[num_tokens, qkv_width]`
    qkv: &'a [f32],
    layout: CacheLayout,
}

impl NewTokens<'_> {
    /// Writes the keys and values of all tokens for the heads of the tile.
    fn write<E: CacheElement>(&self, mut tile: Tile<'_, E>) {
        let Self { shape, layout, .. } = *self;
        let first_head = tile.columns().start / layout.head_len();
        let (mut wide, mut narrow) = ([0.0; HEAD_DIM_MAX], [E::ZERO; HEAD_DIM_MAX]);
        let (wide, narrow) = (&mut wide[..shape.head_dim], &mut narrow[..shape.head_dim]);
        for (token, &slot) in self.step.slot_mapping().iter().enumerate() {
            let row = &self.qkv[token * shape.qkv_width()..(token + 1) * shape.qkv_width()];
            let (_, keys_and_values) = row.split_at(shape.num_heads * shape.head_dim);
            let (keys, values) = keys_and_values.split_at(shape.num_kv_heads * shape.head_dim);
            let rotation = self.rope.row(self.step.positions()[token] as usize);
            let slot = slot as usize;
            let heads = tile.row(slot / shape.block_size).chunks_exact_mut(layout.head_len());
            for (index, head) in heads.enumerate() {
                let elements = (first_head + index) * shape.head_dim
                    ..(first_head + index + 1) * shape.head_dim;
                let offset = slot % shape.block_size;
                rotate_key(&keys[elements.clone()], rotation, wide);
                E::narrow(wide, narrow);
                // Elements of a key are `TILE` apart.
                let lane = head[layout.key_tile(offset / TILE)][offset % TILE..].iter_mut();
                for (place, &element) in lane.step_by(TILE).zip(&*narrow) {
                    *place = element;
                }
                wide.copy_from_slice(&values[elements]);
                E::narrow(wide, &mut head[layout.value(offset)][..shape.head_dim]);
            }
        }
    }
}

fn rotate_key(key: &[f32], (cos, sin): (&[f32], &[f32]), out: &mut [f32]) {
    let (low, high) = key.split_at(cos.len());
    let (out_low, out_high) = out.split_at_mut(cos.len());
    for i in 0..cos.len() {
        (out_low[i], out_high[i]) = rotated(low[i], high[i], cos[i], sin[i]);
    }
}

/// Turns a pair by an angle.
#[inline(always)]
fn rotated(low: f32, high: f32, cos: f32, sin: f32) -> (f32, f32) {
    (low * cos - high * sin, high * cos + low * sin)
}
