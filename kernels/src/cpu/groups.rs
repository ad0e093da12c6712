//! Rows dealt to several matrices: entries that meet the same one lie behind each other.

use crate::allocate;
use crate::backend::BackendError;
use crate::cpu::DEVICE;
use crate::cpu::linear::Rows;

/// An entry that meets no matrix, and has no row.
pub(crate) const NO_MATRIX: u32 = u32::MAX;

/// Which rows meet which matrix, and whose they are.
#[derive(Debug)]
pub(crate) struct Groups {
    /// Matrices that rows meet, ascending.
    matrices: Vec<u32>,
    /// Where the rows of each begin, and the end of the last.
    bounds: Vec<u32>,
    /// The entry of each row.
    entries: Vec<u32>,
    /// The row of each entry, or [`NO_MATRIX`].
    rows: Vec<u32>,
    /// Where the next row of a matrix goes, while rows are dealt.
    next: Vec<u32>,
}

impl Groups {
    /// Takes room for so many entries.
    pub(crate) fn new(num_matrices: usize, num_entries: usize) -> Result<Self, BackendError> {
        Ok(Self {
            matrices: allocate::reserved(num_matrices, DEVICE)?,
            bounds: allocate::reserved(num_matrices + 1, DEVICE)?,
            entries: allocate::zeroed(num_entries, DEVICE)?,
            rows: allocate::zeroed(num_entries, DEVICE)?,
            next: allocate::zeroed(num_matrices, DEVICE)?,
        })
    }

    /// Deals a row to each entry that wants a matrix, those of a matrix in the entries' order.
    pub(crate) fn deal(&mut self, wanted: impl Iterator<Item = u32> + Clone) {
        let Self { matrices, bounds, entries, rows, next } = self;
        next.fill(0);
        for matrix in wanted.clone().filter(|&matrix| matrix != NO_MATRIX) {
            next[matrix as usize] += 1;
        }
        matrices.clear();
        bounds.clear();
        let mut start = 0;
        for (matrix, next) in next.iter_mut().enumerate() {
            let count = std::mem::replace(next, start);
            if count > 0 {
                matrices.push(matrix as u32);
                bounds.push(start);
                start += count;
            }
        }
        bounds.push(start);
        for (entry, matrix) in wanted.enumerate() {
            if matrix == NO_MATRIX {
                rows[entry] = NO_MATRIX;
                continue;
            }
            let row = &mut next[matrix as usize];
            entries[*row as usize] = entry as u32;
            rows[entry] = *row;
            *row += 1;
        }
    }

    /// Returns the rows as a product takes them.
    pub(crate) fn product_rows(&self) -> Rows<'_> {
        Rows::Grouped { bounds: &self.bounds, indices: &self.matrices }
    }

    /// Returns the number of rows.
    pub(crate) fn num_rows(&self) -> usize {
        self.product_rows().len()
    }

    /// Returns the entry of a row.
    pub(crate) fn entry(&self, row: usize) -> usize {
        self.entries[row] as usize
    }

    /// Returns the row of an entry that was dealt; `None` where it meets no matrix.
    pub(crate) fn row(&self, entry: usize) -> Option<usize> {
        let row = self.rows[entry];
        (row != NO_MATRIX).then_some(row as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_row_among_those_of_its_matrix() {
        let mut groups = Groups::new(5, 8).unwrap();
        groups.deal([3, 1, NO_MATRIX, 1, 4, 3, 1].into_iter());
        assert_eq!(groups.matrices, [1, 3, 4]);
        assert_eq!(groups.bounds, [0, 3, 5, 6]);
        assert_eq!(groups.entries[..6], [1, 3, 6, 0, 5, 4]);
        let rows: Vec<Option<usize>> = (0..7).map(|entry| groups.row(entry)).collect();
        assert_eq!(rows, [Some(3), Some(0), None, Some(1), Some(5), Some(4), Some(2)]);
        groups.deal([NO_MATRIX, NO_MATRIX].into_iter());
        assert_eq!((groups.num_rows(), groups.matrices.len()), (0, 0));
    }
}
