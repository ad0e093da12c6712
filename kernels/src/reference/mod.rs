//! The truth of every operator: plain loops over f32 storage with sums in f64. Slow and obviously right.
//!
//! Matrices are widened to f32 when they are stored, buffers are plain vectors, and one thread does it all.
//! Each backend is tested against this one.

mod cache;
mod lora;
mod mixture;
mod norm;

use half::f16;

use crate::activation::Activation;
use crate::allocate;
use crate::backend::{Backend, BackendError, MatrixData, StepRows, WeightFormat};
use crate::checks::Check;
use crate::group::Member;
use crate::host_step::HostStep;
use crate::metadata::{AttentionShape, KvDType, StepInput};
use crate::narrow::narrow_to_f16;
use crate::parts::{Affine, FeedForward, HeadNorms, Norm};
use crate::reference::norm::{layer_norm, rms_norm};
use crate::rope_table::RopeTable;
use crate::widen::for_each_widened;

pub use crate::reference::cache::ReferenceCache;
pub use crate::reference::lora::ReferenceLora;
pub use crate::reference::mixture::ReferenceMixture;

const DEVICE: &str = "reference";

/// A backend without speed: what the operators mean.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceBackend;

/// A matrix `[rows, cols]`, widened.
#[derive(Debug)]
pub struct ReferenceMatrix {
    rows: usize,
    cols: usize,
    values: Vec<f32>,
}

impl ReferenceMatrix {
    fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.cols..(index + 1) * self.cols]
    }
}

impl Backend for ReferenceBackend {
    type Buffer = Vec<f32>;
    type Matrix = ReferenceMatrix;
    type Vector = Vec<f32>;
    type LayerCache = ReferenceCache;
    type RopeTable = RopeTable;
    type Mixture = ReferenceMixture;
    type Lora = ReferenceLora;
    type Step = HostStep;

    fn name(&self) -> String {
        DEVICE.to_owned()
    }

    fn kv_bytes_per_block(shape: &AttentionShape) -> usize {
        let num_slots = 2 * shape.num_kv_heads * shape.block_size;
        num_slots * shape.head_dim * shape.kv_dtype.num_bytes()
    }

