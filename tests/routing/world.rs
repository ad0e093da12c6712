//! A router over scripted targets, and what it told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use lacuna::{
    completion::{Asker, CompletionRequest, FinishReason, Input, Task},
    config::{
        Config, Environment, RawConfig, RouteConfig, RouteMatch, RouteTarget, RoutingConfig,
        ShadowConfig,
    },
    provider::{CompletionEvent, Provider, ProviderError, ProviderErrorKind},
    routing::{Comparison, NamedProvider, Router, RoutingEvent, RoutingObserver},
};
use tokio::time::Instant;

use crate::scripted::{Play, Scripted};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) result: Result<String, ProviderErrorKind>,
    pub(crate) finish_reason: Option<FinishReason>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) took: Duration,
}

/// Counts what it is told, by a word for each kind.
#[derive(Default)]
pub(crate) struct Recorder {
    counts: Mutex<BTreeMap<String, usize>>,
    compared: Mutex<Vec<Comparison>>,
}

impl Recorder {
    pub(crate) fn count(&self, word: &str) -> usize {
        self.counts.lock().unwrap().get(word).copied().unwrap_or_default()
    }

    fn note(&self, word: String) {
        *self.counts.lock().unwrap().entry(word).or_default() += 1;
    }

    pub(crate) fn compared(&self) -> Vec<Comparison> {
        self.compared.lock().unwrap().clone()
    }
}

impl RoutingObserver for Recorder {
    fn observe(&self, event: &RoutingEvent<'_>) {
        let word = match event {
            RoutingEvent::AttemptStarted { target, kind, .. } => {
                format!("start {target} {}", kind.as_label())
            }
            RoutingEvent::AttemptEnded { target, kind, outcome, .. } => {
                self.note(format!("end {target} {}", kind.as_label()));
                format!("{outcome} {target}")
            }
            RoutingEvent::Skipped { target, reason, .. } => {
                format!("skip {target} {}", reason.as_label())
            }
            RoutingEvent::BudgetSpent { .. } => "spent".to_owned(),
            RoutingEvent::BreakerChanged { target, transition } => {
                format!("{target} {}", transition.to.as_label())
            }
            RoutingEvent::Shadowed { comparison, .. } => {
                self.compared.lock().unwrap().push(*comparison);
                comparison.as_label().to_owned()
            }
        };
        self.note(word);
    }
}

/// See the module.
pub(crate) struct World {
    pub(crate) router: Arc<Router>,
    pub(crate) targets: Vec<Arc<Scripted>>,
    pub(crate) seen: Arc<Recorder>,
    pub(crate) provider: Arc<dyn Provider>,
}

/// What a world is made of; the routes' targets are tried in order.
pub(crate) struct Plan {
    pub(crate) config: RoutingConfig,
    pub(crate) routes: Vec<RouteConfig>,
    pub(crate) targets: Vec<Arc<Scripted>>,
}

/// Returns the settings that hold where nobody says otherwise.
pub(crate) fn defaults() -> RoutingConfig {
    Config::load(&RawConfig::default(), &Environment::default(), None).unwrap().routing
}

pub(crate) fn route(name: &str, targets: &[(&str, u32)]) -> RouteConfig {
    let target = |(name, weight): &(&str, u32)| RouteTarget {
        name: (*name).to_owned(),
        weight: *weight,
        except: Vec::new(),
    };
    RouteConfig {
        name: name.to_owned(),
        when: RouteMatch::default(),
        targets: targets.iter().map(target).collect(),
        pins: Vec::new(),
        shadow: None,
    }
}

impl Plan {
    /// Two targets, `a` and then `b`, and the default settings.
    pub(crate) fn two(a: Play, b: Play) -> Self {
        Self {
            config: defaults(),
            routes: vec![route("all", &[("a", 0), ("b", 0)])],
            targets: vec![Scripted::new("a", a), Scripted::new("b", b)],
        }
    }

