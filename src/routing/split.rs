//! A sticky choice by weights: the same user goes to the same target until the weights make somebody go elsewhere.
//!
//! Rendezvous hashing: each target draws a number for the user, the larger the heavier, and the largest wins. No target's
//! draw depends on another's weight, so raising one weight takes users to that target and moves nobody between the others.

use ring::digest::{SHA256, digest};

/// Parts of a percent that shares are counted in.
const PARTS_PER_PERCENT: f64 = 10_000.0;

/// Returns the index of the target for `who`; `None` where no weight is above zero. `route` keeps routes apart: who is
/// in the small share of one need not be in that of another.
pub fn choose<'a>(
    route: &str,
    who: &str,
    targets: impl IntoIterator<Item = (&'a str, u32)>,
) -> Option<usize> {
    let draws = targets.into_iter().enumerate().filter(|(_, (_, weight))| *weight > 0);
    let draws = draws.map(|(index, (name, weight))| {
        // -ln(u) is exponential: the least of several, each divided by its weight, is won in proportion to the weights.
        let unit = (hash(&[route, who, name]) >> 11) as f64 / (1u64 << 53) as f64;
        (index, -unit.max(f64::MIN_POSITIVE).ln() / f64::from(weight))
    });
    draws.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

/// Returns whether a draw falls into a share of so many percent.
pub fn is_in_share(draw: u64, percent: f64) -> bool {
    let parts = 100.0 * PARTS_PER_PERCENT;
    ((draw % parts as u64) as f64) < percent * PARTS_PER_PERCENT
}

/// Returns a number that looks random, and is the same for the same index.
pub fn draw(index: u64) -> u64 {
    hash(&["draw", &index.to_string()])
}

fn hash(parts: &[&str]) -> u64 {
    let digest = digest(&SHA256, parts.join("\0").as_bytes());
    digest.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["local", "codestral", "qwen", "claude"];
    const USERS: usize = 4000;

    fn choices(weights: &[u32]) -> Vec<usize> {
        let targets = || NAMES.into_iter().zip(weights.iter().copied());
        let of = |user: usize| choose("route", &format!("user {user}"), targets()).unwrap();
        (0..USERS).map(of).collect()
    }

    /// Returns the share of users whose target is this one.
    fn share(choices: &[usize], target: usize) -> f64 {
        choices.iter().filter(|choice| **choice == target).count() as f64 / choices.len() as f64
    }

    #[test]
    fn nobody_is_chosen_without_weight() {
        assert_eq!(choose("route", "ada", [("local", 0), ("qwen", 0)]), None);
        assert_eq!(choose("route", "ada", []), None);
        assert!(choices(&[0, 100, 0, 0]).iter().all(|choice| *choice == 1));
    }

    #[test]
    fn routes_are_apart() {
        let of = |route: &str| -> Vec<_> {
            (0..200).map(|user| choose(route, &format!("{user}"), [("a", 50), ("b", 50)])).collect()
        };
        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one"), of("two"));
    }

    #[test]
    fn a_share_of_draws_is_that_share() {
        let count = (0..10_000).filter(|index| is_in_share(draw(*index), 5.0)).count();
        assert!((400..600).contains(&count), "{count}");
        assert!((0..1000).all(|index| is_in_share(draw(index), 100.0)));
        assert!(!(0..1000).any(|index| is_in_share(draw(index), 0.0)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn weights_are_respected(weights in proptest::collection::vec(1u32..100, 2..=4)) {
            let choices = choices(&weights);
            let total: u32 = weights.iter().sum();
            for (target, weight) in weights.iter().enumerate() {
                let expected = f64::from(*weight) / f64::from(total);
                // Four standard deviations of 4000 coins.
                prop_assert!((share(&choices, target) - expected).abs() < 0.035);
            }
        }

        #[test]
        fn a_raised_weight_only_attracts(
            weights in proptest::collection::vec(1u32..60, 2..=4),
            target in 0usize..4,
            more in 1u32..40,
        ) {
            let target = target % weights.len();
            let mut raised = weights.clone();
            raised[target] += more;
            let (before, after) = (choices(&weights), choices(&raised));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
            for (_, after) in moved.clone() {
                prop_assert_eq!(*after, target);
            }
            let needed = share(&after, target) - share(&before, target);
            let moved = moved.count() as f64 / USERS as f64;
            prop_assert!((moved - needed).abs() < 1e-9);
        }
    }
}
