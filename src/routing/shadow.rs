//! Copies of requests: to a candidate, whose answers are compared with what users got and then dropped; and to a target
//! that may be back, to find out.
//!
//! They run in tasks of their own, which the router owns and bounds: a request never waits for its copy, and a copy that
//! finds no place is left out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
};

use crate::{
    completion::CompletionRequest,
    provider::{CompletionStream, ProviderError},
    routing::{
        answer::{Answer, Compared},
        attempt::{Attempt, Ticket},
        circuit_breaker::Standing,
        observer::{AttemptKind, Comparison, RoutingEvent},
        router::{Core, now},
        target::Target,
    },
};

/// What the user's answer may take beyond the deadline to be told of.
const GRACE: Duration = Duration::from_secs(1);

/// The copies under way.
pub(super) struct Shadows {
    tasks: Mutex<JoinSet<()>>,
    places: Arc<Semaphore>,
}

impl Shadows {
    pub(super) fn new(num_max: usize) -> Self {
        Self { tasks: Mutex::new(JoinSet::new()), places: Arc::new(Semaphore::new(num_max)) }
    }

    /// Starts a copy, if there is a place and the target is asked now; returns where the user's answer goes.
    pub(super) fn start(
        &self,
        core: &Arc<Core>,
        route: &Arc<str>,
        target: &Arc<Target>,
        request: &CompletionRequest,
        deadline: Instant,
    ) -> Option<Compared> {
        let tell = |comparison| {
            let (route, target) = (&**route, target.name.as_str());
            core.observer.observe(&RoutingEvent::Shadowed { route, target, comparison });
        };
        let now = now();
        // Probes are for requests that somebody waits for.
        let is_asked = target.provider.is_ready() && target.standing(now) == Standing::Closed;
        let place = Arc::clone(&self.places).try_acquire_owned().ok().filter(|_| is_asked);
        let pass = place.as_ref().and_then(|_| target.admit(now).0);
        let (Some(place), Some(pass)) = (place, pass) else {
            tell(Comparison::LeftOut);
            return None;
        };
        let mut ticket = Ticket::new(core, route, Arc::clone(target), pass);
        ticket.kind = AttemptKind::Shadow;
        let attempt = Attempt::start(ticket, request.clone());
        let (told, answer) = oneshot::channel();
        let (core, route, name) = (Arc::clone(core), Arc::clone(route), target.name.clone());
        let num_choices = request.num_choices;
        self.spawn(async move {
            let _place = place;
            let shadow = whole(attempt, num_choices, deadline).await;
            let told = tokio::time::timeout_at((deadline + GRACE).into(), answer).await;
            let comparison = compare(told.ok().and_then(Result::ok).as_deref(), shadow.as_deref());
            let (route, target) = (&*route, name.as_str());
            tracing::debug!(route, name = target, comparison = comparison.as_label(), "shadow");
            core.observer.observe(&RoutingEvent::Shadowed { route, target, comparison });
        });
        Some(Compared::new(told))
    }

    /// Asks a target that may be back, if its breaker lets a probe in and the budget has a call left. Probes are bounded
    /// by the breakers, which let so many in at once.
    pub(super) fn probe(
        &self,
        core: &Arc<Core>,
        route: &Arc<str>,
        target: &Arc<Target>,
        request: &CompletionRequest,
        deadline: Instant,
    ) {
        let now = now();
        let is_probe = matches!(target.standing(now), Standing::Probe { .. });
        if !is_probe || !core.budget().take(now) {
            return;
        }
        let (pass, transition) = target.admit(now);
        core.tell_transition(&target.name, transition);
        let Some(pass) = pass else { return };
        core.observer.observe(&RoutingEvent::AttemptStarted {
            route,
            target: &target.name,
            num_before: 0,
            kind: AttemptKind::Probe,
        });
        let ticket = Ticket::new(core, route, Arc::clone(target), pass);
        let (attempt, num_choices) = (Attempt::start(ticket, request.clone()), request.num_choices);
        self.spawn(async move {
            // Its ticket tells the breaker how it ended; the text is nobody's.
            let _text = whole(attempt, num_choices, deadline).await;
        });
    }

    fn spawn(&self, copy: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(copy);
    }
}

/// Waits for the first choice of a shadow, at most to the deadline.
async fn whole(mut attempt: Attempt, num_choices: u32, deadline: Instant) -> Option<String> {
    let first = async {
        loop {
            let event = std::future::poll_fn(|cx| attempt.poll_next(cx)).await;
            match event.and_then(|event| attempt.hold(event)) {
                Ok(false) => {}
                Ok(true) => {
                    attempt.ticket.answers();
                    return true;
                }
                Err(error) => {
                    attempt.ticket.fails(&error);
                    return false;
                }
            }
        }
    };
    match tokio::time::timeout_at(deadline.into(), first).await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(_) => {
            attempt.ticket.abandon();
            return None;
        }
    }
    let answer: CompletionStream = Answer::new(attempt, num_choices, deadline, None).into_stream();
    let whole: Result<_, ProviderError> = answer.collect().await;
    Some(whole.ok()?.choices.into_iter().next()?.text)
}

fn compare(answer: Option<&str>, shadow: Option<&str>) -> Comparison {
    match (answer, shadow) {
        (Some(answer), Some(shadow)) => Comparison::Both {
            has_same_first_line: answer.lines().next() == shadow.lines().next(),
            num_bytes: answer.len(),
            num_shadow_bytes: shadow.len(),
        },
        (None, _) => Comparison::NoAnswer,
        (Some(_), None) => Comparison::ShadowFailed,
    }
}
