//! The operators that work on a row at a time.

use kernels::backend::{Backend, DType, WeightFormat};
use kernels::reference::ReferenceBackend;

use crate::rig::{
    Random, Stored, assert_close, assert_same_bits, cpus, download, loaded_ids, poisoned, upload,
};

const WIDTHS: [usize; 10] = [1, 3, 7, 8, 9, 16, 31, 64, 896, 4097];

/// A few roundings, and an exponential that is off by up to two units in the last place.
const LIMIT: f64 = 3e-7;

fn rms_norm<B: Backend>(backend: &mut B, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let num_rows = x.len() / weight.len();
    let (buffer, weight) = (upload(backend, x), backend.vector(weight).unwrap());
    let mut out = poisoned(backend, x.len());
    backend.rms_norm(num_rows, &buffer, &weight, 1e-6, &mut out).unwrap();
    download(backend, &out, x.len())
}

/// The activation alone: matrices of one column, an activation of 1.
fn silu_mul<B: Backend>(backend: &mut B, gate: &[f32], up: &[f32]) -> Vec<f32> {
    let width = gate.len();
    let [gate, up] = [gate, up].map(|values| {
        let weights = Stored::new(values, DType::F32);
        backend.matrix(&[weights.data(width, 1)], WeightFormat::Stored).unwrap()
    });
    let x = upload(backend, &[1.0]);
    let mut out = poisoned(backend, width);
    backend.linear_silu_mul(1, &x, (&gate, &up), &mut out).unwrap();
    download(backend, &out, width)
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
    let gated = silu_mul(&mut ReferenceBackend, &[1.0, -2.0], &[3.0, 5.0]);
    assert_close(&gated, &[2.193_175_7, -1.192_029_2], 1e-7, "silu_mul");
}
