//! Activations rounded to bf16, in pairs, for the tiers whose dot product wants both sides so.

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::grid::Grid;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, Vectors};

/// Room for the rounded rows of one product.
#[derive(Debug)]
pub(crate) struct Rounding {
    /// Words of 32 bits, in the type that a grid hands out.
    words: AlignedSlice<f32>,
    pairs_per_token_max: usize,
}

impl Rounding {
    /// There is no room yet.
    pub(crate) fn none() -> Self {
        Self { words: AlignedSlice::empty(), pairs_per_token_max: 0 }
    }

    /// Learns of a matrix of so many columns, which meets so many rows of each token.
    pub(crate) fn expect(&mut self, cols: usize, rows_per_token: usize) {
        let pairs_per_token = cols.div_ceil(2) * rows_per_token;
        self.pairs_per_token_max = self.pairs_per_token_max.max(pairs_per_token);
    }

    /// Makes room for steps of `max_num_tokens` over all matrices that were expected.
    pub(crate) fn reserve(&mut self, max_num_tokens: usize) -> Result<(), BackendError> {
        let len = max_num_tokens.saturating_mul(self.pairs_per_token_max);
        self.words = AlignedSlice::zeroed(len, DEVICE)?;
        Ok(())
    }

    /// Rounds `x` `[num_rows, cols]` to pairs `[num_rows, cols.div_ceil(2)]`, the last padded with a zero.
    ///
    /// # Errors
    /// [`BackendError::Shape`] where `reserve` made less room.
    pub(crate) fn round(
        &mut self,
        check: Check,
        pool: &mut Pool,
        vectors: Vectors,
        x: &[f32],
        cols: usize,
    ) -> Result<&[u32], BackendError> {
        if cols == 0 {
            return Ok(&[]);
        }
        let (num_rows, pairs_per_row) = (x.len() / cols, cols.div_ceil(2));
        let num_pairs = num_rows * pairs_per_row;
        check.at_most("pairs of `x` in the room of `reserve`", num_pairs, self.words.len())?;
        let words = self.words.as_mut_slice();
        Grid::of_rows(num_rows, pairs_per_row).for_each_tile(pool, words, &|mut tile| {
            for row in tile.rows() {
                let x = &x[row * cols..(row + 1) * cols];
                vectors.run(RoundRow { x, pairs: bytemuck::cast_slice_mut(tile.row(row)) });
            }
        });
        Ok(bytemuck::cast_slice(&self.words.as_slice()[..num_pairs]))
    }
}

struct RoundRow<'a> {
    x: &'a [f32],
    pairs: &'a mut [u32],
}

impl Kernel for RoundRow<'_> {
    type Output = ();

    /// Integers, which the compiler turns into the tier's vectors.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let (pairs, rest) = self.x.as_chunks();
        for (out, &[first, second]) in self.pairs.iter_mut().zip(pairs) {
            *out = round(first) | round(second) << 16;
        }
        if let (Some(out), &[last]) = (self.pairs.last_mut(), rest) {
            *out = round(last);
        }
    }
}

/// Returns the bits of the nearest bf16, ties to even; a NaN stays one.
#[inline(always)]
fn round(value: f32) -> u32 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1))) >> 16;
    if value.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounds_as_half_does() {
        let mut state = 1_u64;
        let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1.0e-40];
        let randoms = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f32::from_bits((state >> 32) as u32)
        });
        for value in specials.into_iter().chain(randoms.take(100_000)) {
            assert_eq!(round(value), u32::from(bf16::from_f32(value).to_bits()), "{value}");
        }
    }
}
