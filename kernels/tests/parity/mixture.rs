//! Mixtures of experts on the CPU: against the reference, and to the bit what the products of each expert alone come to.

use kernels::activation::Activation;
use kernels::backend::{Backend, DType, WeightFormat};
use kernels::cpu::{CpuBackend, CpuMixture};
use kernels::mixture::{Experts, Mixture, MixtureShape};
use kernels::selftest::{Grid, Group, run};

use crate::rig::{
    Random, Stored, assert_close, assert_same_bits, cpus, download, loaded_ids, poisoned,
    silu_gated, upload,
};

const SHAPE: MixtureShape = MixtureShape {
    num_experts: 5,
    experts_per_token: 2,
    hidden_size: 37,
    expert_size: 50,
    has_normed_weights: true,
};

/// The experts of each token: some have many tokens, one has none.
const CHOSEN: [[usize; 2]; 7] = [[4, 0], [0, 1], [0, 4], [1, 0], [4, 1], [2, 0], [0, 2]];

#[test]
fn the_grid_of_the_selftest_passes_on_every_tier() {
    for mut backend in cpus() {
        let mut failed = Vec::new();
        run(&mut backend, Group::Mixtures, Grid::Full, &mut |outcome| {
            if !outcome.is_passed() {
                failed.push(outcome);
            }
        })
        .unwrap();
        assert!(failed.is_empty(), "{}: {failed:#?}", backend.name());
    }
}

/// Matrices of an expert, as they are stored.
struct Layer {
    gate: Vec<Stored>,
    up: Vec<Stored>,
    down: Vec<Stored>,
    x: Vec<f32>,
    residual: Vec<f32>,
}

impl Layer {
    fn new(dtype: DType) -> Self {
        let (hidden, wide) = (SHAPE.hidden_size, SHAPE.expert_size);
        let mut random = Random(3);
        let mut stored = || {
            let of_expert = |_| Stored::new(&random.values(hidden * wide), dtype);
            (0..SHAPE.num_experts).map(of_expert).collect()
        };
        let [gate, up, down] = [stored(), stored(), stored()];
        let [x, residual] = [(); 2].map(|()| random.values(CHOSEN.len() * hidden));
        Self { gate, up, down, x, residual }
    }

    fn mixed<B: Backend>(&self, backend: &mut B, format: WeightFormat) -> Vec<f32> {
        let (hidden, wide) = (SHAPE.hidden_size, SHAPE.expert_size);
        let mut mixture = B::Mixture::new(backend, &SHAPE, CHOSEN.len()).unwrap();
        let [gate, up, down] =
            [(&self.gate, wide, hidden), (&self.up, wide, hidden), (&self.down, hidden, wide)].map(
                |(stored, rows, cols)| {
                    let data: Vec<_> =
                        stored.iter().map(|expert| expert.data(rows, cols)).collect();
                    let experts = mixture.experts(backend, &data, format).unwrap();
                    assert!(B::Mixture::are_finite(backend, &experts).unwrap());
                    experts
                },
            );
        backend.reserve(CHOSEN.len()).unwrap();
        let step = loaded_ids(backend, &[0; CHOSEN.len()]);
        // Equal logits, so that either weight is a half.
        let mut logits = vec![-1.0; CHOSEN.len() * SHAPE.num_experts];
        for (token, chosen) in CHOSEN.iter().enumerate() {
            for expert in chosen {
                logits[token * SHAPE.num_experts + expert] = 2.0;
            }
        }
        let logits = upload(backend, &logits);
        let x = upload(backend, &self.x);
        let mut residual = upload(backend, &self.residual);
        mixture.route(backend, &step, &logits).unwrap();
        let activation = Activation::Silu;
        let experts = Experts { activation, gate: &gate, up: &up, down: &down };
        mixture.add(backend, &x, &experts, &mut residual).unwrap();
        download(backend, &residual, self.residual.len())
    }

