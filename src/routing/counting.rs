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
            RoutingEvent::AttemptEnded { route, target, kind, outcome, first_text, took } => {
                families.attempt([route, target], [kind.as_label(), outcome], first_text, took);
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
    use std::time::Duration;

    use super::*;
    use crate::routing::{
        circuit_breaker::{Cause, StateKind, Transition},
        decision::{Ability, SkipReason},
        observer::{AttemptKind, Comparison},
    };

    /// Returns the row of docs/metrics.md that lists the values of a label.
    fn row(label: &str) -> &'static str {
        let page = include_str!("../../docs/metrics.md");
        let begin = format!("| `{label}`");
        page.lines()
            .find(|line| line.starts_with(&begin) && line.matches('|').count() == 3)
            .unwrap()
    }

    #[test]
    fn the_page_of_metrics_lists_the_values_of_labels() {
        let causes = [
            Cause::Failures,
            Cause::ErrorShare,
            Cause::SlowCalls,
            Cause::Exhausted,
            Cause::Refused,
            Cause::Forced,
            Cause::Drained,
        ];
        let abilities = [Ability::NoFim, Ability::NoChat, Ability::OtherTokens];
        let reasons =
            causes.map(SkipReason::Open).into_iter().chain(abilities.map(SkipReason::Unable));
        let reasons = reasons.chain([SkipReason::NotReady, SkipReason::WaitTooLong]);
        let both = |has_same_first_line| Comparison::Both {
            has_same_first_line,
            num_bytes: 1,
            num_shadow_bytes: 1,
        };
        let comparisons = [
            both(true),
            both(false),
            Comparison::ShadowFailed,
            Comparison::NoAnswer,
            Comparison::LeftOut,
        ];
        let states = [StateKind::Closed, StateKind::Open, StateKind::HalfOpen];
        let rows: [(&str, Vec<&str>); 4] = [
            ("kind", AttemptKind::ALL.map(AttemptKind::as_label).to_vec()),
            ("reason", reasons.map(SkipReason::as_label).collect()),
            ("state", states.map(StateKind::as_label).to_vec()),
            ("comparison", comparisons.map(Comparison::as_label).to_vec()),
        ];
        for (label, values) in rows {
            for value in values {
                assert!(row(label).contains(&format!("`{value}`")), "{label}: {value}");
            }
        }
    }

    #[test]
    fn attempts_are_told_apart_by_why_they_were_made() {
        let metrics = Metrics::default();
        for kind in AttemptKind::ALL {
            metrics.observe(&RoutingEvent::AttemptEnded {
                route: "r",
                target: "far",
                kind,
                outcome: "ok",
                first_text: None,
                took: Duration::ZERO,
            });
        }
        let page = metrics.render();
        for kind in ["first", "retry", "hedge", "probe", "shadow"] {
            let line = format!(
                "lacuna_route_attempts_total{{kind=\"{kind}\",outcome=\"ok\",route=\"r\",target=\"far\"}} 1"
            );
            assert!(page.lines().any(|other| other == line), "{line}");
        }
    }

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
