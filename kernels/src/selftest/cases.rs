//! The grid: shapes of real models, edges of the tiles, ragged batches.

use half::bf16;

use crate::backend::{Backend, BackendError, DType, WeightFormat};
use crate::metadata::{AttentionShape, KvDType, StepInput};
use crate::reference::ReferenceBackend;
use crate::selftest::rig::{
    Random, Stored, Use, download, loaded_ids, poisoned, relative_error, upload,
};
use crate::selftest::sampling::sampling;
use crate::selftest::world::{Outputs, World};
use crate::selftest::{INT8_LIMIT, OPERAND_LIMIT, Outcome, SUM_LIMIT};

/// How many shapes are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// A few of each operator: seconds on the emulated device.
    Quick,
    /// All: seconds on a GPU.
    Full,
}

/// Operators that are tried together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those of a row each: embedding, norm, gather; and whether weights are numbers.
    Rows,
    /// Products with weights.
    Products,
    /// Rotation, cache and attention.
    Attention,
    /// Choosing tokens, where the backend does.
    Sampling,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 4] = [Self::Rows, Self::Products, Self::Attention, Self::Sampling];
}

/// Runs every case of a group and hands each outcome to `sink`.
///
/// # Errors
/// The backend failed or refused a case: nothing after it was tried.
pub fn run<B: Backend>(
    backend: &mut B,
    group: Group,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    match group {
        Group::Rows => {
            for dtype in [DType::Bf16, DType::F16, DType::F32] {
                embeddings(backend, dtype, sink)?;
                broken_weights(backend, dtype, sink)?;
            }
            norms(backend, sink)?;
            gathers(backend, sink)
        }
        Group::Products => products(backend, grid, sink),
        Group::Attention => attentions(backend, grid, sink),
        Group::Sampling => sampling(backend, sink),
    }
}

/// Values that bf16 holds.
fn rounded_values(random: &mut Random, len: usize) -> Vec<f32> {
    random.values(len).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect()
}

fn embeddings<B: Backend>(
    backend: &mut B,
    dtype: DType,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    for (rows, cols) in [(5, 8), (70, 896), (33, 264)] {
        let mut random = Random((rows * cols) as u64);
        let stored = Stored::new(&rounded_values(&mut random, rows * cols), dtype);
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
    }
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

fn norms<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    for (rows, cols) in [(1, 8), (3, 200), (2, 896), (65, 264)] {
        let mut random = Random((rows * 7 + cols) as u64);
        let (x, weight) = (random.values(rows * cols), random.values(cols));
        let [got, expected] = [
            normed(backend, &x, &weight, rows)?,
            normed(&mut ReferenceBackend, &x, &weight, rows)?,
        ];
        sink(Outcome {
            operator: "rms_norm",
            case: format!("[{rows}, {cols}]"),
            against: "reference",
            error: relative_error(&got, &expected),
            limit: OPERAND_LIMIT,
        });
    }
    Ok(())
}

fn normed<B: Backend>(
    backend: &mut B,
    x: &[f32],
    weight: &[f32],
    num_rows: usize,
) -> Result<Vec<f32>, BackendError> {
    let input = upload(backend, x, Use::Buffer)?;
    let weight = backend.vector(weight)?;
    let mut out = poisoned(backend, x.len(), Use::Operand)?;
    backend.rms_norm(num_rows, &input, &weight, 1e-6, &mut out)?;
    download(backend, &out, x.len())
}

fn gathers<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    let (rows, cols, wanted) = (6, 72, [1, 4, 5]);
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
    let (rows, cols) = (5, 264);
    let values = Random(4).values(rows * cols);
    for broken in [None, Some((0, f32::NAN)), Some((rows * cols - 1, f32::INFINITY))] {
        let mut values = values.clone();
        if let Some((index, value)) = broken {
            values[index] = value;
        }
        let stored = Stored::new(&values, dtype);
        let matrix = backend.matrix(&[stored.data(rows, cols)], WeightFormat::Stored)?;
        let is_right = backend.is_finite(&matrix)? == broken.is_none();
        sink(Outcome {
            operator: "is_finite",
            case: format!("[{rows}, {cols}] {} {broken:?}", dtype.name()),
            against: "what was stored",
            error: if is_right { 0.0 } else { 1.0 },
            limit: 0.0,
        });
    }
    Ok(())
}

