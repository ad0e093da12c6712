//! How long a device takes for the large operators of a model, against what its memory and its products allow.
//!
//! What an operator reads is spread over copies that together are larger than the caches, so that each call finds its
//! weights or its cache in memory, as in a model. The ceilings are measured first, in the same run: reading, copying, and
//! one large product. Calls are made one after the other without waiting; what takes less than a launch does, about 3 µs
//! on a GPU, shows the launch.

mod cases;
mod mixtures;
mod rig;

use std::time::{Duration, Instant};

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, WeightFormat};
use crate::bench::cases::Case;
use crate::mixture::MixtureShape;

/// What a model's layers are, as far as their speed depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub ffn_size: usize,
    /// Mixtures of experts, which are then measured in place of the feed-forward part.
    pub mixture: Option<MixtureShape>,
    /// The function of the feed-forward part.
    pub activation: Activation,
    /// Whether what the function gives is multiplied with a second product.
    pub is_gated: bool,
    /// Whether rows are normed by mean and variance; else by the root mean square.
    pub has_layer_norm: bool,
    /// Query heads.
    pub num_heads: usize,
    /// Key/value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rows of the LM head.
    pub vocab_size: usize,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The model's widths.
    pub widths: Widths,
    /// What matrices are stored as; plain ones are bf16.
    pub format: WeightFormat,
    /// Sequences of a decode; one measurement each.
    pub batch: Vec<usize>,
    /// New tokens of a prefill; one measurement each.
    pub prefill: Vec<usize>,
    /// Tokens that decodes, and a chunk of 16, look back on.
    pub context_tokens: usize,
    /// Least size of what calls read in turns: several times the largest cache.
    ///
    /// # Units
    /// bytes
    pub rotated_bytes: usize,
    /// Side of the square product whose rate is the ceiling.
    pub ceiling_side: usize,
    /// How long, and how often.
    pub time: Time,
    /// Leaves out each case whose [title](Measurement::title) does not have this text; `None` measures all.
    pub only: Option<String>,
}

/// How long a case is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Least time of a measurement.
    pub min: Duration,
    /// Measurements of each case.
    pub repeat: usize,
}

/// What the device can do at best, by measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Bytes read a second, by what searches a matrix for broken numbers.
    pub read_bytes_per_second: f64,
    /// Bytes read and written a second, by what gathers rows.
    pub copy_bytes_per_second: f64,
    /// Operations a second of a large square product; a multiplication and an addition are two.
    pub flops_per_second: f64,
}

impl Ceilings {
    /// Returns the least time for so many bytes and operations.
    ///
    /// # Units
    /// seconds
    pub fn floor_seconds(&self, num_bytes: u64, num_flops: u64) -> f64 {
        let read = self.read_bytes_per_second.max(self.copy_bytes_per_second);
        (num_bytes as f64 / read).max(num_flops as f64 / self.flops_per_second)
    }
}

/// One operator on one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// The operator, and what it computes.
    pub operator: &'static str,
    /// Its rows, or its sequences and tokens.
    pub case: String,
    /// Bytes that a call must read and write.
    pub num_bytes: u64,
    /// Multiplications and additions of a call.
    pub num_flops: u64,
    /// Seconds a call, one a measurement.
    pub seconds: Vec<f64>,
}

impl Measurement {
    /// Returns what names an operator's case among all others, such as `attention 8 decodes behind 4096`.
    pub fn title(operator: &str, case: &str) -> String {
        format!("{operator} {case}")
    }
}

/// What is told while it is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The ceilings, first, and how many cases will follow at most.
    Ceilings(Ceilings, usize),
    /// A case.
    Measured(Measurement),
}

/// Measures every operator of a model. `sink` hears of each, and says whether to go on.
///
/// # Errors
/// Those of the backend; a device too small for a case is one of them.
pub fn run<B: Backend>(
    backend: &mut B,
    plan: &Plan,
    sink: &mut dyn FnMut(Event) -> bool,
) -> Result<(), BackendError> {
    let ceilings = cases::ceilings(backend, plan)?;
    if !sink(Event::Ceilings(ceilings, cases::num_cases(plan, B::has_sampler()))) {
        return Ok(());
    }
    cases::run(backend, plan, &mut |measurement| sink(Event::Measured(measurement)))
}

