//! Rows of activations as eight-bit codes: a scale for each 32, found anew at each product.
//!
//! `value ≈ scale * code`, the greatest magnitude of a block at 127: an error of 0.4 % of it at most. What becomes of a block
//! depends on its 32 values alone. A value that is not finite makes its block's scale NaN, and with that every product
//! of its row, never a finite number.

use bytemuck::{Pod, Zeroable};

use crate::backend::BackendError;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::grid::Grid;
use crate::cpu::pool::Pool;
use crate::cpu::quantized::layout::STEPS;
use crate::cpu::simd::{Kernel, Simd, Vectors};
use crate::formats::{GROUP_LEN, RUN_LEN};

/// The greatest code; -128 is never used, so that the sign of a code may be turned.
const CODE_MAX: f32 = 127.0;

/// Magnitudes below this have no inverse that is finite: their block is zeros. It is 10⁻³⁶; no activation is meant so.
const MAGNITUDE_MIN: f32 = 1e-36;

/// 1.5 * 2²³: added to a number between -2²² and 2²², it leaves the nearest integer, ties to even, in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// 32 neighbours of a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct ActivationBlock {
    /// Four codes each, as they lie in memory.
    pub(crate) codes: [i32; STEPS],
    /// What a code stands for.
    pub(crate) scale: f32,
    /// The sum of all codes.
    pub(crate) total: i32,
    /// The sum of either half.
    pub(crate) totals: [i32; 2],
}

/// Values of f32 that a block takes in storage.
const BLOCK_WORDS: usize = size_of::<ActivationBlock>() / size_of::<f32>();

/// Room for the codes of the widest step: `[num_rows, num_blocks]` blocks.
#[derive(Debug)]
pub(crate) struct Activations {
    /// Words, because a [`Grid`] cuts rows of those for its tasks; a block is twelve.
    words: AlignedSlice<f32>,
}

impl Activations {
    /// No room.
    pub(crate) fn none() -> Self {
        Self { words: AlignedSlice::empty() }
    }

    /// Allocates room for `num_blocks`.
    pub(crate) fn new(num_blocks: usize) -> Result<Self, BackendError> {
        let words = AlignedSlice::zeroed(num_blocks.saturating_mul(BLOCK_WORDS), DEVICE)?;
        Ok(Self { words })
    }

    /// Returns for how many blocks there is room.
    pub(crate) fn capacity(&self) -> usize {
        self.words.len() / BLOCK_WORDS
    }

    /// Rounds the rows of `x`, `[num_rows, cols]`; a few on the calling thread, many on all.
    ///
    /// # Panics
    /// Where there is no room for so many, or `x` is shorter.
    pub(crate) fn load(
        &mut self,
        pool: &mut Pool,
        vectors: Vectors,
        num_rows: usize,
        x: &[f32],
    ) -> ActivationRows<'_> {
        let cols = x.len().checked_div(num_rows).unwrap_or(0);
        let num_blocks = cols.div_ceil(RUN_LEN);
        let grid = Grid::of_rows(num_rows, num_blocks * BLOCK_WORDS);
        grid.for_each_tile(pool, self.words.as_mut_slice(), &|mut tile| {
            for row in tile.rows() {
                let x = &x[row * cols..(row + 1) * cols];
                vectors.run(Round { x, blocks: bytemuck::cast_slice_mut(tile.row(row)) });
            }
        });
        ActivationRows { blocks: bytemuck::cast_slice(self.words.as_slice()), num_blocks }
    }
}

/// The codes of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationRows<'a> {
    blocks: &'a [ActivationBlock],
    num_blocks: usize,
}

impl<'a> ActivationRows<'a> {
    /// Returns the blocks of a row.
    #[inline(always)]
    pub(crate) fn row(self, row: usize) -> &'a [ActivationBlock] {
        &self.blocks[row * self.num_blocks..(row + 1) * self.num_blocks]
    }
}

/// Rounds a row. Plain loops over arrays, which compile to the tier's vectors: integers and single roundings, so that
/// every tier gives the same bits.
struct Round<'a> {
    x: &'a [f32],
    blocks: &'a mut [ActivationBlock],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let (whole, rest) = self.x.as_chunks::<RUN_LEN>();
        for (block, values) in self.blocks.iter_mut().zip(whole) {
            *block = round(values);
        }
        if !rest.is_empty() {
            let mut values = [0.0; RUN_LEN];
            values[..rest.len()].copy_from_slice(rest);
            self.blocks[whole.len()] = round(&values);
        }
    }
}

