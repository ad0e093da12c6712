//! The measurement of operators runs on a GPU as it does on the CPU; how fast says nothing here.

use std::time::Duration;

use kernels::activation::Activation;
use kernels::backend::WeightFormat;
use kernels::bench::{Event, Plan, Time, Widths, run};
use kernels::cuda::emulated::EmulatedDevice;
use kernels::cuda::{CudaBackend, GraphMode};
use kernels::mixture::MixtureShape;

#[test]
fn every_operator_can_be_measured() {
    let widths = Widths {
        hidden_size: 64,
        ffn_size: 96,
        mixture: None,
        activation: Activation::GeluTanh,
        is_gated: false,
        has_layer_norm: true,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        vocab_size: 320,
    };
    let shape = MixtureShape {
        num_experts: 6,
        experts_per_token: 2,
        hidden_size: 64,
        expert_size: 32,
        has_normed_weights: true,
    };
    let mixed = Widths { mixture: Some(shape), is_gated: true, ..widths };
    let rows = [
        (widths, WeightFormat::Stored, "linear_add: down"),
        (widths, WeightFormat::Int8, "linear_add: down"),
        (mixed, WeightFormat::Stored, "mixture: experts"),
    ];
    for (widths, format, operator) in rows {
        let plan = Plan {
            widths,
            format,
            // Five sequences are padded to eight.
            batch: vec![1, 5],
            prefill: vec![70],
            context_tokens: 40,
            rotated_bytes: 1 << 15,
            ceiling_side: 64,
            only: None,
            time: Time { min: Duration::from_micros(1), repeat: 1 },
        };
        let mut backend = CudaBackend::new(EmulatedDevice::new(3), GraphMode::Captured).unwrap();
        let (mut num_cases, mut operators) = (0, Vec::new());
        run(&mut backend, &plan, &mut |event| {
            match event {
                Event::Ceilings(_, num) => num_cases = num,
                Event::Measured(measured) => operators.push(measured.operator),
            }
            true
        })
        .unwrap();
        assert_eq!(operators.len(), num_cases);
        assert!(operators.contains(&"sample") && operators.contains(&operator), "{operators:?}");
    }
}
