//! Fallible allocation: a model that does not fit is an error with a number, not an abort.

use crate::backend::BackendError;

/// Returns a vector of `len` copies of `value`; its pages are touched now, so that no step pays for them.
pub(crate) fn filled<T: Copy>(
    len: usize,
    value: T,
    device: &'static str,
) -> Result<Vec<T>, BackendError> {
    let mut values = reserved(len, device)?;
    values.resize(len, value);
    Ok(values)
}

/// Returns an empty vector with room for `capacity` values.
pub(crate) fn reserved<T>(capacity: usize, device: &'static str) -> Result<Vec<T>, BackendError> {
    let mut values = Vec::new();
    values.try_reserve_exact(capacity).map_err(|_| BackendError::OutOfMemory {
        num_bytes: capacity.saturating_mul(size_of::<T>()),
        device,
    })?;
    Ok(values)
}
