//! The CPU: vector kernels on flat f32 buffers, over one pool of threads, nothing allocated in a step.
//!
//! | file | concept |
//! |---|---|
//! | `simd/` | vectors of f32 in tiers; loops are written once over them |
//! | `pool`, `grid` | threads, and matrices cut into tiles for them |
//! | `groups` | rows dealt to several matrices |
//! | `aligned`, `matrix`, `fp8`, `cache`, `step` | storage: buffers, weights, keys and values, metadata |
//! | `linear/` | products, from one row to a whole prefill |
//! | `quantized/` | products of weights in four and eight bits |
//! | `attention` | paged attention, one path for prefill, chunk and decode |
//! | `ways` | which products a matrix takes: exact, rounded or of integers |
//! | `mixture`, `lora` | mixtures of experts and adapters, over the same products |
//! | `rotary`, `norm`, `activation`, `gather` | the rest |
//! | `bandwidth` | how fast the memory can be read, for benches |
//!
//! # Invariant
//! What an operator computes for a row depends on that row (and its context) alone: not on the rows beside it, the number
//! of threads, or how a prefill was cut. Batched is alone and chunked is whole, bit for bit, on a tier. Tiers differ
//! from each other in the last bits, but for products of integers, which are the same on all.
//!
//! Here `unsafe` lives in `pool`, `grid` and the tiers of `simd` and `quantized/dot` that call intrinsics.

#![expect(clippy::inline_always, reason = "a vector loop must be inlined into its tier's function")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by row and column")]

mod activation;
mod aligned;
mod attention;
pub mod bandwidth;
mod cache;
mod fp8;
mod gather;
mod grid;
mod groups;
mod linear;
mod lora;
mod matrix;
mod mixture;
mod norm;
mod pool;
mod quantized;
mod rotary;
mod simd;
mod step;
mod ways;

use std::slice::from_ref;

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, MatrixData, StepRows, WeightFormat};
use crate::checks::Check;
use crate::cpu::activation::Activate;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::attention::Attention;
use crate::cpu::cache::HEAD_DIM_MAX;
use crate::cpu::grid::Grid;
use crate::cpu::linear::{Epilogue, Half, Linear, Rounding, Rows, Term, activated, gated};
use crate::cpu::pool::Pool;
use crate::cpu::quantized::QuantizedProducts;
use crate::cpu::simd::Vectors;
use crate::group::Member;
use crate::metadata::{AttentionShape, StepInput};
use crate::parts::{Affine, FeedForward, HeadNorms, Norm};
use crate::rope_table::RopeTable;

pub use crate::cpu::cache::CpuLayerCache;
pub use crate::cpu::lora::{CpuLora, CpuPairs, pairs_bytes};
pub use crate::cpu::matrix::CpuMatrix;
pub use crate::cpu::mixture::CpuMixture;
pub use crate::cpu::simd::SimdTier;
pub use crate::cpu::step::CpuStep;

/// The device's name in errors.
pub(crate) const DEVICE: &str = "cpu";

/// What a CPU backend is made of.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads of an operator, the caller's included; `None` takes as many as the process may use.
    pub num_threads: Option<usize>,
    /// The instruction set; `None` takes the fastest of the machine.
    pub simd: Option<SimdTier>,
}

/// The CPU could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The machine lacks the instructions.
    #[error("this machine cannot run the simd tier `{0}`")]
    TierUnavailable(SimdTier),
    /// Nobody would do the work.
    #[error("`num_threads` must be at least 1, got 0")]
    NoThreads,
    /// The system refused a thread.
    #[error("cannot start {num_threads} threads")]
    Spawn {
        /// What was asked for.
        num_threads: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The backend of every machine.
#[derive(Debug)]
pub struct CpuBackend {
    pool: Pool,
    vectors: Vectors,
    rounding: Rounding,
    quantized: QuantizedProducts,
}

/// A flat buffer of activations, or a vector of weights, on cache lines.
#[derive(Debug)]
pub struct CpuBuffer(AlignedSlice<f32>);

impl CpuBackend {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`CpuError`] where the machine lacks the tier, or the threads cannot be had: nothing falls back silently.
    pub fn new(options: CpuOptions) -> Result<Self, CpuError> {
        let tier = options.simd.unwrap_or_else(SimdTier::fastest);
        let vectors = Vectors::new(tier).ok_or(CpuError::TierUnavailable(tier))?;
        let num_threads = options
            .num_threads
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1);
        if num_threads == 0 {
            return Err(CpuError::NoThreads);
        }
        let pool =
            Pool::new(num_threads).map_err(|source| CpuError::Spawn { num_threads, source })?;
        let (rounding, quantized) = (Rounding::none(), QuantizedProducts::new(vectors));
        Ok(Self { pool, vectors, rounding, quantized })
    }

    /// Returns the instruction set in use.
    pub fn tier(&self) -> SimdTier {
        self.vectors.tier()
    }
}

