//! The dialects: each translates its wire format to the vocabulary and back, and knows nothing of completing.
//!
//! A dialect is a folder: `wire` (the bytes' shape), `convert` (to a request and back), `mod` (endpoints, errors).
//! What all share is here: the id of a request, who may call, limits of a body, admission, CORS, tolerant paths.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, Method, Uri, header, uri::PathAndQuery},
    middleware::from_fn_with_state,
    response::Response,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tower::{Layer as _, util::MapRequestLayer};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;

use crate::api::{
    correlation::{Correlation, RequestId, X_PROCESS_TIME, X_REQUEST_ID, correlate},
    error::{ApiError, ApiErrorKind},
};
use crate::auth::Guard;
use crate::completion::FinishReason;
use crate::config::ServerConfig;
use crate::routing;
use crate::service::{Account, CompletionService, NameKind, ServedModels, ServedName};
use crate::telemetry::{Exchange, metrics::Metrics, store::Store};

mod access;
mod admin;
mod body;
mod clock;
mod correlation;
mod deadline;
mod error;
mod exchange;
mod gitlab;
mod json;
mod metrics;
mod monitoring;
mod openai;
mod openapi;
mod origin;
mod status;
mod steps;
mod telemetry;

pub use exchange::{Observed, PeerAddress};
pub use gitlab::Gateway;
pub use metrics::metrics_router;

/// Says whether the server is on its way out, so that probes stop sending it work.
#[derive(Clone, Debug, Default)]
pub struct DrainFlag(Arc<AtomicBool>);

impl DrainFlag {
    /// Switches readiness off, for good.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Returns whether the server is on its way out.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the endpoints share.
#[derive(Clone, Debug)]
pub struct ApiState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    models: ServedModels,
    /// `None` where there are no routes.
    router: Option<Arc<routing::Router>>,
    guard: Arc<Guard>,
    drain: DrainFlag,
    admission: Arc<Semaphore>,
    body_bytes_max: usize,
    /// One permit a byte of the bodies being read.
    body_bytes: Semaphore,
    allowed_origins: Vec<String>,
    read_timeout: Duration,
    started_unix_seconds: u64,
    gateway: Gateway,
    metrics: Metrics,
    /// What is told of requests.
    observed: Observed,
    /// Where completions are kept; `None` where nothing is.
    store: Option<Store>,
}

/// A place among the requests in work; dropping it frees the place.
type Admission = OwnedSemaphorePermit;

/// Bodies of the largest size that may be read at once; usual ones are a thousandth of it.
const BODIES_MAX: usize = 16;
/// A full house empties within a completion's time, which is about this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a server is made of.
#[derive(Debug)]
pub struct ApiParts<'a> {
    /// What answers to which name.
    pub models: ServedModels,
    /// What sends requests where the routes say, where there are some.
    pub router: Option<Arc<routing::Router>>,
    /// Its limits.
    pub config: &'a ServerConfig,
    /// Lets callers in.
    pub guard: Arc<Guard>,
    /// Says when it is on its way out.
    pub drain: DrainFlag,
    /// What GitLab's dialect goes by.
    pub gateway: Gateway,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Which requests are told of, and to whom.
    pub observed: Observed,
    /// Where completions and what became of them are kept, where anywhere.
    pub store: Option<Store>,
}

impl ApiState {
    /// Serves what these are.
    pub fn new(parts: ApiParts<'_>) -> Self {
        let ApiParts { models, router, config, guard, drain, gateway, metrics, observed, store } =
            parts;
        let num_places = config.concurrent_requests_max.min(Semaphore::MAX_PERMITS);
        let body_bytes_all = config.body_bytes_max.saturating_mul(BODIES_MAX);
        Self(Arc::new(Shared {
            models,
            router,
            guard,
            drain,
            admission: Arc::new(Semaphore::new(num_places)),
            body_bytes_max: config.body_bytes_max,
            body_bytes: Semaphore::new(body_bytes_all.min(Semaphore::MAX_PERMITS)),
            allowed_origins: config.cors_allowed_origins.clone(),
            read_timeout: config.read_timeout,
            started_unix_seconds: clock::unix_seconds(),
            gateway,
            metrics,
            observed,
            store,
        }))
    }

