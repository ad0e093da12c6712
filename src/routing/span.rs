//! The span of a decision: from the choice of a route to the first text of whoever answers, with who was passed over.

use std::sync::Arc;

use crate::{
    completion::CompletionRequest,
    provider::ProviderError,
    routing::{decision::Plan, observer::AttemptKind, target::Target},
    trace::{Span, SpanKind},
};

/// Begins the span of a request's route; what is tried for it is part of it from now on.
pub(super) fn begin(request: &mut CompletionRequest, route: &str) -> Span {
    let mut span = request.trace.child("route", SpanKind::Internal);
    if span.is_recorded() {
        span.set("lacuna.route", route.to_owned());
        span.set("lacuna.task", request.asker.task.as_label());
    }
    request.trace = span.parent();
    span
}

/// Notes what was decided.
pub(super) fn decided(span: &mut Span, targets: &[&Arc<Target>], plan: &Plan) {
    if !span.is_recorded() {
        return;
    }
    for (index, reason) in &plan.skipped {
        let target = ("lacuna.target", targets[*index].name.clone().into());
        let reason = ("lacuna.reason", reason.as_label().into());
        span.event("target passed over", &[target, reason]);
    }
    if let Some(first) = plan.picks.first() {
        span.set("lacuna.target", targets[first.target].name.clone());
    }
}

/// Notes that nobody answers.
pub(super) fn failed(span: &mut Span, error: &ProviderError) {
    span.fail(error.kind.as_label());
}

/// Begins the span of a try, which asks from now on.
pub(super) fn attempt(
    request: &mut CompletionRequest,
    route: &str,
    target: &str,
    kind: AttemptKind,
) -> Span {
    let mut span = request.trace.child("attempt", SpanKind::Internal);
    if span.is_recorded() {
        span.set("lacuna.route", route.to_owned());
        span.set("lacuna.target", target.to_owned());
        span.set("lacuna.kind", kind.as_label());
    }
    request.trace = span.parent();
    span
}
