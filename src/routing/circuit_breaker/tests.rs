//! The breaker by table, and against a slow model that keeps every call.

use proptest::prelude::*;

use super::*;

const RULES: BreakerConfig = BreakerConfig {
    failures: 5,
    error_share: 0.1,
    slow_share: 0.5,
    slow_call: Duration::from_secs(1),
    calls_min: 20,
    window: Duration::from_secs(10),
    probe_interval: Duration::from_secs(5),
    probes: 2,
    exhausted_max: Duration::from_mins(5),
    refused_pause: Duration::from_mins(1),
};

const GOOD: Outcome = Outcome::Success { is_slow: false };
const SLOW: Outcome = Outcome::Success { is_slow: true };

fn exhausted(seconds: Option<u64>) -> Outcome {
    Outcome::Exhausted { retry_after: seconds.map(Duration::from_secs) }
}

/// Makes calls that end so, one after the other, and returns the last change.
fn play(breaker: &mut CircuitBreaker, now: Instant, outcomes: &[Outcome]) -> Option<Transition> {
    let mut last = None;
    for outcome in outcomes {
        let (pass, _) = breaker.admit(now);
        last = breaker.record(now, pass.expect("the breaker is closed"), *outcome);
    }
    last
}

/// For how many seconds a breaker is open, and why.
type Opened = Option<(u64, Cause)>;

fn open_for(breaker: &CircuitBreaker, now: Instant) -> Opened {
    match breaker.standing(now) {
        Standing::Open { until: Some(until), cause } => Some(((until - now).as_secs(), cause)),
        Standing::Open { until: None, .. } | Standing::Closed | Standing::Probe { .. } => None,
    }
}

#[test]
fn what_opens_it_and_for_how_long() {
    let nineteen = [GOOD; 17];
    let rows: Vec<(Vec<Outcome>, Opened)> = vec![
        (vec![Outcome::Failure; 4], None),
        (vec![Outcome::Failure; 5], Some((5, Cause::Failures))),
        ([vec![Outcome::Failure; 4], vec![GOOD], vec![Outcome::Failure; 4]].concat(), None),
        (
            [vec![Outcome::Failure; 4], vec![Outcome::Neutral], vec![Outcome::Failure]].concat(),
            Some((5, Cause::Failures)),
        ),
        (vec![Outcome::Refused; 4], None),
        (vec![Outcome::Refused; 5], Some((60, Cause::Refused))),
        (vec![exhausted(None)], Some((5, Cause::Exhausted))),
        (vec![exhausted(Some(30))], Some((30, Cause::Exhausted))),
        (vec![exhausted(Some(0))], Some((1, Cause::Exhausted))),
        (vec![exhausted(Some(90_000))], Some((300, Cause::Exhausted))),
        (vec![Outcome::Neutral; 100], None),
        ([nineteen.to_vec(), vec![Outcome::Failure, GOOD, Outcome::Failure]].concat(), None),
        (
            [nineteen.to_vec(), vec![Outcome::Failure, GOOD, Outcome::Failure, Outcome::Failure]]
                .concat(),
            Some((5, Cause::ErrorShare)),
        ),
        (vec![SLOW; 19], None),
        (vec![SLOW; 20], Some((5, Cause::SlowCalls))),
        ([vec![GOOD; 10], vec![SLOW; 10]].concat(), None),
        (vec![Outcome::Overtaken; 4], None),
        (vec![Outcome::Overtaken; 5], Some((5, Cause::SlowCalls))),
    ];
    for (outcomes, expected) in rows {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(RULES);
        let last = play(&mut breaker, now, &outcomes);
        assert_eq!(open_for(&breaker, now), expected, "{outcomes:?}");
        let cause = last.and_then(|transition| transition.cause);
        assert_eq!(cause, expected.map(|(_, cause)| cause), "{outcomes:?}");
    }
}