    fn matrix_bytes(parts: &[MatrixData<'_>], _format: WeightFormat) -> u64 {
        let num_elements = parts.iter().map(|part| (part.rows * part.cols) as u64);
        num_elements.sum::<u64>() * size_of::<f32>() as u64
    }

    fn buffer(&self, len: usize) -> Result<Vec<f32>, BackendError> {
        allocate::zeroed(len, DEVICE)
    }

    fn matrix(
        &mut self,
        parts: &[MatrixData<'_>],
        _format: WeightFormat,
    ) -> Result<ReferenceMatrix, BackendError> {
        let (rows, cols) = Check("matrix").matrix_parts(parts)?;
        let mut values = allocate::reserved(rows.saturating_mul(cols), DEVICE)?;
        for part in parts {
            for_each_widened(part, |value| values.push(value));
        }
        Ok(ReferenceMatrix { rows, cols, values })
    }

    fn is_finite(&mut self, matrix: &ReferenceMatrix) -> Result<bool, BackendError> {
        Ok(matrix.values.iter().all(|value| value.is_finite()))
    }

    fn reserve(&mut self, _max_num_rows: usize) -> Result<(), BackendError> {
        Ok(())
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        let mut copy = allocate::reserved(values.len(), DEVICE)?;
        copy.extend_from_slice(values);
        Ok(copy)
    }

    fn layer_cache(
        &self,
        shape: &AttentionShape,
        num_blocks: usize,
    ) -> Result<ReferenceCache, BackendError> {
        Check("layer_cache").attention_shape(shape)?;
        let len = num_blocks
            .saturating_mul(shape.block_size)
            .saturating_mul(shape.num_kv_heads)
            .saturating_mul(shape.head_dim);
        Ok(ReferenceCache {
            shape: *shape,
            num_blocks,
            keys: allocate::zeroed(len, DEVICE)?,
            values: allocate::zeroed(len, DEVICE)?,
        })
    }

    fn rope_table(
        &self,
        inv_freq: &[f32],
        num_positions: usize,
        amplitude: f32,
    ) -> Result<RopeTable, BackendError> {
        RopeTable::new(inv_freq, num_positions, amplitude, DEVICE)
    }

    fn step(
        &self,
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
    ) -> Result<HostStep, BackendError> {
        HostStep::new(max_num_tokens, max_num_seqs, max_blocks_per_seq, DEVICE)
    }

    fn load_step(
        &mut self,
        input: &StepInput<'_>,
        step: &mut HostStep,
    ) -> Result<(), BackendError> {
        step.load(input)
    }

    fn rows(step: &HostStep) -> StepRows {
        step.rows()
    }

    fn embed(
        &mut self,
        step: &HostStep,
        table: &ReferenceMatrix,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("embed");
        check.indices("token_ids", step.token_ids(), table.rows)?;
        check.holds("out", out.len(), step.num_tokens(), table.cols)?;
        for (token, &id) in step.token_ids().iter().enumerate() {
            out[token * table.cols..(token + 1) * table.cols]
                .copy_from_slice(table.row(id as usize));
        }
        Ok(())
    }

    fn scale(
        &mut self,
        num_rows: usize,
        width: usize,
        factor: f32,
        x: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Check("scale").holds("x", x.len(), num_rows, width)?;
        for value in &mut x[..num_rows * width] {
            *value *= factor;
        }
        Ok(())
    }

    fn norm(
        &mut self,
        num_rows: usize,
        x: &Vec<f32>,
        norm: Norm<'_, Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let (check, width) = (Check(norm.name()), norm.weight().len());
        check.holds("x", x.len(), num_rows, width)?;
        check.holds("out", out.len(), num_rows, width)?;
        if let Norm::Layer { bias, .. } = &norm {
            check.equal("length of `bias`", bias.len(), width)?;
        }
        for row in 0..num_rows {
            let range = row * width..(row + 1) * width;
            let (x, out) = (&x[range.clone()], &mut out[range]);
            out.copy_from_slice(x);
            match norm {
                Norm::Rms { weight, eps } => rms_norm(out, weight, eps),
                Norm::Layer { weight, bias, eps } => layer_norm(out, weight, bias, eps),
            }
        }
        Ok(())
    }

    fn head_norm(
        &mut self,
        num_rows: usize,
        shape: &AttentionShape,
        norms: HeadNorms<'_, Vec<f32>>,
        qkv: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("head_norm");
        check.head_norms(shape, norms.query.len(), norms.key.len())?;
        check.holds("qkv", qkv.len(), num_rows, shape.qkv_width())?;
        for row in qkv.chunks_exact_mut(shape.qkv_width()).take(num_rows) {
            for (index, head) in row.chunks_exact_mut(shape.head_dim).enumerate() {
                if index < shape.num_heads {
                    rms_norm(head, norms.query, norms.eps);
                } else if index < shape.num_heads + shape.num_kv_heads {
                    rms_norm(head, norms.key, norms.eps);
                }
            }
        }
        Ok(())
    }

    fn linear(
        &mut self,
        num_rows: usize,
        x: &Vec<f32>,
        matrix: &ReferenceMatrix,
        bias: Option<&Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("linear");
        check.holds("x", x.len(), num_rows, matrix.cols)?;
        check.holds("out", out.len(), num_rows, matrix.rows)?;
        check.bias(bias.map(Vec::len), matrix.rows)?;
        for row in 0..num_rows {
            for feature in 0..matrix.rows {
                let sum = affine(x, row, Affine { matrix, bias }, feature);
                out[row * matrix.rows + feature] = sum as f32;
            }
        }
        Ok(())
    }

    fn linear_add(
        &mut self,
        num_rows: usize,
        x: &Vec<f32>,
        matrix: &ReferenceMatrix,
        bias: Option<&Vec<f32>>,
        residual: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("linear_add");
        check.holds("x", x.len(), num_rows, matrix.cols)?;
        check.holds("residual", residual.len(), num_rows, matrix.rows)?;
        check.bias(bias.map(Vec::len), matrix.rows)?;
        for row in 0..num_rows {
            for feature in 0..matrix.rows {
                let sum = affine(x, row, Affine { matrix, bias }, feature);
                let residual = &mut residual[row * matrix.rows + feature];
                *residual = (f64::from(*residual) + sum) as f32;
            }
        }
        Ok(())
    }

    fn feed_forward(
        &mut self,
        num_rows: usize,
        x: &Vec<f32>,
        parts: FeedForward<'_, ReferenceMatrix, Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let (check, FeedForward { activation, gate, up }) = (Check("feed_forward"), parts);
        let ReferenceMatrix { rows, cols, .. } = *gate.matrix;
        check.holds("x", x.len(), num_rows, cols)?;
        check.holds("out", out.len(), num_rows, rows)?;
        check.bias(gate.bias.map(Vec::len), rows)?;
        if let Some(up) = up {
            check.same_shape((rows, cols), (up.matrix.rows, up.matrix.cols))?;
            check.bias(up.bias.map(Vec::len), rows)?;
        }
        for row in 0..num_rows {
            for feature in 0..rows {
                let gate = activation.of(affine(x, row, gate, feature));
                let up = up.map_or(1.0, |up| affine(x, row, up, feature));
                out[row * rows + feature] = (gate * up) as f32;
            }
        }
        Ok(())
    }

    fn activate(
        &mut self,
        (num_rows, width): (usize, usize),
        activation: Activation,
        gate: &Vec<f32>,
        up: Option<&Vec<f32>>,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("activate");
        check.holds("gate", gate.len(), num_rows, width)?;
        check.holds("out", out.len(), num_rows, width)?;
        if let Some(up) = up {
            check.holds("up", up.len(), num_rows, width)?;
        }
        for index in 0..num_rows * width {
            let up = up.map_or(1.0, |up| f64::from(up[index]));
            out[index] = (activation.of(f64::from(gate[index])) * up) as f32;
        }
        Ok(())
    }

    fn rope_and_cache_write(
        &mut self,
        step: &HostStep,
        shape: &AttentionShape,
        rope: &RopeTable,
        qkv: &mut Vec<f32>,
        cache: &mut ReferenceCache,
    ) -> Result<(), BackendError> {
        let check = Check("rope_and_cache_write");
        check.cache_matches(&cache.shape, shape)?;
        check.slots(step, shape, (rope.half_dim(), rope.num_positions()), cache.num_blocks)?;
        check.holds("qkv", qkv.len(), step.num_tokens(), shape.qkv_width())?;
        let (head_dim, width) = (shape.head_dim, shape.qkv_width());
        for token in 0..step.num_tokens() {
            let (cos, sin) = rope.row(step.positions()[token] as usize);
            // [num_heads | num_kv_heads | num_kv_heads, head_dim]
            let heads = &mut qkv[token * width..(token + 1) * width];
            let (queries, rest) = heads.split_at_mut(shape.num_heads * head_dim);
            let (keys, values) = rest.split_at(shape.num_kv_heads * head_dim);
            for query in queries.chunks_exact_mut(head_dim) {
                rotate(query, cos, sin);
            }
            for kv_head in 0..shape.num_kv_heads {
                let offset = cache.offset(step.slot_mapping()[token] as usize, kv_head);
                let head = kv_head * head_dim..(kv_head + 1) * head_dim;
                let key = &mut cache.keys[offset..offset + head_dim];
                key.copy_from_slice(&keys[head.clone()]);
                rotate(key, cos, sin);
                let value = &mut cache.values[offset..offset + head_dim];
                value.copy_from_slice(&values[head]);
                if shape.kv_dtype == KvDType::F16 {
                    round_to_f16(key);
                    round_to_f16(value);
                }
            }
        }
        Ok(())
    }

    fn attention(
        &mut self,
        step: &HostStep,
        shape: &AttentionShape,
        qkv: &Vec<f32>,
        cache: &ReferenceCache,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("attention");
        check.cache_matches(&cache.shape, shape)?;
        check.blocks(step, shape, cache.num_blocks)?;
        let (width, out_width) = (shape.qkv_width(), shape.num_heads * shape.head_dim);
        check.holds("qkv", qkv.len(), step.num_tokens(), width)?;
        check.holds("out", out.len(), step.num_tokens(), out_width)?;
        let group = shape.num_heads / shape.num_kv_heads;
        for sequence in step.sequences() {
            for token in sequence.tokens {
                let position = step.positions()[token] as usize;
                // [num_visible]
                let slots: Vec<usize> = (shape.first_visible(position)..=position)
                    .map(|p| {
                        sequence.blocks[p / shape.block_size] as usize * shape.block_size
                            + p % shape.block_size
                    })
                    .collect();
                for head in 0..shape.num_heads {
                    let query = &qkv[token * width + head * shape.head_dim..][..shape.head_dim];
                    let out =
                        &mut out[token * out_width + head * shape.head_dim..][..shape.head_dim];
                    attend(query, &slots, head / group, shape.scale, cache, out);
                }
            }
        }
        Ok(())
    }

    fn all_reduce(
        &mut self,
        member: &Member,
        num_rows: usize,
        width: usize,
        buffer: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        Check("all_reduce").holds("buffer", buffer.len(), num_rows, width)?;
        member.all_reduce(&mut buffer[..num_rows * width])
    }

    fn gather_logit_rows(
        &mut self,
        step: &HostStep,
        width: usize,
        x: &Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<(), BackendError> {
        let check = Check("gather_logit_rows");
        check.holds("x", x.len(), step.num_tokens(), width)?;
        check.holds("out", out.len(), step.logit_rows().len(), width)?;
        for (index, &row) in step.logit_rows().iter().enumerate() {
            let row = row as usize;
            out[index * width..(index + 1) * width]
                .copy_from_slice(&x[row * width..(row + 1) * width]);
        }
        Ok(())
    }

    fn read(&mut self, x: &Vec<f32>, out: &mut [f32]) -> Result<(), BackendError> {
        Check("read").holds("x", x.len(), 1, out.len())?;
        out.copy_from_slice(&x[..out.len()]);
        Ok(())
    }
}

/// Returns `x[row] · matrix[feature] + bias[feature]`.
fn affine(
    x: &[f32],
    row: usize,
    Affine { matrix, bias }: Affine<'_, ReferenceMatrix, Vec<f32>>,
    feature: usize,
) -> f64 {
    let product = dot(&x[row * matrix.cols..(row + 1) * matrix.cols], matrix.row(feature));
    product + bias.map_or(0.0, |bias| f64::from(bias[feature]))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn round_to_f16(values: &mut [f32]) {
    let mut narrow = vec![f16::ZERO; values.len()];
    narrow_to_f16(values, &mut narrow);
    for (value, narrow) in values.iter_mut().zip(narrow) {
        *value = narrow.to_f32();
    }
}

/// Turns element `i` against element `i + head_dim / 2`.
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for i in 0..cos.len() {
        let (a, b) = (f64::from(low[i]), f64::from(high[i]));
        let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
        low[i] = (a * cos - b * sin) as f32;
        high[i] = (b * cos + a * sin) as f32;
    }
}

/// Softmax over the visible slots, then the weighted mean of their values.
fn attend(
    query: &[f32],
    slots: &[usize],
    kv_head: usize,
    scale: f32,
    cache: &ReferenceCache,
    out: &mut [f32],
) {
    let dim = query.len();
    let scores: Vec<f64> = slots
        .iter()
        .map(|&slot| dot(query, &cache.keys[cache.offset(slot, kv_head)..][..dim]))
        .map(|product| product * f64::from(scale))
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut sums = vec![0.0_f64; dim];
    for (&slot, weight) in slots.iter().zip(&weights) {
        for (sum, value) in sums.iter_mut().zip(&cache.values[cache.offset(slot, kv_head)..][..dim])
        {
            *sum += weight * f64::from(*value);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum / total) as f32;
    }
}