fn half_of(part: Affine<'_, CpuMatrix, CpuBuffer>) -> Half<'_> {
    (from_ref(part.matrix), part.bias.map(CpuBuffer::values))
}

impl CpuBuffer {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn values(&self) -> &[f32] {
        self.0.as_slice()
    }
}

impl Backend for CpuBackend {
    type Buffer = CpuBuffer;
    type Matrix = CpuMatrix;
    type Vector = CpuBuffer;
    type LayerCache = CpuLayerCache;
    type RopeTable = RopeTable;
    type Mixture = CpuMixture;
    type Lora = CpuLora;
    type Step = CpuStep;

    fn name(&self) -> String {
        let num_threads = self.pool.num_threads();
        let plural = if num_threads == 1 { "" } else { "s" };
        format!("cpu ({}, {num_threads} thread{plural})", self.vectors.tier())
    }

    fn kv_bytes_per_block(shape: &AttentionShape) -> usize {
        CpuLayerCache::bytes_per_block(shape)
    }

    fn matrix_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
        CpuMatrix::num_bytes(parts, format)
    }

    fn buffer(&self, len: usize) -> Result<CpuBuffer, BackendError> {
        AlignedSlice::zeroed(len, DEVICE).map(CpuBuffer)
    }

    fn matrix(
        &mut self,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<CpuMatrix, BackendError> {
        self.matrix_of(parts, format, 1)
    }

    fn is_finite(&mut self, matrix: &CpuMatrix) -> Result<bool, BackendError> {
        Ok(matrix.is_finite(&mut self.pool))
    }

    fn reserve(&mut self, max_num_rows: usize) -> Result<(), BackendError> {
        self.rounding.reserve(max_num_rows)?;
        self.quantized.reserve(max_num_rows)
    }

    fn vector(&self, values: &[f32]) -> Result<CpuBuffer, BackendError> {
        let mut copy = AlignedSlice::zeroed(values.len(), DEVICE)?;
        copy.as_mut_slice().copy_from_slice(values);
        Ok(CpuBuffer(copy))
    }

    fn layer_cache(
        &self,
        shape: &AttentionShape,
        num_blocks: usize,
    ) -> Result<CpuLayerCache, BackendError> {
        CpuLayerCache::new(shape, num_blocks)
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
    ) -> Result<CpuStep, BackendError> {
        CpuStep::new(max_num_tokens, max_num_seqs, max_blocks_per_seq)
    }

    fn load_step(&mut self, input: &StepInput<'_>, step: &mut CpuStep) -> Result<(), BackendError> {
        step.load(input)
    }

    fn rows(step: &CpuStep) -> StepRows {
        step.host().rows()
    }

    fn embed(
        &mut self,
        step: &CpuStep,
        table: &CpuMatrix,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, ids) = (Check("embed"), step.host().token_ids());
        check.indices("token_ids", ids, table.rows)?;
        check.holds("out", out.len(), ids.len(), table.cols)?;
        gather::embed(&mut self.pool, ids, table, out.0.as_mut_slice());
        Ok(())
    }

    fn scale(
        &mut self,
        num_rows: usize,
        width: usize,
        factor: f32,
        x: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        Check("scale").holds("x", x.len(), num_rows, width)?;
        let grid = Grid::of_rows(num_rows, width);
        grid.for_each_tile(&mut self.pool, x.0.as_mut_slice(), &|mut tile| {
            for row in tile.rows() {
                tile.row(row).iter_mut().for_each(|value| *value *= factor);
            }
        });
        Ok(())
    }

    fn norm(
        &mut self,
        num_rows: usize,
        x: &CpuBuffer,
        norm: Norm<'_, CpuBuffer>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, width) = (Check(norm.name()), norm.weight().len());
        check.holds("x", x.len(), num_rows, width)?;
        check.holds("out", out.len(), num_rows, width)?;
        if let Norm::Layer { bias, .. } = &norm {
            check.equal("length of `bias`", bias.len(), width)?;
        }
        let norm = match norm {
            Norm::Rms { weight, eps } => Norm::Rms { weight: weight.values(), eps },
            Norm::Layer { weight, bias, eps } => {
                Norm::Layer { weight: weight.values(), bias: bias.values(), eps }
            }
        };
        let (vectors, out) = (self.vectors, out.0.as_mut_slice());
        norm::norm_rows(&mut self.pool, vectors, num_rows, x.values(), &norm, out);
        Ok(())
    }

    fn head_norm(
        &mut self,
        num_rows: usize,
        shape: &AttentionShape,
        norms: HeadNorms<'_, CpuBuffer>,
        qkv: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let check = Check("head_norm");
        check.head_norms(shape, norms.query.len(), norms.key.len())?;
        check.at_most("`head_dim`", shape.head_dim, HEAD_DIM_MAX)?;
        check.holds("qkv", qkv.len(), num_rows, shape.qkv_width())?;
        let HeadNorms { query, key, eps } = norms;
        let norms = HeadNorms { query: query.values(), key: key.values(), eps };
        let (vectors, qkv) = (self.vectors, qkv.0.as_mut_slice());
        rotary::norm_heads(&mut self.pool, vectors, (num_rows, shape), &norms, qkv);
        Ok(())
    }

    fn linear(
        &mut self,
        num_rows: usize,
        x: &CpuBuffer,
        matrix: &CpuMatrix,
        bias: Option<&CpuBuffer>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let check = Check("linear");
        check.holds("x", x.len(), num_rows, matrix.cols)?;
        check.holds("out", out.len(), num_rows, matrix.rows)?;
        check.bias(bias.map(CpuBuffer::len), matrix.rows)?;
        let epilogue = bias.map_or(Epilogue::Store, |bias| Epilogue::Bias(bias.values()));
        let terms = [Term { matrices: from_ref(matrix), epilogue, activation: None }];
        self.products(
            check,
            Linear { rows: Rows::All(num_rows), x: x.values(), terms: &terms },
            out,
        )
    }

    fn linear_add(
        &mut self,
        num_rows: usize,
        x: &CpuBuffer,
        matrix: &CpuMatrix,
        bias: Option<&CpuBuffer>,
        residual: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let check = Check("linear_add");
        check.holds("x", x.len(), num_rows, matrix.cols)?;
        check.holds("residual", residual.len(), num_rows, matrix.rows)?;
        check.bias(bias.map(CpuBuffer::len), matrix.rows)?;
        let epilogue = bias.map_or(Epilogue::Add, |bias| Epilogue::AddBias(bias.values()));
        let terms = [Term { matrices: from_ref(matrix), epilogue, activation: None }];
        self.products(
            check,
            Linear { rows: Rows::All(num_rows), x: x.values(), terms: &terms },
            residual,
        )
    }

    fn feed_forward(
        &mut self,
        num_rows: usize,
        x: &CpuBuffer,
        parts: FeedForward<'_, CpuMatrix, CpuBuffer>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, FeedForward { activation, gate, up }) = (Check("feed_forward"), parts);
        let CpuMatrix { rows, cols, .. } = *gate.matrix;
        check.holds("x", x.len(), num_rows, cols)?;
        check.holds("out", out.len(), num_rows, rows)?;
        check.bias(gate.bias.map(CpuBuffer::len), rows)?;
        let (all_rows, x) = (Rows::All(num_rows), x.values());
        let Some(up) = up else {
            let terms = [activated(activation, half_of(gate))];
            return self.products(check, Linear { rows: all_rows, x, terms: &terms }, out);
        };
        check.same_shape((rows, cols), (up.matrix.rows, up.matrix.cols))?;
        check.bias(up.bias.map(CpuBuffer::len), rows)?;
        let terms = gated(activation, half_of(gate), half_of(up));
        self.products(check, Linear { rows: all_rows, x, terms: &terms }, out)
    }

    fn activate(
        &mut self,
        (num_rows, width): (usize, usize),
        activation: Activation,
        gate: &CpuBuffer,
        up: Option<&CpuBuffer>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let check = Check("activate");
        check.holds("gate", gate.len(), num_rows, width)?;
        check.holds("out", out.len(), num_rows, width)?;
        if let Some(up) = up {
            check.holds("up", up.len(), num_rows, width)?;
        }
        let (vectors, gate, up) = (self.vectors, gate.values(), up.map(CpuBuffer::values));
        let grid = Grid::of_rows(num_rows, width);
        grid.for_each_tile(&mut self.pool, out.0.as_mut_slice(), &|mut tile| {
            for row in tile.rows() {
                let (values, at) = (tile.row(row), row * width..(row + 1) * width);
                values.copy_from_slice(&gate[at.clone()]);
                vectors.run(Activate { activation, values });
                for (value, up) in values.iter_mut().zip(up.map_or(&[][..], |up| &up[at])) {
                    *value *= up;
                }
            }
        });
        Ok(())
    }

    fn rope_and_cache_write(
        &mut self,
        step: &CpuStep,
        shape: &AttentionShape,
        rope: &RopeTable,
        qkv: &mut CpuBuffer,
        cache: &mut CpuLayerCache,
    ) -> Result<(), BackendError> {
        let (check, step) = (Check("rope_and_cache_write"), step.host());
        check.cache_matches(&cache.shape, shape)?;
        check.slots(step, shape, (rope.half_dim(), rope.num_positions()), cache.num_blocks)?;
        check.holds("qkv", qkv.len(), step.num_tokens(), shape.qkv_width())?;
        rotary::rotate_queries(&mut self.pool, step, shape, rope, qkv.0.as_mut_slice());
        rotary::write_cache(&mut self.pool, step, shape, rope, qkv.values(), cache);
        Ok(())
    }

    fn attention(
        &mut self,
        step: &CpuStep,
        shape: &AttentionShape,
        qkv: &CpuBuffer,
        cache: &CpuLayerCache,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, num_tokens) = (Check("attention"), step.host().num_tokens());
        check.cache_matches(&cache.shape, shape)?;
        check.blocks(step.host(), shape, cache.num_blocks)?;
        check.holds("qkv", qkv.len(), num_tokens, shape.qkv_width())?;
        check.holds("out", out.len(), num_tokens, shape.num_heads * shape.head_dim)?;
        let attention = Attention { step, shape, qkv: qkv.values(), cache };
        attention.run(&mut self.pool, self.vectors, out.0.as_mut_slice());
        Ok(())
    }

    fn all_reduce(
        &mut self,
        member: &Member,
        num_rows: usize,
        width: usize,
        buffer: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        Check("all_reduce").holds("buffer", buffer.len(), num_rows, width)?;
        member.all_reduce(&mut buffer.0.as_mut_slice()[..num_rows * width])
    }

    fn gather_logit_rows(
        &mut self,
        step: &CpuStep,
        width: usize,
        x: &CpuBuffer,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let (check, rows) = (Check("gather_logit_rows"), step.host().logit_rows());
        check.holds("x", x.len(), step.host().num_tokens(), width)?;
        check.holds("out", out.len(), rows.len(), width)?;
        gather::gather_rows(rows, width, x.values(), out.0.as_mut_slice());
        Ok(())
    }

    fn read(&mut self, x: &CpuBuffer, out: &mut [f32]) -> Result<(), BackendError> {
        Check("read").holds("x", x.len(), 1, out.len())?;
        out.copy_from_slice(&x.values()[..out.len()]);
        Ok(())
    }
}
