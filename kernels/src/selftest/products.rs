//! Cases of products with weights, and of what is done with their sums.

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use crate::cuda::STREAMED_ROWS_MAX;
use crate::formats::{FP8_BLOCK_LEN, RUN_LEN};
use crate::parts::{Affine, FeedForward};
use crate::reference::ReferenceBackend;
use crate::selftest::cases::Grid;
use crate::selftest::rig::{
    Random, Stored, Use, download, poisoned, relative_error, rounded_values, upload,
};
use crate::selftest::{INT8_LIMIT, OPERAND_LIMIT, Outcome, SUM_LIMIT};

/// A product in all its forms.
struct Product {
    /// Types of the parts of its matrices, for messages.
    dtypes: Vec<DType>,
    format: WeightFormat,
    num_rows: usize,
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    weights: Stack,
    up: Stack,
    bias: Vec<f32>,
    up_bias: Vec<f32>,
    residual: Vec<f32>,
}

/// A way to ask for a product.
#[derive(Clone, Copy, Debug)]
struct Form {
    operator: &'static str,
    kind: Kind,
    has_bias: bool,
}

/// What is done with the sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// They are the result.
    Linear,
    /// They are added to a residual.
    Add,
    /// A function of them is the result.
    Activated(Activation),
    /// That, times the sums of another product.
    Gated(Activation),
}

impl Form {
    const fn new(operator: &'static str, kind: Kind, has_bias: bool) -> Self {
        Self { operator, kind, has_bias }
    }

    /// Returns whether the result is an operand.
    fn is_operand(self) -> bool {
        matches!(self.kind, Kind::Activated(_) | Kind::Gated(_))
    }
}

const FORMS: [Form; 8] = [
    Form::new("linear", Kind::Linear, false),
    Form::new("linear with bias", Kind::Linear, true),
    Form::new("linear_add", Kind::Add, false),
    Form::new("linear_add with bias", Kind::Add, true),
    Form::new("feed_forward", Kind::Gated(Activation::Silu), false),
    Form::new("feed_forward with biases", Kind::Gated(Activation::Silu), true),
    Form::new("feed_forward by gelu", Kind::Gated(Activation::GeluTanh), false),
    Form::new("feed_forward ungated", Kind::Activated(Activation::GeluErf), true),
];

/// A product's operands on a backend.
struct Operands<B: Backend> {
    x: B::Buffer,
    matrix: B::Matrix,
    up: B::Matrix,
    bias: B::Vector,
    up_bias: B::Vector,
}

/// Parts of a matrix, with the rows of each.
#[derive(Clone)]
struct Stack(Vec<(usize, Stored)>);

impl Stack {
    /// Cuts the rows into a part for each type.
    fn random(random: &mut Random, dtypes: &[DType], rows: usize, cols: usize) -> Self {
        let share = rows.div_ceil(dtypes.len());
        let parts = dtypes.iter().enumerate().map(|(index, &dtype)| {
            let num_rows = share.min(rows - (index * share).min(rows));
            (num_rows, Stored::random(random, dtype, num_rows * cols))
        });
        Self(parts.collect())
    }

    fn data(&self, cols: usize) -> Vec<MatrixData<'_>> {
        self.0.iter().map(|(rows, stored)| stored.data(*rows, cols)).collect()
    }
}

impl Product {
    fn new(
        (dtypes, format): (&[DType], WeightFormat),
        num_rows: usize,
        (rows, cols): (usize, usize),
    ) -> Self {
        let mut random = Random((num_rows * 1_000_003 + cols * 1009 + rows) as u64);
        Self {
            dtypes: dtypes.to_vec(),
            format,
            num_rows,
            rows,
            cols,
            x: rounded_values(&mut random, num_rows * cols),
            weights: Stack::random(&mut random, dtypes, rows, cols),
            up: Stack::random(&mut random, dtypes, rows, cols),
            bias: random.values(rows),
            up_bias: random.values(rows),
            residual: random.values(num_rows * rows),
        }
    }

    fn case(&self) -> String {
        let Self { dtypes, format, num_rows, rows, cols, .. } = self;
        let names = dtypes.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join("+");
        format!("[{num_rows}, {cols}] x [{rows}, {cols}]ᵀ {names} {format:?}")
    }

