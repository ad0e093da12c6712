//! A weight matrix as the CPU likes it: packed once, while loading, in panels of sixteen features.
//!
//! # Layout
//! A panel holds sixteen rows of the file. Two columns follow two columns, and within a step lie the sixteen features
//! of both: a lane of a vector is a feature, an activation is broadcast to all, and no sum ever crosses lanes. bf16
//! keeps the two columns of a feature side by side, `[16, 2]`, which is what a shift and a mask take apart, and
//! what a dot product of pairs wants; the others lie `[2, 16]`. Rows and columns are padded with zeros. Numbers of eight
//! bits have a scale among them (`fp8`), and integers lie otherwise (`quantized/`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytemuck::Zeroable;
use half::{bf16, f16};

use crate::backend::{BackendError, DType, MatrixData, WeightFormat};
use crate::checks::Check;
use crate::cpu::DEVICE;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::fp8::Fp8Panels;
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
    Fp8(Fp8Panels),
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
        let shape = (rows, cols);
        let weights = match Kind::of(parts, format) {
            Kind::F32 => Weights::F32(Panels::new(pool, parts, shape)?),
            Kind::Bf16 => Weights::Bf16(Panels::new(pool, parts, shape)?),
            Kind::F16 => Weights::F16(Panels::new(pool, parts, shape)?),
            Kind::Fp8 => Weights::Fp8(Fp8Panels::new(pool, parts, shape)?),
            Kind::Codes => Weights::Codes(CodePanels::new(pool, parts, rows, cols)?),
        };
        Ok(Self { rows, cols, weights })
    }

    /// Returns the memory that a matrix of these parts takes, whatever their bytes.
    pub(crate) fn num_bytes(parts: &[MatrixData<'_>], format: WeightFormat) -> u64 {
        let rows: usize = parts.iter().map(|part| part.rows).sum();
        let cols = parts.first().map_or(0, |part| part.cols);
        let num_elements = rows.next_multiple_of(PANEL) * cols.next_multiple_of(2);
        let num_bytes = match Kind::of(parts, format) {
            Kind::F32 => num_elements * size_of::<f32>(),
            Kind::Bf16 => num_elements * size_of::<bf16>(),
            Kind::F16 => num_elements * size_of::<f16>(),
            Kind::Fp8 => Fp8Panels::num_bytes(rows, cols),
            Kind::Codes => return CodePanels::num_bytes(parts, rows, cols),
        };
        num_bytes as u64
    }

    /// Returns the size of a row with its padding.
    pub(crate) fn bytes_per_row(&self) -> usize {
        match &self.weights {
            Weights::F32(panels) => panels.bytes_per_panel() / PANEL,
            Weights::Bf16(panels) => panels.bytes_per_panel() / PANEL,
            Weights::F16(panels) => panels.bytes_per_panel() / PANEL,
            Weights::Fp8(panels) => panels.bytes_per_panel() / PANEL,
            Weights::Codes(panels) => panels.bytes_per_panel() / PANEL,
        }
    }

    /// Returns whether all elements, or all factors of integers, are numbers.
    pub(crate) fn is_finite(&self, pool: &mut Pool) -> bool {
        match &self.weights {
            Weights::F32(panels) => panels.is_finite(pool),
            Weights::Bf16(panels) => panels.is_finite(pool),
            Weights::F16(panels) => panels.is_finite(pool),
            Weights::Fp8(panels) => panels.is_finite(pool),
            Weights::Codes(panels) => {
                are_finite(pool, panels.factors(), |&factor| Element::is_finite(factor))
            }
        }
    }

    /// Writes a row as f32.
    pub(crate) fn widen_row(&self, row: usize, out: &mut [f32]) {
        match &self.weights {
            Weights::F32(panels) => panels.widen_row(row, out),
            Weights::Bf16(panels) => panels.widen_row(row, out),
            Weights::F16(panels) => panels.widen_row(row, out),
            Weights::Fp8(panels) => panels.widen_row(row, out),
            Weights::Codes(panels) => panels.widen_row(row, out),
        }
    }
}

/// Bytes that a thread looks at before it asks for more.
const TASK_BYTES: usize = 1 << 17;

/// Returns whether all elements are.
pub(crate) fn are_finite<E: Sync>(
    pool: &mut Pool,
    elements: &[E],
    is_finite: impl Fn(&E) -> bool + Sync,
) -> bool {
    let (found, per_task) = (AtomicBool::new(false), TASK_BYTES / size_of::<E>());
    pool.run(elements.len().div_ceil(per_task), &|task| {
        let rest = &elements[task * per_task..];
        let elements = &rest[..rest.len().min(per_task)];
        // Without a way out of the loop, which would keep it from vectors.
        if !elements.iter().fold(true, |are_finite, element| are_finite & is_finite(element)) {
            found.store(true, Ordering::Relaxed);
        }
    });
    !found.into_inner()
}

/// What the elements of a matrix are kept as.
#[derive(Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    F16,
    Fp8,
    Codes,
}

