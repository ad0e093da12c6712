//! The router: named targets, the routes in force, and a provider for each name that is served.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};

use crate::{
    completion::{CompletionRequest, Input},
    config::{BreakerConfig, RouteConfig, RoutingConfig},
    provider::{CompletionStream, ModelInfo, Provider, ProviderError, ProviderErrorKind},
    routing::{
        answer::Answer,
        circuit_breaker::{Cause, Override, Transition},
        deadline::Deadlines,
        decision::{Ability, Candidate, Plan, SkipReason, decide},
        observer::{RoutingEvent, RoutingObserver},
        race::Race,
        retry_budget::{BudgetRules, RetryBudget},
        route::{Chosen, Facts, RouteTable},
        shadow::Shadows,
        span, split,
        target::{Target, TargetView},
    },
};

/// Returns the time. A paused clock's, where a test has one.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A target by a name that is served.
pub struct NamedProvider {
    /// What routes call it.
    pub name: String,
    /// What completes; its own name tells whether two names are one target.
    pub provider: Arc<dyn Provider>,
}

impl std::fmt::Debug for NamedProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedProvider").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What somebody wanted to change that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No target has the name.
    #[error("no target has this name")]
    UnknownTarget,
    /// The route or one of its targets is not there, or the weights do not sum to 100.
    #[error("the weights must be of targets of a route that there is, and sum to 100")]
    Weights,
}

/// Sends requests where the routes say.
pub struct Router {
    core: Arc<Core>,
    shadows: Shadows,
    targets: BTreeMap<String, Arc<Target>>,
    table: RwLock<Arc<RouteTable>>,
    deadlines: Deadlines,
    num_requests: AtomicU64,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("table", &self.table).finish_non_exhaustive()
    }
}

/// What tries need of the router.
pub(super) struct Core {
    pub(super) breaker_rules: BreakerConfig,
    pub(super) hedge_delay: Option<Duration>,
    pub(super) observer: Arc<dyn RoutingObserver>,
    budget: Mutex<RetryBudget>,
}

impl Core {
    pub(super) fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell_transition(&self, target: &str, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        let Transition { from, to, cause } = transition;
        tracing::warn!(
            name = target,
            from = from.as_label(),
            to = to.as_label(),
            cause = cause.map(Cause::as_label),
            "breaker"
        );
        self.observer.observe(&RoutingEvent::BreakerChanged { target, transition });
    }
}

impl Router {
    /// Routes among `providers`, which hold each name that `routes` has.
    pub fn new(
        config: &RoutingConfig,
        routes: Vec<RouteConfig>,
        providers: Vec<NamedProvider>,
        observer: Arc<dyn RoutingObserver>,
    ) -> Arc<Self> {
        let rules = config.breaker;
        let mut own: BTreeMap<String, Arc<Target>> = BTreeMap::new();
        let mut targets = BTreeMap::new();
        for NamedProvider { name, provider } in providers {
            // An alias is the same target as its model: one breaker, one latency.
            let model = provider.model().name.clone();
            let target = own
                .entry(model.clone())
                .or_insert_with(|| Arc::new(Target::new(model, provider, rules)));
            targets.insert(name, Arc::clone(target));
        }
        let budget = RetryBudget::new(BudgetRules {
            share: config.retry_share,
            floor: config.retry_floor,
            window: config.retry_window,
        });
        let core = Core {
            breaker_rules: rules,
            hedge_delay: config.hedge_delay,
            observer,
            budget: Mutex::new(budget),
        };
        Arc::new(Self {
            core: Arc::new(core),
            shadows: Shadows::new(config.num_shadows_max),
            targets,
            table: RwLock::new(Arc::new(RouteTable::from(routes))),
            deadlines: Deadlines {
                completion: config.completion_deadline,
                generation: config.generation_deadline,
            },
            num_requests: AtomicU64::new(0),
        })
    }

    /// Returns what answers under a name in the place of `own`: whom the routes say, else `own` itself.
    pub fn routed(self: &Arc<Self>, name: &str, own: Arc<dyn Provider>) -> Arc<dyn Provider> {
        Arc::new(RoutedProvider { router: Arc::clone(self), name: name.to_owned(), own })
    }

    /// Returns the routes in force.
    pub fn table(&self) -> Arc<RouteTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other routes in force; requests under way keep theirs. Names that are no target are passed over, which the
    /// settings' own check leaves none of.
    pub fn replace(&self, routes: Vec<RouteConfig>) {
        self.set_table(RouteTable::from(routes));
    }

