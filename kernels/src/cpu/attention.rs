//! Causal attention over a paged cache, with a running softmax: prefill, chunk and decode are one path.
//!
//! A task is a query tile (a few tokens of a sequence) by a key/value head. Its rows are the tile's tokens times the
//! query heads of the group; it walks the context in tiles of at most sixteen positions of one block.
//!
//! # Order
//! Positions are cut where blocks begin and then every sixteen, wherever the query stands. A row's scores, maxima, sums
//! and outputs are updated tile by tile, position by position, from the first that it sees to itself; rows beside
//! it only share loads. So a row's result depends on its position and its context: chunked is bit for bit whole, and
//! batched is alone. Lanes outside what a row sees are overwritten, not multiplied by zero: a NaN there stays there.
//!
//! # Limit
//! Decode: memory, an element of key or value a multiply-add of each query head of the group; the next tile is asked for
//! while one is read, for blocks lie anywhere. Prefill: FMA; per tile of
//! positions a row spends `2 * head_dim` FMAs a position and one exponential.

use std::ops::Range;

use crate::cpu::aligned::CACHE_LINE;
use crate::cpu::cache::{CacheElement, CpuLayerCache, HEAD_DIM_MAX, Slots};
use crate::cpu::grid::{Grid, RowTiles, Tile};
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, TILE, TILE_VECTORS_MAX, Vectors, exp};
use crate::cpu::step::CpuStep;
use crate::metadata::AttentionShape;

/// Rows that a task holds at once: they share the keys and values of a tile through the L1 cache.
const ROWS_MAX: usize = 16;

/// Rows that share a load in registers: four rows by two vectors are eight sums, enough to hide the FMA's latency.
const MR_MAX: usize = 4;

/// Attention of a whole step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention<'a> {
    pub(crate) step: &'a CpuStep,
    pub(crate) shape: &'a AttentionShape,
    /// `[num_tokens, qkv_width]`
    pub(crate) qkv: &'a [f32],
    pub(crate) cache: &'a CpuLayerCache,
}

impl<'a> Attention<'a> {
    /// Writes `out` `[num_tokens, num_heads * head_dim]`. Sizes, slots and blocks were checked.
    pub(crate) fn run(self, pool: &mut Pool, vectors: Vectors, out: &mut [f32]) {
        let group_width = self.group() * self.shape.head_dim;
        let grid = Grid {
            rows: RowTiles::Ragged(self.step.query_bounds()),
            width: self.shape.num_kv_heads * group_width,
            tile_width: group_width,
        };
        grid.for_each_tile(pool, out, &|tile| match &self.cache.slots {
            Slots::F16(slots) => {
                vectors.run(HeadTile { attention: self, slots: slots.as_slice(), tile });
            }
            Slots::F32(slots) => {
                vectors.run(HeadTile { attention: self, slots: slots.as_slice(), tile });
            }
        });
    }

    /// Query heads of a key/value head.
    #[inline(always)]
    fn group(&self) -> usize {
        self.shape.num_heads / self.shape.num_kv_heads
    }

    /// Returns the query of a token, `[head_dim]`.
    #[inline(always)]
    fn query(&self, token: usize, head: usize) -> &'a [f32] {
        let start = token * self.shape.qkv_width() + head * self.shape.head_dim;
        &self.qkv[start..start + self.shape.head_dim]
    }
}

/// One task: the grid's tile is `[tokens, group * head_dim]` of the output.
struct HeadTile<'a, E> {
    attention: Attention<'a>,
    /// The cache's elements.
    slots: &'a [E],
    tile: Tile<'a>,
}

/// One row: a query head of a token.
#[derive(Clone, Copy)]
struct Row<'a> {
    token: usize,
    /// The head within the group.
    head: usize,
    query: &'a [f32],
    /// Positions seen: `first..end`.
    first: usize,
    end: usize,
}