/// A product in all its forms.
struct Product {
    dtype: DType,
    format: WeightFormat,
    num_rows: usize,
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    weights: Stored,
    up: Stored,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

/// What a product came to: plain, with bias, added to a residual, as gates.
type Products = [Vec<f32>; 4];

impl Product {
    fn new(
        (dtype, format): (DType, WeightFormat),
        num_rows: usize,
        (rows, cols): (usize, usize),
    ) -> Self {
        let mut random = Random((num_rows * 1_000_003 + cols * 1009 + rows) as u64);
        Self {
            dtype,
            format,
            num_rows,
            rows,
            cols,
            x: rounded_values(&mut random, num_rows * cols),
            weights: Stored::new(&random.values(rows * cols), dtype),
            up: Stored::new(&random.values(rows * cols), dtype),
            bias: random.values(rows),
            residual: random.values(num_rows * rows),
        }
    }

    fn case(&self) -> String {
        let Self { dtype, format, num_rows, rows, cols, .. } = self;
        format!("[{num_rows}, {cols}] x [{rows}, {cols}]ᵀ {} {format:?}", dtype.name())
    }

    /// Computes rows `first..first + num_rows`.
    fn run<B: Backend>(
        &self,
        backend: &mut B,
        first: usize,
        num_rows: usize,
    ) -> Result<Products, BackendError> {
        let matrix = backend.matrix(&[self.weights.data(self.rows, self.cols)], self.format)?;
        let up = backend.matrix(&[self.up.data(self.rows, self.cols)], self.format)?;
        backend.reserve(num_rows)?;
        let bias = backend.vector(&self.bias)?;
        let x = &self.x[first * self.cols..(first + num_rows) * self.cols];
        let x = upload(backend, x, Use::Operand)?;
        let len = num_rows * self.rows;
        let mut plain = poisoned(backend, len, Use::Buffer)?;
        backend.linear(num_rows, &x, &matrix, None, &mut plain)?;
        let mut biased = poisoned(backend, len, Use::Buffer)?;
        backend.linear(num_rows, &x, &matrix, Some(&bias), &mut biased)?;
        let residual = &self.residual[first * self.rows..(first + num_rows) * self.rows];
        let mut added = upload(backend, residual, Use::Buffer)?;
        backend.linear_add(num_rows, &x, &matrix, &mut added)?;
        let mut gated = poisoned(backend, len, Use::Operand)?;
        backend.linear_silu_mul(num_rows, &x, (&matrix, &up), &mut gated)?;
        Ok([
            download(backend, &plain, len)?,
            download(backend, &biased, len)?,
            download(backend, &added, len)?,
            download(backend, &gated, len)?,
        ])
    }
}

const PRODUCT_FORMS: [&str; 4] = ["linear", "linear with bias", "linear_add", "linear_silu_mul"];

fn products<B: Backend>(
    backend: &mut B,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let (row_counts, shapes): (&[usize], &[(usize, usize)]) = match grid {
        Grid::Quick => (&[1, 7, 9, 65], &[(17, 72), (40, 520)]),
        Grid::Full => (
            &[1, 2, 3, 8, 9, 16, 17, 33, 64, 65, 130],
            &[(1, 8), (17, 72), (16, 32), (130, 256), (40, 520), (100, 3584), (896, 896)],
        ),
    };
    let formats = [
        (DType::Bf16, WeightFormat::Stored),
        (DType::F16, WeightFormat::Stored),
        (DType::F32, WeightFormat::Stored),
    ];
    for format in formats {
        for &shape in shapes {
            for &num_rows in row_counts {
                product(backend, &Product::new(format, num_rows, shape), sink)?;
            }
        }
    }
    // Of the same codes on both sides; the reference does not round to int8.
    for num_rows in [1, 9, 65] {
        let mut case = Product::new((DType::Bf16, WeightFormat::Int8), num_rows, (40, 544));
        case.weights = int8_exact(&case);
        case.up = case.weights.clone();
        product(backend, &case, sink)?;
    }
    company(backend, sink)
}

/// Weights that int8 holds: codes with a power of two for each 32, another in each row and block.
fn int8_exact(case: &Product) -> Stored {
    let mut random = Random(case.num_rows as u64);
    let values = (0..case.rows * case.cols).map(|index| {
        let code = if index % 32 == 0 { 127.0 } else { random.below(255) as f32 - 127.0 };
        let (row, block) = (index / case.cols, index % case.cols / 32);
        code / (1 << (6 + (row + block) % 3)) as f32
    });
    Stored::new(&values.collect::<Vec<_>>(), DType::F32)
}

fn product<B: Backend>(
    backend: &mut B,
    case: &Product,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let got = case.run(backend, 0, case.num_rows)?;
    let expected = case.run(&mut ReferenceBackend, 0, case.num_rows)?;
    for ((operator, got), expected) in PRODUCT_FORMS.into_iter().zip(&got).zip(&expected) {
        let is_gate = operator == "linear_silu_mul";
        // A backend may round what it multiplies with eight-bit weights to eight bits too.
        let sum_limit = if case.format == WeightFormat::Int8 { INT8_LIMIT } else { SUM_LIMIT };
        sink(Outcome {
            operator,
            case: case.case(),
            against: "reference",
            error: relative_error(got, expected),
            limit: if is_gate { OPERAND_LIMIT.max(sum_limit) } else { sum_limit },
        });
    }
    Ok(())
}

/// A row in the company of others is the same, to the bit, as alone.
fn company<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    let case = Product::new((DType::Bf16, WeightFormat::Stored), 40, (48, 776));
    let together = case.run(backend, 0, case.num_rows)?;
    for first in [0, 5, 39] {
        let alone = case.run(backend, first, 1)?;
        for ((operator, alone), together) in PRODUCT_FORMS.into_iter().zip(&alone).zip(&together) {
            let together = &together[first * case.rows..(first + 1) * case.rows];
            sink(Outcome {
                operator,
                case: format!("row {first} of {}", case.case()),
                against: "the row alone",
                error: relative_error(alone, together),
                limit: 0.0,
            });
        }
    }
    Ok(())
}

