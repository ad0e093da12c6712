//! What tells products apart that need algorithms of their own.

use std::fmt;

use super::super::error::DeviceError;
use crate::cuda::device::{Matmul, Store};

/// The widest access that algorithms use; addresses that are multiples of it need not be told apart.
const ALIGNMENT_MAX: u64 = 16;

/// A shape, with how its result is stored and how its addresses are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanKey {
    pub(super) rows: u64,
    pub(super) cols: u64,
    pub(super) num_rows: u64,
    /// Whether the result's memory is added to.
    pub(super) adds: bool,
    /// A power of two that divides all addresses, in bytes.
    pub(super) alignment: u32,
}

impl PlanKey {
    /// Returns the key of a product; `None` where there is nothing to compute.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] where the product breaks a rule of [`Matmul`].
    pub(super) fn of(product: &Matmul) -> Result<Option<Self>, DeviceError> {
        let Matmul { x, weights, out, num_rows, cols, rows, store } = *product;
        if num_rows == 0 || rows == 0 {
            return Ok(None);
        }
        let all = x | weights | out;
        let alignment = 1 << all.trailing_zeros().min(ALIGNMENT_MAX.trailing_zeros());
        let key = Self {
            rows: rows as u64,
            cols: cols as u64,
            num_rows: num_rows as u64,
            adds: store == Store::Add,
            alignment,
        };
        if cols == 0 || !cols.is_multiple_of(8) {
            return Err(DeviceError::Refused(format!("{key}: columns must be a multiple of 8")));
        }
        // The result's elements are f32.
        if x == 0 || weights == 0 || out == 0 || alignment < 4 {
            return Err(DeviceError::Refused(format!(
                "{key}: addresses must be multiples of 4 and not 0, got {x:#x}, {weights:#x}, {out:#x}"
            )));
        }
        Ok(Some(key))
    }

    /// Returns the largest shape that shares an algorithm with this one.
    pub(super) fn rounded(self) -> Self {
        Self { num_rows: self.num_rows.next_power_of_two(), ..self }
    }

    /// Returns the size of the result.
    ///
    /// # Units
    /// bytes
    pub(super) fn out_bytes(self) -> u64 {
        self.num_rows * self.rows * 4
    }
}

impl fmt::Display for PlanKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, cols, num_rows, adds, alignment } = self;
        let verb = if *adds { "adding" } else { "storing" };
        write!(
            f,
            "product of [{num_rows}, {cols}] and [{rows}, {cols}], {verb}, aligned to {alignment} bytes"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: Matmul = Matmul {
        x: 0x1000,
        weights: 0x2000,
        out: 0x3000,
        num_rows: 33,
        cols: 64,
        rows: 10,
        store: Store::Replace,
    };

    #[test]
    fn products_share_a_plan_where_only_aligned_addresses_differ() {
        let key = PlanKey::of(&PRODUCT).unwrap().unwrap();
        let moved = Matmul { x: 0x1010, out: 0x3040, ..PRODUCT };
        assert_eq!(PlanKey::of(&moved).unwrap(), Some(key));
        let others = [
            Matmul { out: 0x3008, ..PRODUCT },
            Matmul { num_rows: 34, ..PRODUCT },
            Matmul { rows: 11, ..PRODUCT },
            Matmul { cols: 72, ..PRODUCT },
            Matmul { store: Store::Add, ..PRODUCT },
        ];
        for other in others {
            assert_ne!(PlanKey::of(&other).unwrap().unwrap(), key, "{other:?}");
        }
        assert_eq!(key.out_bytes(), 33 * 10 * 4);
    }

    #[test]
    fn row_counts_up_to_a_power_of_two_share_an_algorithm() {
        let rounded = |num_rows| {
            PlanKey::of(&Matmul { num_rows, ..PRODUCT }).unwrap().unwrap().rounded().num_rows
        };
        assert_eq!([1, 2, 3, 33, 64, 65].map(rounded), [1, 2, 4, 64, 64, 128]);
    }

    #[test]
    fn what_breaks_a_rule_is_refused_and_what_is_empty_is_nothing() {
        let rows = [
            (Matmul { cols: 12, ..PRODUCT }, "multiple of 8"),
            (Matmul { cols: 0, ..PRODUCT }, "multiple of 8"),
            (Matmul { out: 0x3002, ..PRODUCT }, "0x3002"),
            (Matmul { weights: 0, ..PRODUCT }, "not 0"),
        ];
        for (product, word) in rows {
            let error = PlanKey::of(&product).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("[33, "), "{error}");
        }
        assert_eq!(PlanKey::of(&Matmul { num_rows: 0, ..PRODUCT }).unwrap(), None);
        assert_eq!(PlanKey::of(&Matmul { rows: 0, ..PRODUCT }).unwrap(), None);
    }
}
