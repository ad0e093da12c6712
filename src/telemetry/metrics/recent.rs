//! The last minutes of requests, for who looks now: counts and times that slide out by tens of seconds.
//!
//! A histogram a slice of time; buckets grow by a fifth, so a quantile is at most a fifth too high. The caller brings
//! the time.

use std::{collections::BTreeMap, time::Duration};

/// What is looked back on.
pub const WINDOW: Duration = Duration::from_mins(5);
/// Slices of it: what is shown lags by one at most, and a model takes some 20 KB.
const NUM_SLICES: usize = 30;
/// From 1 ms on by 2^(1/4): up to four minutes.
const NUM_BUCKETS: usize = 72;
const BUCKETS_PER_DOUBLING: f64 = 4.0;

/// A request that has ended, as far as it is told of here.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// `ok`, `cancelled`, or the label of an error; a closed set.
    pub outcome: &'static str,
    /// To the answer's head: of a stream to its first text, else to the end.
    pub answer_time: Duration,
    /// To the first text, where there was one.
    pub first_text: Option<Duration>,
    /// Tokens written.
    pub num_tokens: u32,
}

/// When an answer is in time, and when it is of some use still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// In time.
    pub satisfied: Duration,
    /// Of some use.
    pub tolerated: Duration,
}

impl Thresholds {
    /// Returns those of a task, which are the AI Gateway's service levels: the recording rules have the same.
    pub fn of(task: &str) -> Self {
        let seconds = Duration::from_secs;
        match task {
            "generation" => Self { satisfied: seconds(5), tolerated: seconds(30) },
            _ => Self { satisfied: seconds(1), tolerated: seconds(10) },
        }
    }
}

/// What became of the requests of a model and task in the window.
#[derive(Clone, Debug, PartialEq)]
pub struct RecentRequests {
    /// Name of the model; `unknown` where none was asked.
    pub model: String,
    /// `completion` or `generation`.
    pub task: &'static str,
    /// Requests by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Satisfied, and half of those tolerated, of those that were answered.
    pub apdex: Option<f64>,
    /// Time to the answer's head of a half, nineteen of twenty, and 99 of 100 of those that were answered.
    pub answer_time: Option<[Duration; 3]>,
    /// The same to the first text.
    pub first_text: Option<[Duration; 3]>,
    /// Tokens written.
    pub num_tokens: u64,
}

/// The last minutes of all models. Names are those of the settings, so they are few.
#[derive(Debug, Default)]
pub struct Recent {
    rings: BTreeMap<(String, &'static str), Ring>,
}

impl Recent {
    /// Counts a request of a model and a task. Times are counted from any one moment on, and never go back.
    pub fn record(&mut self, now: Duration, (model, task): (&str, &'static str), ended: &Ended) {
        let key = (model.to_owned(), task);
        let slice = self.rings.entry(key).or_default().slice(tick(now));
        *slice.outcomes.entry(ended.outcome).or_default() += 1;
        slice.num_tokens += u64::from(ended.num_tokens);
        if ended.outcome != "ok" {
            return;
        }
        slice.answer_time[bucket(ended.answer_time)] += 1;
        if let Some(first_text) = ended.first_text {
            slice.first_text[bucket(first_text)] += 1;
        }
        let thresholds = Thresholds::of(task);
        slice.num_satisfied += u64::from(ended.answer_time <= thresholds.satisfied);
        slice.num_tolerated += u64::from(ended.answer_time <= thresholds.tolerated);
    }

    /// Returns what is in the window; who had no request is left out.
    pub fn view(&self, now: Duration) -> Vec<RecentRequests> {
        let rings = self.rings.iter();
        let views = rings.map(|((model, task), ring)| {
            let sum = ring.sum(tick(now));
            let num_ok = sum.outcomes.get("ok").copied().unwrap_or_default();
            // Who is satisfied tolerates too, so each counts a half.
            let halves = (sum.num_satisfied + sum.num_tolerated) as f64;
            RecentRequests {
                model: model.clone(),
                task,
                apdex: (num_ok > 0).then(|| halves / 2.0 / num_ok as f64),
                answer_time: quantiles(&sum.answer_time),
                first_text: quantiles(&sum.first_text),
                num_tokens: sum.num_tokens,
                outcomes: sum.outcomes,
            }
        });
        views.filter(|view| !view.outcomes.is_empty()).collect()
    }
}

#[derive(Debug)]
struct Ring {
    slices: Vec<Slice>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { slices: (0..NUM_SLICES).map(|_| Slice::default()).collect() }
    }
}

impl Ring {
    fn slice(&mut self, tick: u64) -> &mut Slice {
        let slice = &mut self.slices[(tick % NUM_SLICES as u64) as usize];
        if slice.tick != tick {
            *slice = Slice { tick, ..Slice::default() };
        }
        slice
    }

