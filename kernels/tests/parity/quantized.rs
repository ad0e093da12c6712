//! Products of integers against the truth of the same weights, and tiers against each other to the bit.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use kernels::activation::Activation;
use kernels::backend::{Backend, DType, MatrixData, WeightFormat};
use kernels::cpu::{CpuBackend, SimdTier};
use kernels::parts::{Affine, FeedForward};
use kernels::reference::ReferenceBackend;
use kernels::widen::for_each_widened;

use crate::rig::{
    Random, Stored, activated, assert_close, assert_same_bits, cpu, cpus, download, loaded_ids,
    poisoned, silu_gated, upload,
};

/// Types of blocks, and by how much products may be off because factors are rounded to half precision.
const BLOCKS: [(DType, GgmlDType, f64); 10] = [
    (DType::Q8_0, GgmlDType::Q8_0, 2e-6),
    (DType::Q4_0, GgmlDType::Q4_0, 2e-6),
    (DType::Q4_1, GgmlDType::Q4_1, 2e-6),
    (DType::Q5_0, GgmlDType::Q5_0, 2e-6),
    (DType::Q5_1, GgmlDType::Q5_1, 2e-6),
    (DType::Q2K, GgmlDType::Q2K, 1e-3),
    (DType::Q3K, GgmlDType::Q3K, 1e-3),
    (DType::Q4K, GgmlDType::Q4K, 1e-3),
    (DType::Q5K, GgmlDType::Q5K, 1e-3),
    (DType::Q6K, GgmlDType::Q6K, 1e-3),
];

/// The error of many products by the norm of what is summed: activations are rounded to one part in 254 of their block's
/// greatest, weights of int8 too, each an error of 0.4 % of evenly spread values.
const ROUNDING: f64 = 6.5e-3;

/// Rows of weights as in a file.
#[derive(Debug)]
struct Part {
    rows: usize,
    cols: usize,
    dtype: DType,
    bytes: Vec<u8>,
}

impl Part {
    fn plain(random: &mut Random, rows: usize, cols: usize, dtype: DType) -> Self {
        let stored = Stored::new(&random.values(rows * cols), dtype);
        Self { rows, cols, dtype, bytes: stored.data(rows, cols).bytes.to_vec() }
    }

    fn blocks(random: &mut Random, rows: usize, cols: usize, dtype: DType) -> Self {
        let ggml = BLOCKS.iter().find(|row| row.0 == dtype).unwrap().1;
        // Off centre, so that minimums matter.
        let values: Vec<f32> = random.values(rows * cols).iter().map(|v| v + 0.25).collect();
        let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
        let bytes = QTensor::quantize(&tensor, ggml).unwrap().data().unwrap().into_owned();
        Self { rows, cols, dtype, bytes }
    }

    fn data(&self) -> MatrixData<'_> {
        MatrixData { rows: self.rows, cols: self.cols, dtype: self.dtype, bytes: &self.bytes }
    }
}

struct Case {
    num_rows: usize,
    parts: Vec<Part>,
    format: WeightFormat,
    x: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    fn new(num_rows: usize, parts: Vec<Part>, format: WeightFormat) -> Self {
        let (rows, cols) = (parts.iter().map(|part| part.rows).sum::<usize>(), parts[0].cols);
        let mut random = Random((num_rows * 1_000_003 + cols * 1009 + rows) as u64);
        let x = random.values(num_rows * cols);
        let (bias, residual) = (random.values(rows), random.values(num_rows * rows));
        Self { num_rows, parts, format, x, bias, residual }
    }

    /// Gives activations that eight bits hold exactly: integers, each block with one of 127.
    fn with_exact_activations(mut self) -> Self {
        let mut random = Random(7);
        for row in self.x.chunks_mut(self.parts[0].cols) {
            for block in row.chunks_mut(32) {
                block.fill_with(|| random.below(255) as f32 - 127.0);
                let greatest = random.below(block.len());
                block[greatest] = 127.0;
            }
        }
        self
    }

    fn name(&self, backend: &impl Backend) -> String {
        let parts: Vec<_> = self.parts.iter().map(|p| (p.rows, p.cols, p.dtype)).collect();
        format!("{}: {} rows by {parts:?} {:?}", backend.name(), self.num_rows, self.format)
    }

    fn rows(&self) -> usize {
        self.bias.len()
    }

