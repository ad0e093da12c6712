//! Cases of mixtures of experts: few and many tokens, ragged groups, ties, padding; and a token alone and in company.

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, DType, WeightFormat};
use crate::cuda::STREAMED_ROWS_MAX;
use crate::formats::RUN_LEN;
use crate::mixture::{Experts, Mixture, MixtureShape};
use crate::reference::ReferenceBackend;
use crate::selftest::rig::{
    KEPT, Random, Stored, Use, decodes, download, padded, relative_error, rounded_values, upload,
    without_padding,
};
use crate::selftest::{Grid, INT8_LIMIT, OPERAND_LIMIT, Outcome};

/// A layer and the tokens that come to it.
struct Case {
    shape: MixtureShape,
    activation: Activation,
    num_tokens: usize,
    dtype: DType,
    x: Vec<f32>,
    logits: Vec<f32>,
    residual: Vec<f32>,
    /// Gates, ups and downs, expert by expert.
    experts: [Vec<Stored>; 3],
}

impl Case {
    /// Logits of a few steps only, so that many are equal.
    fn new(shape: MixtureShape, dtype: DType, num_tokens: usize) -> Self {
        let MixtureShape { num_experts, hidden_size: hidden, expert_size: wide, .. } = shape;
        let mut random = Random((num_tokens * 1_000_003 + num_experts * 1009 + hidden) as u64);
        let mut stored = || {
            let of_expert = |_| Stored::random(&mut random, dtype, hidden * wide);
            (0..num_experts).map(of_expert).collect()
        };
        let experts = [stored(), stored(), stored()];
        let logits = (0..num_tokens * num_experts).map(|_| random.below(9) as f32 / 2.0);
        Self {
            shape,
            activation: if shape.has_normed_weights {
                Activation::Silu
            } else {
                Activation::GeluTanh
            },
            num_tokens,
            dtype,
            logits: logits.collect(),
            x: rounded_values(&mut random, num_tokens * hidden),
            residual: random.values(num_tokens * hidden),
            experts,
        }
    }

    fn outcome(&self, against: &'static str, error: f64, limit: f64) -> Outcome {
        let case = format!("{} tokens, {:?} {}", self.num_tokens, self.shape, self.dtype.name());
        Outcome { operator: "experts", case, against, error, limit }
    }

    /// Computes tokens `first..first + num_tokens`, each a sequence that decodes, and returns what became of the residual.
    /// Rows that a device adds hold NaN, and must keep what they have.
    fn run<B: Backend>(
        &self,
        backend: &mut B,
        first: usize,
        num_tokens: usize,
    ) -> Result<Vec<f32>, BackendError> {
        let MixtureShape { num_experts, hidden_size: hidden, expert_size: wide, .. } = self.shape;
        let step = decodes(backend, num_tokens, &[])?;
        let num_rows = B::rows(&step).num_tokens;
        let mut mixture = B::Mixture::new(backend, &self.shape, num_rows)?;
        let mut stored = |experts: &[Stored], (rows, cols)| {
            let data: Vec<_> = experts.iter().map(|expert| expert.data(rows, cols)).collect();
            mixture.experts(backend, &data, WeightFormat::Stored)
        };
        let [gates, ups, downs] = &self.experts;
        let gate = stored(gates, (wide, hidden))?;
        let up = stored(ups, (wide, hidden))?;
        let down = stored(downs, (hidden, wide))?;
        backend.reserve(num_rows)?;
        let mut rows = |values: &[f32], width: usize, padding: f32, usage| {
            let rows = padded(values, width, first..first + num_tokens, (num_rows, padding));
            upload(backend, &rows, usage)
        };
        let x = rows(&self.x, hidden, f32::NAN, Use::Operand)?;
        let logits = rows(&self.logits, num_experts, f32::NAN, Use::Buffer)?;
        let mut residual = rows(&self.residual, hidden, KEPT, Use::Buffer)?;
        mixture.route(backend, &step, &logits)?;
        let experts = Experts { activation: self.activation, gate: &gate, up: &up, down: &down };
        mixture.add(backend, &x, &experts, &mut residual)?;
        let out = download(backend, &residual, num_rows * hidden)?;
        Ok(without_padding(out, num_tokens * hidden))
    }
}

