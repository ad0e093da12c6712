//! From a plan to the first text: tries, one after the other or one beside the other, until one answers.
//!
//! Until a text was handed on nothing is lost by going elsewhere. A try that fails is followed by the next target, one that
//! stays silent is given up for it, and with hedging one that is slow gets it as company; the first text wins and the
//! others are dropped, which cancels them. Each further call needs the budget, and none passes the deadline.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Instant};

use crate::{
    completion::CompletionRequest,
    provider::{ErrorSource, ProviderError, ProviderErrorKind},
    routing::{
        attempt::{Attempt, Event, Ticket},
        circuit_breaker::Standing,
        deadline,
        decision::SkipReason,
        observer::{AttemptKind, RoutingEvent},
        router::{Core, nobody, now},
        target::Target,
    },
};

/// A request that is routed, before its first text.
pub(super) struct Race {
    core: Arc<Core>,
    route: Arc<str>,
    /// Targets not yet tried, the next first.
    picks: VecDeque<Arc<Target>>,
    /// `None` once the last target has it.
    request: Option<CompletionRequest>,
    deadline: Instant,
    is_hurried: bool,
    running: Vec<Attempt>,
    num_started: u32,
    /// Calls that somebody worked for: those further than the first are extra.
    num_calls: u32,
    error: Option<ProviderError>,
    /// When the first of those passed over may be asked again, as far as is known.
    retry_at: Option<Instant>,
}

/// What became of the wish for another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Started,
    NoTarget,
    NoBudget,
}

