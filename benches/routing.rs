//! What routing adds to a completion: the plan of the moment alone, and a whole request through the router beside the
//! same request asked directly. The envelope is 100 µs at the median.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::{FutureExt as _, future::BoxFuture, stream};
use lacuna::{
    completion::{Asker, CompletionChunk, CompletionRequest, FinishReason, Input, Language, Usage},
    config::{Config, Environment, RawConfig, RouteConfig, RouteMatch, RouteTarget},
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
    routing::{
        NamedProvider, NoObserver, Router,
        circuit_breaker::Standing,
        decision::{Ability, Candidate, decide},
        route::{Facts, RouteTable},
    },
};

/// A file of an editor: 10 kB around the cursor.
const SIDE_BYTES: usize = 5000;

/// Answers at once.
struct Instantly(Arc<ModelInfo>);

impl Instantly {
    fn named(name: &str) -> Arc<dyn Provider> {
        Arc::new(Self(Arc::new(ModelInfo {
            name: name.to_owned(),
            engine: "instantly".to_owned(),
            max_context_tokens: 32_768,
            has_fim: true,
            has_repo_fim: false,
            has_chat: true,
            vocab_size: 1000,
        })))
    }
}

impl Provider for Instantly {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::clone(&self.0)
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        _: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let chunk = CompletionChunk {
            choice_index: 0,
            text: "return a;".to_owned(),
            logprobs: Vec::new(),
            finish_reason: Some(FinishReason::Stop),
            usage: None,
            num_choice_tokens: None,
        };
        let events =
            [Ok(CompletionEvent::Chunk(chunk)), Ok(CompletionEvent::Done(Usage::default()))];
        async { Ok(CompletionStream::new(stream::iter(events))) }.boxed()
    }
}

fn request() -> CompletionRequest {
    CompletionRequest {
        file_name: Some("src/main.rs".to_owned()),
        language: Language::detect("src/main.rs", None),
        max_tokens: Some(64),
        asker: Asker { user: Some("0123456789abcdef".to_owned()), ..Asker::default() },
        ..CompletionRequest::of(Input::Fim {
            prefix: "a".repeat(SIDE_BYTES),
            suffix: "b".repeat(SIDE_BYTES),
        })
    }
}

/// Nine routes for others, and one that splits over three targets.
fn routes() -> Vec<RouteConfig> {
    let target = |(name, weight): (&str, u32)| RouteTarget {
        name: name.to_owned(),
        weight,
        except: Vec::new(),
    };
    let route = |index: usize| RouteConfig {
        name: format!("route-{index}"),
        when: RouteMatch {
            users: if index < 9 { vec![format!("user {index}")] } else { Vec::new() },
            ..RouteMatch::default()
        },
        targets: [("local", 70), ("first", 20), ("second", 10)].map(target).to_vec(),
        pins: Vec::new(),
        shadow: None,
    };
    (0..10).map(route).collect()
}

fn plans(criterion: &mut Criterion) {
    let candidate = |target| Candidate {
        target,
        ability: Ability::Able,
        is_ready: true,
        standing: Standing::Closed,
        expected: Some(Duration::from_millis(50)),
    };
    let candidates = [candidate(0), candidate(1), candidate(2)];
    criterion.bench_function("decide/three targets", |bencher| {
        bencher.iter(|| decide(black_box(&candidates), Duration::from_secs(1)));
    });
    let table = RouteTable::from(routes());
    let request = request();
    criterion.bench_function("choose/the last of ten routes", |bencher| {
        let facts = Facts::of(&request, "local", "local", 7);
        bencher.iter(|| black_box(&table).choose(black_box(&facts)));
    });
}

fn requests(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let own = Instantly::named("local");
    let config = Config::load(&RawConfig::default(), &Environment::default(), None).unwrap();
    let named = |provider: Arc<dyn Provider>| NamedProvider {
        name: provider.model().name.clone(),
        provider,
    };
    let providers = vec![
        named(Arc::clone(&own)),
        named(Instantly::named("first")),
        named(Instantly::named("second")),
    ];
    let router = Router::new(&config.routing, routes(), providers, Arc::new(NoObserver));
    let routed = router.routed("local", Arc::clone(&own));
    for (name, provider) in [("directly", own), ("routed", routed)] {
        criterion.bench_function(&format!("request/{name}"), |bencher| {
            bencher.iter_custom(|num| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..num {
                        let request = request();
                        let began = Instant::now();
                        let answer = provider.complete(request).await.unwrap();
                        black_box(answer.collect().await.unwrap());
                        took += began.elapsed();
                    }
                    took
                })
            });
        });
    }
}

criterion_group!(benches, plans, requests);
criterion_main!(benches);
