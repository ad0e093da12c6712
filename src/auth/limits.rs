//! How often a key or a user may ask, and how many requests of theirs may be in work.
//!
//! A rate is one number a subject, the time at which it has paid for all that it asked (the generic cell rate
//! algorithm). Subjects lie in two generations of a table: what is used moves into the younger one, and when that is full
//! the older one is forgotten, but for those whose requests are in work. So memory has a bound, and who floods the table
//! with names makes the server forget those who asked long ago.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// Subjects of a generation: with their names some 10 MB for both.
const GENERATION: usize = 32_768;
/// When another try makes sense while too many requests are in work: about the time of a completion.
const CONCURRENCY_WAIT: Duration = Duration::from_secs(1);

/// What a subject may; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Requests in a minute, which may come all at once.
    pub(super) requests_per_minute: Option<NonZeroU32>,
    /// Requests in work at once.
    pub(super) concurrent_requests: Option<NonZeroU32>,
}

/// A request that comes too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Limited {
    /// Which limit it is, for the client.
    pub message: &'static str,
    /// When another try makes sense.
    pub retry_after: Duration,
}

/// A place among a subject's requests in work; dropping it frees the place.
#[derive(Debug)]
pub struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, Default)]
struct Subject {
    /// When all that was asked is paid for, since the server's start.
    paid_at: Duration,
    num_in_work: Arc<AtomicU32>,
}

/// The subjects that asked lately.
#[derive(Debug)]
pub(super) struct Table {
    young: HashMap<String, Subject>,
    old: HashMap<String, Subject>,
    generation: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::of(GENERATION)
    }
}

impl Table {
    fn of(generation: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation }
    }

    /// Counts a request of `name` at `now`, since the server's start.
    ///
    /// # Errors
    /// One that comes too soon; it is not counted.
    pub(super) fn count(
        &mut self,
        name: String,
        limits: Limits,
        now: Duration,
    ) -> Result<Permit, Limited> {
        let subject = self.subject(name);
        let num_in_work = subject.num_in_work.load(Ordering::Relaxed);
        if limits.concurrent_requests.is_some_and(|most| num_in_work >= most.get()) {
            return Err(Limited {
                message: "too many requests of yours are in work",
                retry_after: CONCURRENCY_WAIT,
            });
        }
        if let Some(per_minute) = limits.requests_per_minute {
            let price = Duration::from_mins(1) / per_minute.get();
            let paid_at = subject.paid_at.max(now) + price;
            let early = paid_at.saturating_sub(now + Duration::from_mins(1));
            // Prices are whole nanoseconds, so that a minute's worth of them may lack some.
            if early > Duration::from_micros(1) {
                let message = "too many requests of yours came within a minute";
                return Err(Limited { message, retry_after: early });
            }
            subject.paid_at = paid_at;
        }
        // Counted under the table's lock; only frees happen beside it.
        subject.num_in_work.fetch_add(1, Ordering::Relaxed);
        Ok(Permit(Arc::clone(&subject.num_in_work)))
    }

    fn subject(&mut self, name: String) -> &mut Subject {
        if !self.young.contains_key(&name) && self.young.len() >= self.generation {
            // Whoever has requests in work stays: theirs would be counted anew. They are as few as those requests.
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let is_in_work =
                |(_, subject): &(String, Subject)| subject.num_in_work.load(Ordering::Relaxed) > 0;
            self.young.extend(forgotten.into_iter().filter(is_in_work));
        }
        let known = self.old.remove(&name);
        self.young.entry(name).or_insert_with(|| known.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests_per_minute: u32, concurrent_requests: u32) -> Limits {
        Limits {
            requests_per_minute: NonZeroU32::new(requests_per_minute),
            concurrent_requests: NonZeroU32::new(concurrent_requests),
        }
    }

    fn count(table: &mut Table, name: &str, limits: Limits, second: u64) -> Result<(), Duration> {
        let counted = table.count(name.to_owned(), limits, Duration::from_secs(second));
        counted.map(drop).map_err(|limited| limited.retry_after)
    }

    #[test]
    fn a_minute_s_requests_may_come_at_once_and_then_one_by_one() {
        for per_minute in [1, 7, 60, 1000] {
            let mut table = Table::default();
            let limits = limits(per_minute, 0);
            for _ in 0..per_minute {
                assert_eq!(count(&mut table, "ada", limits, 100), Ok(()));
            }
            let wait = count(&mut table, "ada", limits, 100).unwrap_err();
            let price = Duration::from_mins(1) / per_minute;
            assert!(wait.abs_diff(price) < Duration::from_micros(1), "{per_minute}: {wait:?}");
            assert_eq!(count(&mut table, "grace", limits, 100), Ok(()), "another has her own");
            assert_eq!(count(&mut table, "ada", limits, 161), Ok(()));
        }
    }

    #[test]
    fn a_request_that_was_refused_costs_nothing() {
        let mut table = Table::default();
        assert_eq!(count(&mut table, "ada", limits(1, 0), 0), Ok(()));
        for second in 1..60 {
            let wait = Duration::from_secs(60 - second);
            assert_eq!(count(&mut table, "ada", limits(1, 0), second), Err(wait));
        }
        assert_eq!(count(&mut table, "ada", limits(1, 0), 60), Ok(()));
    }

    #[test]
    fn a_place_is_free_when_its_permit_is_dropped() {
        let mut table = Table::default();
        let mut enter = |name: &str| table.count(name.to_owned(), limits(0, 2), Duration::ZERO);
        let first = enter("ada").unwrap();
        let _second = enter("ada").unwrap();
        assert_eq!(enter("ada").unwrap_err().retry_after, CONCURRENCY_WAIT);
        assert!(enter("grace").is_ok());
        drop(first);
        assert!(enter("ada").is_ok());
    }

    #[test]
    fn who_has_requests_in_work_is_not_forgotten() {
        let mut table = Table::of(10);
        let mut enter = |name: String| table.count(name, limits(0, 1), Duration::ZERO);
        let held = enter("ada".to_owned()).unwrap();
        // She asks for nothing more over several generations.
        for index in 0..100 {
            assert!(enter(format!("flood {index}")).is_ok());
        }
        assert!(enter("ada".to_owned()).is_err());
        drop(held);
        assert!(enter("ada".to_owned()).is_ok());
    }

    #[test]
    fn a_flood_of_names_has_a_bound_and_who_keeps_asking_is_remembered() {
        let mut table = Table::of(100);
        for index in 0..10_000 {
            let counted = count(&mut table, "ada", limits(1, 0), 0);
            assert_eq!(counted.is_ok(), index == 0, "{index}");
            assert_eq!(count(&mut table, &format!("flood {index}"), limits(1, 0), 0), Ok(()));
            assert!(table.young.len() + table.old.len() <= 200);
        }
    }
}
