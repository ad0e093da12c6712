//! Keys and values as the reference keeps them.

use crate::metadata::AttentionShape;

/// Keys and values of one layer, `[num_blocks * block_size, num_kv_heads, head_dim]` each.
#[derive(Debug)]
pub struct ReferenceCache {
    pub(super) shape: AttentionShape,
    pub(super) num_blocks: usize,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl ReferenceCache {
    /// Returns where the head of a slot begins.
    pub(super) fn offset(&self, slot: usize, kv_head: usize) -> usize {
        (slot * self.shape.num_kv_heads + kv_head) * self.shape.head_dim
    }
}