    /// Computes rows `first..first + num_rows` in all forms.
    fn run<B: Backend>(
        &self,
        backend: &mut B,
        first: usize,
        num_rows: usize,
    ) -> Result<Vec<Vec<f32>>, BackendError> {
        let matrix = backend.matrix(&self.weights.data(self.cols), self.format)?;
        let up = backend.matrix(&self.up.data(self.cols), self.format)?;
        backend.reserve(num_rows)?;
        let x = &self.x[first * self.cols..(first + num_rows) * self.cols];
        let x = upload(backend, x, Use::Operand)?;
        let (bias, up_bias) = (backend.vector(&self.bias)?, backend.vector(&self.up_bias)?);
        let operands = Operands { x, matrix, up, bias, up_bias };
        let residual = &self.residual[first * self.rows..(first + num_rows) * self.rows];
        let mut results = Vec::with_capacity(FORMS.len());
        for form in FORMS {
            results.push(run_form(backend, form, &operands, (num_rows, residual))?);
        }
        Ok(results)
    }
}

/// Computes one form; `residual` `[num_rows, rows]`.
fn run_form<B: Backend>(
    backend: &mut B,
    form: Form,
    operands: &Operands<B>,
    (num_rows, residual): (usize, &[f32]),
) -> Result<Vec<f32>, BackendError> {
    let Operands { x, matrix, up, bias, up_bias } = operands;
    let bias = form.has_bias.then_some(bias);
    let up = Affine { matrix: up, bias: form.has_bias.then_some(up_bias) };
    let len = residual.len();
    let mut out = match form.kind {
        Kind::Add => upload(backend, residual, Use::Buffer)?,
        Kind::Linear => poisoned(backend, len, Use::Buffer)?,
        Kind::Activated(_) | Kind::Gated(_) => poisoned(backend, len, Use::Operand)?,
    };
    let gate = Affine { matrix, bias };
    match form.kind {
        Kind::Linear => backend.linear(num_rows, x, matrix, bias, &mut out)?,
        Kind::Add => backend.linear_add(num_rows, x, matrix, bias, &mut out)?,
        Kind::Activated(activation) => {
            let parts = FeedForward { activation, gate, up: None };
            backend.feed_forward(num_rows, x, parts, &mut out)?;
        }
        Kind::Gated(activation) => {
            let parts = FeedForward { activation, gate, up: Some(up) };
            backend.feed_forward(num_rows, x, parts, &mut out)?;
        }
    }
    download(backend, &out, len)
}

/// Tries products in all forms.
pub(super) fn products<B: Backend>(
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
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        for &shape in shapes {
            for &num_rows in row_counts {
                let case = Product::new((&[dtype], WeightFormat::Stored), num_rows, shape);
                product(backend, &case, sink)?;
            }
        }
    }
    for num_rows in [1, 9, 65] {
        let mut case = Product::new((&[DType::Bf16], WeightFormat::Fp8), num_rows, (40, 384));
        case.weights = fp8_exact(&case);
        case.up = case.weights.clone();
        product(backend, &case, sink)?;
        // Of the same codes on both sides; the reference does not round to int8.
        let mut case = Product::new((&[DType::Bf16], WeightFormat::Int8), num_rows, (40, 544));
        case.weights = int8_exact(&case);
        case.up = case.weights.clone();
        product(backend, &case, sink)?;
        for dtypes in CODES {
            // An odd number of runs, where a block is one.
            let cols = if dtypes[0].block_len() == RUN_LEN { 352 } else { 512 };
            let case = Product::new((dtypes, WeightFormat::Stored), num_rows, (40, cols));
            product(backend, &case, sink)?;
        }
    }
    // As many rows as the largest tile streams, and more columns than the warps of a block take at once.
    for dtypes in CODES {
        let case = Product::new((dtypes, WeightFormat::Stored), 33, (24, 2304));
        product(backend, &case, sink)?;
    }
    company(backend, &[DType::Bf16], sink)?;
    company(backend, &[DType::Q4K, DType::Q6K], sink)
}

