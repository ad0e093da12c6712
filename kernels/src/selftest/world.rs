//! A little engine for attention: sequences with fixed contents, block tables, and steps of any cut.

use std::ops::Range;

use crate::backend::{Backend, BackendError};
use crate::metadata::{AttentionShape, StepInput};
use crate::selftest::rig::{Random, Use, download, poisoned, upload};

/// Sequences of known keys, queries and values, whatever step they come in.
#[derive(Clone, Debug)]
pub struct World {
    /// The layer.
    pub shape: AttentionShape,
    /// Fused rows of each sequence, `[len, qkv_width]`.
    pub qkv: Vec<Vec<f32>>,
    /// Blocks of each sequence, scattered over the cache.
    tables: Vec<Vec<u32>>,
    num_blocks: usize,
}

/// The tokens of a sequence that a step computes.
pub type Piece = (usize, Range<usize>);

impl World {
    /// Makes sequences of these lengths with random contents.
    pub fn new(shape: AttentionShape, lens: &[usize], seed: u64) -> Self {
        let mut random = Random(seed);
        let mut needed: Vec<usize> =
            lens.iter().map(|len| len.div_ceil(shape.block_size)).collect();
        let num_blocks = needed.iter().sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        let mut tables = vec![Vec::new(); lens.len()];
        while needed.iter().any(|&count| count > 0) {
            let index = random.below(lens.len());
            if needed[index] > 0 {
                needed[index] -= 1;
                tables[index].push(free.swap_remove(random.below(free.len())));
            }
        }
        let qkv = lens.iter().map(|len| random.values(len * shape.qkv_width())).collect();
        Self { shape, qkv, tables, num_blocks }
    }

    /// Returns the length of a sequence.
    pub fn len_of(&self, index: usize) -> usize {
        self.qkv[index].len() / self.shape.qkv_width()
    }

    /// Runs the steps on a fresh, poisoned cache; returns rotated queries and outputs of each sequence, by position.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn run<B: Backend>(
        &self,
        backend: &mut B,
        steps: &[Vec<Piece>],
    ) -> Result<Vec<Outputs>, BackendError> {
        let mut device = Device::new(backend, self)?;
        let mut outputs: Vec<Outputs> = self.qkv.iter().map(|_| Outputs::default()).collect();
        for pieces in steps {
            let (queries, out) = device.step(backend, self, pieces)?;
            let (width, out_width) = (self.shape.qkv_width(), self.out_width());
            let mut token = 0;
            for (index, range) in pieces {
                for _ in range.clone() {
                    let query = &queries[token * width..token * width + out_width];
                    outputs[*index].queries.extend_from_slice(query);
                    let out = &out[token * out_width..(token + 1) * out_width];
                    outputs[*index].out.extend_from_slice(out);
                    token += 1;
                }
            }
        }
        Ok(outputs)
    }

    /// Returns steps that compute each sequence whole, in a step of its own.
    pub fn alone(&self) -> Vec<Vec<Piece>> {
        (0..self.qkv.len()).map(|index| vec![(index, 0..self.len_of(index))]).collect()
    }

    /// Returns steps with prefills, chunks and decodes mixed, cut at random places.
    pub fn mixed(&self, random: &mut Random) -> Vec<Vec<Piece>> {
        let mut done = vec![0; self.qkv.len()];
        let mut steps = Vec::new();
        while (0..done.len()).any(|index| done[index] < self.len_of(index)) {
            let mut pieces = Vec::new();
            for (index, done) in done.iter_mut().enumerate() {
                let left = self.len_of(index) - *done;
                if left == 0 || random.below(4) == 0 {
                    continue;
                }
                let count = if random.below(2) == 0 { 1 } else { 1 + random.below(left) };
                pieces.push((index, *done..*done + count));
                *done += count;
            }
            steps.push(pieces);
        }
        steps
    }

    fn out_width(&self) -> usize {
        self.shape.num_heads * self.shape.head_dim
    }
}