#[test]
fn failures_that_are_old_do_not_count_into_the_share() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(RULES);
    play(&mut breaker, now, &[Outcome::Failure, Outcome::Failure, Outcome::Failure]);
    let later = now + Duration::from_secs(10);
    play(&mut breaker, later, &[GOOD; 30]);
    assert_eq!(breaker.counts(later), [30, 0, 0]);
    assert_eq!(breaker.kind(), StateKind::Closed);
}

#[test]
fn half_open_lets_so_many_probes_through_and_one_success_closes() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(RULES);
    play(&mut breaker, now, &[Outcome::Failure; 5]);
    assert_eq!(breaker.admit(now + Duration::from_millis(4999)), (None, None));
    let then = now + Duration::from_secs(5);
    let (first, transition) = breaker.admit(then);
    assert_eq!(transition.unwrap().to, StateKind::HalfOpen);
    let (second, _) = breaker.admit(then);
    assert!(first.unwrap().is_probe && second.unwrap().is_probe);
    assert_eq!(breaker.admit(then).0, None);
    // A probe that says nothing makes room for another.
    assert_eq!(breaker.record(then, second.unwrap(), Outcome::Neutral), None);
    let (third, _) = breaker.admit(then);
    let closed = breaker.record(then, first.unwrap(), GOOD).unwrap();
    assert_eq!((closed.from, closed.to), (StateKind::HalfOpen, StateKind::Closed));
    // The other probe was asked before: it says nothing of now.
    assert_eq!(breaker.record(then, third.unwrap(), Outcome::Failure), None);
    assert_eq!(breaker.standing(then), Standing::Closed);
}

#[test]
fn a_probe_that_fails_opens_it_again() {
    for (outcome, expected) in [
        (Outcome::Failure, (5, Cause::Failures)),
        (Outcome::Overtaken, (5, Cause::SlowCalls)),
        (SLOW, (5, Cause::SlowCalls)),
        (Outcome::Refused, (60, Cause::Refused)),
        (exhausted(Some(20)), (20, Cause::Exhausted)),
    ] {
        let now = Instant::now();
        let mut breaker = CircuitBreaker::new(RULES);
        play(&mut breaker, now, &[Outcome::Failure; 5]);
        let then = now + Duration::from_secs(7);
        let (pass, _) = breaker.admit(then);
        breaker.record(then, pass.unwrap(), outcome);
        assert_eq!(open_for(&breaker, then), Some(expected), "{outcome:?}");
    }
}

#[test]
fn a_late_refusal_prolongs_and_nothing_shortens() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(RULES);
    let (late, _) = breaker.admit(now);
    let (later, _) = breaker.admit(now);
    play(&mut breaker, now, &[Outcome::Failure; 5]);
    breaker.record(now, late.unwrap(), exhausted(Some(30)));
    assert_eq!(open_for(&breaker, now).unwrap().0, 30);
    breaker.record(now, later.unwrap(), exhausted(Some(10)));
    assert_eq!(open_for(&breaker, now).unwrap().0, 30);
}

#[test]
fn somebody_decides_over_it() {
    let now = Instant::now();
    let mut breaker = CircuitBreaker::new(RULES);
    for (manual, cause) in [(Override::Open, Cause::Forced), (Override::Drained, Cause::Drained)] {
        let transition = breaker.set_manual(manual);
        assert_eq!(breaker.standing(now), Standing::Open { until: None, cause });
        assert_eq!(breaker.admit(now + Duration::from_hours(1)).0, None);
        let changed = transition.map(|transition| transition.cause);
        assert!(changed.is_none_or(|changed| changed == Some(cause)));
    }
    assert_eq!(breaker.set_manual(Override::Closed).unwrap().to, StateKind::Closed);
    play(&mut breaker, now, &[Outcome::Failure; 50]);
    assert_eq!(breaker.standing(now), Standing::Closed);
    breaker.set_manual(Override::Auto);
    play(&mut breaker, now, &[Outcome::Failure; 5]);
    assert!(open_for(&breaker, now).is_some());
    breaker.set_manual(Override::Auto);
    assert_eq!(breaker.standing(now), Standing::Closed);
}