    /// Token by token and expert by expert, with the operators of dense layers.
    fn apart(&self, backend: &mut CpuBackend, format: WeightFormat) -> Vec<f32> {
        let (hidden, wide) = (SHAPE.hidden_size, SHAPE.expert_size);
        let mut sums = self.residual.clone();
        for (token, chosen) in CHOSEN.iter().enumerate() {
            let mut chosen = *chosen;
            chosen.sort_unstable();
            let x = upload(backend, &self.x[token * hidden..(token + 1) * hidden]);
            for expert in chosen {
                let mut matrix = |stored: &[Stored], rows, cols| {
                    backend.matrix(&[stored[expert].data(rows, cols)], format).unwrap()
                };
                let gate = matrix(&self.gate, wide, hidden);
                let up = matrix(&self.up, wide, hidden);
                let down = matrix(&self.down, hidden, wide);
                backend.reserve(1).unwrap();
                let mut inner = poisoned(backend, wide);
                backend.feed_forward(1, &x, silu_gated(&gate, &up), &mut inner).unwrap();
                let mut out = poisoned(backend, hidden);
                backend.linear(1, &inner, &down, None, &mut out).unwrap();
                let out = download(backend, &out, hidden);
                for (sum, value) in sums[token * hidden..].iter_mut().zip(out) {
                    *sum += 0.5 * value;
                }
            }
        }
        sums
    }
}

#[test]
fn an_expert_computes_what_it_would_alone() {
    let formats = [
        (DType::Bf16, WeightFormat::Stored),
        (DType::F16, WeightFormat::Stored),
        (DType::F32, WeightFormat::Stored),
        (DType::Bf16, WeightFormat::Int8),
    ];
    for (dtype, format) in formats {
        let layer = Layer::new(dtype);
        let reference = layer.mixed(&mut kernels::reference::ReferenceBackend, format);
        for mut backend in cpus() {
            let what = format!("{}, {dtype:?} {format:?}", backend.name());
            let mixed = layer.mixed(&mut backend, format);
            assert_same_bits(&mixed, &layer.apart(&mut backend, format), &what);
            let rounds = format == WeightFormat::Int8 || what.contains("bf16");
            assert_close(&mixed, &reference, if rounds { 2e-2 } else { 1e-6 }, &what);
        }
    }
}

#[test]
fn what_cannot_be_mixed_is_refused() {
    let backend = &mut cpus().remove(0);
    let mut error = |shape| CpuMixture::new(backend, &shape, 1).unwrap_err().to_string();
    assert_eq!(
        error(MixtureShape { experts_per_token: 6, ..SHAPE }),
        "mixture: `experts_per_token` must be at most 5, got 6"
    );
    assert!(error(MixtureShape { experts_per_token: 0, ..SHAPE }).contains("at least 1"));
    let mut mixture = CpuMixture::new(backend, &SHAPE, 1).unwrap();
    let wide = Stored::new(&vec![1.0; 37 * 50], DType::Bf16);
    let other = Stored::new(&vec![1.0; 37 * 50], DType::F32);
    let mut refused = |matrices: &[_]| {
        mixture.experts(backend, matrices, WeightFormat::Stored).unwrap_err().to_string()
    };
    let gate = wide.data(50, 37);
    assert_eq!(refused(&[gate; 4]), "experts: matrices must be 5, got 4");
    assert_eq!(
        refused(&[gate, gate, gate, gate, wide.data(37, 50)]),
        "experts: rows of each expert must be 50, got 37"
    );
    assert_eq!(
        refused(&[gate, gate, gate, gate, other.data(50, 37)]),
        "experts: the experts of a layer must be of one type, got f32 beside bf16"
    );
    assert_eq!(
        refused(&[wide.data(25, 74); 5]),
        "experts: matrices must be [50, 37] or [37, 50], got [25, 74]"
    );
    let (step, logits) = (loaded_ids(backend, &[0, 0]), upload(backend, &[0.0; 10]));
    let error = mixture.route(backend, &step, &logits).unwrap_err().to_string();
    assert_eq!(error, "route: tokens of the step must be at most 1, got 2");
}
