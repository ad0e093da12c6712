//! The memory by itself: how fast it is read, by how many threads.

use models::ReadStream;
use serde::Serialize;

use crate::bench::{Watch, statistics::Spread};

/// Readings of each number of threads.
const NUM_READINGS: usize = 7;

/// Everything that `lacuna bench bandwidth` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BandwidthResults {
    /// One a number of threads.
    pub threads: Vec<BandwidthResult>,
}

/// One number of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BandwidthResult {
    /// Threads that read; `None` of a GPU's own memory.
    pub num_threads: Option<usize>,
    /// Bytes of one reading.
    pub num_bytes: usize,
    /// Bytes read a second; `max` is the best reading.
    pub bytes_per_second: Spread,
}

/// The memory was not measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot measure the memory with {num_threads} threads and {num_bytes} bytes")]
pub struct BandwidthError {
    num_threads: usize,
    num_bytes: usize,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Reads `num_bytes` bytes with `num_threads` threads, again and again; `None` where `watch` stopped it before the end of
/// the first reading that counts.
///
/// # Errors
/// The threads or the memory cannot be had.
pub fn measure(
    num_threads: usize,
    num_bytes: usize,
    watch: &mut dyn Watch,
) -> Result<Option<BandwidthResult>, BandwidthError> {
    let mut stream = ReadStream::new(num_threads, num_bytes).map_err(|source| BandwidthError {
        num_threads,
        num_bytes,
        source: source.into(),
    })?;
    let num_bytes = stream.num_bytes();
    // The first reading wakes the threads, and is not counted.
    stream.read();
    let mut samples = Vec::with_capacity(NUM_READINGS);
    for reading in 0..NUM_READINGS {
        watch.update(reading, NUM_READINGS, &format!("{num_threads} threads"));
        if watch.is_stopped() {
            break;
        }
        samples.push(num_bytes as f64 / stream.read());
    }
    let bytes_per_second = Spread::of(samples);
    let num_threads = Some(num_threads);
    let result = |bytes_per_second| BandwidthResult { num_threads, num_bytes, bytes_per_second };
    Ok(bytes_per_second.map(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Look(bool);

    impl Watch for Look {
        fn update(&mut self, _: usize, _: usize, _: &str) {}

        fn is_stopped(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn all_readings_are_kept() {
        let result = measure(2, 1 << 20, &mut Look(false)).unwrap().unwrap();
        assert_eq!((result.num_threads, result.num_bytes), (Some(2), 1 << 20));
        assert_eq!(result.bytes_per_second.samples.len(), NUM_READINGS);
        assert!(result.bytes_per_second.min > 0.0);
        assert_eq!(measure(1, 1, &mut Look(true)).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let error = measure(1, usize::MAX / 2, &mut Look(false)).unwrap_err();
        assert!(error.to_string().contains("cannot measure the memory"), "{error}");
    }
}
