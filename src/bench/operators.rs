//! The large operators of a model's shape by themselves, against what the device can do at best.

use std::num::NonZero;

use models::{
    Device, DeviceOptions, ModelError,
    bench::{self, Event, Plan},
};
use serde::Serialize;

use crate::bench::{
    Watch,
    bandwidth::{self, BandwidthResult},
    statistics::Spread,
};

/// Everything that `lacuna bench kernels` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelsResult {
    /// The shape's name.
    pub shape: String,
    /// What computed.
    pub device: String,
    /// What matrices were stored as: `bf16` or `int8`.
    pub weight_format: &'static str,
    /// Tokens that decodes look back on.
    pub context_tokens: usize,
    /// Least size of what calls read in turns, in bytes.
    pub rotated_bytes: usize,
    /// Measurements of each case.
    pub repeat: usize,
    /// What the device did at best, in this run.
    pub ceilings: Ceilings,
    /// One an operator and shape.
    pub operators: Vec<OperatorResult>,
}

/// What the device did at best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read a second.
    pub read_bytes_per_second: f64,
    /// Bytes read and written a second, both counted.
    pub copy_bytes_per_second: f64,
    /// Multiplications and additions a second in a large square product of bf16.
    pub flops_per_second: f64,
}

/// One operator on one shape.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatorResult {
    /// The operator, and what it computes.
    pub operator: &'static str,
    /// Its rows, or its sequences and tokens.
    pub case: String,
    /// Bytes that a call must read and write.
    pub num_bytes: u64,
    /// Multiplications and additions of a call.
    pub num_flops: u64,
    /// Seconds a call.
    pub seconds: Spread,
    /// The least that the ceilings allow.
    pub floor_seconds: f64,
    /// The floor's share of the median.
    pub fraction: f64,
}

/// Returns how fast the host's memory is read, in bytes a second, where the device computes in it: the search for broken
/// numbers, which reads on a GPU as fast as anything, is slower than products on a CPU. 0 on a GPU, and where it cannot be
/// measured.
fn host_speed(
    device: Device,
    options: &DeviceOptions,
    num_bytes: usize,
    watch: &mut dyn Watch,
) -> f64 {
    if device.is_gpu() {
        return 0.0;
    }
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let num_threads = options.num_threads.unwrap_or_else(cores);
    let measured = bandwidth::measure(num_threads, num_bytes, watch).ok().flatten();
    measured.map_or(0.0, |measured| measured.bytes_per_second.max)
}

/// Reads a device's own memory, `num_bytes` of it, `repeat` times.
///
/// # Errors
/// As [`measure`].
pub fn read_memory(
    device: Device,
    options: &DeviceOptions,
    num_bytes: usize,
    repeat: usize,
) -> Result<Option<BandwidthResult>, ModelError> {
    let spread = Spread::of(bench::read_speeds(device, options, num_bytes, repeat)?);
    let num_threads = None;
    let result = |bytes_per_second| BandwidthResult { num_threads, num_bytes, bytes_per_second };
    Ok(spread.map(result))
}

/// Measures every operator of a shape; what was measured before `watch` stopped it is the result.
///
/// # Errors
/// [`ModelError`]: there is no such device, or it failed or is too small.
pub fn measure(
    shape: &str,
    (device, options): (Device, &DeviceOptions),
    weight_format: &'static str,
    plan: &Plan,
    watch: &mut dyn Watch,
) -> Result<KernelsResult, ModelError> {
    let mut result = KernelsResult {
        shape: shape.to_owned(),
        device: String::new(),
        weight_format,
        context_tokens: plan.context_tokens,
        rotated_bytes: plan.rotated_bytes,
        repeat: plan.time.repeat,
        ceilings: Ceilings {
            read_bytes_per_second: 0.0,
            copy_bytes_per_second: 0.0,
            flops_per_second: 0.0,
        },
        operators: Vec::new(),
    };
    watch.update(0, 1, "ceilings");
    let host = host_speed(device, options, plan.rotated_bytes, watch);
    let (mut best, mut num_all) = (None, 1);
    result.device = bench::kernels(device, options, plan, &mut |event| {
        match event {
            Event::Ceilings(mut ceilings, num_cases) => {
                num_all = num_cases;
                ceilings.read_bytes_per_second = ceilings.read_bytes_per_second.max(host);
                result.ceilings = Ceilings {
                    read_bytes_per_second: ceilings.read_bytes_per_second,
                    copy_bytes_per_second: ceilings.copy_bytes_per_second,
                    flops_per_second: ceilings.flops_per_second,
                };
                best = Some(ceilings);
            }
            Event::Measured(case) => {
                let floor = best.map(|best| best.floor_seconds(case.num_bytes, case.num_flops));
                let spread = Spread::of(case.seconds);
                result.operators.extend(floor.zip(spread).map(|(floor_seconds, seconds)| {
                    OperatorResult {
                        operator: case.operator,
                        case: case.case,
                        num_bytes: case.num_bytes,
                        num_flops: case.num_flops,
                        floor_seconds,
                        fraction: floor_seconds / seconds.median,
                        seconds,
                    }
                }));
            }
        }
        let last = result.operators.last();
        watch.update(result.operators.len(), num_all, last.map_or("", |last| last.operator));
        !watch.is_stopped()
    })?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use models::{GraphMode, Source, WeightFormat, bench::Time, read_spec};

    use super::*;

    /// Counts, and stops at a number of cases.
    struct StopAt(usize, usize);

    impl Watch for StopAt {
        fn update(&mut self, num_done: usize, _: usize, what: &str) {
            // Readings of the memory come before, and are not cases.
            if !what.ends_with("threads") {
                self.1 = num_done;
            }
        }

        fn is_stopped(&self) -> bool {
            self.1 >= self.0
        }
    }

    #[test]
    fn each_case_is_compared_with_the_ceilings_and_a_stop_keeps_what_was_measured() {
        let spec = read_spec(Source::Demo).unwrap();
        let plan = Plan {
            widths: bench::widths(&spec),
            ceiling_side: 64,
            only: None,
            format: WeightFormat::Stored,
            batch: vec![1],
            prefill: vec![8],
            context_tokens: 32,
            rotated_bytes: 1 << 16,
            time: Time { min: Duration::from_micros(50), repeat: 2 },
        };
        let options = DeviceOptions { num_threads: Some(1), simd: None, graphs: GraphMode::Eager };
        let run = |most: usize| {
            let device = (Device::Cpu, &options);
            measure("demo", device, "bf16", &plan, &mut StopAt(most, 0)).unwrap()
        };
        let all = run(usize::MAX);
        assert!(all.operators.len() > 10, "{}", all.operators.len());
        assert!(all.device.starts_with("cpu"), "{}", all.device);
        for it in &all.operators {
            assert!(it.floor_seconds > 0.0 && it.fraction > 0.0, "{it:?}");
            let share = it.floor_seconds / it.seconds.median;
            assert!((share - it.fraction).abs() < 1e-9);
        }
        assert_eq!(run(3).operators.len(), 3);
    }
}
