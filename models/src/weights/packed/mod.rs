//! Matrices of quantised checkpoints, which are stored as several tensors: codes, scales, zero points.
//!
//! They are brought into blocks that backends know: four bits into `Q4_0` or `Q4_1`, whose 32 codes have a scale and for the
//! latter an offset each, E4M3 into blocks of 128 with a scale. A group of 128 is then four blocks that say the same, at 0.75
//! bits a weight; an offset is `-scale * zero`, rounded to half precision.
//!
//! # Source
//! The forms are those that `AutoAWQ` (gemm), `AutoGPTQ` and `GPTQModel` (gptq, `gptq_v2`), and for E4M3 the tools of `DeepSeek` and `vLLM` write.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use half::f16;
use kernels::{
    allocate,
    backend::{DType, MatrixData},
    formats::{FP8_BLOCK_LEN, Fp8Block},
    threads::for_each_part,
    widen::for_each_widened,
};

use crate::{
    config::Quantization,
    error::{ModelError, WeightsError},
    shown::escape,
    weights::{StoredTensor, file::View},
};

/// Codes of four bits in a word.
const WORD_LEN: usize = 8;

/// Codes of a block of four bits.
const BLOCK_LEN: usize = 32;

/// Which nibble of a word, lowest first, a column of eight is in AWQ's order.
const AWQ_PLACES: [usize; WORD_LEN] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Rows and columns of a square of E4M3 with a scale.
const SQUARE: usize = 128;

/// A matrix `[rows, cols]` in several tensors.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    pub(super) rows: usize,
    pub(super) cols: usize,
    form: Quantization,
    /// The tensor that most of it is.
    pub(super) codes: StoredTensor,
    scales: StoredTensor,
    zeros: Option<StoredTensor>,
    /// The group of each column, where it is stored.
    groups: Option<StoredTensor>,
}

/// What of a matrix of E4M3 has a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scaled {
    Whole,
    Rows,
    Squares,
}

/// Takes the tensors of all quantised matrices out of those that are stored, and returns the matrices by the names that they
/// would have as one.
///
/// # Errors
/// [`WeightsError::Packed`] where the tensors of one do not fit each other.
pub(super) fn collect(
    tensors: &mut BTreeMap<String, StoredTensor>,
    form: Quantization,
) -> Result<BTreeMap<String, Packed>, WeightsError> {
    let is_fp8 = form == Quantization::Fp8;
    let bases: Vec<String> = tensors
        .iter()
        .filter_map(|(name, tensor)| {
            if !is_fp8 {
                return name.strip_suffix(".qweight").map(str::to_owned);
            }
            let base = name.strip_suffix(".weight")?;
            matches!(&tensor.dtype, Err(dtype) if dtype == "F8_E4M3").then(|| base.to_owned())
        })
        .collect();
    let mut packed = BTreeMap::new();
    for base in bases {
        let mut take = |part: &str| tensors.remove(&format!("{base}.{part}"));
        let codes = if is_fp8 { take("weight") } else { take("qweight") };
        let scales = if is_fp8 {
            // What an activation would be scaled with is of no use: activations stay as they are.
            take("input_scale");
            take("weight_scale").or_else(|| take("weight_scale_inv"))
        } else {
            take("scales")
        };
        let (zeros, groups) = if is_fp8 { (None, None) } else { (take("qzeros"), take("g_idx")) };
        let (Some(codes), Some(scales)) = (codes, scales) else {
            return Err(refuse(&base, "its scales are missing".to_owned()));
        };
        if take("weight").is_some() {
            return Err(refuse(&base, "it is stored twice, quantised and not".to_owned()));
        }
        let matrix =
            Packed::new(form, codes, scales, zeros, groups).map_err(|what| refuse(&base, what))?;
        packed.insert(format!("{base}.weight"), matrix);
    }
    Ok(packed)
}

fn refuse(base: &str, what: String) -> WeightsError {
    WeightsError::Packed { tensor: escape(base), what }
}

impl Packed {
    fn new(
        form: Quantization,
        codes: StoredTensor,
        scales: StoredTensor,
        zeros: Option<StoredTensor>,
        groups: Option<StoredTensor>,
    ) -> Result<Self, String> {
        let [first, second] = codes.shape[..] else {
            return Err(format!("its codes must be a matrix, got the shape {:?}", codes.shape));
        };
        let (rows, cols) = match form {
            Quantization::Awq => (second.saturating_mul(WORD_LEN), first),
            Quantization::Gptq { .. } => (second, first.saturating_mul(WORD_LEN)),
            Quantization::Fp8 => (first, second),
        };
        if let Err(dtype) = &scales.dtype {
            return Err(format!("its scales must be F32, F16 or BF16, got {dtype}"));
        }
        let packed = Self { rows, cols, form, codes, scales, zeros, groups };
        match form {
            Quantization::Fp8 => packed.check_fp8()?,
            Quantization::Awq | Quantization::Gptq { .. } => packed.check_int4()?,
        }
        Ok(packed)
    }

