//! How fast the memory can be read: the limit of decoding, whose weights are read once a step and fit into no cache.

use std::hint::black_box;
use std::time::Instant;

use crate::backend::BackendError;
use crate::cpu::aligned::AlignedSlice;
use crate::cpu::pool::Pool;
use crate::cpu::simd::{Kernel, Simd, SimdTier, Vectors};
use crate::cpu::{CpuError, DEVICE};

/// Values of one task: long enough that claiming it costs nothing, short enough that threads end together.
const TASK_LEN: usize = 1 << 18;

/// Places that a thread reads at once. The hardware runs ahead of each on its own: on a Zen 3 core four bring 25 GB/s where
/// one brings 20, and with two threads 37 against 33.
const NUM_STREAMS: usize = 4;

/// Sums in flight of each stream: with four streams enough to hide the latency of additions.
const NUM_SUMS: usize = 2;

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
    vectors: Vectors,
    values: AlignedSlice<f32>,
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
        let len = num_bytes.div_ceil(size_of::<f32>()).max(1).next_multiple_of(TASK_LEN);
        let mut values = AlignedSlice::zeroed(len, DEVICE)?;
        values.as_mut_slice().fill(1.0);
        let tier = SimdTier::fastest();
        let vectors = Vectors::new(tier).ok_or(CpuError::TierUnavailable(tier))?;
        Ok(Self { pool, vectors, values })
    }

    /// Returns the bytes that one reading takes in.
    pub fn num_bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }

    /// Reads everything once and returns how long it took.
    ///
    /// # Units
    /// seconds
    pub fn read(&mut self) -> f64 {
        let (vectors, values) = (self.vectors, self.values.as_slice());
        let start = Instant::now();
        self.pool.run(values.len() / TASK_LEN, &|task| {
            let values = &values[task * TASK_LEN..(task + 1) * TASK_LEN];
            black_box(vectors.run(Sum { values }));
        });
        start.elapsed().as_secs_f64()
    }
}

/// Adds up all values: the one way to be sure that each was loaded.
struct Sum<'a> {
    /// In each of [`NUM_STREAMS`] parts, a multiple of [`NUM_SUMS`] of the widest vectors.
    values: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let rows = S::chunks(self.values).as_chunks::<NUM_SUMS>().0;
        let num_rows = rows.len() / NUM_STREAMS;
        let streams: [_; NUM_STREAMS] =
            std::array::from_fn(|stream| &rows[stream * num_rows..(stream + 1) * num_rows]);
        let mut sums = [[simd.zero(); NUM_SUMS]; NUM_STREAMS];
        for row in 0..num_rows {
            for stream in 0..NUM_STREAMS {
                for index in 0..NUM_SUMS {
                    let values = simd.load(&streams[stream][row][index]);
                    sums[stream][index] = simd.add(sums[stream][index], values);
                }
            }
        }
        let mut total = 0.0;
        for sum in sums.as_flattened() {
            total += simd.reduce_add(*sum);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read() {
        for tier in SimdTier::available() {
            let values: Vec<f32> = (0..4 * 128).map(|index| (index % 64) as f32).collect();
            let sum = Vectors::new(tier).unwrap().run(Sum { values: &values });
            assert_eq!(sum.to_bits(), (8.0_f32 * (63 * 64 / 2) as f32).to_bits(), "{tier}");
        }
    }

    #[test]
    fn reads_whole_tasks_with_any_number_of_threads() {
        for num_threads in [1, 2, 3] {
            let mut stream = ReadStream::new(num_threads, 1).unwrap();
            assert_eq!(stream.num_bytes(), TASK_LEN * size_of::<f32>());
            assert!(stream.read() > 0.0);
        }
        assert!(matches!(ReadStream::new(0, 1), Err(BandwidthError::Cpu(CpuError::NoThreads))));
        assert!(matches!(ReadStream::new(1, usize::MAX / 2), Err(BandwidthError::Memory(_))));
    }
}
