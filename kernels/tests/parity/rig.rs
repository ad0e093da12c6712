//! What the tests share: random numbers, the way into buffers and out, the measure of error, the backends.

use half::{bf16, f16};
use kernels::backend::{Backend, DType, MatrixData, WeightFormat};
use kernels::cpu::{CpuBackend, CpuOptions, SimdTier};
use kernels::metadata::StepInput;

/// `SplitMix64`: a seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// A value in -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

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

/// Brings values into a buffer, as the one row of an embedding.
pub(crate) fn upload<B: Backend>(backend: &mut B, values: &[f32]) -> B::Buffer {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let part = MatrixData { rows: 1, cols: values.len(), dtype: DType::F32, bytes: &bytes };
    let table = backend.matrix(&[part], WeightFormat::Stored).unwrap();
    let step = loaded_ids(backend, &[0]);
    let mut buffer = backend.buffer(values.len()).unwrap();
    backend.embed(&step, &table, &mut buffer).unwrap();
    buffer
}

/// A buffer of NaN: what an operator does not write shows.
pub(crate) fn poisoned<B: Backend>(backend: &mut B, len: usize) -> B::Buffer {
    upload(backend, &vec![f32::NAN; len])
}

pub(crate) fn download<B: Backend>(backend: &mut B, buffer: &B::Buffer, len: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; len];
    backend.read(buffer, &mut values).unwrap();
    values
}

/// A step of one sequence with these tokens, and logits for each.
pub(crate) fn loaded_ids<B: Backend>(backend: &mut B, token_ids: &[u32]) -> B::Step {
    let len = token_ids.len() as u32;
    let counted: Vec<u32> = (0..len).collect();
    let input = StepInput {
        token_ids,
        positions: &counted,
        slot_mapping: &counted,
        cu_seqlens_q: &[0, len],
        context_lens: &[len],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &counted,
    };
    let mut step = backend.step(token_ids.len(), 1, 1).unwrap();
    backend.load_step(&input, &mut step).unwrap();
    step
}

/// Elements of a dtype, one byte off any alignment.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) dtype: DType,
    bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn new(values: &[f32], dtype: DType) -> Self {
        let mut bytes = vec![0xAA];
        for &value in values {
            match dtype {
                DType::F32 => bytes.extend(value.to_le_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                _ => panic!("{dtype:?} is no plain type"),
            }
        }
        Self { dtype, bytes }
    }

    pub(crate) fn data(&self, rows: usize, cols: usize) -> MatrixData<'_> {
        MatrixData { rows, cols, dtype: self.dtype, bytes: &self.bytes[1..] }
    }
}

/// `‖got - expected‖ / ‖expected‖`; infinite where any value is not finite, so NaN never passes.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    if !got.iter().chain(expected).all(|value| value.is_finite()) {
        return f64::INFINITY;
    }
    let square = |value: f64| value * value;
    let distance: f64 =
        got.iter().zip(expected).map(|(&g, &e)| square(f64::from(g) - f64::from(e))).sum();
    let norm: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    if distance == 0.0 { 0.0 } else { (distance / norm).sqrt() }
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
fn nan_is_not_close_to_anything() {
    assert!(relative_error(&[1.0, f32::NAN], &[1.0, 2.0]).is_infinite());
    assert!(relative_error(&[1.0, 2.0], &[1.0, f32::NAN]).is_infinite());
    assert!(relative_error(&[f32::NAN], &[f32::NAN]).is_infinite());
    assert!(relative_error(&[1.0], &[0.0]).is_infinite());
    assert!(relative_error(&[1.0, 2.0], &[1.0, 2.0]) <= 0.0);
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
