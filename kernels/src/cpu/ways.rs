//! The way of a matrix: products with activations as they are, rounded to bf16, or as codes of eight bits.

use std::slice::from_ref;

use crate::backend::{BackendError, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::linear::Linear;
use crate::cpu::matrix::{CpuMatrix, Weights};
use crate::cpu::{CpuBackend, CpuBuffer};

/// How the products of a matrix are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Activations as they are.
    Exact,
    /// Activations rounded to bf16.
    Rounded,
    /// Activations as codes of eight bits.
    Codes,
}

impl Way {
    fn of(matrix: &CpuMatrix, rounds_to_bf16: bool) -> Self {
        match matrix.weights {
            Weights::Bf16(_) if rounds_to_bf16 => Self::Rounded,
            Weights::F32(_) | Weights::Bf16(_) | Weights::F16(_) | Weights::Fp8(_) => Self::Exact,
            Weights::Codes(_) => Self::Codes,
        }
    }
}

impl CpuBackend {
    /// Stores a matrix that meets so many rows of each token.
    pub(super) fn matrix_of(
        &mut self,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
        rows_per_token: usize,
    ) -> Result<CpuMatrix, BackendError> {
        let matrix = CpuMatrix::new(&mut self.pool, parts, format)?;
        match (&matrix.weights, Way::of(&matrix, self.vectors.tier().rounds_to_bf16())) {
            (Weights::Codes(panels), _) => self.quantized.expect(panels, rows_per_token),
            (_, Way::Rounded) => self.rounding.expect(matrix.cols, rows_per_token),
            (_, Way::Exact | Way::Codes) => {}
        }
        Ok(matrix)
    }

    /// Computes products in the way of their weights and of the tier.
    pub(super) fn products(
        &mut self,
        check: Check,
        linear: Linear<'_>,
        out: &mut CpuBuffer,
    ) -> Result<(), BackendError> {
        let rounds = self.vectors.tier().rounds_to_bf16();
        let way = Way::of(&linear.terms[0].matrices[0], rounds);
        if linear.terms.iter().any(|term| Way::of(&term.matrices[0], rounds) != way) {
            // A file may store gate and up in types of different kinds.
            for term in linear.terms {
                self.products(check, Linear { terms: from_ref(term), ..linear }, out)?;
            }
            return Ok(());
        }
        let Self { pool, vectors, rounding, quantized } = self;
        let out = out.0.as_mut_slice();
        match way {
            Way::Exact => linear.run(pool, *vectors, out),
            Way::Rounded => {
                let cols = linear.terms[0].matrices[0].cols;
                let x = &linear.x[..linear.rows.len() * cols];
                let pairs = rounding.round(check, pool, *vectors, x, cols)?;
                linear.run_rounded(pool, *vectors, pairs, out);
            }
            Way::Codes => quantized.run(check, linear, (pool, *vectors), out)?,
        }
        Ok(())
    }
}
