//! One try at one target: its events, and what its end says of the target, however it ends.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, OnceLock, mpsc::Sender},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream};

use crate::{
    completion::CompletionRequest,
    provider::{CompletionEvent, CompletionStream, Provider, ProviderError, ProviderErrorKind},
    routing::{
        circuit_breaker::{Outcome, Pass},
        deadline,
        observer::{AttemptKind, RoutingEvent},
        router::{Core, now},
        span,
        target::Target,
    },
    trace::Span,
};

/// Events that say nothing, before the first that does: services send one or two.
const HELD_MAX: usize = 256;

pub(super) type Event = Result<CompletionEvent, ProviderError>;

/// A try under way. Dropping it cancels it.
pub(super) struct Attempt {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    pub(super) ticket: Ticket,
    /// The way to stop choices alone, once the target answers and where it has one.
    pub(super) ends: Arc<OnceLock<Sender<u32>>>,
    /// What came before the first text, or with it.
    pub(super) held: VecDeque<CompletionEvent>,
    /// When it is given up for another.
    pub(super) gives_up_at: Option<Instant>,
    /// When another is started beside it.
    pub(super) hedges_at: Option<Instant>,
}

impl Attempt {
    pub(super) fn start(mut ticket: Ticket, mut request: CompletionRequest) -> Self {
        let (route, target) = (&*ticket.route, ticket.target.name.as_str());
        ticket.span = span::attempt(&mut request, route, target, ticket.kind);
        let provider = Arc::clone(&ticket.target.provider);
        let ends = Arc::new(OnceLock::new());
        let before = Phase::Before(provider, Box::new(request), Arc::clone(&ends));
        let events = stream::unfold(before, Phase::next);
        Self {
            ends,
            events: Box::pin(events),
            ticket,
            held: VecDeque::new(),
            gives_up_at: None,
            hedges_at: None,
        }
    }

    /// Keeps an event until it is handed on, and returns whether it decides that the attempt answers.
    ///
    /// # Errors
    /// It is one of too many that say nothing: a target that never begins must not fill the memory.
    pub(super) fn hold(&mut self, event: CompletionEvent) -> Result<bool, ProviderError> {
        if self.held.len() >= HELD_MAX {
            let kind = ProviderErrorKind::UpstreamMalformed;
            return Err(ProviderError::new(
                kind,
                "the completion began with nothing but empty pieces",
            ));
        }
        let is_decisive = is_decisive(&event);
        self.held.push_back(event);
        Ok(is_decisive)
    }

    /// Returns the next event; an end without [`CompletionEvent::Done`] is an error.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.events.poll_next_unpin(cx).map(|event| event.unwrap_or_else(|| Err(ended_early())))
    }
}

fn ended_early() -> ProviderError {
    let kind = ProviderErrorKind::UpstreamMalformed;
    ProviderError::new(kind, "the completion ended early")
}

/// A provider that is to be asked, and its answer.
enum Phase {
    Before(Arc<dyn Provider>, Box<CompletionRequest>, Arc<OnceLock<Sender<u32>>>),
    Running(CompletionStream),
    Ended,
}

impl Phase {
    async fn next(self) -> Option<(Event, Self)> {
        let mut events = match self {
            Self::Ended => return None,
            Self::Running(events) => events,
            Self::Before(provider, request, ends) => match provider.complete(*request).await {
                Ok(events) => {
                    if let Some(own) = events.ends() {
                        let _ = ends.set(own.clone());
                    }
                    events
                }
                Err(error) => return Some((Err(error), Self::Ended)),
            },
        };
        let event = events.next().await?;
        let is_last = !matches!(event, Ok(CompletionEvent::Chunk(_)));
        Some((event, if is_last { Self::Ended } else { Self::Running(events) }))
    }
}

/// Returns whether an event decides that its attempt answers: text, the end of a choice, or of all.
fn is_decisive(event: &CompletionEvent) -> bool {
    match event {
        CompletionEvent::Chunk(chunk) => !chunk.text.is_empty() || chunk.finish_reason.is_some(),
        CompletionEvent::Done(_) => true,
    }
}

