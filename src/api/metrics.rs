//! Metrics: handed out at an address of their own, and HTTP's own ones counted.

use std::time::Instant;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::Response,
    routing::get,
};

use crate::{
    api::{ApiState, gitlab, status},
    telemetry::{Exchange, metrics::Metrics},
};

/// Prometheus's text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Stands for all paths that are no endpoint's.
const NO_HANDLER: &str = "none";

/// Returns what answers at the address of metrics: operators' pages.
pub fn metrics_router(state: ApiState) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .merge(status::page_routes())
        .method_not_allowed_fallback(gitlab::wrong_method)
        .with_state(state)
}

async fn page(State(state): State<ApiState>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], state.metrics().render())
}

/// Counts a request by its endpoint, which is one of a closed set.
pub(super) async fn count(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let handler = request.extensions().get::<MatchedPath>().cloned();
    let method = method(request.method());
    let exchange = request.extensions().get::<Exchange>().cloned();
    let response = next.run(request).await;
    let handler = handler.as_ref().map_or(NO_HANDLER, MatchedPath::as_str);
    // As the description has it.
    let handler = handler.replace("{*", "{");
    if let (Some(exchange), true) = (exchange, handler != NO_HANDLER) {
        exchange.route(&handler);
    }
    metrics.http().record(&handler, method, response.status().as_u16(), began.elapsed());
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
