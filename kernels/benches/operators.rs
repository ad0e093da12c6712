//! Operators of the CPU backend at the sizes of Qwen2.5-Coder 0.5B and 1.5B, against what the machine could do.
//!
//! `cargo bench -p kernels --bench operators [-- FILTER]`; `plain_read` is the floor of decode: the same bytes, only read.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails should stop")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kernels::backend::{Backend, DType, MatrixData, WeightFormat};
use kernels::cpu::{CpuBackend, CpuMatrix, CpuOptions};
use kernels::metadata::{AttentionShape, KvDType, StepInput};
use kernels::parts::Norm;

/// `[rows, cols]`: gate-up and down of 0.5B, gate-up of 1.5B, the head of 0.5B.
const MATRICES: [(usize, usize); 4] = [(9728, 896), (896, 4864), (17920, 1536), (151_936, 896)];

fn backend() -> CpuBackend {
    CpuBackend::new(CpuOptions { num_threads: None, simd: None }).unwrap()
}

fn bf16_matrix(backend: &mut CpuBackend, rows: usize, cols: usize) -> CpuMatrix {
    let bytes = vec![0x3C; rows * cols * 2];
    backend
        .matrix(
            &[MatrixData { rows, cols, dtype: DType::Bf16, bytes: &bytes }],
            WeightFormat::Stored,
        )
        .unwrap()
}

/// The floor: as many bytes as the matrix has, read once by as many threads.
fn plain_read(criterion: &mut Criterion) {
    let num_threads = std::thread::available_parallelism().unwrap().get();
    let mut group = criterion.benchmark_group("plain_read");
    for (rows, cols) in MATRICES {
        let words = vec![1_u64; rows * cols / 4];
        group.throughput(Throughput::Bytes(8 * words.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{rows}x{cols}")), |bencher| {
            bencher.iter(|| {
                std::thread::scope(|scope| {
                    for part in words.chunks(words.len().div_ceil(num_threads)) {
                        scope.spawn(|| black_box(part.iter().fold(0, |sum, word| sum ^ word)));
                    }
                });
            });
        });
    }
    group.finish();
}

/// Decode: few rows, in bytes of weights a second.
fn gemv(criterion: &mut Criterion) {
    let mut backend = backend();
    let mut group = criterion.benchmark_group("gemv");
    for (rows, cols) in MATRICES {
        let matrix = bf16_matrix(&mut backend, rows, cols);
        group.throughput(Throughput::Bytes(2 * (rows * cols) as u64));
        for num_rows in [1, 4, 8] {
            let x = backend.buffer(num_rows * cols).unwrap();
            let mut out = backend.buffer(num_rows * rows).unwrap();
            let id = BenchmarkId::new(format!("{rows}x{cols}"), num_rows);
            group.bench_function(id, |bencher| {
                bencher.iter(|| backend.linear(num_rows, &x, &matrix, None, &mut out).unwrap());
            });
        }
    }
    group.finish();
}

/// Prefill: many rows, in multiply-adds a second; twice that is the flops.
fn gemm(criterion: &mut Criterion) {
    let mut backend = backend();
    let mut group = criterion.benchmark_group("gemm");
    for (rows, cols) in [(9728, 896), (896, 4864), (17920, 1536)] {
        let matrix = bf16_matrix(&mut backend, rows, cols);
        for num_rows in [64, 512] {
            let x = backend.buffer(num_rows * cols).unwrap();
            let mut out = backend.buffer(num_rows * rows).unwrap();
            group.throughput(Throughput::Elements((num_rows * rows * cols) as u64));
            let id = BenchmarkId::new(format!("{rows}x{cols}"), num_rows);
            group.bench_function(id, |bencher| {
                bencher.iter(|| backend.linear(num_rows, &x, &matrix, None, &mut out).unwrap());
            });
        }
    }
    group.finish();
}

/// How weights in codes are stored, with their bits a weight in memory.
const CODES: [(&str, DType, WeightFormat, f64); 5] = [
    ("fp8", DType::Bf16, WeightFormat::Fp8, 8.25),
    ("int8", DType::Bf16, WeightFormat::Int8, 8.5),
    ("q6k", DType::Q6K, WeightFormat::Stored, 9.0),
    ("q4_0", DType::Q4_0, WeightFormat::Stored, 4.5),
    ("q4k", DType::Q4K, WeightFormat::Stored, 5.0),
];

