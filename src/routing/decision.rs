//! Which of a route's targets are tried, in what order, and why the others are not: a value of the moment.
//!
//! Nobody waits for a timeout to learn what is known: a target whose breaker is open, that is not ready or that cannot do
//! what is asked is passed over, and one whose queue is longer than there is time comes last, for an answer that is late
//! or short is better than none. A target that may be back is found out about beside the request, not on its time: it
//! gets a copy, and only where nobody else is left the request itself.

use std::time::{Duration, Instant};

use crate::routing::circuit_breaker::{Cause, Standing};

/// A target as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place among the targets of the route.
    pub target: usize,
    /// Whether it can do what is asked.
    pub ability: Ability,
    /// Whether it would take a request.
    pub is_ready: bool,
    /// What its breaker says.
    pub standing: Standing,
    /// When its first text is expected, where that can be told.
    pub expected: Option<Duration>,
}

/// Whether a target can do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ability {
    /// It can.
    Able,
    /// It was not trained to fill gaps.
    NoFim,
    /// It does not continue conversations.
    NoChat,
    /// The request names token ids, which mean something else there.
    OtherTokens,
}

/// Why a target is not tried, or not before the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// It cannot do what is asked.
    Unable(Ability),
    /// It is loading, draining or dead.
    NotReady,
    /// Its breaker is open.
    Open(Cause),
    /// Its queue is longer than there is time.
    WaitTooLong,
}

impl SkipReason {
    /// Returns the label for logs and metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Unable(Ability::NoFim) => "no_fim",
            Self::Unable(Ability::NoChat) => "no_chat",
            Self::Unable(Ability::OtherTokens) => "other_tokens",
            Self::Unable(Ability::Able) => "unable",
            Self::NotReady => "not_ready",
            Self::Open(cause) => match cause {
                Cause::Exhausted => "exhausted",
                Cause::Refused => "refused",
                Cause::Drained => "drained",
                Cause::Failures | Cause::ErrorShare | Cause::SlowCalls | Cause::Forced => {
                    "breaker_open"
                }
            },
            Self::WaitTooLong => "wait_too_long",
        }
    }
}

/// A target that is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its place among the targets of the route.
    pub target: usize,
    /// Whether its queue is longer than there is time: it is tried for want of a better one.
    pub is_late: bool,
}

/// Whom to try in what order, and whom not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tried, the first first.
    pub picks: Vec<Pick>,
    /// Given a copy, to find out whether they are back: they would have been the first.
    pub probes: Vec<usize>,
    /// Not tried, or not in their turn.
    pub skipped: Vec<(usize, SkipReason)>,
    /// When the first of the skipped may be asked again, as far as is known.
    pub retry_at: Option<Instant>,
}

/// Puts candidates, which stand in the order of their route, into the order of the moment. `remaining` is the time that
/// the request has left.
pub fn decide(candidates: &[Candidate], remaining: Duration) -> Plan {
    let mut plan = Plan::default();
    let (mut probed, mut late) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let target = candidate.target;
        let pick = Pick { target, is_late: false };
        match skip(candidate) {
            Some(reason) => {
                if let (SkipReason::Open(_), Standing::Open { until: Some(until), .. }) =
                    (reason, candidate.standing)
                {
                    plan.retry_at = Some(plan.retry_at.map_or(until, |at| at.min(until)));
                }
                plan.skipped.push((target, reason));
            }
            None if candidate.expected.is_some_and(|wait| wait >= remaining) => {
                plan.skipped.push((target, SkipReason::WaitTooLong));
                late.push((candidate.expected, Pick { target, is_late: true }));
            }
            None if matches!(candidate.standing, Standing::Probe { .. }) => {
                if plan.picks.is_empty() {
                    plan.probes.push(target);
                }
                probed.push(pick);
            }
            None => plan.picks.push(pick),
        }
    }
    if plan.picks.is_empty() {
        // Nobody does well, so the request itself finds out.
        plan.probes.clear();
        plan.picks.append(&mut probed);
    }
    // The shortest wait first; equal ones stay in the order of the route.
    late.sort_by_key(|(wait, _)| *wait);
    plan.picks.extend(late.into_iter().map(|(_, pick)| pick));
    plan.picks.extend(probed);
    plan
}

