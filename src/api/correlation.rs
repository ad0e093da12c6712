//! Every answer carries the request's id and the time it took; the id also stands in the logs.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

use crate::{
    api::{ApiState, exchange},
    trace::in_request,
};

/// Names a request, in headers and logs.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Seconds from the request's head to the answer's head.
pub(super) const X_PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");

/// Longer ids are not ids; logs keep this much of a client's words.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of a request: the client's if it is sane, else a drawn one.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Draws ids that are unique, and hard to guess from one another.
#[derive(Debug, Default)]
pub(super) struct RequestIds {
    // Keyed by the system's randomness: good enough for ids, which protect nothing.
    high: RandomState,
    low: RandomState,
    num_drawn: AtomicU64,
}

impl RequestIds {
    fn draw(&self) -> RequestId {
        let number = self.num_drawn.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (self.high.hash_one(number), self.low.hash_one(number));
        RequestId(format!("{high:016x}{low:016x}").into())
    }

    fn of(&self, request: &Request) -> RequestId {
        let is_sane = |id: &&str| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_graphic())
        };
        request
            .headers()
            .get(X_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(is_sane)
            .map_or_else(|| self.draw(), |id| RequestId(id.into()))
    }
}

/// What names requests, and tells of them.
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    ids: Arc<RequestIds>,
    state: ApiState,
}

impl Correlation {
    pub(super) fn new(state: ApiState) -> Self {
        Self { ids: Arc::default(), state }
    }
}

/// Gives the request its id and what is told of it, and the answer the id and the time it took.
pub(super) async fn correlate(
    State(Correlation { ids, state }): State<Correlation>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = ids.of(&request);
    let exchange = exchange::open(&state, &id, &request);
    request.extensions_mut().insert(id.clone());
    if let Some(exchange) = &exchange {
        request.extensions_mut().insert(exchange.clone());
    }
    let response = in_request(Arc::clone(&id.0), next.run(request)).await;
    let seconds = started.elapsed().as_secs_f64();
    let mut response = exchange::held(response, &id, exchange);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds:.6}")) {
        headers.insert(X_PROCESS_TIME, value);
    }
    response
}
