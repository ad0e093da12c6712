//! Weights as codes on a GPU: how a row lies in memory, for which `codes.cuh` is the counterpart.

use half::f16;

use crate::backend::{DType, MatrixData};
use crate::formats::{
    CodeKind, CodeLayout, CodeRun, FP8_BLOCK_LEN, GROUP_LEN, RUN_LEN, for_each_code_run,
    for_each_fp8_block,
};

/// Bytes that a lane loads at once: a run of bytes, two runs of nibbles.
const LANE_BYTES: usize = 8;

/// Lanes that share a run.
const LANES: usize = 4;

/// Bytes of all of them.
const LINE_BYTES: usize = LANES * LANE_BYTES;

/// The forms that codes take on a GPU, each with kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodeForm {
    /// Bytes with a scale in half precision for each 32.
    Int8,
    /// And with a minimum.
    Int8Min,
    /// Bytes with a scale for each 16.
    Int8Halves,
    /// And with a minimum.
    Int8HalvesMin,
    /// Nibbles around 8, with a scale for each 32.
    Int4,
    /// Nibbles with a scale and a minimum for each 32.
    Int4Min,
    /// Nibbles with a scale and a minimum for each 16.
    Int4HalvesMin,
    /// E4M3 with a scale in single precision for each 128.
    Fp8,
}

/// A row's bytes and factors.
pub(super) struct CodeRow<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) factors: &'a mut [u8],
}

impl CodeForm {
    /// Returns the form of integers that holds all parts; plain ones are rounded to eight bits.
    pub(super) fn of_integers(parts: &[MatrixData<'_>]) -> Self {
        let CodeLayout { codes, num_groups, has_min } = CodeLayout::of_parts(parts);
        match (codes, num_groups, has_min) {
            (CodeKind::Byte, 1, false) => Self::Int8,
            (CodeKind::Byte, 1, true) => Self::Int8Min,
            (CodeKind::Byte, _, false) => Self::Int8Halves,
            (CodeKind::Byte, _, true) => Self::Int8HalvesMin,
            (CodeKind::Nibble, 1, false) => Self::Int4,
            (CodeKind::Nibble, 1, true) => Self::Int4Min,
            // Without minimums, which one type has, they are a rarity that is not worth kernels of its own.
            (CodeKind::Nibble, _, _) => Self::Int4HalvesMin,
        }
    }

    /// Returns the word for it in the names of kernels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Min => "int8_min",
            Self::Int8Halves => "int8_halves",
            Self::Int8HalvesMin => "int8_halves_min",
            Self::Int4 => "int4",
            Self::Int4Min => "int4_min",
            Self::Int4HalvesMin => "int4_halves_min",
            Self::Fp8 => "fp8",
        }
    }

    /// Returns the layout of integers; fp8 has none.
    fn layout(self) -> Option<CodeLayout> {
        let of = |codes, num_groups, has_min| Some(CodeLayout { codes, num_groups, has_min });
        match self {
            Self::Int8 => of(CodeKind::Byte, 1, false),
            Self::Int8Min => of(CodeKind::Byte, 1, true),
            Self::Int8Halves => of(CodeKind::Byte, 2, false),
            Self::Int8HalvesMin => of(CodeKind::Byte, 2, true),
            Self::Int4 => of(CodeKind::Nibble, 1, false),
            Self::Int4Min => of(CodeKind::Nibble, 1, true),
            Self::Int4HalvesMin => of(CodeKind::Nibble, 2, true),
            Self::Fp8 => None,
        }
    }

    /// Returns what the columns must be a multiple of.
    pub(super) fn cols_multiple(self) -> usize {
        if self == Self::Fp8 { FP8_BLOCK_LEN } else { RUN_LEN }
    }

    /// Returns the bytes of a row's codes and of its factors.
    pub(super) fn row_bytes(self, cols: usize) -> (usize, usize) {
        let Some(layout) = self.layout() else {
            return (cols, cols.div_ceil(FP8_BLOCK_LEN) * size_of::<f32>());
        };
        let num_runs = cols.div_ceil(RUN_LEN);
        let (num_lines, num_runs) = match layout.codes {
            CodeKind::Byte => (num_runs, num_runs),
            CodeKind::Nibble => (num_runs.div_ceil(2), num_runs.next_multiple_of(2)),
        };
        let factor_bytes = layout.factors_per_run() * size_of::<f16>();
        (num_lines * LINE_BYTES, num_runs * factor_bytes)
    }

    /// Writes a stored row; `to` is zeroed.
    pub(super) fn write_row(self, row: &MatrixData<'_>, to: &mut CodeRow<'_>) {
        if let Some(layout) = self.layout() {
            let mut index = 0;
            for_each_code_run(row, |run| {
                write_run(layout, row.dtype, (index, run), to);
                index += 1;
            });
            return;
        }
        let blocks = to.codes.chunks_exact_mut(FP8_BLOCK_LEN);
        let mut places = blocks.zip(to.factors.as_chunks_mut().0);
        for_each_fp8_block(row, |block| {
            let Some((codes, scale)) = places.next() else { return };
            codes.copy_from_slice(&block.codes);
            *scale = block.scale.to_le_bytes();
        });
    }
}