    fn check_int4(&self) -> Result<(), String> {
        let (rows, cols) = (self.rows, self.cols);
        let words = |tensor: &StoredTensor| matches!(&tensor.dtype, Err(dtype) if dtype == "I32");
        if !words(&self.codes) || self.zeros.as_ref().is_some_and(|zeros| !words(zeros)) {
            return Err("its codes and zero points must be I32".to_owned());
        }
        let [num_groups, width] = self.scales.shape[..] else {
            return Err(format!("its scales must be a matrix, got {:?}", self.scales.shape));
        };
        if width != rows || num_groups == 0 || !cols.is_multiple_of(num_groups * BLOCK_LEN) {
            return Err(format!(
                "a scale for each row ({rows}) and group of a multiple of {BLOCK_LEN} of {cols} columns is needed, got the shape {:?}",
                self.scales.shape
            ));
        }
        let expected = [num_groups, rows / WORD_LEN];
        match &self.zeros {
            Some(zeros) if zeros.shape == expected && rows.is_multiple_of(WORD_LEN) => Ok(()),
            Some(zeros) => {
                Err(format!("its zero points must have shape {expected:?}, got {:?}", zeros.shape))
            }
            None => Err("its zero points are missing".to_owned()),
        }
    }

    fn check_fp8(&self) -> Result<(), String> {
        let (rows, cols, shape) = (self.rows, self.cols, &self.scales.shape);
        if !cols.is_multiple_of(FP8_BLOCK_LEN) {
            return Err(format!(
                "rows of E4M3 must be a multiple of {FP8_BLOCK_LEN} long, got {cols}"
            ));
        }
        if self.scaled().is_some() {
            return Ok(());
        }
        let squares = self.squares();
        Err(format!(
            "its scales must be one, one for each of {rows} rows, or one for each square of {SQUARE} ({squares:?}), got the shape {shape:?}"
        ))
    }

    /// Returns the squares down and across, the last of which may be cut.
    fn squares(&self) -> [usize; 2] {
        [self.rows.div_ceil(SQUARE), self.cols.div_ceil(SQUARE)]
    }

    /// Returns what a scale of E4M3 is for, by the shape alone: counts may coincide.
    fn scaled(&self) -> Option<Scaled> {
        let squares = self.squares();
        match self.scales.shape[..] {
            [] | [1] | [1, 1] => Some(Scaled::Whole),
            [rows, cols] if [rows, cols] == squares => Some(Scaled::Squares),
            [rows] | [rows, 1] if rows == self.rows => Some(Scaled::Rows),
            _ => None,
        }
    }

    /// Returns the type of the blocks that it is brought into.
    pub(super) fn dtype(&self) -> DType {
        match self.form {
            Quantization::Awq | Quantization::Gptq { is_symmetric: false, .. } => DType::Q4_1,
            Quantization::Gptq { is_symmetric: true, .. } => DType::Q4_0,
            Quantization::Fp8 => DType::F8,
        }
    }

