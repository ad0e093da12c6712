//! Cases of adapters: few and many tokens, with and without one, padding; a token alone and in company; and the functions of
//! feed-forward parts that adapters take apart.

use crate::activation::Activation;
use crate::backend::{Backend, BackendError, DType};
use crate::lora::{Lora, LoraPair, LoraShape, NO_ADAPTER};
use crate::reference::ReferenceBackend;
use crate::selftest::rig::{
    KEPT, Random, Stored, Use, decodes, download, padded, poisoned, relative_error, rounded_values,
    upload, without_padding,
};
use crate::selftest::{Grid, OPERAND_LIMIT, Outcome};

/// Adapters of a product, and the tokens that come to it.
struct Case {
    /// Rank, rows and columns of a pair.
    sizes: [usize; 3],
    /// `A` and `B` of each.
    pairs: Vec<[Stored; 2]>,
    /// Of each token.
    adapters: Vec<u32>,
    x: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new(num_adapters: usize, sizes: [usize; 3], num_tokens: usize) -> Self {
        let [rank, rows, cols] = sizes;
        let mut random = Random((num_tokens * 1009 + rows) as u64);
        let mut stored = |len| Stored::new(&rounded_values(&mut random, len), DType::F32);
        let pairs = (0..num_adapters).map(|_| [stored(rank * cols), stored(rows * rank)]).collect();
        // The first has one, and so one of a step always does.
        let adapter = |token| match random.below(num_adapters + 1) as u32 {
            none if none as usize == num_adapters && token > 0 => NO_ADAPTER,
            adapter => adapter % num_adapters as u32,
        };
        Self {
            sizes,
            pairs,
            adapters: (0..num_tokens).map(adapter).collect(),
            x: rounded_values(&mut random, num_tokens * cols),
            out: random.values(num_tokens * rows),
        }
    }

    fn outcome(&self, against: &'static str, error: f64, limit: f64) -> Outcome {
        let (num_tokens, num_adapters) = (self.adapters.len(), self.pairs.len());
        let [rank, rows, cols] = self.sizes;
        let case = format!(
            "{num_tokens} tokens, {num_adapters} adapters [{rows}, {rank}] [{rank}, {cols}]"
        );
        Outcome { operator: "adapters", case, against, error, limit }
    }

    /// Computes tokens `first..first + num_tokens`, each a sequence that decodes, and returns what became of the output. Rows
    /// that a device adds hold NaN, and must keep what they have.
    fn run<B: Backend>(
        &self,
        backend: &mut B,
        first: usize,
        num_tokens: usize,
    ) -> Result<Vec<f32>, BackendError> {
        let [rank, rows, cols] = self.sizes;
        let step = decodes(backend, num_tokens, &self.adapters[first..first + num_tokens])?;
        let num_rows = B::rows(&step).num_tokens;
        let shape = LoraShape {
            num_adapters: self.pairs.len(),
            max_cols: cols,
            max_rank: rank,
            max_rows: rows,
        };
        let mut lora = B::Lora::new(backend, &shape, num_rows)?;
        let pairs = self.pairs.iter().map(|[down, up]| {
            let (down, up) = (down.data(rank, cols), up.data(rows, rank));
            LoraPair { down, up }
        });
        let pairs = lora.pairs(backend, &pairs.collect::<Vec<_>>())?;
        backend.reserve(num_rows)?;
        let mut own = |values: &[f32], width: usize, padding: f32, usage| {
            let rows = padded(values, width, first..first + num_tokens, (num_rows, padding));
            upload(backend, &rows, usage)
        };
        let x = own(&self.x, cols, f32::NAN, Use::Operand)?;
        let mut out = own(&self.out, rows, KEPT, Use::Buffer)?;
        lora.group(backend, &step)?;
        lora.add(backend, &x, &pairs, &mut out)?;
        let got = download(backend, &out, num_rows * rows)?;
        let mut got = without_padding(got, num_tokens * rows);
        let is_kept = |(token, &adapter): (usize, &u32)| {
            let row = |values: &[f32]| values[token * rows..][..rows].to_vec();
            adapter != NO_ADAPTER || row(&got) == row(&self.out[first * rows..])
        };
        let adapters = &self.adapters[first..first + num_tokens];
        // Whatever touched a row without an adapter shows as no number.
        if !adapters.iter().enumerate().all(is_kept) {
            got.fill(f32::NAN);
        }
        Ok(got)
    }
}

