//! The rules that every backend holds its callers to, each with one wording.
//!
//! A check runs before an operator touches memory, so an operator never sees a wrong shape. Products of sizes
//! saturate: what overflows is longer than any buffer and is refused as such.

use crate::backend::{BackendError, MatrixData};
use crate::host_step::HostStep;
use crate::lora::NO_ADAPTER;
use crate::metadata::AttentionShape;

/// The checks of one operator; the name goes into the error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    /// Refuses with the rule that was broken.
    pub(crate) fn refuse<T>(self, what: String) -> Result<T, BackendError> {
        Err(BackendError::Shape { operator: self.0, what })
    }

    /// `name` must hold `rows * cols` values or more.
    pub(crate) fn holds(
        self,
        name: &str,
        len: usize,
        rows: usize,
        cols: usize,
    ) -> Result<(), BackendError> {
        let needed = rows.saturating_mul(cols);
        if len < needed {
            return self.refuse(format!(
                "`{name}` must hold {rows} rows of {cols} values ({needed}), got {len}"
            ));
        }
        Ok(())
    }

    /// `name` must be exactly `expected`.
    pub(crate) fn equal(self, name: &str, got: usize, expected: usize) -> Result<(), BackendError> {
        if got != expected {
            return self.refuse(format!("{name} must be {expected}, got {got}"));
        }
        Ok(())
    }

    /// `name` must not pass `limit`.
    pub(crate) fn at_most(self, name: &str, got: usize, limit: usize) -> Result<(), BackendError> {
        if got > limit {
            return self.refuse(format!("{name} must be at most {limit}, got {got}"));
        }
        Ok(())
    }

    /// Each value of `name` must be an index below `len`.
    pub(crate) fn indices(
        self,
        name: &str,
        values: &[u32],
        len: usize,
    ) -> Result<(), BackendError> {
        match values.iter().find(|&&value| value as usize >= len) {
            Some(value) => self.refuse(format!("`{name}` must be below {len}, got {value}")),
            None => Ok(()),
        }
    }

    /// The parts must agree in `cols` and hold what their shape says. Returns `(rows, cols)` of the stack.
    pub(crate) fn matrix_parts(
        self,
        parts: &[MatrixData<'_>],
    ) -> Result<(usize, usize), BackendError> {
        let Some(first) = parts.first() else {
            return self.refuse("a matrix must have at least one part, got 0".to_owned());
        };
        let mut rows = 0_usize;
        for part in parts {
            self.equal("`cols` of each part", part.cols, first.cols)?;
            let Some(bytes_per_row) = part.dtype.num_bytes(part.cols) else {
                let (dtype, block) = (part.dtype, part.dtype.block_len());
                return self.refuse(format!(
                    "`cols` of {dtype:?} must be a multiple of {block}, got {}",
                    part.cols
                ));
            };
            let needed = part.rows.saturating_mul(bytes_per_row);
            self.equal("bytes of a part", part.bytes.len(), needed)?;
            rows = rows.saturating_add(part.rows);
        }
        Ok((rows, first.cols))
    }

    /// Gate and up must be of one shape, `(rows, cols)`.
    pub(crate) fn same_shape(
        self,
        gate: (usize, usize),
        up: (usize, usize),
    ) -> Result<(), BackendError> {
        self.equal("rows of `up`", up.0, gate.0)?;
        self.equal("columns of `up`", up.1, gate.1)
    }

    /// A bias, where there is one, must be as long as the product is wide.
    pub(crate) fn bias(self, len: Option<usize>, rows: usize) -> Result<(), BackendError> {
        len.map_or(Ok(()), |len| self.equal("length of `bias`", len, rows))
    }

    /// Norms of heads must be as long as a head.
    pub(crate) fn head_norms(
        self,
        shape: &AttentionShape,
        query: usize,
        key: usize,
    ) -> Result<(), BackendError> {
        self.attention_shape(shape)?;
        self.equal("length of `query`", query, shape.head_dim)?;
        self.equal("length of `key`", key, shape.head_dim)
    }

    /// The shape must be one that attention can compute.
    pub(crate) fn attention_shape(self, shape: &AttentionShape) -> Result<(), BackendError> {
        let AttentionShape { num_heads, num_kv_heads, head_dim, block_size, .. } = *shape;
        if num_kv_heads == 0 || num_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
            return self.refuse(format!(
                "`num_kv_heads` must divide `num_heads`, got {num_kv_heads} and {num_heads}"
            ));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return self.refuse(format!("`head_dim` must be even and not 0, got {head_dim}"));
        }
        if block_size == 0 {
            return self.refuse("`block_size` must be at least 1, got 0".to_owned());
        }
        if shape.window == Some(0) {
            return self.refuse("`window` must be at least 1, got 0".to_owned());
        }
        Ok(())
    }

    /// The cache must have been allocated for this shape.
    pub(crate) fn cache_matches(
        self,
        cache: &AttentionShape,
        shape: &AttentionShape,
    ) -> Result<(), BackendError> {
        self.attention_shape(shape)?;
        self.equal("`num_kv_heads` of the cache", cache.num_kv_heads, shape.num_kv_heads)?;
        self.equal("`head_dim` of the cache", cache.head_dim, shape.head_dim)?;
        self.equal("`block_size` of the cache", cache.block_size, shape.block_size)?;
        if cache.kv_dtype != shape.kv_dtype {
            let (asked, got) = (shape.kv_dtype.name(), cache.kv_dtype.name());
            return self.refuse(format!("elements of the cache must be {asked}, got {got}"));
        }
        Ok(())
    }

    /// Every token must have a rotation, of a table of so many pairs and positions, and a slot.
    pub(crate) fn slots(
        self,
        step: &HostStep,
        shape: &AttentionShape,
        (half_dim, num_positions): (usize, usize),
        num_blocks: usize,
    ) -> Result<(), BackendError> {
        self.equal("`inv_freq` of the rope table", half_dim, shape.head_dim / 2)?;
        self.indices("positions", step.positions(), num_positions)?;
        self.indices(
            "slot_mapping",
            step.slot_mapping(),
            num_blocks.saturating_mul(shape.block_size),
        )
    }

    /// Each token must have an adapter of so many, or none; and one must have one.
    pub(crate) fn adapters(
        self,
        adapters: &[u32],
        num_adapters: usize,
    ) -> Result<(), BackendError> {
        if adapters.is_empty() {
            return self.refuse("the step must have adapters, got none".to_owned());
        }
        let named = adapters.iter().copied().filter(|&adapter| adapter != NO_ADAPTER);
        named.max().map_or(Ok(()), |most| self.indices("adapters", &[most], num_adapters))
    }

    /// Every position that a token sees must lie in a block of the cache.
    pub(crate) fn blocks(
        self,
        step: &HostStep,
        shape: &AttentionShape,
        num_blocks: usize,
    ) -> Result<(), BackendError> {
        let room = step.max_blocks_per_seq().saturating_mul(shape.block_size);
        for sequence in step.sequences() {
            self.at_most(
                "`context_lens` for the width of `block_tables`",
                sequence.context_len,
                room,
            )?;
            let first_position = sequence.context_len - sequence.tokens.len();
            let first_block = shape.first_visible(first_position) / shape.block_size;
            let end_block = sequence.context_len.div_ceil(shape.block_size);
            self.indices("block_tables", &sequence.blocks[first_block..end_block], num_blocks)?;
        }
        Ok(())
    }
}
