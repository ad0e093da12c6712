//! Adapters: tokens are gathered by adapter, and each adapter meets all of its tokens at once.
//!
//! Two short products over the very tiles of dense layers, then a sum into the tokens' rows. A row meets its adapter as it
//! would alone: who shares the step changes no bit.
//!
//! # Limit
//! Memory: the adapters that tokens of the step have, in f32, once a step; at rank 16 about one percent of a model's bf16
//! each. Many tokens: FMA, two percent of a layer's at rank 16 by 2048 columns.

use crate::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::grid::Grid;
use crate::cpu::groups::{Groups, NO_MATRIX};
use crate::cpu::linear::{Epilogue, Linear, Term};
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::step::CpuStep;
use crate::cpu::{CpuBackend, CpuBuffer};
use crate::lora::{Lora, LoraPair, LoraShape, NO_ADAPTER};

const _: () = assert!(NO_ADAPTER == NO_MATRIX, "a token without an adapter meets no matrix");

/// The room of adapters on the CPU.
#[derive(Debug)]
pub struct CpuLora {
    shape: LoraShape,
    num_tokens: usize,
    max_num_tokens: usize,
    groups: Groups,
    /// What the tokens bring: `[num_rows, cols]`.
    x: CpuBuffer,
    /// `[num_rows, rank]`
    low: CpuBuffer,
    /// What is added to the tokens: `[num_rows, rows]`.
    sums: CpuBuffer,
}

/// What all adapters add to a product.
#[derive(Debug)]
pub struct CpuPairs {
    /// `[rank, cols]` each.
    downs: Vec<CpuMatrix>,
    /// `[rows, rank]` each.
    ups: Vec<CpuMatrix>,
}

/// Returns the memory that the pairs of a product take, one an adapter, in the device's layout.
///
/// # Units
/// bytes
pub fn pairs_bytes(num_adapters: usize, rank: usize, rows: usize, cols: usize) -> u64 {
    let bytes = |rows, cols| {
        let part = MatrixData { rows, cols, dtype: DType::F32, bytes: &[] };
        CpuMatrix::num_bytes(&[part], WeightFormat::F32)
    };
    num_adapters as u64 * (bytes(rank, cols) + bytes(rows, rank))
}

fn term(matrices: &[CpuMatrix]) -> [Term<'_>; 1] {
    [Term { matrices, epilogue: Epilogue::Store, activation: None }]
}

impl Lora<CpuBackend> for CpuLora {
    type Pairs = CpuPairs;

    fn new(
        backend: &mut CpuBackend,
        shape: &LoraShape,
        max_num_tokens: usize,
    ) -> Result<Self, BackendError> {
        let buffer = |width: usize| backend.buffer(max_num_tokens.saturating_mul(width));
        Ok(Self {
            shape: *shape,
            num_tokens: 0,
            max_num_tokens,
            groups: Groups::new(shape.num_adapters, max_num_tokens)?,
            x: buffer(shape.max_cols)?,
            low: buffer(shape.max_rank)?,
            sums: buffer(shape.max_rows)?,
        })
    }

    fn pairs(
        &self,
        backend: &mut CpuBackend,
        pairs: &[LoraPair<'_>],
    ) -> Result<CpuPairs, BackendError> {
        self.shape.check_pairs(pairs)?;
        let mut store = |part| backend.matrix(&[part], WeightFormat::F32);
        let downs = pairs.iter().map(|pair| store(pair.down)).collect::<Result<_, _>>()?;
        let ups = pairs.iter().map(|pair| store(pair.up)).collect::<Result<_, _>>()?;
        Ok(CpuPairs { downs, ups })
    }

    fn group(&mut self, _backend: &mut CpuBackend, step: &CpuStep) -> Result<(), BackendError> {
        let step = step.host();
        let check = Check("adapters");
        check.at_most("tokens of the step", step.num_tokens(), self.max_num_tokens)?;
        check.adapters(step.adapters(), self.shape.num_adapters)?;
        self.num_tokens = step.num_tokens();
        self.groups.deal(step.adapters().iter().copied());
        Ok(())
    }

    fn add(
        &mut self,
        backend: &mut CpuBackend,
        x: &CpuBuffer,
        pairs: &CpuPairs,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let check = Check("adapters");
        let (cols, width) = (pairs.downs[0].cols, pairs.ups[0].rows);
        check.holds("x", x.len(), self.num_tokens, cols)?;
        check.holds("out", out.len(), self.num_tokens, width)?;
        let Self { groups, x: gathered, low, sums, .. } = self;
        let num_rows = groups.num_rows();
        if num_rows == 0 {
            return Ok(());
        }
        let (from, grid) = (x.values(), Grid::of_rows(num_rows, cols));
        grid.for_each_tile(&mut backend.pool, gathered.0.as_mut_slice(), &|mut tile| {
            for row in tile.rows() {
                let token = groups.entry(row);
                tile.row(row).copy_from_slice(&from[token * cols..(token + 1) * cols]);
            }
        });
        // x [num_rows, cols] -> low [num_rows, rank] -> sums [num_rows, rows]
        let rows = groups.product_rows();
        let down = Linear { rows, x: gathered.values(), terms: &term(&pairs.downs) };
        backend.products(check, down, low)?;
        let up = Linear { rows, x: low.values(), terms: &term(&pairs.ups) };
        backend.products(check, up, sums)?;
        let (sums, grid) = (sums.values(), Grid::of_rows(self.num_tokens, width));
        grid.for_each_tile(&mut backend.pool, out.0.as_mut_slice(), &|mut tile| {
            for token in tile.rows() {
                let Some(row) = groups.row(token) else { continue };
                for (out, sum) in tile.row(token).iter_mut().zip(&sums[row * width..][..width]) {
                    *out += sum;
                }
            }
        });
        Ok(())
    }
}
