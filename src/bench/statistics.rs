//! Numbers about numbers, exact: percentiles come from the sorted samples, not from buckets.

use serde::Serialize;

/// A few repeats of one measurement: their middle, their ends, and all of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// All, in the order they were measured.
    pub samples: Vec<f64>,
}

impl Spread {
    /// Returns the spread of `samples`; `None` where there are none.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let sorted = sorted(&samples);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max, samples })
    }
}

/// Many samples of one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Number of samples.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// The least sample that half of all do not exceed.
    pub p50: f64,
    /// The least sample that 95 of 100 do not exceed.
    pub p95: f64,
    /// The least sample that 99 of 100 do not exceed.
    pub p99: f64,
    /// The most.
    pub max: f64,
}

impl Percentiles {
    /// Returns the percentiles of `samples` by nearest rank; `None` where there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Some(Self {
            count: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            min,
            p50: rank(50),
            p95: rank(95),
            p99: rank(99),
            max,
        })
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_keeps_its_samples_in_order() {
        let rows: [(&[f64], [f64; 3]); 3] = [
            (&[3.0], [3.0, 3.0, 3.0]),
            (&[9.0, 1.0, 2.0], [2.0, 1.0, 9.0]),
            (&[4.0, 1.0, 3.0, 2.0], [2.5, 1.0, 4.0]),
        ];
        for (samples, [median, min, max]) in rows {
            let spread = Spread::of(samples.to_vec()).unwrap();
            assert_eq!(spread, Spread { median, min, max, samples: samples.to_vec() });
        }
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let rows: [(&[f64], [f64; 6]); 4] = [
            (&hundred, [50.5, 1.0, 50.0, 95.0, 99.0, 100.0]),
            (&[7.0], [7.0; 6]),
            (&[2.0, 1.0], [1.5, 1.0, 1.0, 2.0, 2.0, 2.0]),
            (&[5.0, 1.0, 3.0], [3.0, 1.0, 3.0, 5.0, 5.0, 5.0]),
        ];
        for (samples, [mean, min, p50, p95, p99, max]) in rows {
            let count = samples.len();
            let expected = Percentiles { count, mean, min, p50, p95, p99, max };
            assert_eq!(Percentiles::of(samples), Some(expected));
        }
        assert_eq!(Percentiles::of(&[]), None);
    }
}
