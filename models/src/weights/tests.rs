//! Shards of a stored matrix, of each type and format: rows put together are the whole, and columns add up to it.

use kernels::{
    backend::{Backend, WeightFormat},
    cpu::{CpuBackend, CpuOptions},
    reference::ReferenceBackend,
};

use super::*;

const ROWS: usize = 36;
/// Two and three shards of it are whole blocks of 256.
const COLS: usize = 1536;
const NUM_TOKENS: usize = 3;

/// Returns bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| draw()).collect()
}

/// Returns values in ±1.
fn values(len: usize) -> impl Iterator<Item = f32> {
    noise(len).into_iter().map(|byte| f32::from(byte) / 128.0 - 1.0)
}

/// Returns a matrix of a type in a file whose tensors do not begin at its start.
fn stored(dtype: DType) -> Weights {
    let num_elements = ROWS * COLS;
    let bytes: Vec<u8> = match dtype {
        DType::F32 => values(num_elements).flat_map(f32::to_le_bytes).collect(),
        DType::Bf16 => values(num_elements)
            .flat_map(|value| half::bf16::from_f32(value).to_le_bytes())
            .collect(),
        DType::F16 => values(num_elements)
            .flat_map(|value| half::f16::from_f32(value).to_le_bytes())
            .collect(),
        // Without this bit no scale in half precision is infinite, or larger than the codes' use.
        blocks => noise(blocks.num_bytes(num_elements).unwrap())
            .into_iter()
            .map(|byte| byte & 0xBF)
            .collect(),
    };
    let (before, shape) = (40, vec![ROWS, COLS]);
    let range = before..before + bytes.len();
    let mut weights = Weights::none(Naming::Gguf);
    let bytes = [vec![0xFF; before], bytes, vec![0xFF; 8]].concat();
    weights.files.push(WeightFile { name: "file".to_owned(), bytes: WeightBytes::Owned(bytes) });
    let tensor = StoredTensor { file: 0, shape, dtype: Ok(dtype), range };
    weights.tensors.insert("matrix".to_owned(), tensor);
    weights
}

/// Returns the product of some activations, columns `cols` of all, with what is kept.
fn product<B: Backend>(
    backend: &mut B,
    weights: &Weights,
    format: WeightFormat,
    kept: Kept,
) -> Vec<f32> {
    let cols = if let Kept::Cols(cols) = &kept { cols.clone() } else { 0..COLS };
    let spec = TensorSpec { kept, ..TensorSpec::matrix("matrix", ROWS, COLS) };
    let views = weights.views(&spec).unwrap();
    let parts: Vec<MatrixData<'_>> = views.iter().map(TensorView::as_matrix).collect();
    let shape = spec.kept_shape();
    assert_eq!(parts.iter().map(|part| part.rows).sum::<usize>(), shape[0]);
    let num_bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    assert_eq!(weights.kept_bytes(&spec).unwrap(), num_bytes as u64);
    let matrix = backend.matrix(&parts, format).unwrap();
    // An identity brings the activations to the device: products are all that writes there.
    let x: Vec<f32> = values(NUM_TOKENS * COLS).collect();
    let mut input = backend.operand(NUM_TOKENS * cols.len()).unwrap();
    let mut one = backend.buffer(NUM_TOKENS).unwrap();
    backend.reserve(NUM_TOKENS).unwrap();
    fill(backend, &x, &cols, (&mut one, &mut input));
    let mut out = backend.buffer(NUM_TOKENS * shape[0]).unwrap();
    backend.linear(NUM_TOKENS, &input, &matrix, None, &mut out).unwrap();
    let mut found = vec![0.0; NUM_TOKENS * shape[0]];
    backend.read(&out, &mut found).unwrap();
    found
}

