//! Blocks of 256 codes: small integer scales for groups of 16 or 32, under one or two scales in half precision.
//!
//! | type | fields, in bytes |
//! |---|---|
//! | `Q2K` | scales and minimums 16 (a nibble each), codes 64, scale of scales 2, scale of minimums 2 |
//! | `Q3K` | third bits 32, codes 64, scales 12, scale of scales 2 |
//! | `Q4K` | scale of scales 2, scale of minimums 2, scales and minimums 12, nibbles 128 |
//! | `Q5K` | scale of scales 2, scale of minimums 2, scales and minimums 12, fifth bits 32, nibbles 128 |
//! | `Q6K` | nibbles 128, fifth and sixth bits 64, scales 16 (signed), scale of scales 2 |
//!
//! A block is eight runs of 32. Fields of fewer than eight bits interleave runs, not neighbours: the bytes of a run's
//! codes are 32 in a row, and which bits of them are the run's depends on its index.

use crate::formats::{CodeRun, GROUP_LEN, RUN_LEN, half_at};

/// Runs of a block.
const NUM_RUNS: usize = 8;

/// Two bits; a scale and a minimum of four bits for each 16.
pub(super) fn q2k(block: &[u8; 84]) -> [CodeRun; NUM_RUNS] {
    let (scale, min_scale) = (half_at(block, 80), half_at(block, 82));
    std::array::from_fn(|run| {
        let factors = &block[2 * run..2 * run + 2];
        CodeRun {
            codes: two_bits(&block[16..80], run).map(u8::cast_signed),
            scales: [0, 1].map(|half| scale * f32::from(factors[half] & 15)),
            mins: [0, 1].map(|half| min_scale * f32::from(factors[half] >> 4)),
        }
    })
}

/// Two bits and a third around 4; a scale of six bits around 32 for each 16.
pub(super) fn q3k(block: &[u8; 110]) -> [CodeRun; NUM_RUNS] {
    let (third, scales) = (&block[..32], &block[96..108]);
    let scale = half_at(block, 108);
    let group_scale = |group: usize| {
        // Lower four bits: a nibble of the first eight bytes; upper two: a pair of bits of the last four.
        let low = (scales[group % 8] >> (4 * (group / 8))) & 15;
        let high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
        f32::from((low | high << 4).cast_signed() - 32)
    };
    std::array::from_fn(|run| {
        let low = two_bits(&block[32..96], run);
        CodeRun {
            codes: std::array::from_fn(|i| {
                (low[i] | ((third[i] >> run) & 1) << 2).cast_signed() - 4
            }),
            scales: [0, 1].map(|half| scale * group_scale(2 * run + half)),
            mins: [0.0; 2],
        }
    })
}

/// Four bits; a scale and a minimum of six bits for each 32.
pub(super) fn q4k(block: &[u8; 144]) -> [CodeRun; NUM_RUNS] {
    let (scale, min_scale) = (half_at(block, 0), half_at(block, 2));
    std::array::from_fn(|run| {
        let (s, m) = six_bit_pair(&block[4..16], run);
        let codes = four_bits(&block[16..], run).map(u8::cast_signed);
        CodeRun::uniform(codes, scale * s, min_scale * m)
    })
}

/// Four bits and a fifth; a scale and a minimum of six bits for each 32.
pub(super) fn q5k(block: &[u8; 176]) -> [CodeRun; NUM_RUNS] {
    let (scale, min_scale) = (half_at(block, 0), half_at(block, 2));
    let fifth = &block[16..48];
    std::array::from_fn(|run| {
        let (s, m) = six_bit_pair(&block[4..16], run);
        let low = four_bits(&block[48..], run);
        let codes = std::array::from_fn(|i| (low[i] | ((fifth[i] >> run) & 1) << 4).cast_signed());
        CodeRun::uniform(codes, scale * s, min_scale * m)
    })
}

/// Four bits and two more around 32; a signed scale of eight bits for each 16.
pub(super) fn q6k(block: &[u8; 210]) -> [CodeRun; NUM_RUNS] {
    let (scale, scales) = (half_at(block, 208), &block[192..208]);
    std::array::from_fn(|run| {
        // Each half of the block has 64 bytes of nibbles and 32 of upper bits for its four runs: low nibbles of the
        // first and second 32 bytes, then high ones of either.
        let (part, index) = (run / 4, run % 4);
        let nibbles = &block[64 * part + 32 * (index % 2)..][..RUN_LEN];
        let upper = &block[128 + 32 * part..][..RUN_LEN];
        let codes = std::array::from_fn(|i| {
            let low = (nibbles[i] >> (4 * (index / 2))) & 15;
            (low | ((upper[i] >> (2 * index)) & 3) << 4).cast_signed() - 32
        });
        let scales = [0, 1].map(|half| scale * f32::from(scales[2 * run + half].cast_signed()));
        CodeRun { codes, scales, mins: [0.0; 2] }
    })
}

/// Runs 0 to 3 take a pair of bits each of the first 32 bytes, lowest first, runs 4 to 7 of the second 32.
fn two_bits(bytes: &[u8], run: usize) -> [u8; RUN_LEN] {
    let bytes = &bytes[32 * (run / 4)..][..RUN_LEN];
    std::array::from_fn(|i| (bytes[i] >> (2 * (run % 4))) & 3)
}

/// Runs `2 i` and `2 i + 1` take the low and the high nibbles of 32 bytes.
fn four_bits(bytes: &[u8], run: usize) -> [u8; RUN_LEN] {
    let bytes = &bytes[32 * (run / 2)..][..RUN_LEN];
    std::array::from_fn(|i| (bytes[i] >> (4 * (run % 2))) & 15)
}

/// Returns the run's scale and minimum. Those of runs 0 to 3 are the lower six bits of bytes 0 to 3 and 4 to 7; those of
/// runs 4 to 7 have their lower four bits in a nibble of bytes 8 to 11 and the upper two on top of the former.
fn six_bit_pair(bytes: &[u8], run: usize) -> (f32, f32) {
    let (scale, min) = if run < 4 {
        (bytes[run] & 63, bytes[run + 4] & 63)
    } else {
        let scale = bytes[run + 4] & 15 | (bytes[run - 4] >> 6) << 4;
        (scale, bytes[run + 4] >> 4 | (bytes[run] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

const _: () = assert!(2 * GROUP_LEN == RUN_LEN);
