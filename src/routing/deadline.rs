//! How much time there is: for a request, for a try where others are left, and before a hedge.

use std::time::{Duration, Instant};

use crate::completion::Task;

/// Where others are left a try gets at most this part of what remains, so that one that hangs leaves time for the next.
const TRY_DIVISOR: u32 = 2;
/// A probe asks a target that failed a moment ago, on a user's time: a smaller part.
const PROBE_DIVISOR: u32 = 4;
/// A call that takes so many times what nineteen of twenty took does not answer any more.
const PATIENCE_FACTOR: u32 = 4;
/// No target is given less, however fast it was: a busy core, a collected heap, a lost packet take this long.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// A call that had less time than this, and less than its own target's usual, says nothing about the target.
const FAIR_TIME: Duration = Duration::from_millis(250);

/// How long a request may take by its task, where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// While somebody types.
    pub completion: Duration,
    /// Where somebody waits on purpose.
    pub generation: Duration,
}

impl Deadlines {
    /// Returns when an answer must be there: by its task, or earlier where the request says so.
    pub fn of(&self, task: Task, now: Instant, asked: Option<Instant>) -> Instant {
        let own = now
            + match task {
                Task::Completion => self.completion,
                Task::Generation => self.generation,
            };
        asked.map_or(own, |asked| asked.min(own))
    }
}

/// Returns how long a try may go without text while others are left. `p95` is what its target usually takes.
pub fn patience(remaining: Duration, p95: Option<Duration>, is_probe: bool) -> Duration {
    let part = remaining / if is_probe { PROBE_DIVISOR } else { TRY_DIVISOR };
    p95.map_or(part, |p95| part.min((p95 * PATIENCE_FACTOR).max(PATIENCE_MIN)))
}

/// Returns whether a call without text for so long says something about its target. Of a client that is in a hurry only
/// what the target usually takes counts: else clients could decide over targets.
pub fn is_fair(elapsed: Duration, p95: Option<Duration>, is_hurried: bool) -> bool {
    let usual = p95.map(|p95| (p95 * PATIENCE_FACTOR).max(PATIENCE_MIN));
    !is_hurried && elapsed >= FAIR_TIME || usual.is_some_and(|usual| elapsed >= usual)
}

/// Returns after what time a call is hedged: when nineteen of twenty had answered, `None` while nobody knows.
pub fn hedge_delay(p95: Option<Duration>, least: Duration) -> Option<Duration> {
    p95.map(|p95| p95.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_task_bounds_what_is_asked_for() {
        let now = Instant::now();
        let deadlines = Deadlines { completion: ms(1000), generation: ms(30_000) };
        let rows = [
            (Task::Completion, None, 1000),
            (Task::Completion, Some(400), 400),
            (Task::Completion, Some(5000), 1000),
            (Task::Generation, None, 30_000),
            (Task::Generation, Some(5000), 5000),
        ];
        for (task, asked, expected) in rows {
            let asked = asked.map(|millis| now + ms(millis));
            assert_eq!(deadlines.of(task, now, asked), now + ms(expected), "{task:?} {asked:?}");
        }
    }

    #[test]
    fn a_try_leaves_time_for_the_next() {
        let rows = [
            (1000, None, false, 500),
            (1000, None, true, 250),
            (1000, Some(60), false, 240),
            (1000, Some(10), false, 100),
            (1000, Some(300), false, 500),
            (100, Some(300), true, 25),
            (0, None, false, 0),
        ];
        for (remaining, p95, is_probe, expected) in rows {
            assert_eq!(
                patience(ms(remaining), p95.map(ms), is_probe),
                ms(expected),
                "{remaining} {p95:?}"
            );
        }
    }

    #[test]
    fn a_target_is_not_blamed_for_a_call_that_had_no_time() {
        let rows = [
            (249, None, false, false),
            (250, None, false, true),
            (250, None, true, false),
            (100, Some(25), false, true),
            (100, Some(25), true, true),
            (99, Some(20), false, false),
            (260, Some(300), true, false),
        ];
        for (elapsed, p95, is_hurried, expected) in rows {
            let found = is_fair(ms(elapsed), p95.map(ms), is_hurried);
            assert_eq!(found, expected, "{elapsed} {p95:?} {is_hurried}");
        }
        assert_eq!(hedge_delay(None, ms(50)), None);
        assert_eq!(hedge_delay(Some(ms(20)), ms(50)), Some(ms(50)));
        assert_eq!(hedge_delay(Some(ms(80)), ms(50)), Some(ms(80)));
    }
}