/// Tries adapters.
pub(super) fn adapters<B: Backend>(
    backend: &mut B,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let quick = [(3, [8, 40, 24], &[1, 5, 40, 70][..]), (1, [16, 24, 72], &[1, 9, 66][..])];
    let full = [
        (16, [48, 264, 520], &[1, 3, 16, 17, 64, 65, 200][..]),
        (9, [192, 64, 64], &[2, 8, 33, 129][..]),
    ];
    let rows = match grid {
        Grid::Quick => quick.to_vec(),
        Grid::Full => [&quick[..], &full[..]].concat(),
    };
    for (num_adapters, sizes, token_counts) in rows {
        for &num_tokens in token_counts {
            let case = Case::new(num_adapters, sizes, num_tokens);
            let got = case.run(backend, 0, num_tokens)?;
            let expected = case.run(&mut ReferenceBackend, 0, num_tokens)?;
            sink(case.outcome("reference", relative_error(&got, &expected), OPERAND_LIMIT));
        }
    }
    company(backend, sink)?;
    functions(backend, sink)
}

/// A token in the company of others, with their adapters, is the same, to the bit, as alone.
fn company<B: Backend>(backend: &mut B, sink: &mut dyn FnMut(Outcome)) -> Result<(), BackendError> {
    let case = Case::new(4, [16, 56, 40], 33);
    let together = case.run(backend, 0, case.adapters.len())?;
    let width = case.sizes[1];
    let has_one = |token: &usize| case.adapters[*token] != NO_ADAPTER;
    for first in (0..case.adapters.len()).filter(has_one).step_by(9) {
        let alone = case.run(backend, first, 1)?;
        let together = &together[first * width..(first + 1) * width];
        sink(case.outcome("the token alone", relative_error(&alone, together), 0.0));
    }
    Ok(())
}

/// The functions of feed-forward parts, with and without a second factor.
fn functions<B: Backend>(
    backend: &mut B,
    sink: &mut dyn FnMut(Outcome),
) -> Result<(), BackendError> {
    let (num_rows, width) = (5, 80);
    let mut random = Random(5);
    let [gate, up] = [(); 2].map(|()| random.values(num_rows * width));
    for activation in Activation::ALL {
        for has_up in [true, false] {
            let got =
                activated(backend, (num_rows, width), activation, (&gate, has_up.then_some(&up)))?;
            let expected = activated(
                &mut ReferenceBackend,
                (num_rows, width),
                activation,
                (&gate, has_up.then_some(&up)),
            )?;
            let case =
                format!("{num_rows} rows of {width}, {activation:?}, second factor {has_up}");
            let error = relative_error(&got, &expected);
            let against = "reference";
            sink(Outcome { operator: "activate", case, against, error, limit: OPERAND_LIMIT });
        }
    }
    Ok(())
}

fn activated<B: Backend>(
    backend: &mut B,
    (num_rows, width): (usize, usize),
    activation: Activation,
    (gate, up): (&[f32], Option<&Vec<f32>>),
) -> Result<Vec<f32>, BackendError> {
    let gate = upload(backend, gate, Use::Buffer)?;
    let up = match up {
        Some(up) => Some(upload(backend, up, Use::Buffer)?),
        None => None,
    };
    let mut out = poisoned(backend, num_rows * width, Use::Operand)?;
    backend.activate((num_rows, width), activation, &gate, up.as_ref(), &mut out)?;
    download(backend, &out, num_rows * width)
}
