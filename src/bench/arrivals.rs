//! When requests arrive that do not wait for one another.

use std::time::Duration;

use crate::bench::random::Random;

/// The moments of a Poisson process, counted from its start: gaps are exponential, so bursts come as they do in life.
#[derive(Clone, Debug)]
pub struct PoissonArrivals {
    random: Random,
    per_second: f64,
    seconds: f64,
}

impl PoissonArrivals {
    /// Lets `per_second` requests arrive a second, on the average.
    ///
    /// # Panics
    /// Where the rate is not above 0.
    pub fn new(per_second: f64, random: Random) -> Self {
        assert!(per_second > 0.0, "a rate must be above 0, got {per_second}");
        Self { random, per_second, seconds: 0.0 }
    }
}

impl Iterator for PoissonArrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // 1 - u lies in (0, 1], whose logarithm is finite.
        self.seconds += -(1.0 - self.random.unit()).ln() / self.per_second;
        Some(Duration::from_secs_f64(self.seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_exponential() {
        let arrivals: Vec<f64> = PoissonArrivals::new(20.0, Random::new(3, 0))
            .take(4000)
            .map(|arrival| arrival.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= 0.0));
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Mean and standard deviation of exponential gaps are the same: 1/rate.
        assert!((mean * 20.0 - 1.0).abs() < 0.05, "{mean}");
        assert!((variance.sqrt() * 20.0 - 1.0).abs() < 0.08, "{variance}");
    }
}
