//! Cases of the operators that work on a row at a time.

use crate::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use crate::formats::RUN_LEN;
use crate::metadata::{AttentionShape, KvDType, StepInput};
use crate::parts::{HeadNorms, Norm};
use crate::reference::ReferenceBackend;
use crate::selftest::rig::{
    Random, Stored, Use, download, loaded_ids, poisoned, relative_error, rounded_values, upload,
};
use crate::selftest::{OPERAND_LIMIT, Outcome, SUM_LIMIT};

/// What a norm adds to the mean square.
const EPS: f32 = 1e-6;

/// Tries them all.
pub(super) fn rows<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        for shape in [(5, 8), (70, 896), (33, 264)] {
            embedding(backend, dtype, shape, sink)?;
        }
        broken_weights(backend, dtype, sink)?;
    }
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() > 1) {
        // An odd number of runs, where a block is one.
        let cols = if dtype.block_len() == RUN_LEN { 352 } else { 512 };
        embedding(backend, dtype, (9, cols), sink)?;
    }
    broken_codes(backend, sink)?;
    scales(backend, sink)?;
    norms(backend, sink)?;
    head_norms(backend, sink)?;
    // Whole loads and single elements, and more of each than a launch has threads.
    for cols in [72, 601, 2056] {
        gathers(backend, cols, sink)?;
    }
    Ok(())
}

fn embedding<B: Backend>(
    backend: &mut B,
    dtype: DType,
    (rows, cols): (usize, usize),
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let mut random = Random((rows * cols) as u64);
    let stored = if dtype.block_len() == 1 {
        Stored::new(&rounded_values(&mut random, rows * cols), dtype)
    } else {
        Stored::random(&mut random, dtype, rows * cols)
    };
    let ids: Vec<u32> = (0..7).map(|_| random.below(rows) as u32).collect();
    let [got, expected] = [
        embedded(backend, &stored, (rows, cols), &ids)?,
        embedded(&mut ReferenceBackend, &stored, (rows, cols), &ids)?,
    ];
    sink(Outcome {
        operator: "embed",
        case: format!("[{rows}, {cols}] {}", dtype.name()),
        against: "reference",
        error: relative_error(&got, &expected),
        limit: 0.0,
    });
    Ok(())
}

fn embedded<B: Backend>(
    backend: &mut B,
    stored: &Stored,
    (rows, cols): (usize, usize),
    ids: &[u32],
) -> Result<Vec<f32>, BackendError> {
    let table = backend.matrix(&[stored.data(rows, cols)], WeightFormat::Stored)?;
    let step = loaded_ids(backend, ids)?;
    let mut out = poisoned(backend, ids.len() * cols, Use::Buffer)?;
    backend.embed(&step, &table, &mut out)?;
    download(backend, &out, ids.len() * cols)
}

fn scales<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    for (rows, cols) in [(1, 8), (3, 896)] {
        let x = Random((rows + cols) as u64).values((rows + 1) * cols);
        let [got, expected] =
            [scaled(backend, &x, (rows, cols))?, scaled(&mut ReferenceBackend, &x, (rows, cols))?];
        sink(Outcome {
            operator: "scale",
            case: format!("[{rows}, {cols}]"),
            against: "reference",
            error: relative_error(&got, &expected),
            limit: 0.0,
        });
    }
    Ok(())
}

/// Returns one row more than is scaled.
fn scaled<B: Backend>(
    backend: &mut B,
    x: &[f32],
    (rows, cols): (usize, usize),
) -> Result<Vec<f32>, BackendError> {
    let mut buffer = upload(backend, x, Use::Buffer)?;
    backend.scale(rows, cols, 55.425_625, &mut buffer)?;
    download(backend, &buffer, x.len())
}

fn norms<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    // The last are longer than what a launch holds at once, by four elements a load and by one.
    for (rows, cols) in [(1, 8), (3, 200), (2, 896), (65, 264), (2, 4104), (2, 1030)] {
        let mut random = Random((rows * 7 + cols) as u64);
        let (x, weight) = (random.values(rows * cols), random.values(cols));
        let bias = random.values(cols);
        // Far from 0, where a variance by a difference of sums would cancel.
        let far: Vec<f32> = x.iter().map(|value| value + 100.0).collect();
        for (operator, x, bias) in [
            ("rms_norm", &x, None),
            ("layer_norm", &x, Some(&bias)),
            ("layer_norm", &far, Some(&bias)),
        ] {
            let [got, expected] = [
                normed(backend, x, (&weight, bias), rows)?,
                normed(&mut ReferenceBackend, x, (&weight, bias), rows)?,
            ];
            sink(Outcome {
                operator,
                case: format!("[{rows}, {cols}] around {}", x[0].round()),
                against: "reference",
                error: relative_error(&got, &expected),
                limit: OPERAND_LIMIT,
            });
        }
    }
    Ok(())
}

fn normed<B: Backend>(
    backend: &mut B,
    x: &[f32],
    (weight, bias): (&[f32], Option<&Vec<f32>>),
    num_rows: usize,
) -> Result<Vec<f32>, BackendError> {
    let input = upload(backend, x, Use::Buffer)?;
    let weight = backend.vector(weight)?;
    let bias = bias.map(|bias| backend.vector(bias)).transpose()?;
    let mut out = poisoned(backend, x.len(), Use::Operand)?;
    let norm = match &bias {
        None => Norm::Rms { weight: &weight, eps: EPS },
        Some(bias) => Norm::Layer { weight: &weight, bias, eps: EPS },
    };
    backend.norm(num_rows, &input, norm, &mut out)?;
    download(backend, &out, x.len())
}