/// What attention made of a sequence.
#[derive(Debug, Default)]
pub struct Outputs {
    /// `[num_tokens, num_heads * head_dim]`
    pub queries: Vec<f32>,
    /// `[num_tokens, num_heads * head_dim]`
    pub out: Vec<f32>,
}

/// What lives on the backend.
struct Device<B: Backend> {
    cache: B::LayerCache,
    rope: B::RopeTable,
    step: B::Step,
}

impl<B: Backend> Device<B> {
    fn new(backend: &mut B, world: &World) -> Result<Self, BackendError> {
        let shape = &world.shape;
        let half = shape.head_dim / 2;
        let inv_freq: Vec<f32> =
            (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect();
        let num_slots = world.num_blocks * shape.block_size;
        let mut device = Self {
            cache: backend.layer_cache(shape, world.num_blocks)?,
            rope: backend.rope_table(&inv_freq, num_slots, 1.0)?,
            step: backend.step(num_slots, world.qkv.len().max(1), world.num_blocks)?,
        };
        device.poison(backend, world, num_slots)?;
        Ok(device)
    }

    /// Writes NaN into every slot: what attention reads beyond its context shows.
    fn poison(
        &mut self,
        backend: &mut B,
        world: &World,
        num_slots: usize,
    ) -> Result<(), BackendError> {
        let slots: Vec<u32> = (0..num_slots as u32).collect();
        let blocks: Vec<u32> = (0..world.num_blocks as u32).collect();
        let input = StepInput {
            token_ids: &slots,
            positions: &slots,
            slot_mapping: &slots,
            cu_seqlens_q: &[0, num_slots as u32],
            context_lens: &[num_slots as u32],
            block_tables: &blocks,
            max_blocks_per_seq: world.num_blocks,
            logit_rows: &[],
            adapters: &[],
        };
        backend.load_step(&input, &mut self.step)?;
        let mut qkv = poisoned(backend, num_slots * world.shape.qkv_width(), Use::Buffer)?;
        let Self { cache, rope, step } = self;
        backend.rope_and_cache_write(step, &world.shape, rope, &mut qkv, cache)
    }

    /// Runs one step; returns the fused rows after rotation, and attention's output.
    fn step(
        &mut self,
        backend: &mut B,
        world: &World,
        pieces: &[Piece],
    ) -> Result<(Vec<f32>, Vec<f32>), BackendError> {
        let (shape, width) = (&world.shape, world.shape.qkv_width());
        let table_width =
            pieces.iter().map(|(index, _)| world.tables[*index].len()).max().unwrap_or(0);
        let (mut positions, mut slots, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cu_seqlens_q, mut context_lens, mut tables) = (vec![0], Vec::new(), Vec::new());
        for (index, range) in pieces {
            let table = &world.tables[*index];
            for position in range.clone() {
                let block = table[position / shape.block_size] as usize;
                slots.push((block * shape.block_size + position % shape.block_size) as u32);
                positions.push(position as u32);
            }
            rows.extend_from_slice(&world.qkv[*index][range.start * width..range.end * width]);
            cu_seqlens_q.push(positions.len() as u32);
            context_lens.push(range.end as u32);
            tables.extend_from_slice(table);
            // What lies behind a sequence's last block must not be read.
            tables.resize(context_lens.len() * table_width, u32::MAX);
        }
        let input = StepInput {
            token_ids: &positions,
            positions: &positions,
            slot_mapping: &slots,
            cu_seqlens_q: &cu_seqlens_q,
            context_lens: &context_lens,
            block_tables: &tables,
            max_blocks_per_seq: table_width,
            logit_rows: &[],
            adapters: &[],
        };
        backend.load_step(&input, &mut self.step)?;
        let mut qkv = upload(backend, &rows, Use::Buffer)?;
        let out_len = positions.len() * world.out_width();
        let mut out = poisoned(backend, out_len, Use::Operand)?;
        let Self { cache, rope, step } = self;
        backend.rope_and_cache_write(step, shape, rope, &mut qkv, cache)?;
        backend.attention(step, shape, &qkv, cache, &mut out)?;
        Ok((download(backend, &qkv, rows.len())?, download(backend, &out, out_len)?))
    }
}