/// A call's place at its target; says once how it ended, at the latest when it is dropped.
pub(super) struct Ticket {
    core: Arc<Core>,
    route: Arc<str>,
    pub(super) target: Arc<Target>,
    pass: Pass,
    /// Why it was made.
    pub(super) kind: AttemptKind,
    began: Instant,
    first_text: Option<Duration>,
    /// Whether the client has less time than the task: what comes too late for it says less of the target.
    pub(super) is_hurried: bool,
    is_settled: bool,
    pub(super) span: Span,
}

impl Ticket {
    pub(super) fn new(core: &Arc<Core>, route: &Arc<str>, target: Arc<Target>, pass: Pass) -> Self {
        Self {
            core: Arc::clone(core),
            route: Arc::clone(route),
            target,
            pass,
            kind: if pass.is_probe { AttemptKind::Probe } else { AttemptKind::First },
            began: now(),
            first_text: None,
            is_hurried: false,
            is_settled: false,
            span: Span::default(),
        }
    }

    /// Returns whether it finds out if the target is back.
    pub(super) fn is_probe(&self) -> bool {
        self.pass.is_probe
    }

    /// Notes the first text.
    pub(super) fn answers(&mut self) {
        let took = now().saturating_duration_since(self.began);
        self.first_text = Some(took);
        self.target.record_latency(took);
    }

    /// Notes the end of a whole answer, or of one that was cut at the deadline: the target did what it could.
    pub(super) fn succeeds(&mut self, label: &'static str) {
        let slow_call = self.core.breaker_rules.slow_call;
        let is_slow = self.first_text.is_some_and(|first| first > slow_call);
        self.settle(Outcome::Success { is_slow }, label);
    }

    /// Notes a failure.
    pub(super) fn fails(&mut self, error: &ProviderError) {
        let is_fair = self.first_text.is_some() || self.is_fair();
        self.span.fail(error.kind.as_label());
        self.settle(Outcome::of_error(error, is_fair), error.kind.as_label());
    }

    /// Notes that there was no text for as long as there was time.
    pub(super) fn abandon(&mut self) {
        let outcome = if self.is_fair() { Outcome::Failure } else { Outcome::Neutral };
        self.record_silence();
        self.span.fail("abandoned");
        self.settle(outcome, "abandoned");
    }

    /// Notes that another was faster: it was hedged because it took longer than usual.
    pub(super) fn overtaken(&mut self) {
        let elapsed = now().saturating_duration_since(self.began);
        let is_slow = self.target.p95().is_some_and(|p95| elapsed > p95);
        if is_slow {
            self.record_silence();
        }
        let outcome = if is_slow { Outcome::Overtaken } else { Outcome::Neutral };
        self.settle(outcome, "overtaken");
    }

    /// Without it what is usual would be learnt from fast answers alone.
    fn record_silence(&self) {
        self.target.record_latency(now().saturating_duration_since(self.began));
    }

    fn is_fair(&self) -> bool {
        let elapsed = now().saturating_duration_since(self.began);
        deadline::is_fair(elapsed, self.target.p95(), self.is_hurried)
    }

    fn settle(&mut self, outcome: Outcome, label: &'static str) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        self.span.set("lacuna.outcome", label);
        let now = now();
        let took = now.saturating_duration_since(self.began);
        let transition = self.target.record(now, self.pass, outcome);
        let (route, target) = (&*self.route, self.target.name.as_str());
        tracing::debug!(
            route,
            name = target,
            outcome = label,
            kind = self.kind.as_label(),
            is_probe = self.pass.is_probe,
            first_text_ms = self.first_text.map(|first| first.as_secs_f64() * 1e3),
            took_ms = took.as_secs_f64() * 1e3,
            "attempt"
        );
        let (kind, first_text) = (self.kind, self.first_text);
        let ended =
            RoutingEvent::AttemptEnded { route, target, kind, outcome: label, first_text, took };
        self.core.observer.observe(&ended);
        self.core.tell_transition(target, transition);
    }
}

impl Drop for Ticket {
    /// Nobody waits any more. After a first text the target did well. Before it, silence says nothing: who types leaves
    /// before slow answers, so that the calls which are left would make any target look faster than it is.
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        if self.first_text.is_some() {
            self.succeeds("cancelled");
        } else {
            self.settle(Outcome::Neutral, "cancelled");
        }
    }
}
