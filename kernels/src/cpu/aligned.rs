//! Storage that begins on a cache line, so that a vector load never straddles two.

use crate::allocate;
use crate::backend::BackendError;

/// The cache line of every x86-64, and the width of an AVX-512 register.
const ALIGNMENT: usize = 64;

/// A slice on the heap, 64-byte aligned, of a length that never changes.
///
/// A vector that is one cache line too long, of which the aligned part is lent: the heap block never moves, so the
/// offset found once stays right, and no unsafe code is needed.
#[derive(Debug)]
pub(crate) struct AlignedSlice<T> {
    storage: Vec<T>,
    offset: usize,
    len: usize,
}

impl<T: Copy> AlignedSlice<T> {
    /// Allocates `len` copies of `value`.
    pub(crate) fn filled(len: usize, value: T, device: &'static str) -> Result<Self, BackendError> {
        let slack = ALIGNMENT / size_of::<T>();
        let storage = allocate::filled(len.saturating_add(slack), value, device)?;
        let offset = storage.as_ptr().align_offset(ALIGNMENT).min(slack);
        Ok(Self { storage, offset, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.storage[self.offset..self.offset + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.storage[self.offset..self.offset + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_cache_line_and_stays_there_when_moved() {
        for len in [0, 1, 7, 64, 1000] {
            let slice = AlignedSlice::filled(len, half::bf16::ONE, "test").unwrap();
            let moved = Box::new(slice);
            assert!(moved.as_slice().as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert_eq!(moved.as_slice(), vec![half::bf16::ONE; len]);
        }
    }

    #[test]
    fn refuses_what_cannot_be_had() {
        let error = AlignedSlice::filled(usize::MAX / 4, 0.0_f32, "test").unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { device: "test", .. }));
    }
}