fn skip(candidate: &Candidate) -> Option<SkipReason> {
    match (candidate.ability, candidate.standing) {
        (Ability::Able, _) if !candidate.is_ready => Some(SkipReason::NotReady),
        (Ability::Able, Standing::Open { cause, .. }) => Some(SkipReason::Open(cause)),
        (Ability::Able, Standing::Closed | Standing::Probe { .. }) => None,
        (ability, _) => Some(SkipReason::Unable(ability)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Targets in their order, each with whether it is late.
    type Picks<'a> = &'a [(usize, bool)];

    fn candidate(target: usize) -> Candidate {
        Candidate {
            target,
            ability: Ability::Able,
            is_ready: true,
            standing: Standing::Closed,
            expected: None,
        }
    }

    fn open(cause: Cause, until: Option<Instant>) -> Standing {
        Standing::Open { until, cause }
    }

    #[test]
    fn targets_keep_their_order_less_those_that_cannot() {
        let now = Instant::now();
        let (soon, later) = (now + Duration::from_secs(3), now + Duration::from_mins(1));
        let candidates = [
            Candidate { ability: Ability::NoFim, ..candidate(0) },
            Candidate { is_ready: false, ..candidate(1) },
            Candidate { standing: open(Cause::Exhausted, Some(later)), ..candidate(2) },
            candidate(3),
            Candidate { standing: open(Cause::Failures, Some(soon)), ..candidate(4) },
            Candidate { standing: open(Cause::Drained, None), ..candidate(5) },
            Candidate { standing: Standing::Probe { cause: Cause::Failures }, ..candidate(6) },
        ];
        let plan = decide(&candidates, Duration::from_secs(1));
        let picks: Vec<usize> = plan.picks.iter().map(|pick| pick.target).collect();
        assert_eq!(picks, [3, 6]);
        assert!(plan.probes.is_empty());
        let skipped: Vec<(usize, &str)> =
            plan.skipped.iter().map(|(target, reason)| (*target, reason.as_label())).collect();
        let expected = [
            (0, "no_fim"),
            (1, "not_ready"),
            (2, "exhausted"),
            (4, "breaker_open"),
            (5, "drained"),
        ];
        assert_eq!(skipped, expected);
        assert_eq!(plan.retry_at, Some(soon));
    }

    #[test]
    fn a_wait_that_is_too_long_comes_last_and_is_still_tried() {
        let wait = |target, millis| Candidate {
            expected: Some(Duration::from_millis(millis)),
            ..candidate(target)
        };
        let rows: [(&[Candidate], Picks<'_>); 4] = [
            (&[wait(0, 999), candidate(1)], &[(0, false), (1, false)]),
            (&[wait(0, 1000), candidate(1)], &[(1, false), (0, true)]),
            (&[wait(0, 5000)], &[(0, true)]),
            (&[wait(0, 5000), wait(1, 3000), wait(2, 10)], &[(2, false), (1, true), (0, true)]),
        ];
        for (candidates, expected) in rows {
            let plan = decide(candidates, Duration::from_secs(1));
            let picks: Vec<_> = plan.picks.iter().map(|pick| (pick.target, pick.is_late)).collect();
            assert_eq!(picks, expected);
        }
    }

    #[test]
    fn who_may_be_back_gets_a_copy_while_somebody_does_well() {
        let probe = |target| Candidate {
            standing: Standing::Probe { cause: Cause::Failures },
            ..candidate(target)
        };
        let late =
            |target| Candidate { expected: Some(Duration::from_mins(1)), ..candidate(target) };
        let rows: [(&[Candidate], &[usize], &[usize]); 5] = [
            (&[probe(0), candidate(1)], &[1, 0], &[0]),
            (&[candidate(0), probe(1)], &[0, 1], &[]),
            (&[probe(0), probe(1), candidate(2), probe(3)], &[2, 0, 1, 3], &[0, 1]),
            (&[probe(0), probe(1)], &[0, 1], &[]),
            (&[probe(0), late(1)], &[0, 1], &[]),
        ];
        for (candidates, picks, probes) in rows {
            let plan = decide(candidates, Duration::from_secs(1));
            let found: Vec<usize> = plan.picks.iter().map(|pick| pick.target).collect();
            assert_eq!((found.as_slice(), plan.probes.as_slice()), (picks, probes));
        }
    }
}