fn head_norms<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    for (num_rows, num_heads, num_kv_heads, head_dim) in
        [(1, 2, 1, 16), (3, 6, 2, 80), (2, 32, 8, 128)]
    {
        let shape = AttentionShape {
            num_heads,
            num_kv_heads,
            head_dim,
            block_size: 16,
            kv_dtype: KvDType::F16,
            scale: 1.0,
            window: None,
        };
        let mut random = Random((num_heads * head_dim) as u64);
        let qkv = random.values(num_rows * shape.qkv_width());
        let (query, key) = (random.values(head_dim), random.values(head_dim));
        let [got, expected] = [
            head_normed(backend, &shape, &qkv, [&query, &key])?,
            head_normed(&mut ReferenceBackend, &shape, &qkv, [&query, &key])?,
        ];
        sink(Outcome {
            operator: "head_norm",
            case: format!("{num_rows} rows of {num_heads} + 2 * {num_kv_heads} by {head_dim}"),
            against: "reference",
            error: relative_error(&got, &expected),
            limit: SUM_LIMIT,
        });
    }
    Ok(())
}

fn head_normed<B: Backend>(
    backend: &mut B,
    shape: &AttentionShape,
    qkv: &[f32],
    [query, key]: [&[f32]; 2],
) -> Result<Vec<f32>, BackendError> {
    let mut buffer = upload(backend, qkv, Use::Buffer)?;
    let (query, key) = (backend.vector(query)?, backend.vector(key)?);
    let norms = HeadNorms { query: &query, key: &key, eps: EPS };
    backend.head_norm(qkv.len() / shape.qkv_width(), shape, norms, &mut buffer)?;
    download(backend, &buffer, qkv.len())
}

fn gathers<B: Backend>(
    backend: &mut B,
    cols: usize,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let (rows, wanted) = (6, [1, 4, 5]);
    let x = Random(3).values(rows * cols);
    let counted: Vec<u32> = (0..rows as u32).collect();
    let input = StepInput {
        token_ids: &counted,
        positions: &counted,
        slot_mapping: &counted,
        cu_seqlens_q: &[0, rows as u32],
        context_lens: &[rows as u32],
        block_tables: &[0],
        max_blocks_per_seq: 1,
        logit_rows: &wanted,
        adapters: &[],
    };
    let mut step = backend.step(rows, 1, 1)?;
    backend.load_step(&input, &mut step)?;
    let input = upload(backend, &x, Use::Buffer)?;
    let mut out = poisoned(backend, wanted.len() * cols, Use::Buffer)?;
    backend.gather_logit_rows(&step, cols, &input, &mut out)?;
    let got = download(backend, &out, wanted.len() * cols)?;
    let expected: Vec<f32> =
        wanted.iter().flat_map(|&row| x[row as usize * cols..][..cols].to_vec()).collect();
    sink(Outcome {
        operator: "gather_logit_rows",
        case: format!("[{rows}, {cols}]"),
        against: "reference",
        error: relative_error(&got, &expected),
        limit: 0.0,
    });
    Ok(())
}

/// A weight that is no number is found wherever it stands, and nothing else is taken for one.
fn broken_weights<B: Backend>(
    backend: &mut B,
    dtype: DType,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    // More than a load of each thread of a launch.
    let (rows, cols) = (37, 264);
    let values = Random(4).values(rows * cols);
    let spots = [(0, f32::NAN), (4000, f32::NEG_INFINITY), (rows * cols - 1, f32::INFINITY)];
    for broken in [None].into_iter().chain(spots.map(Some)) {
        let mut values = values.clone();
        if let Some((index, value)) = broken {
            values[index] = value;
        }
        let stored = Stored::new(&values, dtype);
        let matrix = backend.matrix(&[stored.data(rows, cols)], WeightFormat::Stored)?;
        let case = format!("[{rows}, {cols}] {} {broken:?}", dtype.name());
        sink(finite_outcome(case, backend.is_finite(&matrix)?, broken.is_none()));
    }
    Ok(())
}

/// Scales of integers that are no numbers; of fp8, codes too.
fn broken_codes<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let rows = 3;
    // Of a block: the code 0x7f, an infinite scale, and infinite scales in half precision. Nine scales are not whole loads.
    let spots: [(DType, usize, usize, &[u8]); 5] = [
        (DType::F8, 512, 131, &[0x7f]),
        (DType::F8, 512, 0, &[0, 0, 0x80, 0x7f]),
        (DType::F8, 384, 0, &[0, 0, 0x80, 0x7f]),
        (DType::Q4_0, 512, 0, &[0, 0x7c]),
        (DType::Q6K, 512, 208, &[0, 0x7c]),
    ];
    for (dtype, cols, offset, broken) in spots {
        let stored = Stored::random(&mut Random(4), dtype, rows * cols);
        for is_broken in [false, true] {
            let mut bytes = stored.data(rows, cols).bytes.to_vec();
            if is_broken {
                let last = bytes.len() - dtype.block_bytes() + offset;
                bytes[last..last + broken.len()].copy_from_slice(broken);
            }
            let part = MatrixData { bytes: &bytes, ..stored.data(rows, cols) };
            let matrix = backend.matrix(&[part], WeightFormat::Stored)?;
            let case = format!("[{rows}, {cols}] {} byte {offset} {is_broken}", dtype.name());
            sink(finite_outcome(case, backend.is_finite(&matrix)?, !is_broken));
        }
    }
    Ok(())
}

fn finite_outcome(case: String, got: bool, expected: bool) -> Outcome {
    Outcome {
        operator: "is_finite",
        case,
        against: "what was stored",
        error: if got == expected { 0.0 } else { 1.0 },
        limit: 0.0,
    }
}
