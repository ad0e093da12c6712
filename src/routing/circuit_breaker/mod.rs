//! Whether a target is asked: closed while it does well, open while it does not, half-open to find out.
//!
//! The caller brings the clock and says how each call ended. A call that was let in before the state changed says nothing
//! about what came after, so each pass bears the number of the state that it was given in.

use std::time::{Duration, Instant};

use crate::{
    config::BreakerConfig,
    provider::{ProviderError, ProviderErrorKind},
    routing::window::Window,
};

#[cfg(test)]
mod tests;

/// A target that is used up is left alone for at least this long, whatever it says.
const EXHAUSTED_MIN: Duration = Duration::from_secs(1);

/// Why a breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Failures in a row.
    Failures,
    /// Too large a share of failures.
    ErrorShare,
    /// Too large a share of slow calls.
    SlowCalls,
    /// The target wants to be asked less.
    Exhausted,
    /// The target does not take our key or model.
    Refused,
    /// Somebody opened it.
    Forced,
    /// Somebody drains the target.
    Drained,
}

impl Cause {
    /// Returns the label for logs and metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::ErrorShare => "error_share",
            Self::SlowCalls => "slow_calls",
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Forced => "forced",
            Self::Drained => "drained",
        }
    }
}

/// What somebody decided about a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Override {
    /// The breaker decides.
    #[default]
    Auto,
    /// It is asked whatever happens.
    Closed,
    /// It is not asked.
    Open,
    /// It is not asked any more; what runs there ends.
    Drained,
}

impl Override {
    /// Returns the word for it.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Drained => "drained",
        }
    }
}

/// The state's name, as a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateKind {
    /// Asked.
    Closed,
    /// Not asked.
    Open,
    /// Asked by probes.
    HalfOpen,
}

impl StateKind {
    /// Returns the label for logs and metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: StateKind,
    /// After.
    pub to: StateKind,
    /// Why it opened; `None` where it closes or lets probes through.
    pub cause: Option<Cause>,
}

/// Whether a call would be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As any other.
    Closed,
    /// As a probe.
    Probe {
        /// Why it was left alone.
        cause: Cause,
    },
    /// Not.
    Open {
        /// Until when; `None` where it depends on a probe or a person.
        until: Option<Instant>,
        /// Why.
        cause: Cause,
    },
}

/// A call that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
    /// Whether it is a probe.
    pub is_probe: bool,
}

/// How a call ended, as far as it says something about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success {
        /// Whether its first text was slow.
        is_slow: bool,
    },
    /// Badly.
    Failure,
    /// Our key or model was refused, or what we made of the request.
    Refused,
    /// The target wants to be asked less.
    Exhausted {
        /// For how long, by its own word.
        retry_after: Option<Duration>,
    },
    /// Without text for longer than usual, when another had answered. As many in a row as failures open it.
    Overtaken,
    /// It says nothing: the request was at fault, the queue was full, or nobody waited any more.
    Neutral,
}

