//! Weights in E4M3 as panels of sixteen features: the codes of a file, widened in a register, and a scale for each 128.
//!
//! # Layout
//! `[num_panels, blocks_per_panel]`: a block of 128 columns is the scales of sixteen features, then steps as in [`matrix`].
//! One stream, read from end to end, of 8.25 bits a weight. Rows and columns are padded with zeros.
//!
//! # Widening
//! Sign apart, a code moved up by seven bits is an f16, subnormal or not: the exponent of one has a bias of 7 and that of
//! the other 15, so what it stands for is the code's number times 2⁻⁸. Three instructions move sixteen codes to their place
//! and one, which is there for f16, widens them. As an f32 subnormal, which a shift by twenty makes, it would cost some
//! processors a hundred cycles. Scales are kept times 2⁸.
//!
//! [`matrix`]: crate::cpu::matrix

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::backend::{BackendError, MatrixData};
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::matrix::{Element, PANEL, STEP, are_finite, pack_rows};
use crate::cpu::pool::Pool;
use crate::cpu::simd::Simd;
use crate::formats::{FP8_BLOCK_LEN, for_each_fp8_block};

/// What a scale is kept times, and an element divided by.
const ELEMENT_DIVISOR: f32 = 256.0;

/// A code: its number times 2⁻⁸.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct E4m3(pub(crate) u8);

/// 128 columns of a panel.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Fp8Block {
    /// Times 2⁸.
    pub(crate) scales: [f32; PANEL],
    pub(crate) steps: [[E4m3; STEP]; FP8_BLOCK_LEN / 2],
}

/// The weights of a matrix in E4M3.
#[derive(Debug)]
pub(crate) struct Fp8Panels {
    /// Of blocks, each of whole cache lines.
    bytes: AlignedSlice<u8>,
    blocks_per_panel: usize,
}

impl Fp8Panels {
    /// Packs the parts, which were checked: the blocks that are stored, else plain numbers rounded.
    pub(crate) fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        (rows, cols): (usize, usize),
    ) -> Result<Self, BackendError> {
        let blocks_per_panel = cols.div_ceil(FP8_BLOCK_LEN);
        let mut bytes = AlignedSlice::zeroed(Self::num_bytes(rows, cols), DEVICE)?;
        let blocks = bytemuck::cast_slice_mut(bytes.as_mut_slice());
        pack_rows(pool, parts, (blocks, blocks_per_panel), &pack_row);
        Ok(Self { bytes, blocks_per_panel })
    }

    /// Returns the memory that a matrix takes.
    pub(crate) fn num_bytes(rows: usize, cols: usize) -> usize {
        let num_blocks = rows.div_ceil(PANEL).saturating_mul(cols.div_ceil(FP8_BLOCK_LEN));
        num_blocks.saturating_mul(size_of::<Fp8Block>())
    }

    pub(crate) fn bytes_per_panel(&self) -> usize {
        self.blocks_per_panel * size_of::<Fp8Block>()
    }

    /// Returns a panel, block by block.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[Fp8Block] {
        &self.blocks()[index * self.blocks_per_panel..(index + 1) * self.blocks_per_panel]
    }

    #[inline(always)]
    fn blocks(&self) -> &[Fp8Block] {
        bytemuck::cast_slice(self.bytes.as_slice())
    }

    /// Returns whether all codes and scales are numbers.
    pub(crate) fn is_finite(&self, pool: &mut Pool) -> bool {
        are_finite(pool, self.blocks(), |block: &Fp8Block| {
            let has_numbers = |step: &[E4m3; STEP]| {
                step.iter().fold(true, |are_numbers, code| are_numbers & code.is_finite())
            };
            block.scales.iter().all(|scale| scale.is_finite())
                && block.steps.iter().all(has_numbers)
        })
    }

    /// Writes a row as f32.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        let lane = row % PANEL;
        for (block, out) in self.panel(row / PANEL).iter().zip(out.chunks_mut(FP8_BLOCK_LEN)) {
            for (col, out) in out.iter_mut().enumerate() {
                let code = block.steps[col / 2][E4m3::place(col % 2, lane)];
                *out = block.scales[lane] * code.widen();
            }
        }
    }
}

fn pack_row(row: &MatrixData<'_>, lane: usize, panel: &mut [Fp8Block]) {
    let mut blocks = panel.iter_mut();
    for_each_fp8_block(row, |stored| {
        let Some(block) = blocks.next() else { return };
        block.scales[lane] = stored.scale * ELEMENT_DIVISOR;
        for (col, &code) in stored.codes.iter().enumerate() {
            block.steps[col / 2][E4m3::place(col % 2, lane)] = E4m3(code);
        }
    });
}

impl Element for E4m3 {
    fn widen(self) -> f32 {
        let magnitude = u16::from(self.0 & 0x7F) << 7;
        f16::from_bits(u16::from(self.0 & 0x80) << 8 | magnitude).to_f32()
    }

    fn is_finite(self) -> bool {
        self.0 & 0x7F != 0x7F
    }

    fn place(col: usize, lane: usize) -> usize {
        col * PANEL + lane
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32 {
        simd.load_e4m3(&S::e4m3_chunks(step)[col * (PANEL / S::LANES) + index])
    }
}
