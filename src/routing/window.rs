//! Counts over the last while: a ring of ten buckets, so that a window slides in tenths and takes no memory a call.

use std::time::{Duration, Instant};

const NUM_BUCKETS: usize = 10;

/// `N` counts over a sliding window. What is older than the window, to a tenth of it, does not count.
#[derive(Clone, Debug)]
pub(super) struct Window<const N: usize> {
    width: Duration,
    origin: Option<Instant>,
    buckets: [Bucket<N>; NUM_BUCKETS],
}

#[derive(Clone, Copy, Debug)]
struct Bucket<const N: usize> {
    tick: u64,
    counts: [u32; N],
}

impl<const N: usize> Window<N> {
    /// Makes an empty window of this length.
    ///
    /// # Panics
    /// Where the length is zero.
    pub(super) fn new(length: Duration) -> Self {
        assert!(!length.is_zero(), "a window has a length");
        let buckets = [Bucket { tick: 0, counts: [0; N] }; NUM_BUCKETS];
        let width = (length / NUM_BUCKETS as u32).max(Duration::from_nanos(1));
        Self { width, origin: None, buckets }
    }

    /// Adds to the counts.
    pub(super) fn add(&mut self, now: Instant, counts: [u32; N]) {
        let tick = self.tick(now);
        let bucket = &mut self.buckets[(tick % NUM_BUCKETS as u64) as usize];
        if bucket.tick != tick {
            *bucket = Bucket { tick, counts: [0; N] };
        }
        for (sum, count) in bucket.counts.iter_mut().zip(counts) {
            *sum = sum.saturating_add(count);
        }
    }

    /// Returns the counts of the last while.
    pub(super) fn sums(&mut self, now: Instant) -> [u32; N] {
        let tick = self.tick(now);
        let mut sums = [0u32; N];
        for bucket in self.buckets.iter().filter(|it| it.tick + NUM_BUCKETS as u64 > tick) {
            for (sum, count) in sums.iter_mut().zip(bucket.counts) {
                *sum = sum.saturating_add(count);
            }
        }
        sums
    }

    /// Forgets all counts.
    pub(super) fn clear(&mut self) {
        for bucket in &mut self.buckets {
            bucket.counts = [0; N];
        }
    }

    /// Ticks begin at ten, so that an empty bucket is old.
    fn tick(&mut self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        let elapsed = now.saturating_duration_since(origin).as_nanos() / self.width.as_nanos();
        u64::try_from(elapsed).unwrap_or(u64::MAX / 2) + NUM_BUCKETS as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_slide_out_by_tenths() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = Window::<2>::new(Duration::from_secs(1));
        assert_eq!(window.sums(at(0)), [0, 0]);
        window.add(at(0), [1, 0]);
        window.add(at(150), [1, 1]);
        window.add(at(999), [1, 0]);
        for (millis, sums) in
            [(999, [3, 1]), (1000, [2, 1]), (1100, [1, 0]), (1899, [1, 0]), (1900, [0, 0])]
        {
            assert_eq!(window.sums(at(millis)), sums, "{millis} ms");
        }
        window.add(at(1900), [5, 5]);
        window.clear();
        assert_eq!(window.sums(at(1900)), [0, 0]);
    }
}
