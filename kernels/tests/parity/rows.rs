//! The operators that work on a row at a time.

use kernels::activation::Activation;
use kernels::backend::{Backend, DType, WeightFormat};
use kernels::metadata::{AttentionShape, KvDType};
use kernels::parts::{HeadNorms, Norm};
use kernels::reference::ReferenceBackend;

use crate::rig::{
    Random, Stored, activated, assert_close, assert_same_bits, cpus, download, loaded_ids,
    poisoned, upload,
};

const WIDTHS: [usize; 10] = [1, 3, 7, 8, 9, 16, 31, 64, 896, 4097];

/// A few roundings, and an exponential that is off by up to two units in the last place.
const LIMIT: f64 = 3e-7;

fn rms_norm<B: Backend>(backend: &mut B, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let num_rows = x.len() / weight.len();
    let (buffer, weight) = (upload(backend, x), backend.vector(weight).unwrap());
    let mut out = poisoned(backend, x.len());
    let norm = Norm::Rms { weight: &weight, eps: 1e-6 };
    backend.norm(num_rows, &buffer, norm, &mut out).unwrap();
    download(backend, &out, x.len())
}

fn layer_norm<B: Backend>(backend: &mut B, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let num_rows = x.len() / weight.len();
    let buffer = upload(backend, x);
    let (weight, bias) = (backend.vector(weight).unwrap(), backend.vector(bias).unwrap());
    let mut out = poisoned(backend, x.len());
    let norm = Norm::Layer { weight: &weight, bias: &bias, eps: 1e-5 };
    backend.norm(num_rows, &buffer, norm, &mut out).unwrap();
    download(backend, &out, x.len())
}

fn silu_mul<B: Backend>(backend: &mut B, gate: &[f32], up: &[f32]) -> Vec<f32> {
    activated(backend, Activation::Silu, gate, Some(up))
}

#[test]
fn rms_norm_equals_the_reference() {
    for width in WIDTHS {
        for num_rows in [1, 2, 33] {
            let mut random = Random((width + num_rows) as u64);
            let (x, weight) = (random.values(num_rows * width), random.values(width));
            let expected = rms_norm(&mut ReferenceBackend, &x, &weight);
            for mut backend in cpus() {
                let got = rms_norm(&mut backend, &x, &weight);
                assert_close(&got, &expected, LIMIT, &format!("{} {width}", backend.name()));
                let alone = rms_norm(&mut backend, &x[x.len() - width..], &weight);
                assert_same_bits(&alone, &got[x.len() - width..], "alone");
            }
        }
    }
}

#[test]
fn layer_norm_equals_the_reference() {
    for width in WIDTHS {
        for (num_rows, centre) in [(1, 0.0), (2, 0.0), (33, 100.0)] {
            let mut random = Random((width + num_rows) as u64);
            let x: Vec<f32> = random.values(num_rows * width).iter().map(|x| x + centre).collect();
            let (weight, bias) = (random.values(width), random.values(width));
            let expected = layer_norm(&mut ReferenceBackend, &x, &weight, &bias);
            for mut backend in cpus() {
                let got = layer_norm(&mut backend, &x, &weight, &bias);
                // Differences of numbers around 100 lose seven bits of those around 1.
                let limit = if centre > 0.0 { 2e-5 } else { 2.0 * LIMIT };
                assert_close(&got, &expected, limit, &format!("{} {width}", backend.name()));
                let alone = layer_norm(&mut backend, &x[x.len() - width..], &weight, &bias);
                assert_same_bits(&alone, &got[x.len() - width..], "alone");
            }
        }
    }
}