#[inline(always)]
fn round(values: &[f32; RUN_LEN]) -> ActivationBlock {
    // As integers, magnitudes are in the order of the numbers, then infinity, then NaN.
    let mut greatest = 0_u32;
    for i in 0..RUN_LEN {
        greatest = greatest.max(values[i].to_bits() & 0x7FFF_FFFF);
    }
    let magnitude = f32::from_bits(greatest);
    let (inverse, scale) = if !magnitude.is_finite() {
        (0.0, f32::NAN)
    } else if magnitude < MAGNITUDE_MIN {
        (0.0, 0.0)
    } else {
        (CODE_MAX / magnitude, magnitude / CODE_MAX)
    };
    let mut codes = [0_i8; RUN_LEN];
    let mut totals = [0_i32; 2];
    for i in 0..RUN_LEN {
        // Where the inverse is 0 because a value is not finite, its code is whatever: the scale is NaN.
        codes[i] = (values[i] * inverse + ROUND).to_bits() as i8;
    }
    for i in 0..RUN_LEN {
        totals[i / GROUP_LEN] += i32::from(codes[i]);
    }
    ActivationBlock { codes: bytemuck::cast(codes), scale, total: totals[0] + totals[1], totals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::SimdTier;

    fn rounded(tier: SimdTier, num_rows: usize, x: &[f32]) -> Vec<ActivationBlock> {
        let num_blocks = num_rows * (x.len() / num_rows).div_ceil(RUN_LEN);
        let mut activations = Activations::new(num_blocks).unwrap();
        assert_eq!(activations.capacity(), num_blocks);
        let vectors = Vectors::new(tier).unwrap();
        let rows = activations.load(&mut Pool::new(3).unwrap(), vectors, num_rows, x);
        (0..num_rows).flat_map(|row| rows.row(row).to_vec()).collect()
    }

    fn codes(block: &ActivationBlock) -> [i8; RUN_LEN] {
        bytemuck::cast(block.codes)
    }

    #[test]
    fn a_code_is_the_nearest_in_every_tier() {
        for tier in SimdTier::available() {
            for cols in [1, 31, 32, 33, 100] {
                let x: Vec<f32> = (1..=70 * cols)
                    .map(|i| (i as f32 * 0.7).sin() * (i as f32 * 0.01).exp2().min(1e9))
                    .collect();
                let blocks = rounded(tier, 70, &x);
                let values = x.chunks(cols).flat_map(|row| row.chunks(RUN_LEN));
                assert_eq!(blocks.len(), values.clone().count());
                for (block, values) in blocks.iter().zip(values) {
                    let codes = codes(block);
                    for (&code, value) in codes.iter().zip(values) {
                        let error = (block.scale * f32::from(code) - value).abs();
                        assert!(error <= 0.5001 * block.scale, "{tier}: {code} for {value}");
                    }
                    assert!(codes[values.len()..].iter().all(|&code| code == 0));
                    assert!(codes.iter().any(|code| code.abs() == 127));
                    let sum = |codes: &[i8]| codes.iter().map(|&code| i32::from(code)).sum::<i32>();
                    assert_eq!(block.totals, [sum(&codes[..16]), sum(&codes[16..])], "{tier}");
                    assert_eq!(block.total, sum(&codes), "{tier}");
                }
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_zeros_stay() {
        for tier in SimdTier::available() {
            let mut x = [0.0; 2 * RUN_LEN];
            x[..6].copy_from_slice(&[127.0, 2.5, -2.5, 3.5, 0.5, -0.4]);
            let blocks = rounded(tier, 1, &x);
            assert_eq!(codes(&blocks[0])[..6], [127, 2, -2, 4, 0, 0], "{tier}");
            assert_eq!(codes(&blocks[1]), [0; RUN_LEN], "{tier}");
            assert_eq!(blocks[1].scale.to_bits(), 0, "{tier}");
        }
    }

    #[test]
    fn what_is_not_finite_makes_its_block_nan() {
        for tier in SimdTier::available() {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 17, 31] {
                    let mut x = [1.0; 3 * RUN_LEN];
                    x[RUN_LEN + at] = bad;
                    let scales =
                        rounded(tier, 1, &x).iter().map(|b| b.scale.is_nan()).collect::<Vec<_>>();
                    assert_eq!(scales, [false, true, false], "{tier}: {bad} at {at}");
                }
            }
            let tiny = rounded(tier, 1, &[1e-40; RUN_LEN]);
            assert_eq!((tiny[0].scale.to_bits(), codes(&tiny[0])), (0, [0; RUN_LEN]), "{tier}");
            let huge = rounded(tier, 1, &[f32::MAX; RUN_LEN]);
            assert_eq!(codes(&huge[0]), [127; RUN_LEN], "{tier}");
        }
    }
}