/// Types that are kept as codes, and those of fused parts that differ.
const CODES: [&[DType]; 13] = [
    &[DType::F8],
    &[DType::Q4_0],
    &[DType::Q4_1],
    &[DType::Q5_0],
    &[DType::Q5_1],
    &[DType::Q8_0],
    &[DType::Q2K],
    &[DType::Q3K],
    &[DType::Q4K],
    &[DType::Q5K],
    &[DType::Q6K],
    &[DType::Q4K, DType::Q6K],
    &[DType::Q4_0, DType::Q4_1, DType::Q8_0],
];

/// Weights that int8 holds: codes with a power of two for each 32, another in each row and block.
fn int8_exact(case: &Product) -> Stack {
    let mut random = Random(case.num_rows as u64);
    let values = (0..case.rows * case.cols).map(|index| {
        let code = if index % 32 == 0 { 127.0 } else { random.below(255) as f32 - 127.0 };
        let (row, block) = (index / case.cols, index % case.cols / 32);
        code / (1 << (6 + (row + block) % 3)) as f32
    });
    Stack(vec![(case.rows, Stored::new(&values.collect::<Vec<_>>(), DType::F32))])
}

/// Weights that E4M3 holds: three bits of mantissa below the greatest of each 128, which is 448 times a power of two.
fn fp8_exact(case: &Product) -> Stack {
    let mut random = Random(case.num_rows as u64);
    let values = (0..case.rows * case.cols).map(|index| {
        let (row, block) = (index / case.cols, index % case.cols / FP8_BLOCK_LEN);
        let mantissa = if index % FP8_BLOCK_LEN == 0 { 14 } else { 8 + random.below(7) };
        let exponent = if index % FP8_BLOCK_LEN == 0 { 5 } else { random.below(6) };
        let sign = if random.below(2) == 0 { 1.0 } else { -1.0 };
        sign * (mantissa << exponent) as f32 / (1 << (9 + (row + block) % 3)) as f32
    });
    Stack(vec![(case.rows, Stored::new(&values.collect::<Vec<_>>(), DType::F32))])
}

fn product<B: Backend>(
    backend: &mut B,
    case: &Product,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let is_gpu = backend.own_memory()?.is_some();
    let got = case.run(backend, 0, case.num_rows)?;
    let expected = case.run(&mut ReferenceBackend, 0, case.num_rows)?;
    for ((form, got), expected) in FORMS.into_iter().zip(&got).zip(&expected) {
        // A CPU rounds what it multiplies with integers to eight bits too; a GPU rounds what codes stand
        // for, where rows are many.
        let are_all = |is: fn(DType) -> bool| case.dtypes.iter().all(|&dtype| is(dtype));
        let is_exact = if is_gpu {
            let are_plain = are_all(|dtype| dtype.block_len() == 1);
            case.num_rows <= STREAMED_ROWS_MAX || (case.format == WeightFormat::Stored && are_plain)
        } else {
            case.format != WeightFormat::Int8 && are_all(|dtype| !dtype.is_integers())
        };
        let sum_limit = if is_exact { SUM_LIMIT } else { INT8_LIMIT };
        sink(Outcome {
            operator: form.operator,
            case: case.case(),
            against: "reference",
            error: relative_error(got, expected),
            limit: if form.is_operand() { OPERAND_LIMIT.max(sum_limit) } else { sum_limit },
        });
    }
    Ok(())
}

/// A row in the company of others is the same, to the bit, as alone.
fn company<B: Backend>(
    backend: &mut B,
    dtypes: &[DType],
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let cols = if dtypes[0].is_integers() { 768 } else { 776 };
    let case = Product::new((dtypes, WeightFormat::Stored), 40, (48, cols));
    let together = case.run(backend, 0, case.num_rows)?;
    for first in [0, 5, 39] {
        let alone = case.run(backend, first, 1)?;
        for ((form, alone), together) in FORMS.into_iter().zip(&alone).zip(&together) {
            let together = &together[first * case.rows..(first + 1) * case.rows];
            sink(Outcome {
                operator: form.operator,
                case: format!("row {first} of {}", case.case()),
                against: "the row alone",
                error: relative_error(alone, together),
                limit: 0.0,
            });
        }
    }
    Ok(())
}
