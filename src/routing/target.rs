//! A target as it lives: its provider, its breaker, what it usually takes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    config::BreakerConfig,
    provider::Provider,
    routing::{
        circuit_breaker::{
            CircuitBreaker, Outcome, Override, Pass, Standing, StateKind, Transition,
        },
        latency::Latency,
    },
};

/// The quantile that hedging and patience go by.
const TAIL: f64 = 0.95;
const MEDIAN: f64 = 0.5;

/// A target as somebody sees it who looks after it.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// Whether it would take a request.
    pub is_ready: bool,
    /// Its breaker's state.
    pub state: StateKind,
    /// What its breaker would say now.
    pub standing: Standing,
    /// What somebody decided about it.
    pub manual: Override,
    /// Calls, failures and slow calls in the breaker's window.
    pub counts: [u32; 3],
    /// Time to the first text of a half of the calls, once there were enough.
    pub p50: Option<Duration>,
    /// The same of nineteen of twenty.
    pub p95: Option<Duration>,
}

/// See the module.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) provider: Arc<dyn Provider>,
    live: Mutex<Live>,
}

struct Live {
    breaker: CircuitBreaker,
    latency: Latency,
}

impl Target {
    pub(super) fn new(name: String, provider: Arc<dyn Provider>, rules: BreakerConfig) -> Self {
        let live = Live { breaker: CircuitBreaker::new(rules), latency: Latency::default() };
        Self { name, provider, live: Mutex::new(live) }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        self.live().breaker.standing(now)
    }

    /// Returns what nineteen of twenty calls took to their first text, once there were enough.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.live().latency.quantile(TAIL)
    }

    pub(super) fn admit(&self, now: Instant) -> (Option<Pass>, Option<Transition>) {
        self.live().breaker.admit(now)
    }

    pub(super) fn record(&self, now: Instant, pass: Pass, outcome: Outcome) -> Option<Transition> {
        self.live().breaker.record(now, pass, outcome)
    }

    /// Takes a time to the first text, or one after which there was none.
    pub(super) fn record_latency(&self, time: Duration) {
        self.live().latency.record(time);
    }

    pub(super) fn set_manual(&self, manual: Override) -> Option<Transition> {
        self.live().breaker.set_manual(manual)
    }

    pub(super) fn view(&self, now: Instant) -> TargetView {
        let is_ready = self.provider.is_ready();
        let mut live = self.live();
        TargetView {
            name: self.name.clone(),
            is_ready,
            state: live.breaker.kind(),
            standing: live.breaker.standing(now),
            manual: live.breaker.manual(),
            counts: live.breaker.counts(now),
            p50: live.latency.quantile(MEDIAN),
            p95: live.latency.quantile(TAIL),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
