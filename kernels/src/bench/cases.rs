//! The cases: what is called, and how many bytes and operations a call needs at least.

use crate::backend::{Backend, BackendError, DType, MatrixData, Vocabulary, WeightFormat};
use crate::bench::rig::{BLOCK_SIZE, Piece, matrices, random_bf16, step, values};
use crate::bench::{Ceilings, Measurement, Plan, Time, time};
use crate::metadata::{AttentionShape, KvDType, SampleRow};
use crate::parts::{Affine, FeedForward, Norm};
use crate::selftest::rig::{Use, empty};

/// A call, given its number: calls take their turns on what is rotated.
pub(super) type Case<'a, B> = dyn FnMut(&mut B, usize) -> Result<(), BackendError> + 'a;

/// New tokens of a chunk behind a cached context: what a keystroke leaves to be computed.
const CHUNK_TOKENS: usize = 16;

/// Bytes of an activation that is no operand of a product.
pub(super) const F32_BYTES: usize = 4;

/// Measures what the device can do at best.
pub(super) fn ceilings<B: Backend>(backend: &mut B, plan: &Plan) -> Result<Ceilings, BackendError> {
    let best = |seconds: Vec<f64>| seconds.into_iter().fold(f64::INFINITY, f64::min);
    let read = read_speeds(backend, plan.rotated_bytes, plan.time)?;

    let cols = 1024;
    let num_rows = plan.rotated_bytes.div_ceil(2 * cols * F32_BYTES).max(1);
    let pieces = vec![Piece { context_tokens: 1, num_new: 1 }; num_rows];
    let copied_step = step(backend, &pieces)?;
    let x = values(backend, (num_rows, cols), Use::Buffer)?;
    let mut out = backend.buffer(num_rows * cols)?;
    let copy = time(backend, plan.time, &mut |backend, _| {
        backend.gather_logit_rows(&copied_step, cols, &x, &mut out)
    })?;
    let copied_bytes = (2 * num_rows * cols * F32_BYTES) as f64;
    drop((x, out));

    let side = plan.ceiling_side;
    let squares = matrices(backend, (side, side), WeightFormat::Stored, 0)?;
    backend.reserve(side)?;
    let x = values(backend, (side, side), Use::Operand)?;
    let mut out = backend.buffer(side * side)?;
    let product = time(backend, plan.time, &mut |backend, _| {
        backend.linear(side, &x, &squares[0], None, &mut out)
    })?;
    Ok(Ceilings {
        read_bytes_per_second: read.into_iter().fold(0.0, f64::max),
        copy_bytes_per_second: copied_bytes / best(copy),
        flops_per_second: 2.0 * (side as f64).powi(3) / best(product),
    })
}

/// Reads a matrix as the search for broken numbers does.
pub(super) fn read_speeds<B: Backend>(
    backend: &mut B,
    num_bytes: usize,
    limits: Time,
) -> Result<Vec<f64>, BackendError> {
    let cols = 1024;
    let rows = num_bytes.div_ceil(2 * cols).max(1);
    let bytes = random_bf16(rows * cols);
    let part = MatrixData { rows, cols, dtype: DType::Bf16, bytes: &bytes };
    let matrix = backend.matrix(&[part], WeightFormat::Stored)?;
    let seconds = time(backend, limits, &mut |backend, _| backend.is_finite(&matrix).map(drop))?;
    Ok(seconds.into_iter().map(|seconds| bytes.len() as f64 / seconds).collect())
}

/// Returns how many cases [`run`] has.
pub(super) fn num_cases(plan: &Plan, has_sampler: bool) -> usize {
    let (num_batches, num_prefills) = (plan.batch.len(), plan.prefill.len());
    let num_rows = num_rows(plan).len();
    let num_attentions = num_batches + 1 + num_prefills;
    let num_samples = if has_sampler { 2 * num_batches } else { 0 };
    // Two operators of rows, four of a layer's products and the head's; rotation and attention.
    2 * num_rows + 4 * num_rows + num_batches + 2 * num_attentions + num_samples
}

