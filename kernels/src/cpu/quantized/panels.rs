//! Weights as panels of sixteen features, packed once when they are loaded.
//!
//! # Layout
//! `lines`: `[num_panels, num_blocks, lines_per_block]` of 64 bytes. A line of bytes is a step, `[PANEL, STEP_CODES]` codes; a line
//! of nibbles is two, the first in the low halves. `factors`: `[num_panels, num_blocks, factors_per_run, PANEL]` in half
//! precision. Features are padded to whole panels and columns to whole blocks with codes that stand for zero.
//!
//! Two streams that a product reads from end to end, codes on cache lines: 8.5 bits a weight for bytes with a scale.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::f16;

use crate::backend::{BackendError, DType, MatrixData};
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::pool::Pool;
use crate::cpu::quantized::dot::{Line, PANEL, STEP_CODES};
use crate::formats::{CodeKind, CodeLayout, CodeRun, NIBBLE_CENTRE, RUN_LEN, for_each_code_run};

/// The weights of a matrix `[rows, cols]` in integers.
#[derive(Debug)]
pub(crate) struct CodePanels {
    pub(crate) layout: CodeLayout,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    lines: AlignedSlice<u8>,
    factors: AlignedSlice<f16>,
}

/// A panel's share of both streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panel<'a> {
    /// `[num_blocks, lines_per_block]`
    pub(crate) lines: &'a [Line],
    /// `[num_blocks, factors_per_run]`
    pub(crate) factors: &'a [[f16; PANEL]],
}

/// A panel that is being packed.
struct PanelMut<'a> {
    layout: CodeLayout,
    lines: &'a mut [Line],
    factors: &'a mut [[f16; PANEL]],
}

impl CodePanels {
    /// Packs the parts, which were checked, into the least form that holds them all; plain parts are rounded to int8.
    pub(crate) fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        rows: usize,
        cols: usize,
    ) -> Result<Self, BackendError> {
        let layout = CodeLayout::of_parts(parts);
        let num_blocks = rows.div_ceil(PANEL).saturating_mul(cols.div_ceil(RUN_LEN));
        let num_lines = num_blocks.saturating_mul(layout.lines_per_block());
        let num_factors = num_blocks.saturating_mul(layout.factors_per_run());
        let mut panels = Self {
            layout,
            rows,
            cols,
            lines: AlignedSlice::zeroed(num_lines.saturating_mul(size_of::<Line>()), DEVICE)?,
            factors: AlignedSlice::zeroed(num_factors.saturating_mul(PANEL), DEVICE)?,
        };
        if cols > 0 {
            panels.pack(pool, parts);
        }
        Ok(panels)
    }

    /// Returns the memory that the parts take as panels.
    ///
    /// # Units
    /// bytes
    pub(crate) fn num_bytes(parts: &[MatrixData<'_>], rows: usize, cols: usize) -> u64 {
        let num_blocks = rows.div_ceil(PANEL) * cols.div_ceil(RUN_LEN);
        (num_blocks * CodeLayout::of_parts(parts).bytes_per_block()) as u64
    }

    /// Returns the blocks of a row.
    pub(crate) fn num_blocks(&self) -> usize {
        self.cols.div_ceil(RUN_LEN)
    }

    /// Returns the memory of a panel.
    ///
    /// # Units
    /// bytes
    pub(crate) fn bytes_per_panel(&self) -> usize {
        self.num_blocks() * self.layout.bytes_per_block()
    }

    /// Returns all scales and minimums.
    pub(crate) fn factors(&self) -> &[f16] {
        self.factors.as_slice()
    }

    /// Returns a panel.
    pub(crate) fn panel(&self, index: usize) -> Panel<'_> {
        let lines = self.num_blocks() * self.layout.lines_per_block();
        let factors = self.num_blocks() * self.layout.factors_per_run();
        Panel {
            lines: &self.lines.as_slice().as_chunks().0[index * lines..(index + 1) * lines],
            factors: &self.factors.as_slice().as_chunks().0[index * factors..(index + 1) * factors],
        }
    }

    /// Writes a row as f32.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        let (panel, feature) = (self.panel(row / PANEL), row % PANEL);
        let (num_lines, num_factors) =
            (self.layout.lines_per_block(), self.layout.factors_per_run());
        let blocks =
            panel.lines.chunks_exact(num_lines).zip(panel.factors.chunks_exact(num_factors));
        for ((lines, factors), out) in blocks.zip(out.chunks_mut(RUN_LEN)) {
            for (col, out) in out.iter_mut().enumerate() {
                let group = col * self.layout.num_groups / RUN_LEN;
                let code = self.layout.code(lines, feature, col);
                *out = factors[group][feature].to_f32() * f32::from(code);
                if self.layout.has_min {
                    *out -= factors[self.layout.num_groups + group][feature].to_f32();
                }
            }
        }
    }

    /// Packs each panel as a task.
    fn pack(&mut self, pool: &mut Pool, parts: &[MatrixData<'_>]) {
        let (layout, num_blocks) = (self.layout, self.num_blocks());
        let lines = self.lines.as_mut_slice().as_chunks_mut().0;
        let lines = lines.chunks_exact_mut(num_blocks * layout.lines_per_block());
        let factors = self.factors.as_mut_slice().as_chunks_mut().0;
        let factors = factors.chunks_exact_mut(num_blocks * layout.factors_per_run());
        // Each lock is taken once, by the one task that packs the panel: it is there to say so.
        let panels: Vec<_> = lines
            .zip(factors)
            .map(|(lines, factors)| Mutex::new(PanelMut { layout, lines, factors }))
            .collect();
        pool.run(panels.len(), &|index| {
            let mut panel = panels[index].lock().unwrap_or_else(PoisonError::into_inner);
            let mut first_row = 0;
            for part in parts {
                let rows = overlap(index * PANEL..(index + 1) * PANEL, first_row, part.rows);
                for row in rows {
                    panel.pack_row((first_row + row) % PANEL, &part.row(row));
                }
                first_row += part.rows;
            }
        });
    }
}

