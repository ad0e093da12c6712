//! The types of stored weights, and what they take.

use crate::formats::FP8_BLOCK_LEN;

/// The element type of stored weights: plain numbers, or the blocks of integers of a GGUF file.
///
/// A block is a run of elements along a row: integer codes with a scale, and for some types a minimum, a group of 16 or
/// 32. [`crate::formats`] says how each is laid out. A row holds whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// The upper half of a single-precision number.
    Bf16,
    /// IEEE 754 half precision.
    F16,
    /// E4M3 of eight bits, a scale for each 128.
    F8,
    /// Four bits around 8, a scale for each 32.
    Q4_0,
    /// Four bits, a scale and an offset for each 32.
    Q4_1,
    /// Five bits around 16, a scale for each 32.
    Q5_0,
    /// Five bits, a scale and an offset for each 32.
    Q5_1,
    /// Eight bits, a scale for each 32.
    Q8_0,
    /// Two bits, a scale and a minimum for each 16, four bits of either.
    Q2K,
    /// Three bits around 4, a scale of six bits for each 16.
    Q3K,
    /// Four bits, a scale and a minimum for each 32, six bits of either.
    Q4K,
    /// Five bits, a scale and a minimum for each 32, six bits of either.
    Q5K,
    /// Six bits around 32, a scale of eight bits for each 16.
    Q6K,
}

impl DType {
    /// Every type.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::F8,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns the name that model files use, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F8 => "f8_e4m3",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Returns the number of elements of a block; 1 for plain types.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => 1,
            Self::F8 => FP8_BLOCK_LEN,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns the size of a block; of an element for plain types.
    ///
    /// # Units
    /// bytes
    ///
    /// # Source
    /// The GGUF specification, `ggml/docs/gguf.md`: the sizes follow from the fields listed in [`crate::formats`].
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::F8 => 4 + FP8_BLOCK_LEN,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2K => 16 + 64 + 4,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Returns whether elements are integer codes in blocks.
    pub fn is_integers(self) -> bool {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 | Self::F8 => false,
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::Q2K
            | Self::Q3K
            | Self::Q4K
            | Self::Q5K
            | Self::Q6K => true,
        }
    }

    /// Returns the size of `num_elements`; `None` where they are no whole blocks, or more than can be addressed.
    ///
    /// # Units
    /// bytes
    pub fn num_bytes(self, num_elements: usize) -> Option<usize> {
        if !num_elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (num_elements / self.block_len()).checked_mul(self.block_bytes())
    }
}