impl Outcome {
    /// Returns what an error says of the target. `is_fair` is whether the call had the time that calls there need.
    pub fn of_error(error: &ProviderError, is_fair: bool) -> Self {
        match error.kind {
            // A full queue is load, not a fault: the next request may find a place. What is declined says something of
            // the request alone.
            ProviderErrorKind::InvalidRequest
            | ProviderErrorKind::PromptTooLong
            | ProviderErrorKind::UpstreamDeclined
            | ProviderErrorKind::Overloaded => Self::Neutral,
            ProviderErrorKind::DeadlineExceeded if !is_fair => Self::Neutral,
            ProviderErrorKind::DeadlineExceeded
            | ProviderErrorKind::Unavailable
            | ProviderErrorKind::Internal
            | ProviderErrorKind::UpstreamUnreachable
            | ProviderErrorKind::UpstreamFailed
            | ProviderErrorKind::UpstreamMalformed => Self::Failure,
            ProviderErrorKind::UpstreamRefused => Self::Refused,
            ProviderErrorKind::UpstreamExhausted => {
                Self::Exhausted { retry_after: error.retry_after }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant, cause: Cause },
    HalfOpen { num_running: u32, cause: Cause },
}

/// A target's breaker.
#[derive(Clone, Debug)]
pub struct CircuitBreaker {
    rules: BreakerConfig,
    state: State,
    epoch: u64,
    num_failures: u32,
    /// Calls, failures, slow calls.
    counts: Window<3>,
    manual: Override,
}

impl CircuitBreaker {
    /// Begins closed.
    pub fn new(rules: BreakerConfig) -> Self {
        let counts = Window::new(rules.window);
        let (state, manual) = (State::Closed, Override::Auto);
        Self { rules, state, epoch: 0, num_failures: 0, counts, manual }
    }

    /// Returns what somebody decided.
    pub fn manual(&self) -> Override {
        self.manual
    }

    /// Decides for the breaker, or lets it decide again, from the beginning.
    pub fn set_manual(&mut self, manual: Override) -> Option<Transition> {
        let from = self.kind();
        self.manual = manual;
        self.enter(State::Closed);
        let to = self.kind();
        let cause = match manual {
            Override::Open => Some(Cause::Forced),
            Override::Drained => Some(Cause::Drained),
            Override::Auto | Override::Closed => None,
        };
        (from != to).then_some(Transition { from, to, cause })
    }

    /// Returns the state's name.
    pub fn kind(&self) -> StateKind {
        match (self.manual, self.state) {
            (Override::Closed, _) | (Override::Auto, State::Closed) => StateKind::Closed,
            (Override::Open | Override::Drained, _) | (Override::Auto, State::Open { .. }) => {
                StateKind::Open
            }
            (Override::Auto, State::HalfOpen { .. }) => StateKind::HalfOpen,
        }
    }

    /// Returns calls, failures and slow calls in the window.
    pub fn counts(&mut self, now: Instant) -> [u32; 3] {
        self.counts.sums(now)
    }

    /// Returns whether a call would be let in now.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.manual {
            Override::Closed => return Standing::Closed,
            Override::Open => return Standing::Open { until: None, cause: Cause::Forced },
            Override::Drained => return Standing::Open { until: None, cause: Cause::Drained },
            Override::Auto => {}
        }
        match self.state {
            State::Closed => Standing::Closed,
            State::Open { until, cause } if now >= until => Standing::Probe { cause },
            State::Open { until, cause } => Standing::Open { until: Some(until), cause },
            State::HalfOpen { num_running, cause } if num_running < self.rules.probes => {
                Standing::Probe { cause }
            }
            State::HalfOpen { cause, .. } => Standing::Open { until: None, cause },
        }
    }

    /// Lets a call in, or not; who gets a pass gives it back to [`Self::record`].
    pub fn admit(&mut self, now: Instant) -> (Option<Pass>, Option<Transition>) {
        match self.standing(now) {
            Standing::Open { .. } => (None, None),
            Standing::Closed => (Some(Pass { epoch: self.epoch, is_probe: false }), None),
            Standing::Probe { .. } => {
                let transition = match self.state {
                    State::Open { cause, .. } => {
                        self.enter(State::HalfOpen { num_running: 0, cause });
                        let (from, to) = (StateKind::Open, StateKind::HalfOpen);
                        Some(Transition { from, to, cause: None })
                    }
                    State::Closed | State::HalfOpen { .. } => None,
                };
                if let State::HalfOpen { num_running, .. } = &mut self.state {
                    *num_running += 1;
                }
                (Some(Pass { epoch: self.epoch, is_probe: true }), transition)
            }
        }
    }