    fn observed(&self) -> &Observed {
        &self.0.observed
    }

    fn store(&self) -> Option<&Store> {
        self.0.store.as_ref()
    }

    fn router(&self) -> Option<&Arc<routing::Router>> {
        self.0.router.as_ref()
    }

    fn models(&self) -> &ServedModels {
        &self.0.models
    }

    /// Returns what answers for the model that a request names. An empty name is what a client sends that was never told
    /// one.
    fn service(&self, name: Option<&str>) -> Result<&CompletionService, ApiError> {
        let models = self.models();
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(models.first()) };
        let served = models.find(name).ok_or_else(|| unknown_model(models))?;
        Ok(&served.service)
    }

    fn is_ready(&self) -> bool {
        // Behind a GitLab that brings its own models, which may have no way out, keys are not waited for.
        let has_keys = self.0.guard.has_issuer_keys().unwrap_or(true);
        !self.0.drain.is_raised()
            && self.0.models.is_ready()
            && (has_keys
                || self.0.gateway.config.has_custom_models
                || !self.0.guard.needs_issuers())
    }

    /// Returns each model by its own name, and whether it would take a request now.
    fn models_ready(&self) -> impl Iterator<Item = (&str, bool)> {
        let own = self.0.models.names().iter().filter(|served| served.kind == NameKind::Model);
        own.map(|served| (served.name.as_str(), served.service.is_ready()))
    }

    /// Returns whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.0.guard.is_open()
    }

    fn guard(&self) -> &Guard {
        &self.0.guard
    }

    fn allowed_origins(&self) -> &[String] {
        &self.0.allowed_origins
    }

    /// Takes room for `num_bytes` more of a body.
    fn body_room(&self, num_bytes: usize) -> Result<SemaphorePermit<'_>, ApiError> {
        let num_bytes = u32::try_from(num_bytes).unwrap_or(u32::MAX);
        self.0.body_bytes.try_acquire_many(num_bytes).map_err(|_| overloaded())
    }

    fn body_bytes_max(&self) -> usize {
        self.0.body_bytes_max
    }

    fn read_timeout(&self) -> Duration {
        self.0.read_timeout
    }

    /// Returns what is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn gateway(&self) -> &Gateway {
        &self.0.gateway
    }

    fn started_unix_seconds(&self) -> u64 {
        self.0.started_unix_seconds
    }

    /// Takes a place among the requests in work. Asked for once the body is there, so that slow senders hold none.
    fn admit(&self) -> Result<Admission, ApiError> {
        Arc::clone(&self.0.admission).try_acquire_owned().map_err(|_| overloaded())
    }
}

fn overloaded() -> ApiError {
    ApiError {
        retry_after: Some(RETRY_AFTER),
        ..ApiError::new(ApiErrorKind::Overloaded, "too many requests are in work")
    }
}

/// Says which names there are, and does not repeat what the client wrote.
fn unknown_model(models: &ServedModels) -> ApiError {
    let names = quoted(models.names());
    let verb = if models.names().len() == 1 { "is" } else { "are" };
    let rule = format!("is not served here; {names} {verb}");
    ApiError { kind: ApiErrorKind::UnknownModel, ..ApiError::invalid("model", rule) }
}

/// Returns names as messages list them.
fn quoted<'a>(names: impl IntoIterator<Item = &'a ServedName>) -> String {
    let names = names.into_iter().map(|served| format!("`{}`", served.name));
    names.collect::<Vec<_>>().join(", ")
}

/// Returns the word for an end that the dialects share; the client of an aborted choice sees a text that was cut.
fn finish_reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length | FinishReason::Aborted => "length",
    }
}

/// Opens the account of a request that was let in.
fn account_of(
    state: &ApiState,
    id: &RequestId,
    endpoint: &'static str,
    request: &Request,
) -> Account {
    let account = Account::open(&id.0, endpoint);
    account.count_in(state.metrics());
    account.part_of(request.extensions().get::<Exchange>());
    telemetry::keep(state, &account, request);
    account
}

