//! What routing tells whoever counts: attempts, targets passed over, breakers that change, shadows compared.
//!
//! Labels are closed sets and names from the settings; no text of a request or an answer is among them.

use std::time::Duration;

use crate::routing::{circuit_breaker::Transition, decision::SkipReason};

/// Why a target was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// It is the first that a request was sent to.
    First,
    /// Another failed or stayed silent.
    Retry,
    /// Another is slow, and goes on beside it.
    Hedge,
    /// To find out whether it is back.
    Probe,
    /// To compare its answer, which is dropped.
    Shadow,
}

impl AttemptKind {
    /// All kinds, for tables.
    pub const ALL: [Self; 5] = [Self::First, Self::Retry, Self::Hedge, Self::Probe, Self::Shadow];

    /// Returns the label for metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Probe => "probe",
            Self::Shadow => "shadow",
        }
    }
}

/// Something that happened while a request was routed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RoutingEvent<'a> {
    /// A target is asked.
    AttemptStarted {
        /// Name of the route.
        route: &'a str,
        /// Name of the target.
        target: &'a str,
        /// How many were asked for this request before.
        num_before: u32,
        /// Why it is made.
        kind: AttemptKind,
    },
    /// An attempt has ended, one way or another.
    AttemptEnded {
        /// Name of the route.
        route: &'a str,
        /// Name of the target.
        target: &'a str,
        /// Why it was made.
        kind: AttemptKind,
        /// `ok`, the label of a provider's error, `abandoned` (no text in its time), `overtaken` (another was faster),
        /// `cancelled` (nobody waits any more), or `cut` (the deadline came within the text).
        outcome: &'static str,
        /// Time to the first text, where there was one.
        first_text: Option<Duration>,
        /// Time to the end.
        took: Duration,
    },
    /// A target was passed over, or put behind the others.
    Skipped {
        /// Name of the route.
        route: &'a str,
        /// Name of the target.
        target: &'a str,
        /// Why.
        reason: SkipReason,
    },
    /// A further call was not made, for the budget is spent.
    BudgetSpent {
        /// Name of the route.
        route: &'a str,
    },
    /// A breaker has changed.
    BreakerChanged {
        /// Name of the target.
        target: &'a str,
        /// From what to what.
        transition: Transition,
    },
    /// A copy of a request was answered, or was not.
    Shadowed {
        /// Name of the route.
        route: &'a str,
        /// Name of the shadow's target.
        target: &'a str,
        /// What came out.
        comparison: Comparison,
    },
}

/// How the answer to a copy compares with what the user got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both answered.
    Both {
        /// Whether the first lines are equal.
        has_same_first_line: bool,
        /// Bytes of the user's answer.
        num_bytes: usize,
        /// Bytes of the shadow's.
        num_shadow_bytes: usize,
    },
    /// The shadow failed.
    ShadowFailed,
    /// The user got no whole answer.
    NoAnswer,
    /// No copy was made: as many as may be were under way, or the target is not asked now.
    LeftOut,
}

impl Comparison {
    /// Returns the label for metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Both { has_same_first_line: true, .. } => "same_first_line",
            Self::Both { has_same_first_line: false, .. } => "other_first_line",
            Self::ShadowFailed => "shadow_failed",
            Self::NoAnswer => "no_answer",
            Self::LeftOut => "left_out",
        }
    }
}

/// Somebody who counts. Called in the path of requests, so it must not wait.
pub trait RoutingObserver: Send + Sync + 'static {
    /// Takes what happened.
    fn observe(&self, event: &RoutingEvent<'_>);
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl RoutingObserver for NoObserver {
    fn observe(&self, _: &RoutingEvent<'_>) {}
}