/// Reads `num_bytes` of the device's memory again and again, and returns the bytes a second of each measurement.
///
/// # Errors
/// Those of the backend.
pub fn read_speeds<B: Backend>(
    backend: &mut B,
    num_bytes: usize,
    time: Time,
) -> Result<Vec<f64>, BackendError> {
    cases::read_speeds(backend, num_bytes, time)
}

/// Calls `case` until the least time is over, again for each repeat, and returns the seconds of a call.
fn time<B: Backend>(
    backend: &mut B,
    time: Time,
    case: &mut Case<'_, B>,
) -> Result<Vec<f64>, BackendError> {
    let wait = backend.buffer(1)?;
    let mut elapsed = |backend: &mut B, num_calls: usize| {
        let began = Instant::now();
        for index in 0..num_calls {
            case(backend, index)?;
        }
        backend.read(&wait, &mut [0.0])?;
        Ok::<f64, BackendError>(began.elapsed().as_secs_f64())
    };
    // The first calls take memory and choose products.
    let mut num_calls = 2;
    elapsed(backend, num_calls)?;
    while elapsed(backend, num_calls)? < time.min.as_secs_f64() {
        num_calls *= 2;
    }
    (0..time.repeat).map(|_| Ok(elapsed(backend, num_calls)? / num_calls as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{CpuBackend, CpuOptions};

    /// A small model's plan, and what measures it.
    fn small() -> (Plan, CpuBackend) {
        let widths = Widths {
            hidden_size: 64,
            ffn_size: 96,
            mixture: None,
            activation: Activation::Silu,
            is_gated: true,
            has_layer_norm: false,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
            vocab_size: 300,
        };
        let plan = Plan {
            widths,
            format: WeightFormat::Stored,
            batch: vec![1, 3],
            prefill: vec![20],
            context_tokens: 100,
            rotated_bytes: 1 << 16,
            ceiling_side: 64,
            time: Time { min: Duration::from_micros(100), repeat: 2 },
            only: None,
        };
        (plan, CpuBackend::new(CpuOptions { num_threads: Some(1), simd: None }).unwrap())
    }

    #[test]
    fn every_operator_of_a_small_model_is_measured() {
        let (plan, mut backend) = small();
        for format in [WeightFormat::Stored, WeightFormat::Int8] {
            let (mut ceilings, mut num_cases, mut measured) = (None, 0, Vec::new());
            run(&mut backend, &Plan { format, ..plan.clone() }, &mut |event| {
                match event {
                    Event::Ceilings(found, num) => (ceilings, num_cases) = (Some(found), num),
                    Event::Measured(measurement) => measured.push(measurement),
                }
                true
            })
            .unwrap();
            let ceilings = ceilings.unwrap();
            assert!(ceilings.read_bytes_per_second > 0.0 && ceilings.flops_per_second > 0.0);
            let mut names: Vec<String> =
                measured.iter().map(|it| Measurement::title(it.operator, &it.case)).collect();
            for operator in ["embed", "norm", "qkv", "gate, up", "head", "attention"] {
                assert!(names.iter().any(|name| name.contains(operator)), "{operator}: {names:?}");
            }
            names.sort();
            let num_names = names.len();
            assert_eq!(num_names, num_cases);
            names.dedup();
            assert_eq!(names.len(), num_names, "each case has a name of its own");
            for it in &measured {
                assert!(it.seconds.len() == 2 && it.seconds.iter().all(|&s| s > 0.0), "{it:?}");
                assert!(
                    it.num_bytes > 0 && ceilings.floor_seconds(it.num_bytes, it.num_flops) > 0.0
                );
            }
        }
        let mut num_events = 0;
        run(&mut backend, &plan, &mut |_| {
            num_events += 1;
            num_events < 3
        })
        .unwrap();
        assert_eq!(num_events, 3, "it ends when it is told to");
    }

    #[test]
    fn only_what_has_the_text_in_its_title_is_measured() {
        let (plan, mut backend) = small();
        let mut names = Vec::new();
        let one = Plan { only: Some("qkv 3".to_owned()), ..plan };
        run(&mut backend, &one, &mut |event| {
            if let Event::Measured(it) = event {
                names.push(Measurement::title(it.operator, &it.case));
            }
            true
        })
        .unwrap();
        assert_eq!(names, ["linear: qkv 3 rows"]);
    }
}
