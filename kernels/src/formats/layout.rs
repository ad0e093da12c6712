//! What the codes of stored blocks have in common, whatever device keeps them: which integers, which groups have a scale, and
//! whether there are minimums.

use crate::backend::{DType, MatrixData};
use crate::formats::{CodeRun, GROUP_LEN, RUN_LEN};

/// What is taken off a nibble where codes lie around zero: the middle of 0..16.
pub(crate) const NIBBLE_CENTRE: i8 = 8;

/// The form that all blocks of a matrix share. A join of two forms holds what either holds, with no loss but that of the
/// factors, which are rounded to half precision: 2⁻¹¹ of a scale or a minimum where the file computes it from two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeLayout {
    /// How codes are kept.
    pub(crate) codes: CodeKind,
    /// Groups of a run that have a scale each: one of 32 codes, or two of 16.
    pub(crate) num_groups: usize,
    /// Whether groups have a minimum.
    pub(crate) has_min: bool,
}

/// How a code is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CodeKind {
    /// A nibble: 0..16 with a minimum, -8..8 shifted by [`NIBBLE_CENTRE`] without.
    Nibble,
    /// A signed byte.
    Byte,
}

impl CodeLayout {
    /// Returns the least form that holds a type's codes; plain types are rounded to eight bits.
    ///
    /// Five bits take a byte, and six: unpacking odd bits costs more instructions than the products themselves. Those of
    /// a 4-bit file are a few matrices, or none.
    pub(crate) fn of(dtype: DType) -> Self {
        let (codes, num_groups, has_min) = match dtype {
            DType::F32 | DType::Bf16 | DType::F16 | DType::F8 | DType::Q8_0 | DType::Q5_0 => {
                (CodeKind::Byte, 1, false)
            }
            DType::Q5_1 | DType::Q5K => (CodeKind::Byte, 1, true),
            DType::Q6K => (CodeKind::Byte, 2, false),
            DType::Q4_0 => (CodeKind::Nibble, 1, false),
            DType::Q4_1 | DType::Q4K => (CodeKind::Nibble, 1, true),
            DType::Q3K => (CodeKind::Nibble, 2, false),
            DType::Q2K => (CodeKind::Nibble, 2, true),
        };
        Self { codes, num_groups, has_min }
    }

    /// Returns the least form that holds all parts; one without rows has no say.
    pub(crate) fn of_parts(parts: &[MatrixData<'_>]) -> Self {
        let layouts = parts.iter().filter(|part| part.rows > 0).map(|part| Self::of(part.dtype));
        layouts.reduce(Self::join).unwrap_or_else(|| Self::of(DType::Q8_0))
    }

    /// Returns the least form that holds both.
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            codes: self.codes.max(other.codes),
            num_groups: self.num_groups.max(other.num_groups),
            has_min: self.has_min || other.has_min,
        }
    }

    /// Returns the factors of a run: the scales of each group, then the minimums.
    pub(crate) fn factors_per_run(self) -> usize {
        self.num_groups * (1 + usize::from(self.has_min))
    }

    /// Brings a run of `dtype` into this form: its codes as bytes of storage, nibbles not packed yet.
    pub(crate) fn stored_codes(self, dtype: DType, run: &CodeRun) -> [u8; RUN_LEN] {
        let centre = self.centre(dtype);
        run.codes.map(|code| code.wrapping_add(centre).cast_unsigned())
    }

    /// Returns a group's minimum in this form. What shifts the codes of a type that lies around zero is taken off again.
    pub(crate) fn stored_min(self, dtype: DType, run: &CodeRun, group: usize) -> f32 {
        let half = group * RUN_LEN / self.num_groups / GROUP_LEN;
        run.mins[half] + f32::from(self.centre(dtype)) * run.scales[half]
    }

    /// Returns a group's scale.
    pub(crate) fn stored_scale(self, run: &CodeRun, group: usize) -> f32 {
        run.scales[group * RUN_LEN / self.num_groups / GROUP_LEN]
    }

    /// Returns what is added to codes of `dtype` so that they are nibbles.
    fn centre(self, dtype: DType) -> i8 {
        match (self.codes, Self::of(dtype).has_min) {
            (CodeKind::Nibble, false) => NIBBLE_CENTRE,
            (CodeKind::Nibble, true) | (CodeKind::Byte, _) => 0,
        }
    }
}