    /// Brings some rows into blocks; `read` views a tensor.
    ///
    /// # Errors
    /// Those of `read`; [`WeightsError::Packed`] where zero points or groups are not what the configuration says.
    pub(super) fn blocks<'a>(
        &self,
        name: &str,
        rows: Range<usize>,
        read: impl Fn(&StoredTensor) -> Result<View<'a>, ModelError>,
    ) -> Result<Vec<u8>, ModelError> {
        let codes = read(&self.codes)?;
        let scales = self.read_scales(&read(&self.scales)?);
        let row_bytes = self.cols / self.dtype().block_len() * self.dtype().block_bytes();
        let mut blocks = allocate::zeroed(rows.len() * row_bytes, "the host")?;
        let Some(zeros) = &self.zeros else {
            self.fp8_blocks(&codes, &scales, rows, &mut blocks);
            return Ok(blocks);
        };
        if let Some(groups) = &self.groups {
            self.check_groups(&read(groups)?).map_err(|what| refuse(name, what))?;
        }
        let stored = Int4 { codes: &codes, zeros: &read(zeros)?, scales: &scales };
        self.int4_blocks(&stored, rows, &mut blocks).map_err(|what| refuse(name, what))?;
        Ok(blocks)
    }

    fn read_scales(&self, bytes: &[u8]) -> Vec<f32> {
        let dtype = self.scales.dtype.clone().unwrap_or(DType::F32);
        let cols = self.scales.shape.iter().product();
        let mut scales = Vec::with_capacity(cols);
        for_each_widened(&MatrixData { rows: 1, cols, dtype, bytes }, |scale| scales.push(scale));
        scales
    }

    /// Columns must belong to groups in their order.
    fn check_groups(&self, bytes: &[u8]) -> Result<(), String> {
        let group_len = self.cols / self.scales.shape[0];
        let groups = bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        match groups.enumerate().find(|(col, group)| *group != col / group_len) {
            Some((col, group)) => Err(format!(
                "column {col} belongs to group {group}: columns in the order of their activations (act-order) are not supported"
            )),
            None => Ok(()),
        }
    }

    /// Makes the blocks of some rows, by all threads.
    fn int4_blocks(
        &self,
        stored: &Int4<'_>,
        rows: Range<usize>,
        blocks: &mut [u8],
    ) -> Result<(), String> {
        let broken = Mutex::new(None);
        let row_bytes = blocks.len() / rows.len().max(1);
        let parts = blocks.chunks_exact_mut(row_bytes.max(1)).collect();
        for_each_part(parts, &|index, blocks: &mut [u8]| {
            let row = rows.start + index;
            if let Err(zero) = self.int4_row(stored, row, blocks) {
                let what = format!("row {row} has the zero point {zero}, though `sym` says 8");
                *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
            }
        });
        let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
        broken.map_or(Ok(()), Err)
    }

    /// Makes the blocks of a row; an error is a zero point that must be 8 and is not.
    fn int4_row(&self, stored: &Int4<'_>, row: usize, blocks: &mut [u8]) -> Result<(), u8> {
        let (num_blocks, dtype) = (self.cols / BLOCK_LEN, self.dtype());
        let blocks_per_group = num_blocks / self.scales.shape[0];
        for (place, block) in blocks.chunks_exact_mut(dtype.block_bytes()).enumerate() {
            let group = place / blocks_per_group;
            let scale = stored.scales[group * self.rows + row];
            let zero = self.zero(stored.zeros, group, row);
            let (head, nibbles) = block.split_at_mut(block_head(dtype));
            head[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            if dtype == DType::Q4_1 {
                let offset = -scale * f32::from(zero);
                head[2..].copy_from_slice(&f16::from_f32(offset).to_le_bytes());
            } else if zero != 8 {
                return Err(zero);
            }
            for (i, byte) in nibbles.iter_mut().enumerate() {
                let code = |col| self.code(stored.codes, row, place * BLOCK_LEN + col);
                *byte = code(i) | code(i + BLOCK_LEN / 2) << 4;
            }
        }
        Ok(())
    }

    fn code(&self, codes: &[u8], row: usize, col: usize) -> u8 {
        match self.form {
            Quantization::Awq => {
                let word = word_at(codes, col * (self.rows / WORD_LEN) + row / WORD_LEN);
                nibble(word, AWQ_PLACES[row % WORD_LEN])
            }
            Quantization::Gptq { .. } | Quantization::Fp8 => {
                nibble(word_at(codes, col / WORD_LEN * self.rows + row), col % WORD_LEN)
            }
        }
    }

    fn zero(&self, zeros: &[u8], group: usize, row: usize) -> u8 {
        let word = word_at(zeros, group * (self.rows / WORD_LEN) + row / WORD_LEN);
        match self.form {
            Quantization::Awq => nibble(word, AWQ_PLACES[row % WORD_LEN]),
            // One is taken off the whole word, with a borrow from a zero to its neighbour.
            Quantization::Gptq { are_zeros_less_one: true, .. } => {
                nibble(word.wrapping_add(0x1111_1111), row % WORD_LEN)
            }
            Quantization::Gptq { .. } => nibble(word, row % WORD_LEN),
            Quantization::Fp8 => 0,
        }
    }

    fn fp8_blocks(&self, codes: &[u8], scales: &[f32], rows: Range<usize>, blocks: &mut [u8]) {
        let (scaled, num_blocks) = (self.scaled(), self.cols / FP8_BLOCK_LEN);
        let stored = &codes.as_chunks().0[rows.start * num_blocks..];
        for (index, (to, codes)) in
            blocks.chunks_exact_mut(DType::F8.block_bytes()).zip(stored).enumerate()
        {
            let (row, place) = (rows.start + index / num_blocks, index % num_blocks);
            let scale = match scaled {
                Some(Scaled::Rows) => scales[row],
                Some(Scaled::Squares) => scales[row / SQUARE * num_blocks + place],
                Some(Scaled::Whole) | None => scales[0],
            };
            to.copy_from_slice(&Fp8Block { scale, codes: *codes }.to_bytes());
        }
    }
}

/// What the tensors of a matrix of four bits hold.
struct Int4<'a> {
    codes: &'a [u8],
    zeros: &'a [u8],
    /// `[num_groups, rows]`
    scales: &'a [f32],
}

/// Returns the bytes before a block's nibbles.
fn block_head(dtype: DType) -> usize {
    dtype.block_bytes() - BLOCK_LEN / 2
}

fn word_at(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks().0[index])
}

fn nibble(word: u32, place: usize) -> u8 {
    (word >> (4 * place)) as u8 & 15
}

#[cfg(test)]
mod tests;
