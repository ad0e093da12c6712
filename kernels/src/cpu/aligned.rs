//! Storage that begins on a cache line, so that a vector load never straddles two.

use bytemuck::Zeroable;

use crate::allocate;
use crate::backend::BackendError;

/// The cache line of every x86-64, and the width of an AVX-512 register.
pub(crate) const CACHE_LINE: usize = 64;

/// A slice on the heap, 64-byte aligned, of a length that never changes.
///
/// A vector that is one cache line too long, of which the aligned part is lent: the heap block never moves, so the
/// offset found once stays right, and no unsafe code is needed. Asking the allocator for the alignment would cost more
/// than a line: what it has to align itself, it zeroes by writing.
#[derive(Debug)]
pub(crate) struct AlignedSlice<T> {
    storage: Vec<T>,
    offset: usize,
    len: usize,
}

impl<T: Zeroable> AlignedSlice<T> {
    /// No values, nothing allocated.
    pub(crate) fn empty() -> Self {
        Self { storage: Vec::new(), offset: 0, len: 0 }
    }

    /// Allocates `len` zeros, which take memory when they are first written to.
    pub(crate) fn zeroed(len: usize, device: &'static str) -> Result<Self, BackendError> {
        let slack = CACHE_LINE / size_of::<T>();
        let storage = allocate::zeroed::<T>(len.saturating_add(slack), device)?;
        let offset = storage.as_ptr().align_offset(CACHE_LINE).min(slack);
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
            let slice = AlignedSlice::<half::bf16>::zeroed(len, "test").unwrap();
            let moved = Box::new(slice);
            assert!(moved.as_slice().as_ptr().addr().is_multiple_of(CACHE_LINE));
            assert_eq!(moved.as_slice(), vec![half::bf16::ZERO; len]);
        }
    }

    #[test]
    fn refuses_what_cannot_be_had() {
        let error = AlignedSlice::<f32>::zeroed(usize::MAX / 4, "test").unwrap_err();
        assert!(matches!(error, BackendError::OutOfMemory { device: "test", .. }));
    }
}
