//! How many calls more than one a request may have, over all requests: so that failover cannot amplify an outage.
//!
//! The first call of a request is free. Each further one, whether it follows a failure or hedges a slow call, is extra
//! work for somebody, and together they stay below a share of the requests of the last while. Going past a target that is
//! known to be down costs nothing, for nobody was called.

use std::time::{Duration, Instant};

use crate::routing::window::Window;

/// What a budget allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetRules {
    /// Extra calls allowed, as a share of the requests in the window.
    pub share: f64,
    /// Extra calls that are always allowed in a window: a breaker opens within as many failures.
    pub floor: u32,
    /// Length of the window.
    pub window: Duration,
}

/// Counts requests and extra calls.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    rules: BudgetRules,
    /// Requests, extra calls.
    counts: Window<2>,
}

impl RetryBudget {
    /// Begins with nothing counted.
    pub fn new(rules: BudgetRules) -> Self {
        Self { rules, counts: Window::new(rules.window) }
    }

    /// Counts a request.
    pub fn record_request(&mut self, now: Instant) {
        self.counts.add(now, [1, 0]);
    }

    /// Takes an extra call, if one is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let [requests, extra] = self.counts.sums(now);
        let allowed = self.rules.floor.max((f64::from(requests) * self.rules.share) as u32);
        let is_allowed = extra < allowed;
        if is_allowed {
            self.counts.add(now, [0, 1]);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget(share: f64, floor: u32) -> RetryBudget {
        RetryBudget::new(BudgetRules { share, floor, window: Duration::from_secs(10) })
    }

    #[test]
    fn a_tenth_of_the_requests_or_the_floor() {
        let now = Instant::now();
        for (requests, allowed) in [(0, 10), (50, 10), (100, 10), (1000, 100), (1009, 100)] {
            let mut budget = budget(0.1, 10);
            (0..requests).for_each(|_| budget.record_request(now));
            let taken = (0..1000).filter(|_| budget.take(now)).count();
            assert_eq!(taken, allowed, "{requests} requests");
        }
    }

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let now = Instant::now();
        let mut budget = budget(0.1, 2);
        assert_eq!((0..9).filter(|_| budget.take(now)).count(), 2);
        assert!(!budget.take(now + Duration::from_secs(9)));
        assert!(budget.take(now + Duration::from_secs(10)));
    }

    proptest! {
        /// Over a burst that lies in one window the extra calls never pass the larger of floor and share.
        #[test]
        fn never_more_than_the_share(
            share in 0.0f64..0.5,
            floor in 0u32..20,
            steps in proptest::collection::vec(any::<bool>(), 0..400),
        ) {
            let now = Instant::now();
            let mut budget = budget(share, floor);
            let (mut requests, mut extra) = (0u32, 0u32);
            for is_request in steps {
                if is_request {
                    requests += 1;
                    budget.record_request(now);
                } else if budget.take(now) {
                    extra += 1;
                }
            }
            prop_assert!(f64::from(extra) <= f64::from(floor).max(share * f64::from(requests)));
        }
    }
}