    /// Returns the targets, in the order of their names.
    pub fn targets(&self) -> Vec<TargetView> {
        let now = now();
        let own = self.targets.iter().filter(|(name, target)| **name == target.name);
        own.map(|(_, target)| target.view(now)).collect()
    }

    /// Decides over a target's breaker, or lets it decide again.
    ///
    /// # Errors
    /// There is no such target.
    pub fn decide(&self, name: &str, manual: Override) -> Result<(), ChangeError> {
        let target = self.targets.get(name).ok_or(ChangeError::UnknownTarget)?;
        let transition = target.set_manual(manual);
        self.core.tell_transition(&target.name, transition);
        Ok(())
    }

    /// Gives the targets of a route other weights, until the routes are read again. A target that is not named gets 0.
    ///
    /// # Errors
    /// There is no such route or target, or the weights do not sum to 100.
    pub fn set_weights(&self, route: &str, weights: &[(String, u32)]) -> Result<(), ChangeError> {
        // One lock over both, or routes that are read again meanwhile would be lost.
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let changed = table.with_weights(route, weights).ok_or(ChangeError::Weights)?;
        *table = Arc::new(changed);
        Ok(())
    }

    fn set_table(&self, table: RouteTable) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    async fn complete(
        &self,
        name: &str,
        own: &Arc<dyn Provider>,
        mut request: CompletionRequest,
    ) -> Result<CompletionStream, ProviderError> {
        let table = self.table();
        let model = own.model();
        let draw = split::draw(self.num_requests.fetch_add(1, Ordering::Relaxed));
        let facts = Facts::of(&request, name, &model.name, draw);
        let Some(chosen) = table.choose(&facts) else { return own.complete(request).await };
        let now = now();
        let failed_at = std::mem::take(&mut request.asker.failed_at);
        if failed_at.is_empty() {
            self.core.budget().record_request(now);
        }
        let task = request.asker.task;
        let deadline = self.deadlines.of(task, now, request.deadline);
        let is_hurried = deadline < self.deadlines.of(task, now, None);
        request.deadline = Some(deadline);
        let targets: Vec<&Arc<Target>> = chosen
            .order
            .iter()
            .filter_map(|index| self.targets.get(&chosen.route.targets[*index].name))
            .filter(|target| !failed_at.contains(&target.name))
            .collect();
        let route: Arc<str> = Arc::from(chosen.route.name.as_str());
        let mut span = span::begin(&mut request, &route);
        let plan = plan(&request, &model.name, &targets, deadline);
        span::decided(&mut span, &targets, &plan);
        self.tell_skipped(&route, &targets, &plan);
        if plan.picks.is_empty() {
            let is_loading = targets.iter().any(|target| target.provider.is_loading());
            return Err(refusal(&plan, now, is_loading))
                .inspect_err(|error| span::failed(&mut span, error));
        }
        // Copies were made of the first try.
        let is_first = failed_at.is_empty();
        for probe in plan.probes.iter().filter(|_| is_first) {
            self.shadows.probe(&self.core, &route, targets[*probe], &request, deadline);
        }
        let shadow = self.shadow(&chosen, &targets, &plan).filter(|_| is_first);
        let compared = shadow
            .and_then(|target| self.shadows.start(&self.core, &route, target, &request, deadline));
        let num_choices = request.num_choices;
        let picks = plan.picks.iter().map(|pick| Arc::clone(targets[pick.target])).collect();
        let race = Race::new(&self.core, route, picks, request, deadline);
        let num_before = failed_at.len() as u32;
        let attempt = race.hurried(is_hurried).after(num_before).run().await;
        let attempt = attempt.inspect_err(|error| span::failed(&mut span, error))?;
        // Another may have failed, and its copy's own answer is no news.
        let is_shadow = shadow.is_some_and(|it| it.name == attempt.ticket.target.name);
        let compared = compared.filter(|_| !is_shadow);
        Ok(Answer::new(attempt, num_choices, deadline, compared).into_stream())
    }

