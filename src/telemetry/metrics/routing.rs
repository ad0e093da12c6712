//! Metrics of routing: what was asked where, what was passed over and why, and how breakers stand.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::Declared;

/// Seconds of a call to a target.
const CALLS: [f64; 12] = [0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// States of a breaker, of which one is 1.
const STATES: [&str; 3] = ["closed", "open", "half_open"];

/// Families of routing. Names of routes and targets are those of the settings; other labels are of closed sets.
#[derive(Debug)]
pub struct RoutingFamilies {
    attempts: IntCounterVec,
    duration: HistogramVec,
    first: HistogramVec,
    skipped: IntCounterVec,
    spent: IntCounterVec,
    breakers: IntGaugeVec,
    opened: IntCounterVec,
    shadows: IntCounterVec,
}

impl RoutingFamilies {
    pub(super) fn new(declared: &mut Declared) -> Result<Self, prometheus::Error> {
        let labels = ["route", "target"];
        let took = ("lacuna_route_attempt_duration_seconds", "From a call of a target to its end.");
        let duration = declared.histogram(took, &labels, &CALLS)?;
        let took =
            ("lacuna_route_first_text_seconds", "From a call of a target to its first text.");
        let first = declared.histogram(took, &labels, &CALLS)?;
        let breakers = Opts::new("lacuna_breaker_state", "1 for the state that a breaker is in.");
        let breakers = declared.add(IntGaugeVec::new(breakers, &["target", "state"])?)?;
        let mut count = |name, help, labels: &[&str]| declared.counter(name, help, labels);
        Ok(Self {
            attempts: count(
                "lacuna_route_attempts_total",
                "Calls of targets by why they were made and how they ended.",
                &["route", "target", "kind", "outcome"],
            )?,
            skipped: count(
                "lacuna_route_skipped_total",
                "Targets that were passed over, or put behind the others.",
                &["route", "target", "reason"],
            )?,
            spent: count(
                "lacuna_route_budget_spent_total",
                "Further calls that were not made, for the budget of calls was spent.",
                &["route"],
            )?,
            opened: count(
                "lacuna_breaker_transitions_total",
                "Changes of breakers.",
                &["target", "from", "to"],
            )?,
            shadows: count(
                "lacuna_route_shadows_total",
                "Copies of requests by how their answers compare.",
                &["route", "target", "comparison"],
            )?,
            duration,
            first,
            breakers,
        })
    }

    /// Counts a call of a target that has ended, by why it was made and how it ended.
    pub fn attempt(
        &self,
        [route, target]: [&str; 2],
        [kind, outcome]: [&'static str; 2],
        first: Option<Duration>,
        took: Duration,
    ) {
        self.attempts.with_label_values(&[route, target, kind, outcome]).inc();
        self.duration.with_label_values(&[route, target]).observe(took.as_secs_f64());
        if let Some(first) = first {
            self.first.with_label_values(&[route, target]).observe(first.as_secs_f64());
        }
    }

    /// Counts a target that was passed over.
    pub fn skipped(&self, [route, target]: [&str; 2], reason: &'static str) {
        self.skipped.with_label_values(&[route, target, reason]).inc();
    }

    /// Counts a call that was not made.
    pub fn budget_spent(&self, route: &str) {
        self.spent.with_label_values(&[route]).inc();
    }

    /// Notes that a breaker has changed.
    pub fn breaker(&self, target: &str, [from, to]: [&'static str; 2]) {
        self.opened.with_label_values(&[target, from, to]).inc();
        for state in STATES {
            self.breakers.with_label_values(&[target, state]).set(i64::from(state == to));
        }
    }

    /// Counts a copy of a request.
    pub fn shadow(&self, [route, target]: [&str; 2], comparison: &'static str) {
        self.shadows.with_label_values(&[route, target, comparison]).inc();
    }
}
