//! Probes: is the process alive, and would it take a request now.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use serde_json::{Value, json};

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
    (status(is_ready), Json(json!({ "ready": is_ready })))
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