/// Writes columns of `x` as the bias of a product with zero, all rows as one.
fn fill<B: Backend>(
    backend: &mut B,
    x: &[f32],
    cols: &Range<usize>,
    (zeros, out): (&mut B::Buffer, &mut B::Buffer),
) {
    let rows = x.chunks_exact(COLS).flat_map(|row| &row[cols.clone()]);
    let bias: Vec<f32> = rows.copied().collect();
    let bytes = vec![0; bias.len() * size_of::<f32>()];
    let part = MatrixData { rows: bias.len(), cols: 1, dtype: DType::F32, bytes: &bytes };
    let matrix = backend.matrix(&[part], WeightFormat::F32).unwrap();
    let bias = backend.vector(&bias).unwrap();
    backend.linear(1, zeros, &matrix, Some(&bias), out).unwrap();
}

fn check<B: Backend>(backend: &mut B, dtype: DType, format: WeightFormat) {
    let weights = stored(dtype);
    let what = format!("{dtype:?} {format:?} {}", backend.name());
    let whole = product(backend, &weights, format, Kept::All);
    let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    assert!(norm(&whole) > 0.0 && norm(&whole).is_finite(), "{what}");
    for num_ranks in [2, 3] {
        let (rows, cols) = (ROWS / num_ranks, COLS / num_ranks);
        let mut sum = vec![0.0; whole.len()];
        for rank in 0..num_ranks {
            let range = rank * rows..(rank + 1) * rows;
            // In two ranges, as parts of what is stored together are.
            let middle = range.start + 5;
            let kept = Kept::Rows(vec![range.start..middle, middle..range.end]);
            let shard = product(backend, &weights, format, kept);
            for (shard, whole) in shard.chunks_exact(rows).zip(whole.chunks_exact(ROWS)) {
                assert!(*shard == whole[range.clone()], "rows of rank {rank}, {what}");
            }
            let kept = Kept::Cols(rank * cols..(rank + 1) * cols);
            let part = product(backend, &weights, format, kept);
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let difference: Vec<f32> = sum.iter().zip(&whole).map(|(a, b)| a - b).collect();
        let error = norm(&difference) / norm(&whole);
        // Written so that NaN fails it.
        assert!(error < 2e-6, "{error}: {num_ranks} ranks, {what}");
        assert!(norm(&sum) > 0.0);
    }
}

#[test]
fn shards_of_every_type_are_the_whole() {
    let mut cpu = CpuBackend::new(CpuOptions { num_threads: Some(2), simd: None }).unwrap();
    for dtype in DType::ALL {
        for format in [WeightFormat::Stored, WeightFormat::F32, WeightFormat::Int8] {
            check(&mut cpu, dtype, format);
            check(&mut ReferenceBackend, dtype, format);
        }
    }
}

#[test]
fn elements_of_a_vector_are_kept_by_ranges() {
    let mut weights = Weights::none(Naming::Safetensors);
    let bytes: Vec<u8> = (0_u8..10).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let tensor = StoredTensor { file: 0, shape: vec![10], dtype: Ok(DType::F32), range: 0..40 };
    weights.tensors.insert("vector".to_owned(), tensor);
    weights.files.push(WeightFile { name: "file".to_owned(), bytes: WeightBytes::Owned(bytes) });
    let kept = Kept::Rows(vec![1..3, 7..10]);
    let spec = TensorSpec { kept, ..TensorSpec::vector("vector", 10) };
    assert_eq!((spec.num_kept(), spec.num_elements()), (5, 10));
    assert_eq!(weights.kept_bytes(&spec).unwrap(), 20);
    let mut found = Vec::new();
    for view in weights.views(&spec).unwrap() {
        kernels::widen::for_each_widened(&view.as_matrix(), |value| found.push(value));
    }
    assert!(found == [1.0, 2.0, 7.0, 8.0, 9.0], "{found:?}");
}

#[test]
fn columns_that_cut_a_block_are_refused() {
    let weights = stored(DType::Q4K);
    for (cols, is_cut) in [(256..512, false), (0..128, true), (128..512, true), (0..1792, true)] {
        let kept = Kept::Cols(cols.clone());
        let spec = TensorSpec { kept, ..TensorSpec::matrix("matrix", ROWS, COLS) };
        let found = weights.views(&spec).map(drop).err().map(|error| error.to_string());
        let expected = format!(
            "tensor `matrix` cannot be cut at columns {} and {}: its q4_k are in blocks",
            cols.start, cols.end
        );
        assert_eq!(found, is_cut.then_some(expected));
    }
}