impl Kind {
    /// Returns what holds all parts: their own type, codes that hold them all, or f32.
    fn of(parts: &[MatrixData<'_>], format: WeightFormat) -> Self {
        let are_all = |dtype| parts.iter().all(|part| part.dtype == dtype);
        match format {
            WeightFormat::F32 => Self::F32,
            WeightFormat::Int8 => Self::Codes,
            WeightFormat::Fp8 if parts.iter().any(|part| part.dtype.is_integers()) => Self::Codes,
            WeightFormat::Fp8 => Self::Fp8,
            WeightFormat::Stored if parts.iter().all(|part| part.dtype.is_integers()) => {
                Self::Codes
            }
            WeightFormat::Stored if are_all(DType::Bf16) => Self::Bf16,
            WeightFormat::Stored if are_all(DType::F16) => Self::F16,
            WeightFormat::Stored if are_all(DType::F8) => Self::Fp8,
            WeightFormat::Stored => Self::F32,
        }
    }
}

impl<E: Plain> Panels<E> {
    fn new(
        pool: &mut Pool,
        parts: &[MatrixData<'_>],
        (rows, cols): (usize, usize),
    ) -> Result<Self, BackendError> {
        let steps_per_panel = cols.div_ceil(2);
        let panel_len = steps_per_panel.saturating_mul(STEP);
        let mut values =
            AlignedSlice::zeroed(rows.div_ceil(PANEL).saturating_mul(panel_len), DEVICE)?;
        pack_rows(pool, parts, (values.as_mut_slice(), panel_len), &pack_row);
        Ok(Self { values, steps_per_panel })
    }
}

impl<E: Element> Panels<E> {
    fn bytes_per_panel(&self) -> usize {
        self.steps_per_panel * STEP * size_of::<E>()
    }

    /// Returns a panel, step by step.
    #[inline(always)]
    pub(crate) fn panel(&self, index: usize) -> &[[E; STEP]] {
        let steps = self.values.as_slice().as_chunks().0;
        &steps[index * self.steps_per_panel..(index + 1) * self.steps_per_panel]
    }

    fn is_finite(&self, pool: &mut Pool) -> bool {
        are_finite(pool, self.values.as_slice(), |&element| element.is_finite())
    }

    fn widen_row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        for (col, out) in out.iter_mut().enumerate() {
            *out = panel[col / 2][E::place(col % 2, lane)].widen();
        }
    }
}

/// Packs each row of the stack into its lane of a panel of `panel_len` elements, with all threads.
pub(crate) fn pack_rows<E: Send>(
    pool: &mut Pool,
    parts: &[MatrixData<'_>],
    (panels, panel_len): (&mut [E], usize),
    pack: &(dyn Fn(&MatrixData<'_>, usize, &mut [E]) + Sync),
) {
    if panel_len == 0 {
        return;
    }
    let rows: usize = parts.iter().map(|part| part.rows).sum();
    // Each thread locks what no other asks for: the borrow checker's way to hand out disjoint parts.
    let tasks: Vec<Mutex<&mut [E]>> =
        panels.chunks_mut(panel_len * PANELS_PER_TASK).map(Mutex::new).collect();
    pool.run(tasks.len(), &|task| {
        let mut panels = tasks[task].lock().unwrap_or_else(PoisonError::into_inner);
        for (index, panel) in panels.chunks_mut(panel_len).enumerate() {
            let first_row = (task * PANELS_PER_TASK + index) * PANEL;
            for lane in 0..PANEL.min(rows - first_row) {
                pack(&stored_row(parts, first_row + lane), lane, panel);
            }
        }
    });
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

fn pack_row<E: Plain>(row: &MatrixData<'_>, lane: usize, panel: &mut [E]) {
    let mut col = 0;
    for_each_widened(row, |value| {
        panel[col / 2 * STEP + E::place(col % 2, lane)] = E::narrow(value);
        col += 1;
    });
}

/// A type that weights are kept in.
pub(crate) trait Element: Zeroable + Copy + Send + Sync + 'static {
    /// Returns the element's value.
    fn widen(self) -> f32;

    /// Returns whether the element is a number.
    fn is_finite(self) -> bool;

    /// Returns where in a step the element of a column (0 or 1) and a feature of the panel lies.
    fn place(col: usize, lane: usize) -> usize;

    /// Loads and widens the features of vector `index` of a panel: a column (0 or 1) of a step.
    fn load<S: Simd>(simd: S, step: &[Self; STEP], index: usize, col: usize) -> S::F32;
}

/// A type whose elements stand for themselves, without a scale.
pub(crate) trait Plain: Element {
    /// Returns the element nearest to `value`; exact for what was widened from this type.
    fn narrow(value: f32) -> Self;
}

impl Plain for f32 {
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Plain for bf16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Plain for f16 {
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for f32 {
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
        let rows: [&[(usize, DType)]; 9] = [
            &[(5, DType::F32)],
            &[(5, DType::Bf16), (3, DType::Bf16)],
            &[(5, DType::F16), (3, DType::Bf16)],
            &[(17, DType::F8)],
            &[(16, DType::F8), (17, DType::Bf16)],
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
            let formats =
                [WeightFormat::Stored, WeightFormat::F32, WeightFormat::Int8, WeightFormat::Fp8];
            for format in formats {
                let matrix = CpuMatrix::new(&mut pool, &data, format).unwrap();
                let taken = match &matrix.weights {
                    Weights::F32(rows) => rows.values.len() * 4,
                    Weights::Bf16(rows) => rows.values.len() * 2,
                    Weights::F16(rows) => rows.values.len() * 2,
                    Weights::Fp8(panels) => matrix.rows.div_ceil(PANEL) * panels.bytes_per_panel(),
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
