//! The register tile of a product: `MR` activation rows against `NR` weight rows, a running sum each.
//!
//! # Order
//! The sum of an output is one vector. Step `k` adds `x[k * LANES + lane] * w[k * LANES + lane]` to each lane,
//! `k` ascending, then the lanes are added in the tier's fixed order. Nothing in that depends on `MR`, `NR`, the
//! block, the task or the thread: a row's result is bit for bit the same alone and in company.

use crate::cpu::matrix::Element;
use crate::cpu::simd::Simd;

/// Activation rows of the tallest tile. Three by four sums, three activations and a weight are 16 registers, all that
/// AVX2 has, and seven loads feed twelve FMAs, so that the FMAs are the limit.
const MR_MAX: usize = 3;

/// Returns how many of the rows that are left the next tile takes: three, but rather two and two than three and one.
#[inline(always)]
pub(crate) fn next_height(num_left: usize) -> usize {
    match num_left {
        2 | 4 => 2,
        0 | 1 => num_left,
        _ => MR_MAX,
    }
}

/// Weight rows of a tile. Four keep memory busy with four streams where there is one activation row.
pub(crate) const NR_MAX: usize = 4;

/// The running sums of a tile.
pub(crate) type Sums<S, const MR: usize, const NR: usize> = [[<S as Simd>::F32; NR]; MR];

/// Adds the products of the rows of `x`, `[cols]` each, and of `w`, padded with zeros to whole chunks.
///
/// # Panics
/// Where the rows of `x` differ in length, or a row of `w` is shorter.
#[inline(always)]
pub(crate) fn add_products<S: Simd, E: Element, const MR: usize, const NR: usize>(
    simd: S,
    x: [&[f32]; MR],
    w: [&[E]; NR],
    sums: &mut Sums<S, MR, NR>,
) {
    let mut x_chunks: [&[S::F32s]; MR] = [&[]; MR];
    for m in 0..MR {
        x_chunks[m] = S::chunks(x[m]);
    }
    let mut w_chunks: [&[E::Chunk<S>]; NR] = [&[]; NR];
    for n in 0..NR {
        w_chunks[n] = E::chunks::<S>(w[n]);
    }
    add_chunks::<S, E, MR, NR>(simd, x_chunks, w_chunks, sums);
    let num_chunks = x_chunks[0].len();
    if num_chunks * S::LANES < x[0].len() {
        // The rest of `x` against the padding of `w`: one more step of the same sum.
        let mut rest = [simd.zero_chunk(); MR];
        for m in 0..MR {
            rest[m] = simd.padded(&x[m][num_chunks * S::LANES..]);
        }
        for m in 0..MR {
            x_chunks[m] = std::slice::from_ref(&rest[m]);
        }
        for row in &mut w_chunks {
            *row = &row[num_chunks..];
        }
        add_chunks::<S, E, MR, NR>(simd, x_chunks, w_chunks, sums);
    }
}

#[inline(always)]
fn add_chunks<S: Simd, E: Element, const MR: usize, const NR: usize>(
    simd: S,
    mut x: [&[S::F32s]; MR],
    mut w: [&[E::Chunk<S>]; NR],
    sums: &mut Sums<S, MR, NR>,
) {
    let len = x[0].len();
    // Equal lengths, said once, spare the loop its bounds checks.
    for row in &mut x {
        *row = &row[..len];
    }
    for row in &mut w {
        *row = &row[..len];
    }
    // A copy: sums behind a reference would be stored at each step.
    let mut running = *sums;
    for k in 0..len {
        let mut activations = [simd.zero(); MR];
        for m in 0..MR {
            activations[m] = simd.load(&x[m][k]);
        }
        for n in 0..NR {
            let weights = E::load(simd, &w[n][k]);
            for m in 0..MR {
                running[m][n] = simd.mul_add(activations[m], weights, running[m][n]);
            }
        }
    }
    *sums = running;
}