fn attentions<B: Backend>(
    backend: &mut B,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let head_dims: &[usize] = match grid {
        Grid::Quick => &[64, 80],
        Grid::Full => &[16, 64, 80, 128, 256],
    };
    for &head_dim in head_dims {
        let mut cases = vec![(2, 1, 16, None), (1, 7, 16, Some(13))];
        if grid == Grid::Full {
            cases.extend([(2, 4, 8, Some(1)), (1, 24, 32, None), (1, 6, 24, Some(40))]);
        }
        for (num_kv_heads, group, block_size, window) in cases {
            let shape = AttentionShape {
                num_heads: num_kv_heads * group,
                num_kv_heads,
                head_dim,
                block_size,
                kv_dtype: KvDType::F16,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window,
            };
            attention(backend, &World::new(shape, &[41, 1, 18, 70], head_dim as u64), sink)?;
        }
    }
    // More than one split, and splits that a window cuts off.
    for window in [None, Some(300)] {
        let shape = AttentionShape {
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            block_size: 16,
            kv_dtype: KvDType::F16,
            scale: 0.125,
            window,
        };
        attention(backend, &World::new(shape, &[530, 280], 9), sink)?;
    }
    Ok(())
}

/// Prefills, chunks and decodes mixed against the reference; decodes and chunks together against those alone.
fn attention<B: Backend>(
    backend: &mut B,
    world: &World,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let mixed = world.mixed(&mut Random(world.shape.num_heads as u64));
    let got = world.run(backend, &mixed)?;
    let expected = world.run(&mut ReferenceBackend, &mixed)?;
    let case = format!("{:?}", world.shape);
    let all = |outputs: &[Outputs], part: fn(&Outputs) -> &Vec<f32>| {
        outputs.iter().flat_map(|outputs| part(outputs).clone()).collect::<Vec<f32>>()
    };
    let queries: fn(&Outputs) -> &Vec<f32> = |outputs| &outputs.queries;
    let out: fn(&Outputs) -> &Vec<f32> = |outputs| &outputs.out;
    for (operator, part, limit) in
        [("rope_and_cache_write", queries, SUM_LIMIT), ("attention", out, OPERAND_LIMIT)]
    {
        let error = relative_error(&all(&got, part), &all(&expected, part));
        sink(Outcome { operator, case: case.clone(), against: "reference", error, limit });
    }

    for (num_new, against) in [(1, "decodes alone"), (19, "chunks alone")] {
        let begin = |index: usize| world.len_of(index).saturating_sub(num_new);
        let last = |index: usize| (index, begin(index)..world.len_of(index));
        let num_seqs = world.qkv.len();
        let mut together: Vec<_> = (0..num_seqs).map(|i| vec![(i, 0..begin(i))]).collect();
        together.retain(|pieces| !pieces[0].1.is_empty());
        let mut apart = together.clone();
        together.push((0..num_seqs).map(last).collect());
        apart.extend((0..num_seqs).map(|index| vec![last(index)]));
        let [together, apart] = [world.run(backend, &together)?, world.run(backend, &apart)?];
        sink(Outcome {
            operator: "attention",
            case: case.clone(),
            against,
            error: relative_error(&all(&together, out), &all(&apart, out)),
            limit: 0.0,
        });
    }
    Ok(())
}
