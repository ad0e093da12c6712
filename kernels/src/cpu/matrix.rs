//! A weight matrix as the CPU likes it: packed once, while loading, in panels of sixteen features.
//!
//! # Layout
//! A panel holds sixteen rows of the file. Two columns follow two columns, and within a step lie the sixteen features
//! of both: a lane of a vector is a feature, an activation is broadcast to all, and no sum ever crosses lanes. bf16
//! keeps the two columns of a feature side by side, `[16, 2]`, which is what a shift and a mask take apart, and
//! what a dot product of pairs wants; the others lie `[2, 16]`. Rows and columns are padded with zeros.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytemuck::Zeroable;
use half::{bf16, f16};

use crate::backend::{BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::pool::Pool;
use crate::cpu::quantized::CodePanels;
use crate::cpu::simd::{Simd, TILE};
use crate::widen::for_each_widened;

/// Features of a panel: the lanes of the widest tier.
pub(crate) const PANEL: usize = TILE;

/// Elements of a step: two columns of a panel.
pub(crate) const STEP: usize = 2 * PANEL;

/// Panels that a thread packs at a time.
const PANELS_PER_TASK: usize = 16;

/// A matrix `[rows, cols]`.
#[derive(Debug)]
pub struct CpuMatrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) weights: Weights,
}

/// The elements, by type.
#[derive(Debug)]
pub(crate) enum Weights {
    F32(Panels<f32>),
    Bf16(Panels<bf16>),
    F16(Panels<f16>),
    Codes(CodePanels),
}

/// Panels of one element type: `[num_panels, steps_per_panel, STEP]`.
#[derive(Debug)]
pub(crate) struct Panels<E> {
    values: AlignedSlice<E>,
    steps_per_panel: usize,
}

impl CpuMatrix {
    /// Packs the parts into one matrix. Plain parts of different types, or beside parts in blocks, become f32, which
    /// holds them all; blocks of different types become integers that hold them all, as do all parts of int8.
    pub(crate) fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        format: WeightFormat,
    ) -> Result<Self, BackendError> {
        let check = Check("matrix");
        let (rows, cols) = check.matrix_parts(parts)?;
        if format == WeightFormat::Fp8 {
            return check.refuse("weights become fp8 on a GPU only; take int8 on a CPU".to_owned());
        }
        if is_in_codes(parts, format) {
            let weights = Weights::Codes(CodePanels::new(pool, parts, rows, cols)?);
            return Ok(Self { rows, cols, weights });
        }
        let weights = match plain_type(parts, format) {
            PlainType::F32 => Weights::F32(Panels::new(pool, parts, rows, cols)?),
            PlainType::Bf16 => Weights::Bf16(Panels::new(pool, parts, rows, cols)?),
            PlainType::F16 => Weights::F16(Panels::new(pool, parts, rows, cols)?),
        };
        Ok(Self { rows, cols, weights })
    }

    /// Returns the memory that a matrix of these parts takes, whatever their bytes.
    pub(crate) fn num_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let cols = parts.first().map_or(0, |part| part.cols);
        if is_in_codes(parts, format) {
            return CodePanels::num_bytes(parts, rows, cols);
        }
        let num_elements = rows.next_multiple_of(PANEL) * cols.next_multiple_of(2);
        (num_elements * plain_type(parts, format).num_bytes()) as u64
    }

    /// Returns the size of a row with its padding.
    pub(crate) fn bytes_per_row(&self) -> usize {
        match &self.weights {
            Weights::F32(panels) => panels.bytes_per_panel() / PANEL,
            Weights::Bf16(panels) => panels.bytes_per_panel() / PANEL,
            Weights::F16(panels) => panels.bytes_per_panel() / PANEL,
            Weights::Codes(panels) => panels.bytes_per_panel() / PANEL,
        }
    }

    /// Returns whether all elements, or all factors of integers, are numbers.
    pub(crate) fn is_finite(&self, pool: &mut Pool) -> bool {
        match &self.weights {
            Weights::F32(panels) => are_finite(pool, panels.values.as_slice()),
            Weights::Bf16(panels) => are_finite(pool, panels.values.as_slice()),
            Weights::F16(panels) => are_finite(pool, panels.values.as_slice()),
            Weights::Codes(panels) => are_finite(pool, panels.factors()),
        }
    }

    /// Writes a row as f32.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::F32(panels) => panels.widen_row(row, out),
            Weights::Bf16(panels) => panels.widen_row(row, out),
            Weights::F16(panels) => panels.widen_row(row, out),
            Weights::Codes(panels) => panels.widen_row(row, out),
        }
    }
}