/// Products with codes: decode in bytes of weights, prefill in multiply-adds, a second. Columns are padded to whole blocks of
/// the type.
fn codes(criterion: &mut Criterion) {
    let mut backend = backend();
    let mut group = criterion.benchmark_group("codes");
    for (name, dtype, format, bits) in CODES {
        for (rows, cols) in [(9728_usize, 896_usize), (896, 4864), (151_936, 896)] {
            let cols = cols.next_multiple_of(dtype.block_len());
            let bytes = vec![0x2C; dtype.num_bytes(rows * cols).unwrap()];
            let matrix =
                backend.matrix(&[MatrixData { rows, cols, dtype, bytes: &bytes }], format).unwrap();
            backend.reserve(512).unwrap();
            for num_rows in [1, 8, 512] {
                if num_rows == 512 && rows > 100_000 {
                    // A head sees the last rows of a prompt only.
                    continue;
                }
                let x = backend.buffer(num_rows * cols).unwrap();
                let mut out = backend.buffer(num_rows * rows).unwrap();
                group.throughput(if num_rows < 512 {
                    Throughput::Bytes((bits / 8.0 * (rows * cols) as f64) as u64)
                } else {
                    Throughput::Elements((num_rows * rows * cols) as u64)
                });
                let id = BenchmarkId::new(format!("{name}/{rows}x{cols}"), num_rows);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| backend.linear(num_rows, &x, &matrix, None, &mut out).unwrap());
                });
            }
        }
    }
    group.finish();
}

/// Decode in bytes of keys and values, prefill in multiply-adds.
fn attention(criterion: &mut Criterion) {
    let mut backend = backend();
    let mut group = criterion.benchmark_group("attention");
    for (num_heads, num_kv_heads, head_dim) in [(14, 2, 64), (12, 2, 128)] {
        let scale = 0.125;
        let shape = AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_size: 16,
            kv_dtype: KvDType::F16,
            scale,
            window: None,
        };
        for (context_len, num_tokens) in [(2048, 1), (8192, 1), (512, 512), (2048, 512)] {
            let positions: Vec<u32> = (context_len - num_tokens..context_len).collect();
            let blocks: Vec<u32> = (0..context_len.div_ceil(16)).collect();
            let input = StepInput {
                token_ids: &positions,
                positions: &positions,
                slot_mapping: &positions,
                cu_seqlens_q: &[0, num_tokens],
                context_lens: &[context_len],
                block_tables: &blocks,
                max_blocks_per_seq: blocks.len(),
                logit_rows: &[],
                adapters: &[],
            };
            let mut step = backend.step(positions.len(), 1, blocks.len()).unwrap();
            backend.load_step(&input, &mut step).unwrap();
            let cache = backend.layer_cache(&shape, blocks.len()).unwrap();
            let qkv = backend.buffer(positions.len() * shape.qkv_width()).unwrap();
            let mut out = backend.buffer(positions.len() * num_heads * head_dim).unwrap();
            group.throughput(if num_tokens == 1 {
                let slot_bytes = 2 * num_kv_heads * head_dim * shape.kv_dtype.num_bytes();
                Throughput::Bytes(u64::from(context_len) * slot_bytes as u64)
            } else {
                let pairs: u64 = positions.iter().map(|&position| u64::from(position) + 1).sum();
                Throughput::Elements(pairs * (2 * num_heads * head_dim) as u64)
            });
            let id = BenchmarkId::new(
                format!("{num_heads}/{num_kv_heads}x{head_dim}"),
                format!("{num_tokens}of{context_len}"),
            );
            group.bench_function(id, |bencher| {
                bencher.iter(|| backend.attention(&step, &shape, &qkv, &cache, &mut out).unwrap());
            });
        }
    }
    group.finish();
}

/// The rest, in values of output.
fn rows(criterion: &mut Criterion) {
    let mut backend = backend();
    let mut group = criterion.benchmark_group("rows");
    for num_rows in [1, 512] {
        let x = backend.buffer(num_rows * 896).unwrap();
        let mut out = backend.buffer(num_rows * 896).unwrap();
        let weight = backend.vector(&[1.0; 896]).unwrap();
        group.throughput(Throughput::Elements((num_rows * 896) as u64));
        group.bench_function(BenchmarkId::new("rms_norm/896", num_rows), |bencher| {
            let norm = || Norm::Rms { weight: &weight, eps: 1e-6 };
            bencher.iter(|| backend.norm(num_rows, &x, norm(), &mut out).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = operators;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = plain_read, gemv, gemm, codes, attention, rows
}
criterion_main!(operators);
