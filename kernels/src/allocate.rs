//! Fallible allocation on the host: a model that does not fit is an error with a number, not an abort.

use bytemuck::Zeroable;

use crate::backend::BackendError;

/// Returns a vector of `len` zeros, none of which was written: the system maps a large one to pages that take memory
/// when they are first written to. A cache is had at once, and costs what is used of it.
///
/// # Errors
/// [`BackendError::OutOfMemory`] on `device`.
pub fn zeroed<T: Zeroable>(len: usize, device: &'static str) -> Result<Vec<T>, BackendError> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| out_of_memory::<T>(len, device))
}

/// Returns an empty vector with room for `capacity` values.
///
/// # Errors
/// [`BackendError::OutOfMemory`] on `device`.
pub fn reserved<T>(capacity: usize, device: &'static str) -> Result<Vec<T>, BackendError> {
    let mut values = Vec::new();
    values.try_reserve_exact(capacity).map_err(|_| out_of_memory::<T>(capacity, device))?;
    Ok(values)
}

fn out_of_memory<T>(len: usize, device: &'static str) -> BackendError {
    BackendError::OutOfMemory { num_bytes: len.saturating_mul(size_of::<T>()), device }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_zeros_or_says_how_much_could_not_be_had() {
        assert_eq!(zeroed::<f32>(5, "test").unwrap(), [0.0; 5]);
        assert_eq!(zeroed::<f32>(0, "test").unwrap(), [0.0; 0]);
        for len in [usize::MAX, usize::MAX / 16] {
            let error = zeroed::<u32>(len, "test").unwrap_err();
            let BackendError::OutOfMemory { num_bytes, device: "test" } = error else {
                panic!("{error}")
            };
            assert_eq!(num_bytes, len.saturating_mul(4));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_not_written_takes_no_memory() {
        let resident_kib = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
        };
        let before = resident_kib();
        let zeros = zeroed::<f32>(1 << 27, "test").unwrap();
        let grown = resident_kib().saturating_sub(before);
        assert_eq!(zeros.len(), 1 << 27);
        // Half a GiB was asked for; the other tests of this process allocate little.
        assert!(grown < 1 << 17, "{grown} KiB");
    }
}