fn write_run(
    layout: CodeLayout,
    dtype: DType,
    (index, run): (usize, &CodeRun),
    to: &mut CodeRow<'_>,
) {
    let stored = layout.stored_codes(dtype, run);
    for lane in 0..LANES {
        for j in 0..LANE_BYTES {
            let code = stored[column_of(layout.num_groups, lane, j)];
            match layout.codes {
                CodeKind::Byte => to.codes[index * LINE_BYTES + lane * LANE_BYTES + j] = code,
                CodeKind::Nibble => {
                    // Bits 4 (j / 2) + 16 (j % 2) of the lane's word for this run.
                    let word = index / 2 * LINE_BYTES + lane * LANE_BYTES + index % 2 * 4;
                    to.codes[word + j % 2 * 2 + j / 4] |= code << (4 * (j / 2 % 2));
                }
            }
        }
    }
    let (groups, num_factors) = (layout.num_groups, layout.factors_per_run());
    let factors = &mut to.factors.as_chunks_mut().0[index * num_factors..][..num_factors];
    for group in 0..groups {
        factors[group] = f16::from_f32(layout.stored_scale(run, group)).to_le_bytes();
        if layout.has_min {
            let min = layout.stored_min(dtype, run, group);
            factors[groups + group] = f16::from_f32(min).to_le_bytes();
        }
    }
}

/// Returns the column, of a run, of a lane's code `j`: neighbours, or four of either half.
fn column_of(num_groups: usize, lane: usize, j: usize) -> usize {
    if num_groups == 1 { lane * LANE_BYTES + j } else { j / 4 * GROUP_LEN + lane * 4 + j % 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_place_of_its_own() {
        for num_groups in [1, 2] {
            let mut columns: Vec<usize> = (0..LANES)
                .flat_map(|lane| (0..LANE_BYTES).map(move |j| column_of(num_groups, lane, j)))
                .collect();
            columns.sort_unstable();
            assert_eq!(columns, (0..RUN_LEN).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nibbles_of_two_runs_share_a_line() {
        // Scale 1, codes 0, 1, …, 15, 0, …; the second run the other way round.
        let mut bytes = Vec::new();
        for turn in [0, 15] {
            bytes.extend([0x00, 0x3c]);
            bytes.extend((0..16).map(|i: u8| (i ^ turn) | (i ^ turn) << 4));
        }
        let row = MatrixData { rows: 1, cols: 64, dtype: DType::Q4_0, bytes: &bytes };
        let form = CodeForm::of_integers(&[row]);
        assert_eq!((form.name(), form.row_bytes(64)), ("int4", (32, 4)));
        assert_eq!(form.row_bytes(96), (64, 8));
        let (mut codes, mut factors) = ([0; 32], [0; 4]);
        form.write_row(&row, &mut CodeRow { codes: &mut codes, factors: &mut factors });
        // Lane 0: codes 0 to 7 of each run, even ones in the lower half of a word.
        assert_eq!(codes[..8], [0x20, 0x64, 0x31, 0x75, 0xdf, 0x9b, 0xce, 0x8a]);
        assert_eq!(factors, [0x00, 0x3c, 0x00, 0x3c]);
    }
}