/// The running softmax of the rows of a task.
struct Running {
    /// The greatest score so far.
    max: [f32; ROWS_MAX],
    /// The sum of the weights, relative to `max`.
    total: [f32; ROWS_MAX],
    /// The sum of weighted values, relative to `max`: `[rows, padded head_dim]`.
    out: [f32; ROWS_MAX * HEAD_DIM_MAX],
    padded_dim: usize,
}

/// Positions of a tile that a row sees, counted from the tile's first.
#[derive(Clone, Copy, PartialEq)]
struct Seen {
    first: usize,
    end: usize,
}

/// A tile of positions: keys `[head_dim, TILE]`, values `[len, padded head_dim]` and more.
struct ContextTile<'a, E> {
    start: usize,
    len: usize,
    keys: &'a [[E; TILE]],
    values: &'a [[E; TILE]],
}

/// A tile to compute, and the one that follows it.
type Contexts<'a, E> = (&'a ContextTile<'a, E>, Option<&'a ContextTile<'a, E>>);

impl<E: CacheElement> Kernel for HeadTile<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let group = self.attention.group();
        let num_rows = self.tile.rows().len() * group;
        let mut start = 0;
        while start < num_rows {
            let end = num_rows.min(start + ROWS_MAX);
            self.rows(simd, start..end);
            start = end;
        }
    }
}

impl<'a, E: CacheElement> HeadTile<'a, E> {
    /// Computes some of the task's rows, which count token by token and head by head.
    #[inline(always)]
    fn rows<S: Simd>(&mut self, simd: S, range: Range<usize>) {
        let Attention { step, shape, .. } = self.attention;
        let blocks = step.host().sequence(step.query_seq(self.tile.row_index())).blocks;
        let mut rows = [Row { token: 0, head: 0, query: &[], first: 0, end: 0 }; ROWS_MAX];
        let rows = &mut rows[..range.len()];
        for (row, index) in rows.iter_mut().zip(range) {
            *row = self.row(index);
        }
        // Rows ascend by token, so the first sees furthest back and the last furthest on.
        let (first, last) = (rows[0].first, rows[rows.len() - 1].end - 1);
        let tile_of = |position: usize| {
            let (block, offset) = (position / shape.block_size, position % shape.block_size);
            block * shape.block_size.div_ceil(TILE) + offset / TILE
        };
        let (first, last) = (tile_of(first), tile_of(last));
        let mut running = Running::new(self.attention.cache.layout.padded_dim());
        let mut context = self.context(blocks, first);
        for tile in first..last {
            let next = self.context(blocks, tile + 1);
            running.visit(simd, rows, (&context, Some(&next)), shape.scale);
            context = next;
        }
        running.visit(simd, rows, (&context, None), shape.scale);
        self.finish(simd, rows, &mut running);
    }

    /// Returns a tile of the task's head, given its sequence's blocks; tiles count through all of them.
    #[inline(always)]
    fn context(&self, blocks: &[u32], tile: usize) -> ContextTile<'a, E> {
        let Attention { shape, cache, .. } = self.attention;
        let tiles_per_block = shape.block_size.div_ceil(TILE);
        let (index, tile) = (tile / tiles_per_block, tile % tiles_per_block);
        let head = cache.layout.head(self.slots, blocks[index] as usize, self.tile.column_index());
        let offset = tile * TILE;
        ContextTile {
            start: index * shape.block_size + offset,
            len: TILE.min(shape.block_size - offset),
            keys: head[cache.layout.key_tile(tile)].as_chunks().0,
            values: head[cache.layout.value(offset).start..].as_chunks().0,
        }
    }

    /// Returns the row of an index within the task.
    #[inline(always)]
    fn row(&self, index: usize) -> Row<'a> {
        let Attention { step, shape, .. } = self.attention;
        let group = self.attention.group();
        let (token, head) = (self.tile.rows().start + index / group, index % group);
        let position = step.host().positions()[token] as usize;
        Row {
            token,
            head,
            query: self.attention.query(token, self.tile.column_index() * group + head),
            first: shape.first_visible(position),
            end: position + 1,
        }
    }

    /// Divides by the totals and writes the rows.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, rows: &[Row<'_>], running: &mut Running) {
        let dim = self.attention.shape.head_dim;
        for (index, row) in rows.iter().enumerate() {
            let total = simd.splat(running.total[index]);
            let sums = running.out_row(index);
            for chunk in S::chunks_mut(sums) {
                simd.store(simd.div(simd.load(chunk), total), chunk);
            }
            let out = self.tile.row(row.token);
            out[row.head * dim..(row.head + 1) * dim].copy_from_slice(&sums[..dim]);
        }
    }
}

