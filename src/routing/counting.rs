//! What happens while requests are routed, as metrics.

use crate::{
    routing::observer::{RoutingEvent, RoutingObserver},
    telemetry::metrics::Metrics,
};

impl RoutingObserver for Metrics {
    fn observe(&self, event: &RoutingEvent<'_>) {
        let families = self.routing();
        match *event {
            // It is counted once, when it has ended.
            RoutingEvent::AttemptStarted { .. } => {}
            RoutingEvent::AttemptEnded { route, target, outcome, first_text, took } => {
                families.attempt([route, target], outcome, first_text, took);
            }
            RoutingEvent::Skipped { route, target, reason } => {
                families.skipped([route, target], reason.as_label());
            }
            RoutingEvent::BudgetSpent { route } => families.budget_spent(route),
            RoutingEvent::BreakerChanged { target, transition } => {
                let change = [transition.from.as_label(), transition.to.as_label()];
                families.breaker(target, change);
            }
            RoutingEvent::Shadowed { route, target, comparison } => {
                families.shadow([route, target], comparison.as_label());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::circuit_breaker::{Cause, StateKind, Transition};

    #[test]
    fn a_breaker_is_in_one_state() {
        let metrics = Metrics::default();
        let change = |from, to, cause| {
            let transition = Transition { from, to, cause };
            metrics.observe(&RoutingEvent::BreakerChanged { target: "far", transition });
        };
        change(StateKind::Closed, StateKind::Open, Some(Cause::Failures));
        change(StateKind::Open, StateKind::HalfOpen, None);
        let page = metrics.render();
        let states: Vec<&str> =
            page.lines().filter(|line| line.starts_with("lacuna_breaker_state{")).collect();
        let expected = [
            r#"lacuna_breaker_state{state="closed",target="far"} 0"#,
            r#"lacuna_breaker_state{state="half_open",target="far"} 1"#,
            r#"lacuna_breaker_state{state="open",target="far"} 0"#,
        ];
        assert_eq!(states, expected);
    }
}
