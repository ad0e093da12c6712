//! Which rows of a product meet which matrix.

use crate::cpu::grid::RowTiles;
use crate::cpu::linear::Term;
use crate::cpu::matrix::CpuMatrix;

/// The rows of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// So many, all with the one matrix of each term.
    All(usize),
    /// Rows `bounds[i]..bounds[i + 1]` with the matrix `indices[i]` of each term.
    Grouped { bounds: &'a [u32], indices: &'a [u32] },
}

impl<'a> Rows<'a> {
    /// Returns how many there are.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::All(num_rows) => num_rows,
            Self::Grouped { bounds, .. } => bounds.last().map_or(0, |&end| end as usize),
        }
    }

    /// Returns how many matrices of a term take part.
    pub(crate) fn num_groups(self) -> usize {
        match self {
            Self::All(_) => 1,
            Self::Grouped { indices, .. } => indices.len().max(1),
        }
    }

    /// Returns the most rows that meet a matrix.
    pub(crate) fn longest(self) -> usize {
        match self {
            Self::All(num_rows) => num_rows,
            Self::Grouped { bounds, .. } => {
                let lens = bounds.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
                lens.max().unwrap_or(0)
            }
        }
    }

    /// Returns tiles that have all rows of a matrix.
    pub(crate) fn tiles(self) -> RowTiles<'a> {
        match self {
            Self::All(num_rows) => RowTiles::Even { num_rows, height: num_rows.max(1) },
            Self::Grouped { bounds, .. } => RowTiles::Ragged(bounds),
        }
    }

    /// Returns what the rows of a tile, counted from above, meet of a term.
    pub(crate) fn matrix<'t>(self, term: &Term<'t>, tile: usize) -> &'t CpuMatrix {
        match self {
            Self::All(_) => &term.matrices[0],
            Self::Grouped { indices, .. } => &term.matrices[indices[tile] as usize],
        }
    }
}