impl CodeLayout {
    /// Reads a code of a block back.
    fn code(self, lines: &[Line], feature: usize, col: usize) -> i8 {
        let (step, byte) = (col / STEP_CODES, feature * STEP_CODES + col % STEP_CODES);
        match self.codes {
            CodeKind::Byte => lines[step][byte].cast_signed(),
            CodeKind::Nibble => {
                let nibble = (lines[step / 2][byte] >> (4 * (step % 2))) & 15;
                nibble.cast_signed() - if self.has_min { 0 } else { NIBBLE_CENTRE }
            }
        }
    }
}

impl PanelMut<'_> {
    /// Packs one row of a part.
    fn pack_row(&mut self, feature: usize, row: &MatrixData<'_>) {
        let mut block = 0;
        for_each_code_run(row, |run| {
            self.pack_run(block, feature, row.dtype, run);
            block += 1;
        });
    }

    fn pack_run(&mut self, block: usize, feature: usize, dtype: DType, run: &CodeRun) {
        let layout = self.layout;
        let lines = &mut self.lines[block * layout.lines_per_block()..][..layout.lines_per_block()];
        let codes = layout.stored_codes(dtype, run);
        for (step, codes) in codes.as_chunks::<STEP_CODES>().0.iter().enumerate() {
            match layout.codes {
                CodeKind::Byte => {
                    lines[step][feature * STEP_CODES..][..STEP_CODES].copy_from_slice(codes);
                }
                CodeKind::Nibble => {
                    let bytes = &mut lines[step / 2][feature * STEP_CODES..][..STEP_CODES];
                    for (byte, code) in bytes.iter_mut().zip(codes) {
                        *byte |= code << (4 * (step % 2));
                    }
                }
            }
        }
        let factors =
            &mut self.factors[block * layout.factors_per_run()..][..layout.factors_per_run()];
        for group in 0..layout.num_groups {
            factors[group][feature] = f16::from_f32(layout.stored_scale(run, group));
            if layout.has_min {
                factors[layout.num_groups + group][feature] =
                    f16::from_f32(layout.stored_min(dtype, run, group));
            }
        }
    }
}

/// Returns which rows of a part, counted from its first, lie in a range of the whole matrix.
fn overlap(range: Range<usize>, first_row: usize, num_rows: usize) -> Range<usize> {
    let within = |row: usize| row.saturating_sub(first_row).min(num_rows);
    within(range.start)..within(range.end)
}
