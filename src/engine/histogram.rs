//! A histogram that one thread fills and others read: atomics, so that nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering};

/// Borders of a histogram, and one bucket more for what lies beyond the last.
pub const NUM_BORDERS: usize = 14;
/// Buckets of a histogram.
pub const NUM_BUCKETS: usize = NUM_BORDERS + 1;

/// Upper borders of the wait for the batch, in microseconds: a suggestion is of use for a few tenths of a second.
pub const QUEUE_WAIT_MICROS: [u64; NUM_BORDERS] = [
    100, 500, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 30_000_000,
];
/// Upper borders of the sequences of a step: the sizes that GPUs capture graphs of, up to the largest batches in use.
pub const BATCH_SIZES: [u64; NUM_BORDERS] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512];

/// What a histogram has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramCounts {
    /// Values within each border and above the one before; at last those beyond all.
    pub buckets: [u64; NUM_BUCKETS],
    /// Sum of the values.
    pub sum: u64,
}

/// The shared side of [`HistogramCounts`].
#[derive(Debug)]
pub(super) struct Histogram {
    borders: &'static [u64; NUM_BORDERS],
    buckets: [AtomicU64; NUM_BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(borders: &'static [u64; NUM_BORDERS]) -> Self {
        Self { borders, buckets: Default::default(), sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub(super) fn record(&self, value: u64) {
        let bucket = self.borders.partition_point(|border| *border < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> HistogramCounts {
        HistogramCounts {
            buckets: self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_border_belongs_to_its_bucket() {
        let histogram = Histogram::new(&BATCH_SIZES);
        for value in [1, 2, 5, 6, 512, 513, 9000] {
            histogram.record(value);
        }
        let mut buckets = [0; NUM_BUCKETS];
        for (border, count) in [(1, 1), (2, 1), (6, 2), (512, 1)] {
            buckets[BATCH_SIZES.iter().position(|it| *it == border).unwrap()] = count;
        }
        buckets[NUM_BORDERS] = 2;
        assert_eq!(histogram.snapshot(), HistogramCounts { buckets, sum: 10_039 });
    }
}