    fn sum(&self, tick: u64) -> Slice {
        let mut sum = Slice::default();
        let is_recent = |slice: &&Slice| slice.tick + NUM_SLICES as u64 > tick;
        for slice in self.slices.iter().filter(is_recent) {
            for (outcome, count) in &slice.outcomes {
                *sum.outcomes.entry(outcome).or_default() += count;
            }
            for (all, one) in [
                (&mut sum.answer_time, &slice.answer_time),
                (&mut sum.first_text, &slice.first_text),
            ] {
                all.iter_mut().zip(one).for_each(|(all, one)| *all += one);
            }
            sum.num_satisfied += slice.num_satisfied;
            sum.num_tolerated += slice.num_tolerated;
            sum.num_tokens += slice.num_tokens;
        }
        sum
    }
}

#[derive(Debug)]
struct Slice {
    tick: u64,
    outcomes: BTreeMap<&'static str, u64>,
    answer_time: [u32; NUM_BUCKETS],
    first_text: [u32; NUM_BUCKETS],
    num_satisfied: u64,
    num_tolerated: u64,
    num_tokens: u64,
}

impl Default for Slice {
    fn default() -> Self {
        Self {
            tick: 0,
            outcomes: BTreeMap::new(),
            answer_time: [0; NUM_BUCKETS],
            first_text: [0; NUM_BUCKETS],
            num_satisfied: 0,
            num_tolerated: 0,
            num_tokens: 0,
        }
    }
}

/// Ticks begin at the number of slices, so that an empty one is old.
fn tick(now: Duration) -> u64 {
    let width = WINDOW / NUM_SLICES as u32;
    (now.as_micros() / width.as_micros()) as u64 + NUM_SLICES as u64
}

fn bucket(time: Duration) -> usize {
    let doublings = (time.as_secs_f64() * 1e3).max(1.0).log2();
    ((doublings * BUCKETS_PER_DOUBLING).ceil() as usize).min(NUM_BUCKETS - 1)
}

fn quantiles(counts: &[u32; NUM_BUCKETS]) -> Option<[Duration; 3]> {
    let total: u32 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    Some([0.5, 0.95, 0.99].map(|share| {
        let wanted = (f64::from(total) * share).ceil();
        let mut sum = 0.0;
        let index = counts.iter().position(|count| {
            sum += f64::from(*count);
            sum >= wanted
        });
        let index = index.unwrap_or(NUM_BUCKETS - 1) as f64;
        Duration::from_secs_f64((index / BUCKETS_PER_DOUBLING).exp2() / 1e3)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODER: (&str, &str) = ("coder", "completion");

    fn ok(millis: u64) -> Ended {
        let first_text = Some(Duration::from_millis(millis / 2));
        let answer_time = Duration::from_millis(millis);
        Ended { outcome: "ok", answer_time, first_text, num_tokens: 10 }
    }

    #[test]
    fn quantiles_and_apdex_are_of_the_answered_and_counts_of_all() {
        let mut recent = Recent::default();
        let now = Duration::from_secs(1000);
        assert_eq!(recent.view(now), []);
        // Of a hundred 90 are in time, 6 are of some use, 4 are too late.
        for millis in std::iter::repeat_n(200, 90).chain([5000; 6]).chain([20_000; 4]) {
            recent.record(now, CODER, &ok(millis));
        }
        recent.record(now, CODER, &Ended { outcome: "overloaded", first_text: None, ..ok(1) });
        let views = recent.view(now);
        let [view] = views.as_slice() else { panic!("{views:?}") };
        assert_eq!((view.model.as_str(), view.task), CODER);
        assert_eq!(view.outcomes, BTreeMap::from([("ok", 100), ("overloaded", 1)]));
        assert!((view.apdex.unwrap() - 0.93).abs() < 1e-9, "{:?}", view.apdex);
        for (found, millis) in view.answer_time.unwrap().into_iter().zip([200, 5000, 20_000]) {
            let exact = Duration::from_millis(millis);
            assert!((exact..exact.mul_f64(1.2)).contains(&found), "{found:?} for {millis}");
        }
        assert_eq!(view.num_tokens, 1010);
    }

    #[test]
    fn a_generation_may_take_longer() {
        let mut recent = Recent::default();
        recent.record(Duration::ZERO, ("coder", "generation"), &ok(4000));
        recent.record(Duration::ZERO, CODER, &ok(4000));
        let apdex: Vec<_> = recent.view(Duration::ZERO).iter().map(|it| it.apdex).collect();
        assert_eq!(apdex, [Some(0.5), Some(1.0)]);
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let mut recent = Recent::default();
        let at = Duration::from_secs;
        recent.record(at(0), CODER, &ok(10));
        recent.record(at(155), CODER, &ok(10));
        let count = |recent: &Recent, now| recent.view(at(now)).first().map(|it| it.outcomes["ok"]);
        for (now, expected) in
            [(155, Some(2)), (299, Some(2)), (300, Some(1)), (449, Some(1)), (450, None)]
        {
            assert_eq!(count(&recent, now), expected, "{now} s");
        }
        recent.record(at(1000), CODER, &ok(10));
        assert_eq!(count(&recent, 1000), Some(1), "a slice that comes again begins empty");
    }
}
