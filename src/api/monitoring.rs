//! Probes: is the process alive, and would it take a request now.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Map, Value, json};

use crate::api::{ApiState, gitlab};

/// Returns the probes' endpoints.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/monitoring/healthz", get(async || Json(json!({}))))
        .route("/monitoring/ready", get(ready))
        .route("/health", get(health))
        .method_not_allowed_fallback(gitlab::wrong_method)
}

/// Whether a request would be taken, as GitLab's charts ask.
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

/// The same, as editors' plugins ask.
async fn health(State(state): State<ApiState>) -> (StatusCode, Json<Value>) {
    let is_ready = state.is_ready();
    let word = if is_ready { "ok" } else { "unavailable" };
    (status(is_ready), Json(json!({ "status": word })))
}

fn status(is_ready: bool) -> StatusCode {
    if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