    pub(crate) fn shadowed(mut self, name: &str, play: Play) -> Self {
        self.targets.push(Scripted::new(name, play));
        self.routes[0].shadow = Some(ShadowConfig { target: name.to_owned(), percent: 100.0 });
        self
    }

    /// Puts the router together; requests ask for `a`.
    pub(crate) fn build(self) -> World {
        let named = |target: &Arc<Scripted>| {
            let provider: Arc<dyn Provider> = Arc::<Scripted>::clone(target);
            NamedProvider { name: provider.model().name.clone(), provider }
        };
        let providers = self.targets.iter().map(named).collect();
        let seen = Arc::new(Recorder::default());
        let observer: Arc<dyn RoutingObserver> = Arc::<Recorder>::clone(&seen);
        let router = Router::new(&self.config, self.routes, providers, observer);
        let own: Arc<dyn Provider> = Arc::<Scripted>::clone(&self.targets[0]);
        let provider = router.routed("a", own);
        World { router, targets: self.targets, seen, provider }
    }
}

/// Returns a gap that nobody in particular asks to fill.
pub(crate) fn gap() -> CompletionRequest {
    CompletionRequest::of(Input::Fim { prefix: "a = ".to_owned(), suffix: "\n".to_owned() })
}

pub(crate) fn generation() -> CompletionRequest {
    CompletionRequest { asker: Asker { task: Task::Generation, ..Asker::default() }, ..gap() }
}

impl World {
    /// Asks, and waits for the whole answer.
    pub(crate) async fn ask(&self, request: CompletionRequest) -> Ended {
        let began = Instant::now();
        let result = self.whole(request).await;
        let took = began.elapsed();
        let retry_after = result.as_ref().err().and_then(|error| error.retry_after);
        let finish_reason = result.as_ref().ok().and_then(|(_, reason)| *reason);
        let result = result.map(|(text, _)| text).map_err(|error| error.kind);
        Ended { result, finish_reason, retry_after, took }
    }

    async fn whole(
        &self,
        request: CompletionRequest,
    ) -> Result<(String, Option<FinishReason>), ProviderError> {
        let mut events = self.provider.complete(request).await?;
        let (mut text, mut reason, mut is_done) = (String::new(), None, false);
        while let Some(event) = events.next().await {
            match event? {
                CompletionEvent::Chunk(chunk) => {
                    text.push_str(&chunk.text);
                    reason = chunk.finish_reason.or(reason);
                }
                CompletionEvent::Done(_) => is_done = true,
            }
        }
        assert!(is_done, "an answer has an end");
        Ok((text, reason))
    }

    /// Asks so often, with a pause before each but the first.
    pub(crate) async fn ask_each(&self, num: usize, pause: Duration) -> Vec<Ended> {
        let mut all = Vec::with_capacity(num);
        for index in 0..num {
            if index > 0 {
                tokio::time::sleep(pause).await;
            }
            all.push(self.ask(gap()).await);
        }
        all
    }

    /// Asks so often, each so long after the one before, whether that has ended or not.
    pub(crate) async fn ask_abreast(&self, num: u32, pause: Duration) -> Vec<Ended> {
        let later = |index: u32| async move {
            tokio::time::sleep(pause * index).await;
            self.ask(gap()).await
        };
        futures_util::future::join_all((0..num).map(later)).await
    }

    /// Returns how often each target was asked.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.num_calls()).collect()
    }

    /// Returns how many requests each target works on.
    pub(crate) fn open(&self) -> Vec<usize> {
        self.targets.iter().map(|target| target.num_open()).collect()
    }
}

/// Returns how many were answered by a target.
pub(crate) fn served_by(all: &[Ended], name: &str) -> usize {
    all.iter().filter(|ended| ended.result.as_deref() == Ok(name)).count()
}

/// Returns a quantile of the times.
pub(crate) fn quantile(all: &[Ended], share: f64) -> Duration {
    let mut times: Vec<Duration> = all.iter().map(|ended| ended.took).collect();
    times.sort_unstable();
    times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
}