/// Refuses a list that is too long.
fn check_items(field: &str, num_items: usize, items_max: usize) -> Result<(), ApiError> {
    if num_items <= items_max {
        return Ok(());
    }
    Err(ApiError::invalid(field, format!("must have at most {items_max} items, got {num_items}")))
}

/// Returns the description of all endpoints, as JSON to be read by people and programs.
pub fn openapi() -> String {
    let (_, document) = described();
    // A document of texts and numbers always serialises.
    document.to_pretty_json().unwrap_or_default()
}

/// Returns the dialects' endpoints and their description.
fn described() -> (Router<ApiState>, OpenApi) {
    let mut router = Router::new();
    let mut document = openapi::head();
    let dialects = [openai::routes(), gitlab::routes()];
    let others = [monitoring::routes(), telemetry::routes(), admin::routes(), status::routes()];
    for (endpoints, description) in dialects.into_iter().chain(others) {
        router = router.merge(endpoints);
        document.merge(description);
    }
    (router, openapi::finished(document))
}

/// Returns all endpoints.
pub fn router(state: ApiState, config: &ServerConfig) -> Router {
    let (endpoints, document) = described();
    let correlation = Correlation::new(state.clone());
    let endpoints = endpoints.merge(openapi::routes(document));
    let endpoints = endpoints
        .fallback(unknown_route)
        .layer(from_fn_with_state(state.clone(), access::guard))
        .layer(from_fn_with_state(state.metrics().clone(), metrics::count))
        .with_state(state);
    // Rewriting a path has no effect once a router has chosen, so an outer router does it.
    let mut router =
        Router::new().fallback_service(MapRequestLayer::new(normalise_path).layer(endpoints));
    if !config.cors_allowed_origins.is_empty() {
        router = router.layer(cors(config.cors_allowed_origins.clone()));
    }
    router.layer(from_fn_with_state(correlation, correlate))
}

/// An unknown path answers in the shape of the dialect it looks like.
async fn unknown_route(request: Request) -> Response {
    if is_gitlab(request.uri().path()) {
        return gitlab::unknown_route();
    }
    openai::unknown_route(request.method())
}

/// Returns whether a path looks like one of the gateway's.
fn is_gitlab(path: &str) -> bool {
    const ROOTS: [&str; 6] = ["/v1/code/", "/v1/prompts/", "/v2/", "/v3/", "/v4/", "/monitoring/"];
    ROOTS.iter().any(|root| path.starts_with(root))
}

fn cors(origins: Vec<String>) -> CorsLayer {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::predicate(move |origin, _| {
            origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
        })
    };
    let exposed: [HeaderName; 3] = [X_REQUEST_ID, X_PROCESS_TIME, header::RETRY_AFTER];
    // `*` would leave `Authorization` out, so the headers asked for are allowed by name.
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(exposed)
}

/// Clients join a base address and a path with one slash too many, or end with one.
fn normalise_path(mut request: Request) -> Request {
    let path = request.uri().path();
    // A page's parts are found beside it, so its own slash stays.
    let is_page = path == openapi::PAGE_PATH;
    if is_page || !path.contains("//") && (!path.ends_with('/') || path == "/") {
        return request;
    }
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    if let Some(query) = request.uri().query() {
        normal.push('?');
        normal.push_str(query);
    }
    let mut parts = request.uri().clone().into_parts();
    if let Ok(path_and_query) = PathAndQuery::try_from(normal) {
        parts.path_and_query = Some(path_and_query);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn folds_slashes() {
        let rows = [
            ("/", "/"),
            ("//", "/"),
            ("/v1/models", "/v1/models"),
            ("/v1/models/", "/v1/models"),
            ("/docs/", "/docs/"),
            ("//v1//models///a%2Fb//?q=//", "/v1/models/a%2Fb?q=//"),
        ];
        for (given, expected) in rows {
            let request = Request::builder().uri(given).body(Body::empty()).unwrap();
            assert_eq!(normalise_path(request).uri(), expected, "{given}");
        }
    }
}
