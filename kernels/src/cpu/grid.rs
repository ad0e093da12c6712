//! A matrix cut into tiles that tasks write in parallel: the one place where threads share a buffer mutably.

#![expect(
    unsafe_code,
    reason = "tiles of a row-major matrix are disjoint, but no slice can say so"
)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::cpu::pool::Pool;

/// How the rows are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowTiles<'a> {
    /// `num_rows` rows in tiles of `height`; the last may be lower.
    Even { num_rows: usize, height: usize },
    /// Tile `i` is rows `bounds[i]..bounds[i + 1]`; the bounds ascend.
    Ragged(&'a [u32]),
}

impl RowTiles<'_> {
    fn num_tiles(self) -> usize {
        match self {
            Self::Even { num_rows, height } => num_rows.div_ceil(height),
            Self::Ragged(bounds) => bounds.len().saturating_sub(1),
        }
    }

    fn num_rows(self) -> usize {
        match self {
            Self::Even { num_rows, .. } => num_rows,
            Self::Ragged(bounds) => bounds.last().map_or(0, |&bound| bound as usize),
        }
    }

    fn range(self, index: usize) -> Range<usize> {
        match self {
            Self::Even { num_rows, height } => index * height..num_rows.min((index + 1) * height),
            Self::Ragged(bounds) => bounds[index] as usize..bounds[index + 1] as usize,
        }
    }
}

/// How a matrix `[num_rows, width]` is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid<'a> {
    /// The cut of the rows.
    pub(crate) rows: RowTiles<'a>,
    /// Columns of the matrix.
    pub(crate) width: usize,
    /// Columns of a tile; the last may be narrower.
    pub(crate) tile_width: usize,
}

/// Values that a task should write at least: what one thread does in the time it takes to tell another.
const VALUES_PER_TASK: usize = 8192;

/// Returns how many rows of a width make a task.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (VALUES_PER_TASK / width.max(1)).max(1)
}

impl Grid<'_> {
    /// Cuts between rows only, for operators that cost little a row.
    pub(crate) fn of_rows(num_rows: usize, width: usize) -> Self {
        let rows = RowTiles::Even { num_rows, height: rows_per_task(width) };
        // A matrix without columns has tiles all the same, and writes nothing.
        Self { rows, width, tile_width: width.max(1) }
    }

    /// Runs `task(tile)` once for each tile of `matrix`.
    ///
    /// # Panics
    /// Where the matrix is smaller than the grid, a tile has no width, or ragged bounds do not ascend.
    pub(crate) fn for_each_tile<T: Send>(
        self,
        pool: &mut Pool,
        matrix: &mut [T],
        task: &(dyn Fn(Tile<'_, T>) + Sync),
    ) {
        assert!(matrix.len() >= self.rows.num_rows() * self.width, "the grid must fit the matrix");
        assert!(self.tile_width > 0, "a tile must have a width");
        if let RowTiles::Ragged(bounds) = self.rows {
            assert!(bounds.is_sorted(), "bounds must ascend");
        }
        let num_columns = self.width.div_ceil(self.tile_width);
        let base = MatrixPointer(matrix.as_mut_ptr());
        pool.run(self.rows.num_tiles() * num_columns, &|task_index| {
            let (row_index, column_index) = (task_index / num_columns, task_index % num_columns);
            let start = column_index * self.tile_width;
            let tile = Tile {
                row_index,
                column_index,
                rows: self.rows.range(row_index),
                columns: start..self.width.min(start + self.tile_width),
                width: self.width,
                base: base.get(),
                matrix: PhantomData,
            };
            task(tile);
        });
    }
}

/// The matrix's first element, to be shared by the tasks.
struct MatrixPointer<T>(*mut T);

impl<T> MatrixPointer<T> {
    /// A method, so that closures capture the whole and not the bare pointer.
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: tasks reach the matrix through tiles only, no two tiles share an element, and an element may be sent.
unsafe impl<T: Send> Sync for MatrixPointer<T> {}

/// A task's part of the matrix.
pub(crate) struct Tile<'a, T = f32> {
    row_index: usize,
    column_index: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
    base: *mut T,
    matrix: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// Returns the index of the tile from above.
    #[inline(always)]
    pub(crate) fn row_index(&self) -> usize {
        self.row_index
    }

    /// Returns the index of the tile from the left.
    #[inline(always)]
    pub(crate) fn column_index(&self) -> usize {
        self.column_index
    }

    /// Returns the matrix's rows that are the tile's own.
    #[inline(always)]
    pub(crate) fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Returns the matrix's columns that are the tile's own.
    #[inline(always)]
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Lends the tile itself, to work on it more than once.
    pub(crate) fn reborrow(&mut self) -> Tile<'_, T> {
        Tile {
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            matrix: PhantomData,
            ..*self
        }
    }

    /// Lends the tile's part of a row, which counts from the matrix's first.
    ///
    /// # Panics
    /// Where the row is not the tile's.
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row), "a tile must keep to its rows");
        // SAFETY: the grid fits the matrix, as `for_each_tile` asserts, so the element is inside.
        let start = unsafe { self.base.add(row * self.width + self.columns.start) };
        // SAFETY: row and columns are this tile's alone: rows and columns are cut without overlap, each tile goes
        // to one task, and `&mut self` lends one row at a time. The matrix is borrowed for as long as tasks run.
        unsafe { std::slice::from_raw_parts_mut(start, self.columns.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_matrix_once() {
        let bounds = [0, 1, 1, 5, 6];
        let cuts = [
            RowTiles::Even { num_rows: 6, height: 4 },
            RowTiles::Even { num_rows: 6, height: 100 },
            RowTiles::Even { num_rows: 0, height: 1 },
            RowTiles::Ragged(&bounds),
            RowTiles::Ragged(&[]),
        ];
        for rows in cuts {
            for tile_width in [1, 3, 7, 9] {
                let mut matrix = vec![0.0_f32; 6 * 7 + 1];
                let grid = Grid { rows, width: 7, tile_width };
                grid.for_each_tile(&mut Pool::new(3).unwrap(), &mut matrix, &|mut tile| {
                    for row in tile.rows() {
                        for value in tile.row(row) {
                            *value += 1.0;
                        }
                    }
                });
                let covered = rows.num_rows() * 7;
                let once = [vec![1.0; covered], vec![0.0; matrix.len() - covered]].concat();
                assert_eq!(matrix, once);
            }
        }
    }

    #[test]
    #[should_panic(expected = "keep to its rows")]
    fn a_tile_refuses_rows_of_others() {
        let grid =
            Grid { rows: RowTiles::Even { num_rows: 2, height: 1 }, width: 1, tile_width: 1 };
        grid.for_each_tile(&mut Pool::new(1).unwrap(), &mut [0.0, 0.0], &|mut tile| {
            tile.row(tile.rows().end);
        });
    }
}