const fn shape(sizes: [usize; 4], has_normed_weights: bool) -> MixtureShape {
    let [num_experts, experts_per_token, hidden_size, expert_size] = sizes;
    MixtureShape { num_experts, experts_per_token, hidden_size, expert_size, has_normed_weights }
}

/// Tries mixtures.
pub(super) fn mixtures<B: Backend>(
    backend: &mut B,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let quick = [
        (shape([4, 2, 24, 40], true), DType::Bf16, &[1, 5, 40, 70, 140][..]),
        (shape([40, 3, 72, 16], false), DType::Bf16, &[1, 9, 30, 66][..]),
        // An odd number of runs, whose nibbles come in twos, and types of two groups a run.
        (shape([4, 2, 96, 160], true), DType::Q4_1, &[1, 40, 70][..]),
        (shape([3, 1, 256, 256], true), DType::Q6K, &[2, 65][..]),
    ];
    let full = [
        (shape([128, 8, 64, 96], true), DType::Bf16, &[1, 3, 16, 17, 64, 65, 200][..]),
        (shape([1, 1, 16, 8], true), DType::Bf16, &[1, 64, 65, 130][..]),
        (shape([4, 4, 8, 72], false), DType::Bf16, &[2, 8, 9, 33, 129][..]),
        (shape([64, 6, 520, 136], true), DType::Bf16, &[1, 20, 90][..]),
        (shape([4, 2, 256, 128], false), DType::F8, &[1, 20, 90][..]),
    ];
    let mut rows = quick.to_vec();
    if grid == Grid::Full {
        rows.extend(full);
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_integers()) {
            // Columns of a block, and of three where that is a run.
            let (hidden, wide) = if dtype.block_len() == RUN_LEN { (96, 32) } else { (256, 256) };
            rows.push((shape([3, 2, hidden, wide], true), dtype, &[3, 66]));
        }
    }
    for (shape, dtype, token_counts) in rows {
        for &num_tokens in token_counts {
            let case = Case::new(shape, dtype, num_tokens);
            let got = case.run(backend, 0, num_tokens)?;
            let expected = case.run(&mut ReferenceBackend, 0, num_tokens)?;
            let error = relative_error(&got, &expected);
            sink(case.outcome("reference", error, limit(backend, &case)?));
        }
    }
    company(backend, DType::Bf16, sink)?;
    company(backend, DType::Q4_1, sink)
}

/// Returns how far the results of a case may be off. A GPU rounds what codes stand for, where tokens are many; a CPU rounds what
/// integers are multiplied with, once before each of two products.
fn limit<B: Backend>(backend: &B, case: &Case) -> Result<f64, BackendError> {
    let is_gpu = backend.own_memory()?.is_some();
    Ok(match case.dtype.block_len() {
        1 => OPERAND_LIMIT,
        _ if is_gpu && case.num_tokens <= STREAMED_ROWS_MAX => OPERAND_LIMIT,
        _ if is_gpu => INT8_LIMIT,
        _ => 2.0 * INT8_LIMIT,
    })
}

/// A token in the company of others is the same, to the bit, as alone.
fn company<B: Backend>(
    backend: &mut B,
    dtype: DType,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let sizes = if dtype == DType::Bf16 { [8, 2, 40, 56] } else { [8, 2, 64, 96] };
    let case = Case::new(shape(sizes, true), dtype, 33);
    let together = case.run(backend, 0, case.num_tokens)?;
    for first in [0, 5, 32] {
        let alone = case.run(backend, first, 1)?;
        let hidden = case.shape.hidden_size;
        let together = &together[first * hidden..(first + 1) * hidden];
        sink(case.outcome("the token alone", relative_error(&alone, together), 0.0));
    }
    Ok(())
}
