//! How long a target takes to its first text, as it was observed: a small histogram that forgets.
//!
//! Buckets grow by a fifth, so a quantile is at most a fifth too high, and there is room from a millisecond to minutes.
//! Old calls fade: when as many were counted as matter, all counts are halved.

use std::time::Duration;

/// From 1 ms on by 2^(1/4): up to four minutes.
const NUM_BUCKETS: usize = 72;
const BUCKETS_PER_DOUBLING: f64 = 4.0;
/// Fewer calls say nothing about a tail.
const CALLS_MIN: f64 = 20.0;
/// At this many calls all are halved, so the last few hundred matter.
const CALLS_MAX: f64 = 512.0;

/// Observed times to the first text.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: [f32; NUM_BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0.0; NUM_BUCKETS] }
    }
}

impl Latency {
    /// Counts a call.
    pub fn record(&mut self, time: Duration) {
        if self.total() >= CALLS_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2.0);
        }
        self.counts[bucket(time)] += 1.0;
    }

    /// Returns a time that this share of the calls did not pass; `None` while too few were counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.total();
        if total < CALLS_MIN {
            return None;
        }
        let wanted = total * share;
        let mut sum = 0.0;
        let index = self.counts.iter().position(|count| {
            sum += f64::from(*count);
            sum >= wanted
        });
        Some(upper_edge(index.unwrap_or(NUM_BUCKETS - 1)))
    }

    fn total(&self) -> f64 {
        self.counts.iter().map(|count| f64::from(*count)).sum()
    }
}

fn bucket(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() * 1e3).max(1.0).log2();
    ((doublings * BUCKETS_PER_DOUBLING).ceil() as usize).min(NUM_BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / BUCKETS_PER_DOUBLING).exp2() / 1e3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quantile_needs_enough_calls_and_follows_what_is_new() {
        let mut latency = Latency::default();
        let fast = Duration::from_millis(50);
        (0..19).for_each(|_| latency.record(fast));
        assert_eq!(latency.quantile(0.95), None);
        latency.record(fast);
        let p95 = latency.quantile(0.95).unwrap();
        assert!((fast..fast.mul_f64(1.2)).contains(&p95), "{p95:?}");
        let slow = Duration::from_millis(400);
        (0..2000).for_each(|_| latency.record(slow));
        let median = latency.quantile(0.5).unwrap();
        assert!((slow..slow.mul_f64(1.2)).contains(&median), "{median:?}");
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_fifth_too_high(
            mut times in proptest::collection::vec(1u64..100_000, 20..300),
            share in 0.01f64..1.0,
        ) {
            let mut latency = Latency::default();
            for millis in &times {
                latency.record(Duration::from_millis(*millis));
            }
            times.sort_unstable();
            let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
            let exact = Duration::from_millis(times[index]);
            let found = latency.quantile(share).unwrap();
            prop_assert!(found >= exact.mul_f64(0.999) && found <= exact.mul_f64(1.2), "{found:?} for {exact:?}");
        }
    }
}
