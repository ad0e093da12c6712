//! The table of tensors: names, shapes, element types and places, compared with the file and with each other.

use std::{collections::BTreeSet, ops::Range};

use kernels::backend::DType;

use crate::gguf::{
    cursor::{Cursor, Part, shown},
    error::GgufError,
};

/// Axes of a tensor; ggml has no more.
const AXES_MAX: u32 = 4;

/// Element types by their number in the file.
///
/// # Source
/// `enum ggml_type` in ggml's `ggml.h`. Numbers that are missing were given up or never published.
const TYPES: &[(u32, &str, Option<DType>)] = &[
    (0, "F32", Some(DType::F32)),
    (1, "F16", Some(DType::F16)),
    (2, "Q4_0", Some(DType::Q4_0)),
    (3, "Q4_1", Some(DType::Q4_1)),
    (6, "Q5_0", Some(DType::Q5_0)),
    (7, "Q5_1", Some(DType::Q5_1)),
    (8, "Q8_0", Some(DType::Q8_0)),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(DType::Q2K)),
    (11, "Q3_K", Some(DType::Q3K)),
    (12, "Q4_K", Some(DType::Q4K)),
    (13, "Q5_K", Some(DType::Q5K)),
    (14, "Q6_K", Some(DType::Q6K)),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", None),
    (21, "IQ3_S", None),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", None),
    (24, "I8", None),
    (25, "I16", None),
    (26, "I32", None),
    (27, "I64", None),
    (28, "F64", None),
    (29, "IQ1_M", None),
    (30, "BF16", Some(DType::Bf16)),
    (34, "TQ1_0", None),
    (35, "TQ2_0", None),
    (39, "MXFP4", None),
];

/// A tensor of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Sizes, rows first: the file's order turned round.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub dtype: DType,
    /// Where its bytes are in the file.
    pub range: Range<usize>,
}

/// Reads the table, whose tensors begin at the next multiple of `alignment` behind it.
pub(super) fn read_table<'a>(
    cursor: &mut Cursor<'a>,
    num_tensors: u64,
    alignment: u64,
) -> Result<Vec<GgufTensor<'a>>, GgufError> {
    // Offsets count from the end of the table, which is known behind it.
    let (mut entries, mut names) = (Vec::new(), BTreeSet::new());
    for index in 0..num_tensors {
        let entry = Entry::read(cursor, index)?;
        if !names.insert(entry.name) {
            let part = Part::TensorName(index);
            return Err(cursor.broken(part, "new", format!("{} again", shown(entry.name))));
        }
        entries.push(entry);
    }
    let start = (cursor.offset() as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        tensors.push(entry.place(cursor, start, alignment)?);
    }
    check_overlaps(cursor, &tensors)?;
    Ok(tensors)
}

/// A row of the table as it is written.
struct Entry<'a> {
    name: &'a str,
    shape: Vec<usize>,
    dtype: DType,
    offset: u64,
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>, index: u64) -> Result<Self, GgufError> {
        let name = cursor.text(Part::TensorName(index))?;
        let part = Part::TensorShape(name);
        let num_axes = cursor.u32(part)?;
        if !(1..=AXES_MAX).contains(&num_axes) {
            let rule = format!("of 1 to {AXES_MAX} axes");
            return Err(cursor.broken(part, rule, num_axes));
        }
        let mut shape = Vec::with_capacity(num_axes as usize);
        for _ in 0..num_axes {
            let size = cursor.u64(part)?;
            // The width of a row is checked with its blocks; here is only what would not be a size at all.
            match usize::try_from(size) {
                Ok(size @ 1..) => shape.push(size),
                _ => return Err(cursor.broken(part, "of sizes from 1", size)),
            }
        }
        shape.reverse();
        let dtype = read_type(cursor, name)?;
        let offset = cursor.u64(Part::TensorOffset(name))?;
        Ok(Self { name, shape, dtype, offset })
    }

    /// Turns a row of the table into a range of the file.
    fn place(
        self,
        cursor: &Cursor<'_>,
        tensors_start: u64,
        alignment: u64,
    ) -> Result<GgufTensor<'a>, GgufError> {
        let Self { name, shape, dtype, offset } = self;
        if !offset.is_multiple_of(alignment) {
            let rule = format!("a multiple of the alignment, {alignment}");
            return Err(cursor.broken(Part::TensorOffset(name), rule, offset));
        }
        let block_len = dtype.block_len();
        if shape.last().is_none_or(|cols| !cols.is_multiple_of(block_len)) {
            let rule = format!("of rows of whole blocks of {block_len}");
            return Err(cursor.broken(Part::TensorShape(name), rule, format!("{shape:?}")));
        }
        let num_blocks =
            shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size as u64));
        let num_bytes = num_blocks
            .map(|elements| elements / block_len as u64)
            .and_then(|blocks| blocks.checked_mul(dtype.block_bytes() as u64))
            .unwrap_or(u64::MAX);
        let start = tensors_start.saturating_add(offset);
        let end = start.saturating_add(num_bytes);
        if end > cursor.file_bytes() as u64 {
            return Err(cursor.short(Part::Tensor(name), num_bytes, start));
        }
        Ok(GgufTensor { name, shape, dtype, range: start as usize..end as usize })
    }
}

fn read_type(cursor: &mut Cursor<'_>, tensor: &str) -> Result<DType, GgufError> {
    let part = Part::TensorType(tensor);
    let number = cursor.u32(part)?;
    let row = TYPES.iter().find(|row| row.0 == number);
    if let Some(dtype) = row.and_then(|row| row.2) {
        return Ok(dtype);
    }
    let known: Vec<&str> = TYPES.iter().filter(|row| row.2.is_some()).map(|row| row.1).collect();
    let value = row.map_or_else(|| format!("number {number}"), |row| row.1.to_owned());
    Err(cursor.broken(part, format!("one of {}", known.join(", ")), value))
}

/// Two tensors that share bytes are a table that was damaged: each would be read as something, and mean nothing.
fn check_overlaps(cursor: &Cursor<'_>, tensors: &[GgufTensor<'_>]) -> Result<(), GgufError> {
    let mut by_place: Vec<&GgufTensor<'_>> = tensors.iter().collect();
    by_place.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    for pair in by_place.windows(2) {
        let [first, second] = [pair[0], pair[1]];
        if second.range.start < first.range.end {
            let rule = format!("behind tensor {}", shown(first.name));
            let value =
                format!("byte {}, before its end at {}", second.range.start, first.range.end);
            return Err(cursor.broken(Part::TensorOffset(second.name), rule, value));
        }
    }
    Ok(())
}