    /// Takes how a call ended.
    pub fn record(&mut self, now: Instant, pass: Pass, outcome: Outcome) -> Option<Transition> {
        if pass.epoch != self.epoch {
            self.prolong(now, outcome);
            return None;
        }
        if self.manual != Override::Auto {
            self.count(now, outcome);
            return None;
        }
        match self.state {
            State::Closed => {
                self.count(now, outcome);
                let (until, cause) = self.reason_to_open(now, outcome)?;
                Some(self.open(until, cause))
            }
            State::HalfOpen { num_running, cause } => {
                let reopened = match outcome {
                    Outcome::Neutral => {
                        let num_running = num_running.saturating_sub(1);
                        self.state = State::HalfOpen { num_running, cause };
                        return None;
                    }
                    Outcome::Success { is_slow: false } => None,
                    Outcome::Success { is_slow: true } | Outcome::Overtaken => {
                        Some(self.until(now, Cause::SlowCalls, None))
                    }
                    Outcome::Failure => Some(self.until(now, Cause::Failures, None)),
                    Outcome::Refused => Some(self.until(now, Cause::Refused, None)),
                    Outcome::Exhausted { retry_after } => {
                        Some(self.until(now, Cause::Exhausted, retry_after))
                    }
                };
                if let Some((until, cause)) = reopened {
                    return Some(self.open(until, cause));
                }
                self.enter(State::Closed);
                let (from, to) = (StateKind::HalfOpen, StateKind::Closed);
                Some(Transition { from, to, cause: None })
            }
            State::Open { .. } => None,
        }
    }

    /// A call from before says at least when the target may be asked again.
    fn prolong(&mut self, now: Instant, outcome: Outcome) {
        let Outcome::Exhausted { retry_after } = outcome else { return };
        let (later, _) = self.until(now, Cause::Exhausted, retry_after);
        if let State::Open { until, .. } = &mut self.state {
            *until = later.max(*until);
        }
    }

    fn count(&mut self, now: Instant, outcome: Outcome) {
        match outcome {
            Outcome::Success { is_slow } => {
                self.num_failures = 0;
                self.counts.add(now, [1, 0, u32::from(is_slow)]);
            }
            Outcome::Overtaken => {
                self.num_failures = self.num_failures.saturating_add(1);
                self.counts.add(now, [1, 0, 1]);
            }
            Outcome::Failure | Outcome::Refused | Outcome::Exhausted { .. } => {
                self.num_failures = self.num_failures.saturating_add(1);
                self.counts.add(now, [1, 1, 0]);
            }
            Outcome::Neutral => {}
        }
    }

    fn reason_to_open(&mut self, now: Instant, outcome: Outcome) -> Option<(Instant, Cause)> {
        if let Outcome::Exhausted { retry_after } = outcome {
            return Some(self.until(now, Cause::Exhausted, retry_after));
        }
        if self.num_failures >= self.rules.failures {
            // One refusal may be for the request's sake; as many as open a breaker are for our key's.
            let cause = match outcome {
                Outcome::Refused => Cause::Refused,
                Outcome::Overtaken => Cause::SlowCalls,
                Outcome::Success { .. }
                | Outcome::Failure
                | Outcome::Exhausted { .. }
                | Outcome::Neutral => Cause::Failures,
            };
            return Some(self.until(now, cause, None));
        }
        let [calls, errors, slow] = self.counts.sums(now);
        let share = |count: u32| f64::from(count) / f64::from(calls.max(1));
        if calls < self.rules.calls_min {
            None
        } else if share(errors) > self.rules.error_share {
            Some(self.until(now, Cause::ErrorShare, None))
        } else if share(slow) > self.rules.slow_share {
            Some(self.until(now, Cause::SlowCalls, None))
        } else {
            None
        }
    }

    fn until(&self, now: Instant, cause: Cause, retry_after: Option<Duration>) -> (Instant, Cause) {
        let rules = &self.rules;
        let pause = match cause {
            Cause::Exhausted => retry_after
                .unwrap_or(rules.probe_interval)
                .clamp(EXHAUSTED_MIN, rules.exhausted_max.max(EXHAUSTED_MIN)),
            Cause::Refused => rules.refused_pause,
            Cause::Failures
            | Cause::ErrorShare
            | Cause::SlowCalls
            | Cause::Forced
            | Cause::Drained => rules.probe_interval,
        };
        (now + pause, cause)
    }

    fn open(&mut self, until: Instant, cause: Cause) -> Transition {
        let from = self.kind();
        self.enter(State::Open { until, cause });
        Transition { from, to: StateKind::Open, cause: Some(cause) }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
        self.num_failures = 0;
        self.counts.clear();
    }
}
