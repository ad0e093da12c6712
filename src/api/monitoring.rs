//! Probes: is the process alive, and would it take a request now.

use axum::{Json, Router, extract::State, http::StatusCode};
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{ApiState, gitlab};

/// Returns the probes' endpoints and their description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) = OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(ready))
        .routes(routes!(health))
        .split_for_parts();
    (router.method_not_allowed_fallback(gitlab::wrong_method), document)
}

/// Says that the process is alive.
#[utoipa::path(get, path = "/monitoring/healthz", tag = "Probes", responses((status = 200, body = Value)))]
async fn healthz() -> Json<Value> {
    Json(json!({}))
}

/// Says whether a request would be taken, as GitLab's charts ask.
#[utoipa::path(
    get,
    path = "/monitoring/ready",
    tag = "Probes",
    responses((status = 200, body = Value), (status = 503, body = Value))
)]
async fn ready(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let is_ready = state.is_ready();
    let models: Map<String, Value> =
        state.models_ready().map(|(name, is_ready)| (name.to_owned(), json!(is_ready))).collect();
    let mut body = json!({ "ready": is_ready, "models": models });
    if let Some(has_keys) = state.guard().has_issuer_keys() {
        body["issuer_keys"] = json!(has_keys);
    }
    (status(is_ready), Json(body))
}

/// Says whether a request would be taken, as editors' plugins ask.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Probes",
    responses((status = 200, body = Value), (status = 503, body = Value))
)]
async fn health(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let is_ready = state.is_ready();
    let word = if is_ready { "ok" } else { "unavailable" };
    (status(is_ready), Json(json!({ "status": word })))
}

fn status(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