/// Elements that a thread looks at before it asks for more.
const ELEMENTS_PER_TASK: usize = 1 << 16;

fn are_finite<E: Element>(pool: &mut Pool, elements: &[E]) -> bool {
    let found = AtomicBool::new(false);
    pool.run(elements.len().div_ceil(ELEMENTS_PER_TASK), &|task| {
        let rest = &elements[task * ELEMENTS_PER_TASK..];
        let elements = &rest[..rest.len().min(ELEMENTS_PER_TASK)];
        // Without a way out of the loop, which would keep it from vectors.
        if !elements.iter().fold(true, |are_finite, element| are_finite & element.is_finite()) {
            found.store(true, Ordering::Relaxed);
        }
    });
    !found.into_inner()
}

/// The types that panels of plain numbers have.
#[derive(Clone, Copy)]
enum PlainType {
    F32,
    Bf16,
    F16,
}

impl PlainType {
    fn num_bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
            Self::F16 => size_of::<f16>(),
        }
    }
}

/// Returns the type of parts that do not become integers: their own, or f32, which holds them all.
fn plain_type(parts: &[MatrixData<'_>], format: WeightFormat) -> PlainType {
    let are_all = |dtype| parts.iter().all(|part| part.dtype == dtype);
    match format {
        WeightFormat::Stored if are_all(DType::Bf16) => PlainType::Bf16,
        // Rounded once: four significant bits times a scale.
        WeightFormat::Stored if are_all(DType::F8) => PlainType::Bf16,
        WeightFormat::Stored if are_all(DType::F16) => PlainType::F16,
        WeightFormat::Stored | WeightFormat::F32 | WeightFormat::Int8 | WeightFormat::Fp8 => {
            PlainType::F32
        }
    }
}

/// Returns whether the parts become integers.
fn is_in_codes(parts: &[MatrixData<'_>], format: WeightFormat) -> bool {
    match format {
        WeightFormat::Stored => parts.iter().all(|part| part.dtype.is_integers()),
        WeightFormat::F32 | WeightFormat::Fp8 => false,
        WeightFormat::Int8 => true,
    }
}

impl<E: Element> Panels<E> {
    fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        rows: usize,
        cols: usize,
    ) -> Result<Self, BackendError> {
        let steps_per_panel = cols.div_ceil(2);
        let panel_len = steps_per_panel.saturating_mul(STEP);
        let mut values =
            AlignedSlice::zeroed(rows.div_ceil(PANEL).saturating_mul(panel_len), DEVICE)?;
        if panel_len > 0 {
            // Each thread locks what no other asks for: the borrow checker's way to hand out disjoint parts.
            let tasks: Vec<Mutex<&mut [E]>> = values
                .as_mut_slice()
                .chunks_mut(panel_len * PANELS_PER_TASK)
                .map(Mutex::new)
                .collect();
            pool.run(tasks.len(), &|task| {
                let mut panels = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
                for (index, panel) in panels.chunks_mut(panel_len).enumerate() {
                    let first_row = (task * PANELS_PER_TASK + index) * PANEL;
                    for lane in 0..PANEL.min(rows - first_row) {
                        pack_row(&stored_row(parts, first_row + lane), lane, panel);
                    }
                }
            });
        }
        Ok(Self { values, steps_per_panel })
    }

    fn bytes_per_panel(&self) -> usize {
        self.steps_per_panel * STEP * size_of::<E>()
    }

    /// Returns a panel, step by step.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[[E; STEP]] {
        let steps = self.values.as_slice().as_chunks().0;
        &steps[index * self.steps_per_panel..(index + 1) * self.steps_per_panel]
    }

    fn widen_row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        for (col, out) in out.iter_mut().enumerate() {
            *out = panel[col / 2][E::place(col % 2, lane)].widen();
        }
    }
}