impl Race {
    /// Begins with the targets of a plan, in its order.
    pub(super) fn new(
        core: &Arc<Core>,
        route: Arc<str>,
        picks: VecDeque<Arc<Target>>,
        request: CompletionRequest,
        deadline: Instant,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            route,
            picks,
            request: Some(request),
            deadline,
            is_hurried: false,
            running: Vec::new(),
            num_started: 0,
            num_calls: 0,
            error: None,
            retry_at: None,
        }
    }

    /// Says whether the client has less time than the task.
    pub(super) fn hurried(self, is_hurried: bool) -> Self {
        Self { is_hurried, ..self }
    }

    /// Says how many targets have failed midway with the request, so that each call from now on is a further one.
    pub(super) fn after(self, num_failed: u32) -> Self {
        Self { num_started: num_failed, num_calls: num_failed, ..self }
    }

    /// Waits for the first try that answers.
    ///
    /// # Errors
    /// The request's own fault, the last target's failure, or the deadline.
    pub(super) async fn run(mut self) -> Result<Attempt, ProviderError> {
        loop {
            if self.running.is_empty() && self.start_next(self.kind()) != Next::Started {
                return Err(self.error.take().unwrap_or_else(|| nobody(self.retry_at, now())));
            }
            let wakes_at = self.wakes_at();
            let next = poll_fn(|cx| self.poll_event(cx));
            let Ok((index, event)) = tokio::time::timeout_at(wakes_at.into(), next).await else {
                self.wake()?;
                continue;
            };
            match event {
                Ok(event) => match self.running[index].hold(event) {
                    Ok(true) => return Ok(self.win(index)),
                    Ok(false) => {}
                    Err(error) => self.lose(index, error)?,
                },
                Err(error) => self.lose(index, error)?,
            }
        }
    }

    fn poll_event(&mut self, cx: &mut std::task::Context<'_>) -> Poll<(usize, Event)> {
        for (index, attempt) in self.running.iter_mut().enumerate() {
            if let Poll::Ready(event) = attempt.poll_next(cx) {
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    }

    fn win(&mut self, index: usize) -> Attempt {
        let mut winner = self.running.swap_remove(index);
        winner.ticket.answers();
        for mut loser in self.running.drain(..) {
            loser.ticket.overtaken();
        }
        winner
    }

    /// Takes a failure; returns it where nobody else may do better.
    fn lose(&mut self, index: usize, error: ProviderError) -> Result<(), ProviderError> {
        let mut attempt = self.running.swap_remove(index);
        attempt.ticket.fails(&error);
        let is_free = error.kind.source() != ErrorSource::Upstream
            && matches!(
                error.kind,
                ProviderErrorKind::Overloaded
                    | ProviderErrorKind::Unavailable
                    | ProviderErrorKind::PromptTooLong
            );
        if is_free {
            // Refused at the door: nobody worked for it, so the next call is no extra one.
            self.num_calls = self.num_calls.saturating_sub(1);
        }
        // A provider's own idea of the time does not bind the others while there is some.
        let is_out_of_time = error.kind == ProviderErrorKind::DeadlineExceeded;
        let may_go_on = error.kind.may_go_elsewhere() || (is_out_of_time && now() < self.deadline);
        if !may_go_on {
            return Err(error);
        }
        let failed = Some(attempt.ticket.target.provider.model());
        self.error = Some(ProviderError { failed, ..error });
        Ok(())
    }

    /// Returns when something is to be done though no event came.
    fn wakes_at(&self) -> Instant {
        let times = self.running.iter().flat_map(|it| [it.gives_up_at, it.hedges_at]);
        times.flatten().fold(self.deadline, Instant::min)
    }

    /// Does what is to be done at this time.
    fn wake(&mut self) -> Result<(), ProviderError> {
        let now = now();
        if now >= self.deadline {
            for attempt in &mut self.running {
                attempt.ticket.abandon();
            }
            return Err(ProviderError::out_of_time());
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        for index in 0..self.running.len() {
            if is_due(self.running[index].hedges_at) {
                self.running[index].hedges_at = None;
                self.start_next(AttemptKind::Hedge);
            }
        }
        let silent: Vec<usize> = (0..self.running.len())
            .rev()
            .filter(|index| is_due(self.running[*index].gives_up_at))
            .collect();
        for index in silent {
            self.running[index].gives_up_at = None;
            // Without another it is waited for as long as there is time.
            if self.running.len() > 1 || self.start_next(AttemptKind::Retry) == Next::Started {
                self.running.remove(index).ticket.abandon();
            }
        }
        Ok(())
    }

    /// Returns why the next try is made where none is under way.
    fn kind(&self) -> AttemptKind {
        if self.num_started == 0 { AttemptKind::First } else { AttemptKind::Retry }
    }

    /// Starts the next target that is asked now. What would be of this kind may be a probe.
    fn start_next(&mut self, kind: AttemptKind) -> Next {
        let now = now();
        loop {
            let Some(target) = self.picks.front() else { return Next::NoTarget };
            if let Standing::Open { cause, until } = target.standing(now) {
                self.retry_at = self.retry_at.into_iter().chain(until).min();
                // It opened since the plan was made. Going past it costs nothing.
                self.core.observer.observe(&RoutingEvent::Skipped {
                    route: &self.route,
                    target: &target.name,
                    reason: SkipReason::Open(cause),
                });
                self.picks.pop_front();
                continue;
            }
            if self.num_calls > 0 && !self.core.budget().take(now) {
                self.core.observer.observe(&RoutingEvent::BudgetSpent { route: &self.route });
                tracing::debug!(route = &*self.route, "the retry budget is spent");
                return Next::NoBudget;
            }
            let Some(target) = self.picks.pop_front() else { return Next::NoTarget };
            let (pass, transition) = target.admit(now);
            self.core.tell_transition(&target.name, transition);
            let Some(pass) = pass else { continue };
            let mut ticket = Ticket::new(&self.core, &self.route, target, pass);
            ticket.is_hurried = self.is_hurried;
            if !ticket.is_probe() {
                ticket.kind = kind;
            }
            self.start(ticket, now);
            return Next::Started;
        }
    }

    fn start(&mut self, ticket: Ticket, now: Instant) {
        let has_others = !self.picks.is_empty();
        let request = if has_others { self.request.clone() } else { self.request.take() };
        let Some(request) = request else { return };
        self.core.observer.observe(&RoutingEvent::AttemptStarted {
            route: &self.route,
            target: &ticket.target.name,
            num_before: self.num_started,
            kind: ticket.kind,
        });
        let p95 = ticket.target.p95();
        let remaining = self.deadline.saturating_duration_since(now);
        let patience = deadline::patience(remaining, p95, ticket.is_probe());
        let hedge = self.core.hedge_delay.and_then(|least| deadline::hedge_delay(p95, least));
        let mut attempt = Attempt::start(ticket, request);
        if has_others {
            attempt.gives_up_at = Some(now + patience);
            attempt.hedges_at = hedge.map(|delay| now + delay);
        }
        self.running.push(attempt);
        self.num_started += 1;
        self.num_calls += 1;
    }
}