    /// Returns whom a request is copied to; not to one that may answer it first.
    fn shadow<'a>(
        &'a self,
        chosen: &Chosen<'_>,
        targets: &[&Arc<Target>],
        plan: &Plan,
    ) -> Option<&'a Arc<Target>> {
        let shadow = self.targets.get(chosen.shadow?)?;
        let first = plan.picks.first().map(|pick| targets[pick.target].name.as_str());
        Some(shadow).filter(|shadow| first != Some(shadow.name.as_str()))
    }

    fn tell_skipped(&self, route: &str, targets: &[&Arc<Target>], plan: &Plan) {
        for (index, reason) in &plan.skipped {
            let target = targets[*index].name.as_str();
            tracing::debug!(route, name = target, reason = reason.as_label(), "target passed over");
            self.core.observer.observe(&RoutingEvent::Skipped { route, target, reason: *reason });
        }
    }
}

/// Asks the targets how they are, and puts them into the order of the moment.
fn plan(
    request: &CompletionRequest,
    model: &str,
    targets: &[&Arc<Target>],
    deadline: Instant,
) -> Plan {
    let now = now();
    let candidates: Vec<Candidate> = targets
        .iter()
        .enumerate()
        .map(|(index, target)| Candidate {
            target: index,
            ability: ability(request, model, &target.provider.model()),
            is_ready: target.provider.is_ready(),
            standing: target.standing(now),
            expected: target.provider.expected_first_token(request),
        })
        .collect();
    decide(&candidates, deadline.saturating_duration_since(now))
}

/// Returns whether a model can do what a request asks that was made for the model called `own`.
fn ability(request: &CompletionRequest, own: &str, model: &ModelInfo) -> Ability {
    let names_tokens = matches!(request.input, Input::Tokens(_))
        || !request.sampling.logit_bias.is_empty()
        || !request.stop_token_ids.is_empty();
    match &request.input {
        _ if names_tokens && model.name != own => Ability::OtherTokens,
        Input::Fim { .. } if !model.has_fim => Ability::NoFim,
        Input::Chat(_) if !model.has_chat => Ability::NoChat,
        Input::Fim { .. } | Input::Chat(_) | Input::Text(_) | Input::Tokens(_) => Ability::Able,
    }
}

/// Returns what a client is told where nobody is asked.
fn refusal(plan: &Plan, now: Instant, is_loading: bool) -> ProviderError {
    let is_unable = |(_, reason): &(usize, SkipReason)| matches!(reason, SkipReason::Unable(_));
    if !plan.skipped.is_empty() && plan.skipped.iter().all(is_unable) {
        let message = "no target of the request's route can do what it asks";
        return ProviderError::new(ProviderErrorKind::InvalidRequest, message);
    }
    if is_loading {
        return ProviderError::loading();
    }
    nobody(plan.retry_at, now)
}

/// Returns what a client is told where all targets are left alone, until `retry_at` as far as is known.
pub(super) fn nobody(retry_at: Option<Instant>, now: Instant) -> ProviderError {
    ProviderError {
        retry_after: retry_at.map(|at| at.saturating_duration_since(now)),
        ..ProviderError::new(ProviderErrorKind::Unavailable, "no target takes requests now")
    }
}

/// What answers under a name.
struct RoutedProvider {
    router: Arc<Router>,
    name: String,
    own: Arc<dyn Provider>,
}

impl RoutedProvider {
    /// Returns whether something holds of the model itself, or of a target of a route that its name may take.
    fn any(&self, holds: impl Fn(&dyn Provider) -> bool) -> bool {
        let table = self.router.table();
        let takes = |models: &[String]| models.is_empty() || models.contains(&self.name);
        let routes = table.routes().filter(|route| takes(&route.when.models));
        let mut targets = routes.flat_map(|route| &route.targets);
        holds(self.own.as_ref())
            || targets.any(|target| {
                let target = self.router.targets.get(&target.name);
                target.is_some_and(|target| holds(target.provider.as_ref()))
            })
    }
}

impl Provider for RoutedProvider {
    fn model(&self) -> Arc<ModelInfo> {
        self.own.model()
    }

    /// Ready where somebody may answer: the model itself, or a target of a route that its name may take.
    fn is_ready(&self) -> bool {
        self.any(Provider::is_ready)
    }

    fn is_loading(&self) -> bool {
        self.own.is_loading()
    }

    fn is_known(&self) -> bool {
        self.own.is_known()
    }

    fn may_answer(&self) -> bool {
        self.any(Provider::may_answer)
    }

    fn begins_again(&self) -> bool {
        true
    }

    fn expected_first_token(&self, request: &CompletionRequest) -> Option<Duration> {
        self.own.expected_first_token(request)
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        self.router.complete(&self.name, &self.own, request).boxed()
    }
}