/// Rows of decodes and of prefills, rising.
pub(super) fn num_rows(plan: &Plan) -> Vec<usize> {
    let mut rows = [&plan.batch[..], &plan.prefill].concat();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Measures every operator; `sink` says whether to go on.
pub(super) fn run<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    sink: &mut dyn FnMut(Measurement) -> bool,
) -> Result<(), BackendError> {
    let mut bench = Bench { backend, plan, sink, is_stopped: false };
    bench.rows()?;
    bench.products()?;
    bench.attention()?;
    bench.sampling()
}

/// What the cases share.
pub(super) struct Bench<'a, B: Backend> {
    pub(super) backend: &'a mut B,
    pub(super) plan: &'a Plan,
    sink: &'a mut dyn FnMut(Measurement) -> bool,
    pub(super) is_stopped: bool,
}

impl<B: Backend> Bench<'_, B> {
    /// Measures a case, unless it was told to stop.
    pub(super) fn measure(
        &mut self,
        (operator, case): (&'static str, String),
        (num_bytes, num_flops): (usize, usize),
        call: &mut Case<'_, B>,
    ) -> Result<(), BackendError> {
        let is_wanted = self
            .plan
            .only
            .as_ref()
            .is_none_or(|only| Measurement::title(operator, &case).contains(only.as_str()));
        if self.is_stopped || !is_wanted {
            return Ok(());
        }
        let seconds = time(self.backend, self.plan.time, call)?;
        let (num_bytes, num_flops) = (num_bytes as u64, num_flops as u64);
        let goes_on = (self.sink)(Measurement { operator, case, num_bytes, num_flops, seconds });
        self.is_stopped = !goes_on;
        Ok(())
    }

    /// What only moves rows, or norms them.
    fn rows(&mut self) -> Result<(), BackendError> {
        let cols = self.plan.widths.hidden_size;
        let tables = matrices(
            self.backend,
            (self.plan.widths.vocab_size, cols),
            self.plan.format,
            self.plan.rotated_bytes,
        )?;
        for num_rows in num_rows(self.plan) {
            if self.is_stopped {
                return Ok(());
            }
            let pieces = [Piece { context_tokens: num_rows, num_new: num_rows }];
            let loaded = step(self.backend, &pieces)?;
            let mut hidden = self.backend.buffer(B::rows(&loaded).num_tokens * cols)?;
            let num_bytes = num_rows * cols * (2 + F32_BYTES);
            self.measure(("embed", rows(num_rows)), (num_bytes, 0), &mut |backend, index| {
                backend.embed(&loaded, &tables[index % tables.len()], &mut hidden)
            })?;
            let x = values(self.backend, (num_rows, cols), Use::Buffer)?;
            let mut out = empty(self.backend, num_rows * cols, Use::Operand)?;
            let (ones, zeros) = (vec![1.0; cols], vec![0.0; cols]);
            let weight = self.backend.vector(&ones)?;
            let bias = self.backend.vector(&zeros)?;
            let num_bytes = num_rows * cols * (F32_BYTES + B::OPERAND_BYTES);
            let num_flops = 4 * num_rows * cols;
            let case = ("norm", rows(num_rows));
            let has_mean = self.plan.widths.has_layer_norm;
            self.measure(case, (num_bytes, num_flops), &mut |backend, _| {
                let (weight, bias, eps) = (&weight, &bias, 1e-6);
                let rms = Norm::Rms { weight, eps };
                let norm = if has_mean { Norm::Layer { weight, bias, eps } } else { rms };
                backend.norm(num_rows, &x, norm, &mut out)
            })?;
        }
        Ok(())
    }

    /// The products of a layer, and the head.
    fn products(&mut self) -> Result<(), BackendError> {
        let widths = self.plan.widths;
        let query_width = widths.num_heads * widths.head_dim;
        let qkv_width = query_width + 2 * widths.num_kv_heads * widths.head_dim;
        let (hidden, ffn) = (widths.hidden_size, widths.ffn_size);
        self.product("linear: qkv", (qkv_width, hidden), Product::Plain)?;
        self.product("linear_add: o", (hidden, query_width), Product::Add)?;
        if let Some(shape) = &widths.mixture {
            self.mixtures(shape)?;
        } else {
            let name = if widths.is_gated { "feed_forward: gate, up" } else { "feed_forward: up" };
            self.product(name, (ffn, hidden), Product::Wide)?;
            self.product("linear_add: down", (hidden, ffn), Product::Add)?;
        }
        self.product("linear: head", (widths.vocab_size, hidden), Product::Head)
    }

    fn product(
        &mut self,
        operator: &'static str,
        (out_width, cols): (usize, usize),
        kind: Product,
    ) -> Result<(), BackendError> {
        if self.is_stopped {
            return Ok(());
        }
        let Plan { format, rotated_bytes, .. } = *self.plan;
        let activation = self.plan.widths.activation;
        let held = matrices(self.backend, (out_width, cols), format, rotated_bytes)?;
        let ups = match kind {
            Product::Wide if self.plan.widths.is_gated => {
                matrices(self.backend, (out_width, cols), format, rotated_bytes)?
            }
            _ => Vec::new(),
        };
        let num_read = if ups.is_empty() { 1 } else { 2 };
        let part = MatrixData { rows: out_width, cols, dtype: DType::Bf16, bytes: &[] };
        let weight_bytes = num_read * B::matrix_bytes(&[part], format) as usize;
        // A prefill has as many rows of logits as sequences.
        let num_rows =
            if kind == Product::Head { self.plan.batch.clone() } else { num_rows(self.plan) };
        for num_rows in num_rows {
            if self.is_stopped {
                return Ok(());
            }
            self.backend.reserve(num_rows)?;
            let x = values(self.backend, (num_rows, cols), Use::Operand)?;
            let usage = if kind == Product::Wide { Use::Operand } else { Use::Buffer };
            let mut out = empty(self.backend, num_rows * out_width, usage)?;
            // What is added to is read and written.
            let out_bytes = match kind {
                Product::Wide => B::OPERAND_BYTES,
                Product::Plain | Product::Head => F32_BYTES,
                Product::Add => 2 * F32_BYTES,
            };
            let num_bytes =
                weight_bytes + num_rows * (cols * B::OPERAND_BYTES + out_width * out_bytes);
            let num_flops = 2 * num_read * num_rows * cols * out_width;
            self.measure(
                (operator, rows(num_rows)),
                (num_bytes, num_flops),
                &mut |backend, index| {
                    let matrix = &held[index % held.len()];
                    match kind {
                        Product::Plain | Product::Head => {
                            backend.linear(num_rows, &x, matrix, None, &mut out)
                        }
                        Product::Add => backend.linear_add(num_rows, &x, matrix, None, &mut out),
                        Product::Wide => {
                            let gate = Affine { matrix, bias: None };
                            let up = ups.get(index % ups.len().max(1));
                            let up = up.map(|matrix| Affine { matrix, bias: None });
                            let parts = FeedForward { activation, gate, up };
                            backend.feed_forward(num_rows, &x, parts, &mut out)
                        }
                    }
                },
            )?;
        }
        Ok(())
    }

    /// Decodes behind a context, a chunk behind it, and prefills without one.
    fn attention(&mut self) -> Result<(), BackendError> {
        let context_tokens = self.plan.context_tokens;
        for num_seqs in self.plan.batch.clone() {
            let pieces = vec![Piece { context_tokens, num_new: 1 }; num_seqs];
            self.attend(format!("{num_seqs} decodes behind {context_tokens}"), &pieces)?;
        }
        let num_new = CHUNK_TOKENS.min(context_tokens);
        let case = format!("{num_new} tokens behind {}", context_tokens - num_new);
        self.attend(case, &[Piece { context_tokens, num_new }])?;
        for num_new in self.plan.prefill.clone() {
            let pieces = [Piece { context_tokens: num_new, num_new }];
            self.attend(format!("prefill of {num_new}"), &pieces)?;
        }
        Ok(())
    }

    fn attend(&mut self, case: String, pieces: &[Piece]) -> Result<(), BackendError> {
        if self.is_stopped {
            return Ok(());
        }
        let widths = self.plan.widths;
        let shape = AttentionShape {
            num_heads: widths.num_heads,
            num_kv_heads: widths.num_kv_heads,
            head_dim: widths.head_dim,
            block_size: BLOCK_SIZE,
            kv_dtype: KvDType::F16,
            scale: 1.0 / (widths.head_dim as f32).sqrt(),
            window: None,
        };
        let loaded = step(self.backend, pieces)?;
        let longest = pieces.iter().map(|piece| piece.context_tokens).max().unwrap_or(1);
        let num_blocks = pieces.len() * longest.div_ceil(BLOCK_SIZE);
        let cache_bytes = num_blocks * B::kv_bytes_per_block(&shape);
        let num_caches = self.plan.rotated_bytes.div_ceil(cache_bytes.max(1)).max(1);
        let caches = (0..num_caches).map(|_| self.backend.layer_cache(&shape, num_blocks));
        let mut caches: Vec<B::LayerCache> = caches.collect::<Result<_, _>>()?;
        // A step of decodes may be padded.
        let num_tokens = B::rows(&loaded).num_tokens;
        let (query_width, qkv_width) = (shape.num_heads * shape.head_dim, shape.qkv_width());
        let mut qkv = values(self.backend, (num_tokens, qkv_width), Use::Buffer)?;
        let mut out = empty(self.backend, num_tokens * query_width, Use::Operand)?;
        let inv_freq: Vec<f32> =
            (0..shape.head_dim / 2).map(|pair| 1.0 / (pair + 1) as f32).collect();
        let rope = self.backend.rope_table(&inv_freq, longest, 1.0)?;

        let kv_width = qkv_width - query_width;
        let num_new: usize = pieces.iter().map(|piece| piece.num_new).sum();
        let num_bytes = num_new * (2 * query_width * F32_BYTES + kv_width * (F32_BYTES + 2));
        self.measure(
            ("rope_and_cache_write", case.clone()),
            (num_bytes, 0),
            &mut |backend, index| {
                let index = index % caches.len();
                backend.rope_and_cache_write(&loaded, &shape, &rope, &mut qkv, &mut caches[index])
            },
        )?;
        // Each pair of a token and one that it sees; each key and value of a sequence once.
        let pairs = |piece: &Piece| {
            let Piece { context_tokens, num_new } = *piece;
            num_new * context_tokens - num_new * (num_new - 1) / 2
        };
        let num_flops = 4 * query_width * pieces.iter().map(pairs).sum::<usize>();
        let num_cached: usize = pieces.iter().map(|piece| piece.context_tokens).sum();
        let num_bytes =
            num_cached * kv_width * 2 + num_new * query_width * (F32_BYTES + B::OPERAND_BYTES);
        self.measure(("attention", case), (num_bytes, num_flops), &mut |backend, index| {
            backend.attention(&loaded, &shape, &qkv, &caches[index % caches.len()], &mut out)
        })
    }

    /// From logits to tokens, where the device does that.
    fn sampling(&mut self) -> Result<(), BackendError> {
        if !B::has_sampler() {
            return Ok(());
        }
        let size = self.plan.widths.vocab_size;
        let greedy = SampleRow { repetition_penalty: 1.0, top_p: 1.0, ..SampleRow::default() };
        let drawn = SampleRow { temperature: 0.8, top_p: 0.95, log_min_p: -50.0, ..greedy };
        for num_rows in self.plan.batch.clone() {
            for (name, row) in [("greedy", greedy), ("top-p 0.95", drawn)] {
                if self.is_stopped {
                    return Ok(());
                }
                let pieces = vec![Piece { context_tokens: 1, num_new: 1 }; num_rows];
                let mut loaded = step(self.backend, &pieces)?;
                let vocabulary = Vocabulary { size, num_ids: size };
                self.backend.load_sampling(&mut loaded, vocabulary, &vec![row; num_rows])?;
                // A step of decodes may be padded.
                let num_padded = B::rows(&loaded).num_logit_rows;
                let mut logits = values(self.backend, (num_padded, size), Use::Buffer)?;
                let num_bytes = num_rows * size * F32_BYTES;
                let case = format!("{num_rows} rows, {name}");
                self.measure(("sample", case), (num_bytes, 0), &mut |backend, _| {
                    backend.sample(&loaded, &mut logits)
                })?;
            }
        }
        Ok(())
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    Plain,
    Add,
    Wide,
    Head,
}

pub(super) fn rows(num_rows: usize) -> String {
    if num_rows == 1 { "1 row".to_owned() } else { format!("{num_rows} rows") }
}
