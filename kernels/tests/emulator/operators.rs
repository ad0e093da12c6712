//! The CUDA backend's operators on the emulated device, under several orders of its threads; and with planted faults.

use kernels::backend::{BackendError, DType, WeightFormat};
use kernels::cuda::emulated::EmulatedDevice;
use kernels::cuda::{CudaBackend, CudaMixture, GraphMode};
use kernels::mixture::{Mixture, MixtureShape};
use kernels::selftest::rig::Stored;
use kernels::selftest::{Grid, Group, Outcome, run};

/// Runs a group and returns what failed.
fn failures(
    device: EmulatedDevice,
    group: Group,
    grid: Grid,
) -> Result<Vec<Outcome>, BackendError> {
    let mut backend = CudaBackend::new(device, GraphMode::Captured)?;
    let (mut failed, mut num_tried) = (Vec::new(), 0);
    run(&mut backend, group, grid, &mut |outcome| {
        num_tried += 1;
        if !outcome.is_passed() {
            failed.push(outcome);
        }
    })?;
    assert!(num_tried > 10, "{group:?} has {num_tried} cases");
    Ok(failed)
}

fn check(group: Group, grid: Grid, seeds: &[u64]) {
    for &seed in seeds {
        let failed = failures(EmulatedDevice::new(seed), group, grid).unwrap();
        assert!(failed.is_empty(), "seed {seed}: {failed:#?}");
    }
}

#[test]
fn rows_equal_the_reference() {
    check(Group::Rows, Grid::Full, &[1, 2, 3]);
}

#[test]
fn products_equal_the_reference() {
    check(Group::Products, Grid::Quick, &[4, 5]);
    check(Group::Products, Grid::Full, &[6]);
}

#[test]
fn mixtures_equal_the_reference() {
    check(Group::Mixtures, Grid::Quick, &[12, 13]);
    check(Group::Mixtures, Grid::Full, &[14]);
}

#[test]
fn adapters_equal_the_reference() {
    check(Group::Adapters, Grid::Quick, &[15, 16]);
    check(Group::Adapters, Grid::Full, &[17]);
}

#[test]
fn experts_of_other_types_are_refused() {
    let mut backend = CudaBackend::new(EmulatedDevice::new(1), GraphMode::Eager).unwrap();
    let shape = MixtureShape {
        num_experts: 2,
        experts_per_token: 1,
        hidden_size: 32,
        expert_size: 32,
        has_normed_weights: true,
    };
    let mixture = CudaMixture::new(&mut backend, &shape, 1).unwrap();
    let stored = Stored::new(&[0.5; 32 * 32], DType::Bf16);
    let mut store =
        |format| mixture.experts(&mut backend, &[stored.data(32, 32); 2], format).map(drop);
    store(WeightFormat::Stored).unwrap();
    store(WeightFormat::Int8).unwrap();
    let refused = store(WeightFormat::F32).unwrap_err().to_string();
    let rule =
        "weights of experts must be bf16 or codes on a GPU, got f32; int8 makes codes of them";
    assert_eq!(refused, format!("experts: {rule}"));
    let refused = store(WeightFormat::Fp8).unwrap_err().to_string();
    assert_eq!(refused, "matrix: `cols` of fp8 must be a multiple of 128 on a GPU, got 32");
}

#[test]
fn attention_equals_the_reference() {
    check(Group::Attention, Grid::Quick, &[7, 8]);
    check(Group::Attention, Grid::Full, &[9]);
}

#[test]
fn sampling_equals_a_sampler_that_sorts() {
    check(Group::Sampling, Grid::Full, &[10, 11]);
}

/// A fault in each way that a kernel can be wrong: a barrier or a wait dropped, an index off by one, an access behind the
/// end, a term or a mask forgotten. The grid of the selftest must see every one.
#[cfg(feature = "cuda-faults")]
#[test]
fn every_planted_fault_is_noticed() {
    let ids = EmulatedDevice::fault_ids();
    let ids: Vec<&String> = ids.iter().filter(|id| !id.starts_with("self-")).collect();
    assert!(ids.len() > 30, "{} faults", ids.len());
    let is_noticed = |id: &str| {
        let group = match id.split('-').next().unwrap_or_default() {
            "embed" | "norm" | "gather" | "broken" => Group::Rows,
            "mix" => Group::Mixtures,
            "lora" => Group::Adapters,
            "sample" => Group::Sampling,
            "fill" | "silu" | "stream" | "gate" => Group::Products,
            _ => Group::Attention,
        };
        // An order may hide a race.
        (1..5).any(|seed| {
            let failed = failures(EmulatedDevice::with_fault(seed, id), group, Grid::Quick);
            failed.is_err() || failed.is_ok_and(|failed| !failed.is_empty())
        })
    };
    let unnoticed: Vec<&&String> = ids.iter().filter(|id| !is_noticed(id)).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
