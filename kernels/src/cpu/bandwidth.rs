//! How fast the memory can be read: the limit of decoding, whose weights are read once a step and fit into no cache.

use std::hint::black_box;
use std::time::Instant;

use crate::allocate;
use crate::backend::BackendError;
use crate::cpu::pool::Pool;
use crate::cpu::{CpuError, DEVICE};

/// Words of one task: long enough that claiming it costs nothing, short enough that threads end together.
const TASK_WORDS: usize = 1 << 17;

/// Sums in flight. Their additions are far faster than the loads, so the loop waits for memory alone.
const LANES: usize = 32;

/// Why the memory was not measured.
#[derive(Debug, thiserror::Error)]
pub enum BandwidthError {
    /// The threads could not be had.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The buffer could not be had.
    #[error(transparent)]
    Memory(#[from] BackendError),
}

/// A buffer that is read and read again by a fixed number of threads.
#[derive(Debug)]
pub struct ReadStream {
    pool: Pool,
    words: Vec<u64>,
}

impl ReadStream {
    /// Takes and writes `num_bytes`, rounded up to whole tasks, so that each page is real memory of its own.
    ///
    /// # Errors
    /// [`BandwidthError`] where the threads or the memory cannot be had.
    pub fn new(num_threads: usize, num_bytes: usize) -> Result<Self, BandwidthError> {
        if num_threads == 0 {
            return Err(CpuError::NoThreads.into());
        }
        let pool =
            Pool::new(num_threads).map_err(|source| CpuError::Spawn { num_threads, source })?;
        let num_words = num_bytes.div_ceil(size_of::<u64>()).max(1).next_multiple_of(TASK_WORDS);
        let mut words = allocate::zeroed::<u64>(num_words, DEVICE)?;
        words.iter_mut().zip(1..).for_each(|(word, value)| *word = value);
        Ok(Self { pool, words })
    }

    /// Returns the bytes that one reading takes in.
    pub fn num_bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    /// Reads everything once and returns how long it took.
    ///
    /// # Units
    /// seconds
    pub fn read(&mut self) -> f64 {
        let words = &self.words;
        let start = Instant::now();
        self.pool.run(words.len() / TASK_WORDS, &|task| {
            black_box(sum(&words[task * TASK_WORDS..(task + 1) * TASK_WORDS]));
        });
        start.elapsed().as_secs_f64()
    }
}

/// Adds up all words, wrapping: the one way to be sure that each was loaded.
fn sum(words: &[u64]) -> u64 {
    let (rows, rest) = words.as_chunks::<LANES>();
    let mut sums = [0_u64; LANES];
    for row in rows {
        for (sum, word) in sums.iter_mut().zip(row) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |total, word| total.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for len in [0, 1, LANES - 1, LANES, 5 * LANES + 3] {
            let words: Vec<u64> = (1..=len as u64).collect();
            assert_eq!(sum(&words), (len * (len + 1) / 2) as u64);
        }
        assert_eq!(sum(&[u64::MAX, 2]), 1);
    }

    #[test]
    fn reads_whole_tasks_with_any_number_of_threads() {
        for num_threads in [1, 2, 3] {
            let mut stream = ReadStream::new(num_threads, 1).unwrap();
            assert_eq!(stream.num_bytes(), TASK_WORDS * size_of::<u64>());
            assert!(stream.read() > 0.0);
        }
        assert!(matches!(ReadStream::new(0, 1), Err(BandwidthError::Cpu(CpuError::NoThreads))));
        assert!(matches!(ReadStream::new(1, usize::MAX / 2), Err(BandwidthError::Memory(_))));
    }
}
