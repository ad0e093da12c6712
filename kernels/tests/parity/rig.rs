//! What the tests share: random numbers, the way into buffers and out, the measure of error, the backends.

use kernels::activation::Activation;
use kernels::backend::{Backend, DType, WeightFormat};
use kernels::cpu::{CpuBackend, CpuOptions, SimdTier};
use kernels::parts::{Affine, FeedForward};
use kernels::selftest::rig::{self as selftest, Use};

pub(crate) use kernels::selftest::rig::{Random, Stored, relative_error};

/// Each tier of this machine with one thread and with more threads than it has cores.
pub(crate) fn cpus() -> Vec<CpuBackend> {
    let mut backends = Vec::new();
    for tier in SimdTier::available() {
        for num_threads in [1, 3] {
            backends.push(cpu(tier, num_threads));
        }
    }
    backends
}

pub(crate) fn cpu(tier: SimdTier, num_threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { num_threads: Some(num_threads), simd: Some(tier) }).unwrap()
}

/// As its namesake, into a buffer that any backend takes anywhere but a GPU.
pub(crate) fn upload<B: Backend>(backend: &mut B, values: &[f32]) -> B::Buffer {
    selftest::upload(backend, values, Use::Buffer).unwrap()
}

pub(crate) fn poisoned<B: Backend>(backend: &mut B, len: usize) -> B::Buffer {
    selftest::poisoned(backend, len, Use::Buffer).unwrap()
}

pub(crate) fn download<B: Backend>(backend: &mut B, buffer: &B::Buffer, len: usize) -> Vec<f32> {
    selftest::download(backend, buffer, len).unwrap()
}

pub(crate) fn loaded_ids<B: Backend>(backend: &mut B, token_ids: &[u32]) -> B::Step {
    selftest::loaded_ids(backend, token_ids).unwrap()
}

/// The function alone: matrices of one column, an activation of 1; without `up` what is not gated.
pub(crate) fn activated<B: Backend>(
    backend: &mut B,
    activation: Activation,
    gate: &[f32],
    up: Option<&[f32]>,
) -> Vec<f32> {
    let width = gate.len();
    let mut column = |values: &[f32]| {
        let weights = Stored::new(values, DType::F32);
        backend.matrix(&[weights.data(width, 1)], WeightFormat::Stored).unwrap()
    };
    let (gate, up) = (column(gate), up.map(&mut column));
    let x = upload(backend, &[1.0]);
    let mut out = poisoned(backend, width);
    let plain = |matrix| Affine { matrix, bias: None };
    let parts = FeedForward { activation, gate: plain(&gate), up: up.as_ref().map(plain) };
    backend.feed_forward(1, &x, parts, &mut out).unwrap();
    download(backend, &out, width)
}

/// Returns a gated feed-forward part without biases.
pub(crate) fn silu_gated<'a, M, V>(gate: &'a M, up: &'a M) -> FeedForward<'a, M, V> {
    let [gate, up] = [gate, up].map(|matrix| Affine { matrix, bias: None });
    FeedForward { activation: Activation::Silu, gate, up: Some(up) }
}

/// Asserts that two results are the same within a relative norm.
pub(crate) fn assert_close(got: &[f32], expected: &[f32], limit: f64, what: &str) {
    let error = relative_error(got, expected);
    assert!(error <= limit, "{what}: relative error {error:.3e} is over {limit:.0e}");
}

/// Asserts that two results are the same to the bit.
pub(crate) fn assert_same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.to_bits(), expected.to_bits(), "{what}: value {index}: {got} {expected}");
    }
}

#[test]
fn exercises_every_tier_of_this_machine() {
    let names: Vec<String> = cpus().iter().map(Backend::name).collect();
    let (tested, lacking): (Vec<SimdTier>, Vec<SimdTier>) =
        SimdTier::ALL.into_iter().partition(|tier| tier.is_available());
    // To the test's own output; the harness shows it with `--nocapture`.
    let report = format!("tiers exercised: {tested:?}; not on this machine: {lacking:?}\n");
    std::io::Write::write_all(&mut std::io::stdout(), report.as_bytes()).unwrap();
    assert!(names.contains(&"cpu (scalar, 1 thread)".to_owned()));
    assert!(names.contains(&format!("cpu ({}, 3 threads)", SimdTier::fastest())));
    assert_eq!(names.len(), 2 * tested.len());
}

#[test]
fn no_threads_are_refused() {
    let result = CpuBackend::new(CpuOptions { num_threads: Some(0), simd: None });
    assert_eq!(result.unwrap_err().to_string(), "`num_threads` must be at least 1, got 0");
}

#[test]
fn a_tier_that_the_machine_lacks_is_refused() {
    for tier in SimdTier::ALL {
        let result = CpuBackend::new(CpuOptions { num_threads: Some(1), simd: Some(tier) });
        match result {
            Ok(_) => assert!(tier.is_available()),
            Err(error) => {
                assert!(!tier.is_available());
                assert!(error.to_string().contains(&tier.to_string()));
            }
        }
    }
}
