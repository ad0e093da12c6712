//! Rows picked by index: embeddings in, logit rows out.

use crate::cpu::grid::Grid;
use crate::cpu::matrix::CpuMatrix;
use crate::cpu::pool::Pool;

/// Writes the rows of `table` named by `ids` to `out`, `[ids.len(), table.cols]`.
pub(crate) fn embed(pool: &mut Pool, ids: &[u32], table: &CpuMatrix, out: &mut [f32]) {
    Grid::of_rows(ids.len(), table.cols).for_each_tile(pool, out, &|mut tile| {
        for row in tile.rows() {
            table.widen_row(ids[row] as usize, tile.row(row));
        }
    });
}

/// Copies the named rows of `x` to `out`, `[rows.len(), width]`. There are as many as sequences: one thread does it.
pub(crate) fn gather_rows(rows: &[u32], width: usize, x: &[f32], out: &mut [f32]) {
    for (index, &row) in rows.iter().enumerate() {
        let row = row as usize * width;
        out[index * width..(index + 1) * width].copy_from_slice(&x[row..row + width]);
    }
}