    /// Runs rows `first..first + num_rows` in one call: plain, with bias, added to a residual, and gated by
    /// themselves.
    fn run<B: Backend>(&self, backend: &mut B, first: usize, num_rows: usize) -> [Vec<f32>; 4] {
        let data: Vec<_> = self.parts.iter().map(Part::data).collect();
        let matrix = backend.matrix(&data, self.format).unwrap();
        backend.reserve(num_rows).unwrap();
        let bias = backend.vector(&self.bias).unwrap();
        let cols = self.parts[0].cols;
        let x = upload(backend, &self.x[first * cols..(first + num_rows) * cols]);
        let len = num_rows * self.rows();
        let mut plain = poisoned(backend, len);
        backend.linear(num_rows, &x, &matrix, None, &mut plain).unwrap();
        let mut biased = poisoned(backend, len);
        backend.linear(num_rows, &x, &matrix, Some(&bias), &mut biased).unwrap();
        let residual = &self.residual[first * self.rows()..(first + num_rows) * self.rows()];
        let mut added = upload(backend, residual);
        backend.linear_add(num_rows, &x, &matrix, None, &mut added).unwrap();
        let mut gated = poisoned(backend, len);
        backend.feed_forward(num_rows, &x, silu_gated(&matrix, &matrix), &mut gated).unwrap();
        [plain, biased, added, gated].map(|buffer| download(backend, &buffer, len))
    }

    /// The norm of what is summed, all outputs together: sums of few terms of either sign may come out near zero, and
    /// errors are in proportion to the terms.
    fn norm(&self) -> f64 {
        let mut weights = Vec::new();
        for part in &self.parts {
            for_each_widened(&part.data(), |weight| weights.push(f64::from(weight)));
        }
        let cols = self.parts[0].cols.max(1);
        let squares = self.x.chunks(cols).flat_map(|x| {
            let rows = weights.chunks(cols);
            rows.map(move |row| {
                row.iter().zip(x).map(|(w, &x)| (w * f64::from(x)).powi(2)).sum::<f64>()
            })
        });
        squares.sum::<f64>().sqrt()
    }

    /// Holds every tier to the reference within a part of the norm, and to each other to the bit.
    fn check(&self, limit: f64) {
        let expected = self.run(&mut ReferenceBackend, 0, self.num_rows);
        // Rounding errors of a few outputs may all be large.
        let num_outputs = (self.num_rows * self.rows()).max(1) as f64;
        let limit = limit * (1.0 + 3.0 / num_outputs.sqrt()) * self.norm();
        // s silu(s) grows at most 2.23 |s| times as fast as s.
        let greatest = expected[0].iter().fold(0.0, |max: f64, s| max.max(f64::from(s.abs())));
        let limits = [limit, limit, limit, limit * (1.0 + 2.23 * greatest)];
        let mut first: Option<[Vec<f32>; 4]> = None;
        for mut backend in cpus() {
            let (got, name) = (self.run(&mut backend, 0, self.num_rows), self.name(&backend));
            for ((got, expected), limit) in got.iter().zip(&expected).zip(limits) {
                let distance = distance(got, expected);
                assert!(distance <= limit, "{name}: off by {distance:.3e}, over {limit:.3e}");
            }
            let first = first.get_or_insert_with(|| got.clone());
            // The gate's exponential is in f32, whose tiers differ in the last bits.
            for (got, first) in got.iter().zip(first).take(3) {
                assert_same_bits(got, first, &name);
            }
        }
    }
}

/// `‖got - expected‖`; infinite where any value is not finite, so NaN never passes.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let pairs =
        got.iter().zip(expected).map(|(&got, &expected)| (f64::from(got), f64::from(expected)));
    let squares: f64 = pairs.map(|(got, expected)| (got - expected).powi(2)).sum();
    if squares.is_finite() { squares.sqrt() } else { f64::INFINITY }
}

#[test]
fn int8_equals_the_reference_but_for_rounding() {
    let mut random = Random(1);
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for num_rows in [1, 2, 3, 4, 5, 9, 16, 17, 100] {
            for (cols, rows) in [(1, 1), (7, 3), (32, 16), (33, 17), (64, 130), (129, 33), (900, 5)]
            {
                let part = Part::plain(&mut random, rows, cols, dtype);
                Case::new(num_rows, vec![part], WeightFormat::Int8).check(ROUNDING);
            }
        }
    }
}

#[test]
fn blocks_equal_the_reference_but_for_rounding() {
    let mut random = Random(2);
    for (dtype, _, _) in BLOCKS {
        for (num_rows, cols, rows) in [(1, 256, 3), (3, 512, 16), (7, 768, 37), (40, 256, 65)] {
            let part = Part::blocks(&mut random, rows, cols, dtype);
            Case::new(num_rows, vec![part], WeightFormat::Stored).check(ROUNDING);
        }
    }
}

#[test]
fn codes_of_a_file_are_kept() {
    let mut random = Random(3);
    for (dtype, _, limit) in BLOCKS {
        for (num_rows, cols, rows) in [(1, 256, 5), (5, 512, 33), (18, 1024, 16)] {
            for format in [WeightFormat::Stored, WeightFormat::Int8] {
                let part = Part::blocks(&mut random, rows, cols, dtype);
                let case = Case::new(num_rows, vec![part], format);
                case.with_exact_activations().check(limit);
            }
        }
    }
}