#[test]
fn head_norm_equals_the_reference_and_leaves_values_alone() {
    fn run<B: Backend>(backend: &mut B, shape: &AttentionShape, qkv: &[f32]) -> Vec<f32> {
        let weights = Random(5).values(2 * shape.head_dim);
        let (query, key) = weights.split_at(shape.head_dim);
        let (query, key) = (backend.vector(query).unwrap(), backend.vector(key).unwrap());
        let mut buffer = upload(backend, qkv);
        let norms = HeadNorms { query: &query, key: &key, eps: 1e-6 };
        let num_rows = qkv.len() / shape.qkv_width();
        backend.head_norm(num_rows, shape, norms, &mut buffer).unwrap();
        download(backend, &buffer, qkv.len())
    }
    for (num_heads, num_kv_heads, head_dim) in [(1, 1, 2), (6, 2, 6), (4, 4, 80), (32, 8, 128)] {
        let shape = AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_size: 16,
            kv_dtype: KvDType::F32,
            scale: 1.0,
            window: None,
        };
        let width = shape.qkv_width();
        let qkv = Random(head_dim as u64).values(7 * width);
        let expected = run(&mut ReferenceBackend, &shape, &qkv);
        let values = width - num_kv_heads * head_dim..width;
        assert_same_bits(&expected[values.clone()], &qkv[values], "values");
        for mut backend in cpus() {
            let got = run(&mut backend, &shape, &qkv);
            assert_close(&got, &expected, LIMIT, &backend.name());
            assert_same_bits(&run(&mut backend, &shape, &qkv[..width]), &got[..width], "alone");
        }
    }
}

#[test]
fn scale_multiplies_the_rows_that_take_part() {
    fn run<B: Backend>(backend: &mut B, x: &[f32]) -> Vec<f32> {
        let mut buffer = upload(backend, x);
        backend.scale(3, 37, 45.25, &mut buffer).unwrap();
        download(backend, &buffer, x.len())
    }
    let x = Random(1).values(4 * 37);
    let expected: Vec<f32> =
        (0..).zip(&x).map(|(i, x)| if i < 3 * 37 { x * 45.25 } else { *x }).collect();
    assert_same_bits(&run(&mut ReferenceBackend, &x), &expected, "reference");
    for mut backend in cpus() {
        assert_same_bits(&run(&mut backend, &x), &expected, &backend.name());
    }
}

#[test]
fn every_activation_equals_the_reference_gated_and_plain() {
    for activation in Activation::ALL {
        for width in WIDTHS {
            let mut random = Random(width as u64);
            let mut values = || (0..width).map(|_| 12.0 * random.value()).collect::<Vec<f32>>();
            let (gate, up) = (values(), values());
            for up in [None, Some(&up[..])] {
                let expected = activated(&mut ReferenceBackend, activation, &gate, up);
                for mut backend in cpus() {
                    let got = activated(&mut backend, activation, &gate, up);
                    let what = format!("{} {activation:?} {width}", backend.name());
                    assert_close(&got, &expected, 2.0 * LIMIT, &what);
                }
            }
        }
    }
}

/// A norm over many values hides small ones; here each is looked at.
#[test]
fn activations_are_close_at_every_size() {
    let gates: Vec<f32> = (-1400..=1400).map(|step| step as f32 * 0.01).collect();
    for activation in Activation::ALL {
        let expected = activated(&mut ReferenceBackend, activation, &gates, None);
        for mut backend in cpus() {
            let got = activated(&mut backend, activation, &gates, None);
            for ((gate, got), expected) in gates.iter().zip(&got).zip(&expected) {
                let error = f64::from((got - expected).abs());
                // The exponent of the tail is rounded: its error grows with its size.
                let limit =
                    1e-6 * (1.0 + f64::from(gate * gate)) * f64::from(expected.abs()) + 1e-12;
                let name = backend.name();
                assert!(error <= limit, "{name} {activation:?}({gate}): {got}, not {expected}");
            }
        }
    }
}

#[test]
fn activations_keep_the_edges() {
    let gates = [-1e30, -200.0, 0.0, 200.0, 1e30, f32::INFINITY, f32::NAN];
    for activation in Activation::ALL {
        for mut backend in cpus() {
            let got = activated(&mut backend, activation, &gates, None);
            assert_eq!(got[..3], [0.0; 3], "{activation:?} {}", backend.name());
            assert_eq!(got[3..6], gates[3..6], "{activation:?} {}", backend.name());
            assert!(got[6].is_nan());
        }
    }
}

#[test]
fn silu_mul_equals_the_reference() {
    for width in WIDTHS {
        let mut random = Random(width as u64);
        let mut values = || (0..width).map(|_| 12.0 * random.value()).collect::<Vec<f32>>();
        let (gate, up) = (values(), values());
        let expected = silu_mul(&mut ReferenceBackend, &gate, &up);
        for mut backend in cpus() {
            let got = silu_mul(&mut backend, &gate, &up);
            assert_close(&got, &expected, LIMIT, &format!("{} {width}", backend.name()));
        }
    }
}