impl Running {
    #[inline(always)]
    fn new(padded_dim: usize) -> Self {
        Self {
            max: [f32::NEG_INFINITY; ROWS_MAX],
            total: [0.0; ROWS_MAX],
            out: [0.0; ROWS_MAX * HEAD_DIM_MAX],
            padded_dim,
        }
    }

    #[inline(always)]
    fn out_row(&mut self, index: usize) -> &mut [f32] {
        &mut self.out[index * self.padded_dim..(index + 1) * self.padded_dim]
    }

    /// Takes a tile of positions into every row. The first rows that read it ask for what comes next.
    #[inline(always)]
    fn visit<S: Simd, E: CacheElement>(
        &mut self,
        simd: S,
        rows: &[Row<'_>],
        (context, mut next): Contexts<'_, E>,
        scale: f32,
    ) {
        let (quads, rest) = rows.as_chunks::<MR_MAX>();
        for (index, quad) in quads.iter().enumerate() {
            let contexts = (context, next.take());
            self.visit_rows::<S, E, MR_MAX>(simd, quad, index * MR_MAX, contexts, scale);
        }
        let (index, contexts) = (quads.len() * MR_MAX, (context, next));
        match *rest {
            [a, b, c] => self.visit_rows::<S, E, 3>(simd, &[a, b, c], index, contexts, scale),
            [a, b] => self.visit_rows::<S, E, 2>(simd, &[a, b], index, contexts, scale),
            [a] => self.visit_rows::<S, E, 1>(simd, &[a], index, contexts, scale),
            _ => {}
        }
    }

    #[inline(always)]
    fn visit_rows<S: Simd, E: CacheElement, const MR: usize>(
        &mut self,
        simd: S,
        rows: &[Row<'_>; MR],
        first_row: usize,
        (context, next): Contexts<'_, E>,
        scale: f32,
    ) {
        // [rows, positions], scores at first
        let mut weights = scores::<S, E, MR>(simd, rows, (context, next), scale);
        let mut seen = [Seen { first: 0, end: 0 }; MR];
        let mut is_same = true;
        for m in 0..MR {
            seen[m] = context.seen_by(&rows[m]);
            is_same &= seen[m] == seen[0];
            if seen[m].first < seen[m].end {
                self.soften(simd, first_row + m, &mut weights[m], seen[m]);
            }
        }
        if is_same {
            self.add_values::<S, E, MR>(simd, first_row, &weights, context.values, seen[0]);
            return;
        }
        // At the edge of what is seen, rows of different tokens part: zeros in the place of weights would let a NaN
        // of one token into another.
        for m in 0..MR {
            self.add_values::<S, E, 1>(simd, first_row + m, &[weights[m]], context.values, seen[m]);
        }
    }

    /// Turns the scores of a row into weights, relative to the greatest score so far.
    #[inline(always)]
    fn soften<S: Simd>(&mut self, simd: S, row: usize, scores: &mut [f32; TILE], seen: Seen) {
        scores[..seen.first].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let chunks = S::chunks_mut(scores);
        let mut greatest = simd.load(&chunks[0]);
        for chunk in &chunks[1..] {
            greatest = simd.max(greatest, simd.load(chunk));
        }
        let (greatest, old_max) = (simd.reduce_max(greatest), self.max[row]);
        if greatest > old_max {
            self.max[row] = greatest;
            let shrink = exp(simd, simd.splat(old_max - greatest));
            self.total[row] *= simd.first_lane(shrink);
            for chunk in S::chunks_mut(self.out_row(row)) {
                simd.store(simd.mul(simd.load(chunk), shrink), chunk);
            }
        }
        let max = simd.splat(self.max[row]);
        let mut sum = simd.zero();
        for chunk in chunks {
            let weight = exp(simd, simd.sub(simd.load(chunk), max));
            simd.store(weight, chunk);
            sum = simd.add(sum, weight);
        }
        self.total[row] += simd.reduce_add(sum);
    }

    /// Adds the weighted values of the seen positions to the outputs of `MR` rows.
    #[inline(always)]
    fn add_values<S: Simd, E: CacheElement, const MR: usize>(
        &mut self,
        simd: S,
        first_row: usize,
        weights: &[[f32; TILE]; MR],
        values: &[[E; TILE]],
        seen: Seen,
    ) {
        let num_vectors = TILE / S::LANES;
        let row_chunks = self.padded_dim / S::LANES;
        let tiles_per_value = self.padded_dim / TILE;
        let out = &mut S::chunks_mut(&mut self.out)[first_row * row_chunks..];
        for tile in 0..tiles_per_value {
            let element = tile * num_vectors;
            let mut sums = [[simd.zero(); TILE_VECTORS_MAX]; MR];
            for m in 0..MR {
                for v in 0..num_vectors {
                    sums[m][v] = simd.load(&out[m * row_chunks + element + v]);
                }
            }
            for position in seen.first..seen.end {
                let value = &values[position * tiles_per_value + tile];
                let mut loaded = [simd.zero(); TILE_VECTORS_MAX];
                for v in 0..num_vectors {
                    loaded[v] = E::load(simd, value, v);
                }
                for m in 0..MR {
                    let weight = simd.splat(weights[m][position % TILE]);
                    for v in 0..num_vectors {
                        sums[m][v] = simd.mul_add(weight, loaded[v], sums[m][v]);
                    }
                }
            }
            for m in 0..MR {
                for v in 0..num_vectors {
                    simd.store(sums[m][v], &mut out[m * row_chunks + element + v]);
                }
            }
        }
    }
}

impl<E> ContextTile<'_, E> {
    /// Returns which of the tile's positions a row sees; `end <= first` if none.
    #[inline(always)]
    fn seen_by(&self, row: &Row<'_>) -> Seen {
        Seen {
            first: row.first.saturating_sub(self.start),
            end: row.end.saturating_sub(self.start).min(self.len),
        }
    }
}

/// Returns the scores of `MR` queries on a tile of keys `[head_dim, TILE]`; lanes past the tile's end are whatever.
#[inline(always)]
fn scores<S: Simd, E: CacheElement, const MR: usize>(
    simd: S,
    rows: &[Row<'_>; MR],
    (ContextTile { keys, .. }, next): Contexts<'_, E>,
    scale: f32,
) -> [[f32; TILE]; MR] {
    let num_vectors = TILE / S::LANES;
    let mut queries: [&[f32]; MR] = [&[]; MR];
    for m in 0..MR {
        queries[m] = &rows[m].query[..keys.len()];
    }
    let mut sums = [[simd.zero(); TILE_VECTORS_MAX]; MR];
    for (element, key) in keys.iter().enumerate() {
        if let Some(next) = next
            && element.is_multiple_of(CACHE_LINE / size_of::<[E; TILE]>())
        {
            for elements in [next.keys, next.values] {
                if let Some(line) = elements.get(element) {
                    simd.prefetch(line);
                }
            }
        }
        let mut loaded = [simd.zero(); TILE_VECTORS_MAX];
        for v in 0..num_vectors {
            loaded[v] = E::load(simd, key, v);
        }
        for m in 0..MR {
            let query = simd.splat(queries[m][element]);
            for v in 0..num_vectors {
                sums[m][v] = simd.mul_add(query, loaded[v], sums[m][v]);
            }
        }
    }
    let mut scores = [[0.0; TILE]; MR];
    for m in 0..MR {
        for (v, chunk) in S::chunks_mut(&mut scores[m]).iter_mut().enumerate() {
            simd.store(simd.mul(sums[m][v], simd.splat(scale)), chunk);
        }
    }
    scores
}