#[test]
fn narrow_blocks_end_anywhere() {
    let mut random = Random(4);
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_1] {
        for cols in [32, 64, 96, 928] {
            let part = Part::blocks(&mut random, 19, cols, dtype);
            let case = Case::new(6, vec![part], WeightFormat::Stored);
            case.with_exact_activations().check(2e-6);
        }
    }
}

#[test]
fn parts_of_different_types_lose_nothing() {
    let mut random = Random(5);
    let types = BLOCKS.map(|row| row.0);
    for first in types {
        for second in types {
            let rows: [(usize, DType); 3] = [(5, first), (0, DType::Q8_0), (30, second)];
            let parts =
                rows.map(|(rows, dtype)| Part::blocks(&mut random, rows.max(1), 256, dtype));
            let mut parts = Vec::from(parts);
            parts[1].rows = 0;
            parts[1].bytes.clear();
            let case = Case::new(3, parts, WeightFormat::Stored);
            case.with_exact_activations().check(1e-3);
        }
    }
}

#[test]
fn plain_parts_beside_blocks() {
    let mut random = Random(6);
    let mut parts = || {
        vec![
            Part::blocks(&mut random, 3, 256, DType::Q4K),
            Part::plain(&mut random, 20, 256, DType::Bf16),
            Part::blocks(&mut random, 2, 256, DType::Q8_0),
        ]
    };
    let exact = Case::new(5, parts(), WeightFormat::Stored);
    let expected = exact.run(&mut ReferenceBackend, 0, 5);
    for mut backend in cpus() {
        for (got, expected) in exact.run(&mut backend, 0, 5).iter().zip(&expected) {
            assert_close(got, expected, 1e-6, &exact.name(&backend));
        }
    }
    Case::new(5, parts(), WeightFormat::Int8).check(ROUNDING);
    Case::new(5, parts(), WeightFormat::Int8).with_exact_activations().check(ROUNDING);
}

#[test]
fn empty_products_write_nothing_or_the_bias() {
    let mut random = Random(7);
    for (num_rows, cols, rows) in [(0, 32, 4), (3, 32, 0), (1, 0, 4), (6, 0, 4)] {
        let part = Part::plain(&mut random, rows, cols, DType::Bf16);
        Case::new(num_rows, vec![part], WeightFormat::Int8).check(ROUNDING);
    }
}