/// Returns a row of the stack.
fn stored_row<'a>(parts: &[MatrixData<'a>], mut row: usize) -> MatrixData<'a> {
    let mut part = parts[0];
    for next in parts {
        part = *next;
        if row < part.rows {
            break;
        }
        row -= part.rows;
    }
    part.row(row)
}

fn pack_row<E: Element>(row: &MatrixData<'_>, lane: usize, panel: &mut [E]) {
    let mut col = 0;
    for_each_widened(row, |value| {
        panel[col / 2 * STEP + E::place(col % 2, lane)] = E::narrow(value);
        col += 1;
    });
}

/// A type that weights are stored in.
pub(crate) trait Element: Zeroable + Copy + Send + Sync + 'static {
    /// Returns the element nearest to `value`; exact for what was widened from this type.
    fn narrow(value: f32) -> Self;

    /// Returns the element's value.
    fn widen(self) -> f32;

    /// Returns whether the element is a number.
    fn is_finite(self) -> bool;

    /// Returns where in a step the element of a column (0 or 1) and a feature of the panel lies.
    fn place(col: usize, lane: usize) -> usize;

    /// Loads and widens the features of vector `index` of a panel: a column (0 or 1) of a step.
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32;
}

impl Element for f32 {
    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }

    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }

    fn place(col: usize, lane: usize) -> usize {
        col * PANEL + lane
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32 {
        simd.load(&S::chunks(step)[col * (PANEL / S::LANES) + index])
    }
}

impl Element for bf16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn is_finite(self) -> bool {
        bf16::is_finite(self)
    }

    fn place(col: usize, lane: usize) -> usize {
        lane * 2 + col
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32 {
        let pairs = &S::bf16_pairs(step)[index];
        if col == 0 { simd.load_bf16_first(pairs) } else { simd.load_bf16_second(pairs) }
    }
}

impl Element for f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn is_finite(self) -> bool {
        f16::is_finite(self)
    }

    fn place(col: usize, lane: usize) -> usize {
        col * PANEL + lane
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32 {
        simd.load_f16(&S::f16_chunks(step)[col * (PANEL / S::LANES) + index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_told_is_what_is_taken() {
        let mut pool = Pool::new(1).unwrap();
        let rows: [&[(usize, DType)]; 7] = [
            &[(5, DType::F32)],
            &[(5, DType::Bf16), (3, DType::Bf16)],
            &[(5, DType::F16), (3, DType::Bf16)],
            &[(17, DType::Q8_0)],
            &[(16, DType::Q4K), (1, DType::Q6K)],
            &[(33, DType::Q4_0)],
            &[(2, DType::Bf16), (3, DType::Q5_1)],
        ];
        for parts in rows {
            let bytes = vec![0; 33 * 256 * 4];
            let data: Vec<MatrixData<'_>> = parts
                .iter()
                .map(|&(rows, dtype)| {
                    let num_bytes = dtype.num_bytes(rows * 256).unwrap();
                    MatrixData { rows, cols: 256, dtype, bytes: &bytes[..num_bytes] }
                })
                .collect();
            for format in [WeightFormat::Stored, WeightFormat::F32, WeightFormat::Int8] {
                let matrix = CpuMatrix::new(&mut pool, &data, format).unwrap();
                let taken = match &matrix.weights {
                    Weights::F32(rows) => rows.values.len() * 4,
                    Weights::Bf16(rows) => rows.values.len() * 2,
                    Weights::F16(rows) => rows.values.len() * 2,
                    Weights::Codes(panels) => {
                        matrix.rows.div_ceil(PANEL) * panels.bytes_per_panel()
                    }
                };
                assert_eq!(
                    CpuMatrix::num_bytes(&data, format),
                    taken as u64,
                    "{parts:?} {format:?}"
                );
            }
        }
    }
}