#[test]
fn silu_mul_does_not_depend_on_the_lane() {
    let (width, mut random) = (37, Random(3));
    let values = random.values(2);
    for mut backend in cpus() {
        let got = silu_mul(&mut backend, &vec![values[0]; width], &vec![values[1]; width]);
        assert_same_bits(&got, &vec![got[0]; width], &backend.name());
    }
}

#[test]
fn silu_mul_keeps_the_edges() {
    let gates = [-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, f32::INFINITY, f32::NAN];
    for mut backend in cpus() {
        let got = silu_mul(&mut backend, &gates, &[1.0; 8]);
        assert_eq!(got[..4], [0.0; 4], "{}", backend.name());
        assert_eq!(got[4..7], gates[4..7], "{}", backend.name());
        assert!(got[7].is_nan());
    }
}

#[test]
fn embed_copies_the_rows_of_every_dtype() {
    fn run<B: Backend>(backend: &mut B, table: &Stored, cols: usize, ids: &[u32]) -> Vec<f32> {
        let table = backend.matrix(&[table.data(11, cols)], WeightFormat::Stored).unwrap();
        let step = loaded_ids(backend, ids);
        let mut out = poisoned(backend, ids.len() * cols);
        backend.embed(&step, &table, &mut out).unwrap();
        download(backend, &out, ids.len() * cols)
    }
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for cols in [1, 31, 64, 5000] {
            let table = Stored::new(&Random(1).values(11 * cols), dtype);
            let ids = [10, 0, 3, 3, 7];
            let expected = run(&mut ReferenceBackend, &table, cols, &ids);
            for mut backend in cpus() {
                let got = run(&mut backend, &table, cols, &ids);
                assert_same_bits(&got, &expected, &format!("{} {dtype:?}", backend.name()));
            }
        }
    }
}

#[test]
fn gather_copies_the_wanted_rows() {
    fn run<B: Backend>(backend: &mut B, x: &[f32], width: usize) -> Vec<f32> {
        let input = kernels::metadata::StepInput {
            token_ids: &[1, 2, 3, 4, 5],
            positions: &[0, 1, 2, 9, 10],
            slot_mapping: &[0, 1, 2, 3, 4],
            cu_seqlens_q: &[0, 3, 3, 5],
            context_lens: &[3, 4, 11],
            block_tables: &[],
            max_blocks_per_seq: 0,
            logit_rows: &[2, 4],
            adapters: &[],
        };
        let mut step = backend.step(5, 3, 0).unwrap();
        backend.load_step(&input, &mut step).unwrap();
        let x = upload(backend, x);
        let mut out = poisoned(backend, 2 * width);
        backend.gather_logit_rows(&step, width, &x, &mut out).unwrap();
        download(backend, &out, 2 * width)
    }
    for width in [1, 7, 64] {
        let x = Random(9).values(5 * width);
        let expected = [&x[2 * width..3 * width], &x[4 * width..]].concat();
        assert_same_bits(&run(&mut ReferenceBackend, &x, width), &expected, "reference");
        for mut backend in cpus() {
            assert_same_bits(&run(&mut backend, &x, width), &expected, &backend.name());
        }
    }
}

#[test]
fn the_reference_says_what_a_hand_computes() {
    let normed = rms_norm(&mut ReferenceBackend, &[3.0, 4.0], &[2.0, 0.5]);
    let rms = (12.5_f64 + 1e-6).sqrt();
    assert_close(&normed, &[(6.0 / rms) as f32, (2.0 / rms) as f32], 1e-7, "rms_norm");
    // Mean 3.5, variance 0.25.
    let normed = layer_norm(&mut ReferenceBackend, &[3.0, 4.0], &[2.0, 0.5], &[1.0, -1.0]);
    let deviation = (0.25_f64 + 1e-5).sqrt();
    let expected = [(1.0 - 1.0 / deviation) as f32, (0.25 / deviation - 1.0) as f32];
    assert_close(&normed, &expected, 1e-7, "layer_norm");
    let gated = silu_mul(&mut ReferenceBackend, &[1.0, -2.0], &[3.0, 5.0]);
    assert_close(&gated, &[2.193_175_7, -1.192_029_2], 1e-7, "silu_mul");
}