#[test]
fn a_row_is_the_same_alone_and_in_company() {
    let mut random = Random(8);
    for dtype in [DType::Bf16, DType::Q4K, DType::Q6K] {
        let part = match dtype {
            DType::Bf16 => Part::plain(&mut random, 37, 2085, dtype),
            _ => Part::blocks(&mut random, 37, 512, dtype),
        };
        let format = if dtype.is_integers() { WeightFormat::Stored } else { WeightFormat::Int8 };
        let case = Case::new(53, vec![part], format);
        for tier in SimdTier::available() {
            let (mut one_thread, mut three_threads) = (cpu(tier, 1), cpu(tier, 3));
            let together = case.run(&mut one_thread, 0, 53);
            for (first, num_rows) in [(0, 53), (0, 1), (3, 1), (52, 1), (2, 2), (1, 3), (2, 17)] {
                let some = case.run(&mut three_threads, first, num_rows);
                for (some, together) in some.iter().zip(&together) {
                    let same = &together[first * 37..(first + num_rows) * 37];
                    assert_same_bits(some, same, &case.name(&three_threads));
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_shows() {
    let mut random = Random(9);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for dtype in [DType::Q8_0, DType::Q4K, DType::Q2K] {
            for num_rows in [3, 6] {
                let parts = vec![Part::blocks(&mut random, 9, 256, dtype)];
                let mut case = Case::new(num_rows, parts, WeightFormat::Stored);
                case.x[256 + 217] = bad;
                for mut backend in cpus() {
                    for out in case.run(&mut backend, 0, num_rows) {
                        for (row, out) in out.chunks_exact(9).enumerate() {
                            let is_bad = row == 1;
                            assert!(out.iter().all(|value| value.is_finite() != is_bad));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_weight_that_is_not_finite_shows_in_its_feature() {
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut values = Random(10).values(18 * 40);
        values[17 * 40 + 35] = bad;
        let stored = Stored::new(&values, DType::F32);
        let bytes = stored.data(18, 40).bytes.to_vec();
        let part = Part { rows: 18, cols: 40, dtype: DType::F32, bytes };
        let case = Case::new(2, vec![part], WeightFormat::Int8);
        for mut backend in cpus() {
            for out in case.run(&mut backend, 0, 2) {
                for (index, value) in out.iter().enumerate() {
                    assert_eq!(value.is_finite(), index % 18 != 17, "{bad}: {value}");
                }
            }
        }
    }
}

fn embed<B: Backend>(backend: &mut B, part: &Part, format: WeightFormat) -> Vec<f32> {
    let table = backend.matrix(&[part.data()], format).unwrap();
    let ids = [0, 16, 3, 3, part.rows as u32 - 1];
    let step = loaded_ids(backend, &ids);
    let mut out = poisoned(backend, ids.len() * part.cols);
    backend.embed(&step, &table, &mut out).unwrap();
    download(backend, &out, ids.len() * part.cols)
}

#[test]
fn embeddings_are_the_rows_of_the_table() {
    let mut random = Random(11);
    for (dtype, _, limit) in BLOCKS {
        let part = Part::blocks(&mut random, 41, 512, dtype);
        let expected = embed(&mut ReferenceBackend, &part, WeightFormat::Stored);
        for mut backend in cpus() {
            let got = embed(&mut backend, &part, WeightFormat::Stored);
            assert_close(&got, &expected, limit, &format!("{dtype:?}"));
        }
    }
    let part = Part::plain(&mut random, 41, 83, DType::Bf16);
    let expected = embed(&mut ReferenceBackend, &part, WeightFormat::Int8);
    for mut backend in cpus() {
        assert_close(&embed(&mut backend, &part, WeightFormat::Int8), &expected, ROUNDING, "int8");
    }
}

#[test]
fn products_need_the_room_that_reserve_makes() {
    let part = Part::plain(&mut Random(12), 4, 40, DType::Bf16);
    let mut backend: CpuBackend = cpu(SimdTier::fastest(), 1);
    let matrix = backend.matrix(&[part.data()], WeightFormat::Int8).unwrap();
    let (x, mut out) = (backend.buffer(3 * 40).unwrap(), backend.buffer(3 * 4).unwrap());
    let error = backend.linear(1, &x, &matrix, None, &mut out).unwrap_err().to_string();
    assert_eq!(error, "linear: blocks of `x` in the room of `reserve` must be at most 0, got 2");
    backend.reserve(2).unwrap();
    backend.linear(2, &x, &matrix, None, &mut out).unwrap();
    let error = backend.linear_add(3, &x, &matrix, None, &mut out).unwrap_err().to_string();
    assert_eq!(
        error,
        "linear_add: blocks of `x` in the room of `reserve` must be at most 4, got 6"
    );
}

/// What becomes of the sums of integers: a bias, a function, a gate, as of other sums.
#[test]
fn functions_and_biases_follow_products_of_integers() {
    let (num_rows, rows, cols) = (5, 37, 96);
    let mut random = Random(17);
    let [gate, up] = [(); 2].map(|()| Stored::new(&random.values(rows * cols), DType::F32));
    let (x, bias) = (random.values(num_rows * cols), random.values(rows));
    for mut backend in cpus() {
        let mut matrix = |stored: &Stored| {
            backend.matrix(&[stored.data(rows, cols)], WeightFormat::Int8).unwrap()
        };
        let (gate, up) = (matrix(&gate), matrix(&up));
        backend.reserve(num_rows).unwrap();
        let (x, bias) = (upload(&mut backend, &x), backend.vector(&bias).unwrap());
        let mut sums = |matrix| {
            let mut out = poisoned(&mut backend, num_rows * rows);
            backend.linear(num_rows, &x, matrix, Some(&bias), &mut out).unwrap();
            download(&mut backend, &out, num_rows * rows)
        };
        let (gates, ups) = (sums(&gate), sums(&up));
        let [gate, up] = [&gate, &up].map(|matrix| Affine { matrix, bias: Some(&bias) });
        for activation in Activation::ALL {
            for (up, ups) in [(None, None), (Some(up), Some(&ups[..]))] {
                let mut out = poisoned(&mut backend, num_rows * rows);
                let parts = FeedForward { activation, gate, up };
                backend.feed_forward(num_rows, &x, parts, &mut out).unwrap();
                let got = download(&mut backend, &out, num_rows * rows);
                let expected = activated(&mut ReferenceBackend, activation, &gates, ups);
                assert_close(&got, &expected, 1e-6, &format!("{} {activation:?}", backend.name()));
            }
        }
        let mut added = upload(&mut backend, &ups);
        backend.linear_add(num_rows, &x, gate.matrix, gate.bias, &mut added).unwrap();
        let expected: Vec<f32> = ups.iter().zip(&gates).map(|(up, gate)| up + gate).collect();
        let got = download(&mut backend, &added, num_rows * rows);
        assert_close(&got, &expected, 1e-6, &format!("{} linear_add", backend.name()));
    }
}
