//! What holds for whatever bytes come: asked by the fuzz targets, and by tests with mutated seeds.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use futures_util::{future::BoxFuture, stream};
use http_body_util::BodyExt as _;
use lacuna::{
    api::{ApiParts, ApiState, DrainFlag, Gateway, Observed, router},
    auth::{Clock, Guard},
    completion::{CompletionChunk, CompletionRequest, FinishReason, Language, Step, Usage},
    config::{AuthConfig, Config, Environment, Proxies, RawConfig},
    postprocess::{Chain, Ending, Flow, Gap},
    provider::{CompletionEvent, CompletionStream, ModelInfo, Provider, ProviderError},
    service::CompletionService,
    telemetry::metrics::Metrics,
};
use serde_json::Value;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

/// Stands for the user's source text in seeds; no error may hold it.
pub const SECRET: &str = "Kz7qSecretOfTheUser";

/// What separates the parts of the chain's input.
const SEPARATOR: u8 = 0xff;

/// Answers at once, with every choice that is asked for.
struct Instantly;

impl Provider for Instantly {
    fn model(&self) -> Arc<ModelInfo> {
        Arc::new(ModelInfo {
            name: "instant".to_owned(),
            engine: "lacuna".to_owned(),
            max_context_tokens: 2048,
            has_fim: true,
            has_repo_fim: true,
            has_chat: true,
            vocab_size: 1000,
        })
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn complete(
        &self,
        request: CompletionRequest,
    ) -> BoxFuture<'_, Result<CompletionStream, ProviderError>> {
        let chunks = (0..request.num_choices).map(|choice_index| {
            Ok(CompletionEvent::Chunk(CompletionChunk {
                choice_index,
                text: "a + b\n".to_owned(),
                logprobs: Vec::new(),
                finish_reason: Some(FinishReason::Stop),
                usage: None,
                num_choice_tokens: None,
            }))
        });
        let events: Vec<_> = chunks.chain([Ok(CompletionEvent::Done(Usage::default()))]).collect();
        Box::pin(std::future::ready(Ok(CompletionStream::new(stream::iter(events)))))
    }
}

fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let config = Config::load(&RawConfig::default(), &Environment::default(), None);
        let config = config.expect("the defaults are valid");
        let guard = Guard::new(AuthConfig::open(), &Proxies::default(), Clock::system());
        let guard = Arc::new(guard.expect("an open guard needs nothing"));
        let service = CompletionService::new(Arc::new(Instantly), config.completion.clone(), 64)
            .with_postprocess(config.postprocess.clone());
        let gateway = Gateway::load(&config).expect("the built-in prompts are valid");
        let state = ApiState::new(ApiParts {
            models: service.into(),
            router: None,
            config: &config.server,
            guard,
            drain: DrainFlag::default(),
            gateway,
            metrics: Metrics::default(),
            observed: Observed::default(),
            store: None,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        (runtime.expect("a runtime"), router(state, &config.server))
    })
}

/// Posts a body, checks that it is answered, or refused in words that do not repeat it, and returns the status.
///
/// # Panics
/// Where that does not hold.
pub fn wire(path: &str, body: &[u8]) -> u16 {
    let (runtime, router) = server();
    let request = Request::post(path).body(Body::from(body.to_vec())).expect("a request");
    let (status, answer) = runtime.block_on(async {
        let answer = router.clone().oneshot(request).await.expect("an answer");
        let status = answer.status();
        (status, answer.into_body().collect().await.expect("a whole answer").to_bytes())
    });
    let text = std::str::from_utf8(&answer).expect("an answer of text");
    if status == StatusCode::OK {
        return 200;
    }
    assert!(status.is_client_error(), "{status}: {text}");
    let value: Value = serde_json::from_str(text).expect("a refusal of JSON");
    let is_shaped = value["detail"].is_string() || value["error"]["message"].is_string();
    assert!(is_shaped, "{status}: {text}");
    assert!(!text.contains(SECRET), "{status}: {text}");
    status.as_u16()
}

/// Runs the chain over a completion, and checks that it deletes, is done at once, and takes pieces as it takes the whole.
///
/// # Panics
/// Where that does not hold.
pub fn chain(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == SEPARATOR);
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (file, before, text, after) = (part(), part(), part(), part());
    let language = Language::detect(&file, None);
    let gap = || Gap::new(&before, &after, language);
    let steps: Vec<Step> =
        Step::ALL.into_iter().filter(|step| *step != Step::LeadingNewline).collect();
    let chain = Chain::new(&steps);
    let kept = run(&chain, gap(), &[&text]);
    assert!(is_subsequence(&kept, &text), "{kept:?} of {text:?}");
    let streaming = chain.streaming();
    let whole = run(&streaming, gap(), &[&text]);
    let middle = text.floor_char_boundary(text.len() / 2);
    assert_eq!(run(&streaming, gap(), &[&text[..middle], &text[middle..]]), whole);
}

fn run(chain: &Chain, gap: Gap, pieces: &[&str]) -> String {
    let mut running = chain.begin(gap, || std::time::Duration::ZERO);
    let mut kept = String::new();
    for piece in pieces {
        let (text, flow) = running.push(piece);
        kept.push_str(&text);
        if flow == Flow::Ended {
            break;
        }
    }
    kept + &running.finish(Ending { is_cut: false, mean_logprob: None })
}

fn is_subsequence(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|c| rest.any(|other| other == c))
}
