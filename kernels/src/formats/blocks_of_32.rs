//! Blocks of 32 codes: a scale in half precision, for `_1` types an offset, then the codes.
//!
//! | type | fields, in bytes |
//! |---|---|
//! | `Q4_0` | scale 2, nibbles 16 |
//! | `Q4_1` | scale 2, offset 2, nibbles 16 |
//! | `Q5_0` | scale 2, fifth bits 4, nibbles 16 |
//! | `Q5_1` | scale 2, offset 2, fifth bits 4, nibbles 16 |
//! | `Q8_0` | scale 2, codes 32 |
//!
//! Nibbles: byte `i` holds code `i` low and code `i + 16` high. Fifth bits: bit `i` of a little-endian word is code `i`'s.

use crate::formats::{CodeRun, RUN_LEN, half_at};

/// Four bits around 8.
pub(super) fn q4_0(block: &[u8; 18]) -> [CodeRun; 1] {
    let codes = nibbles(&block[2..]).map(|code| code.cast_signed() - 8);
    [CodeRun::uniform(codes, half_at(block, 0), 0.0)]
}

/// Four bits and an offset, which is a minimum of the other sign.
pub(super) fn q4_1(block: &[u8; 20]) -> [CodeRun; 1] {
    let codes = nibbles(&block[4..]).map(u8::cast_signed);
    [CodeRun::uniform(codes, half_at(block, 0), -half_at(block, 2))]
}

/// Five bits around 16.
pub(super) fn q5_0(block: &[u8; 22]) -> [CodeRun; 1] {
    let codes = five_bits(&block[2..6], &block[6..]).map(|code| code.cast_signed() - 16);
    [CodeRun::uniform(codes, half_at(block, 0), 0.0)]
}

/// Five bits and an offset.
pub(super) fn q5_1(block: &[u8; 24]) -> [CodeRun; 1] {
    let codes = five_bits(&block[4..8], &block[8..]).map(u8::cast_signed);
    [CodeRun::uniform(codes, half_at(block, 0), -half_at(block, 2))]
}

/// Eight bits, signed.
pub(super) fn q8_0(block: &[u8; 34]) -> [CodeRun; 1] {
    let codes = std::array::from_fn(|i| block[2 + i].cast_signed());
    [CodeRun::uniform(codes, half_at(block, 0), 0.0)]
}

fn nibbles(bytes: &[u8]) -> [u8; RUN_LEN] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

fn five_bits(fifth: &[u8], bytes: &[u8]) -> [u8; RUN_LEN] {
    let low = nibbles(bytes);
    std::array::from_fn(|i| low[i] | ((fifth[i / 8] >> (i % 8)) & 1) << 4)
}