#[test]
fn each_kind_of_error_says_something_else() {
    for kind in ProviderErrorKind::ALL {
        let error = ProviderError::new(kind, "no");
        let expected = match kind {
            ProviderErrorKind::InvalidRequest
            | ProviderErrorKind::PromptTooLong
            | ProviderErrorKind::Overloaded => Outcome::Neutral,
            ProviderErrorKind::UpstreamExhausted => exhausted(None),
            ProviderErrorKind::UpstreamDeclined => Outcome::Neutral,
            ProviderErrorKind::UpstreamRefused => Outcome::Refused,
            _ => Outcome::Failure,
        };
        assert_eq!(Outcome::of_error(&error, true), expected, "{kind:?}");
    }
    let late = ProviderError::out_of_time();
    assert_eq!(Outcome::of_error(&late, false), Outcome::Neutral);
}

/// The same rules over a list of all calls.
struct Model {
    calls: Vec<(u64, Outcome)>,
    open_until: Option<u64>,
    is_half_open: bool,
}

impl Model {
    /// Returns whether a call at this second is let in.
    fn admits(&mut self, second: u64) -> bool {
        match self.open_until {
            Some(until) if second < until => false,
            Some(_) => {
                self.open_until = None;
                self.is_half_open = true;
                true
            }
            None => true,
        }
    }

    fn record(&mut self, second: u64, outcome: Outcome) {
        if self.is_half_open {
            match outcome {
                Outcome::Neutral => return,
                GOOD => {}
                Outcome::Refused => self.open_until = Some(second + 60),
                _ => self.open_until = Some(second + 5),
            }
            self.is_half_open = false;
            self.calls.clear();
            return;
        }
        self.calls.push((second, outcome));
        let counted = || self.calls.iter().filter(|(_, outcome)| *outcome != Outcome::Neutral);
        let is_failure = |outcome: Outcome| matches!(outcome, Outcome::Failure | Outcome::Refused);
        let in_a_row = counted()
            .rev()
            .take_while(|(_, outcome)| is_failure(*outcome) || *outcome == Outcome::Overtaken)
            .count();
        let recent: Vec<Outcome> =
            counted().filter(|(at, _)| at + 10 > second).map(|(_, outcome)| *outcome).collect();
        let share = |test: &dyn Fn(Outcome) -> bool| {
            recent.iter().filter(|outcome| test(**outcome)).count() as f64
                / recent.len().max(1) as f64
        };
        let opens = if in_a_row >= 5 {
            Some(if outcome == Outcome::Refused { 60 } else { 5 })
        } else if recent.len() >= 20
            && (share(&is_failure) > 0.1
                || share(&|outcome| matches!(outcome, SLOW | Outcome::Overtaken)) > 0.5)
        {
            Some(5)
        } else {
            None
        };
        if let Some(seconds) = opens {
            self.open_until = Some(second + seconds);
            self.calls.clear();
        }
    }
}

proptest! {
    /// One call at a time, on whole seconds, which are the window's buckets.
    #[test]
    fn it_is_the_slow_model(steps in proptest::collection::vec((0u64..3, 0u8..12), 1..400)) {
        let start = Instant::now();
        let mut breaker = CircuitBreaker::new(RULES);
        let mut model = Model { calls: Vec::new(), open_until: None, is_half_open: false };
        breaker.counts(start);
        let mut second = 0;
        for (index, (pause, draw)) in steps.into_iter().enumerate() {
            second += pause / 2;
            let now = start + Duration::from_secs(second);
            let outcome = match draw {
                0..=6 => GOOD,
                7 | 8 => Outcome::Failure,
                9 => Outcome::Refused,
                10 => SLOW,
                _ => Outcome::Overtaken,
            };
            let (pass, _) = breaker.admit(now);
            prop_assert_eq!(pass.is_some(), model.admits(second), "step {}", index);
            if let Some(pass) = pass {
                breaker.record(now, pass, outcome);
                model.record(second, outcome);
            }
        }
    }
}
