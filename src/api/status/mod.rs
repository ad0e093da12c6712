//! How the server does, for people without a dashboard: a page at the address of metrics, and the JSON that it shows.
//!
//! The page is one file and asks nobody else for anything: its script and its style are named by their hashes in the
//! policy that it is sent with. On the server's own address the JSON is for keys with the scope `admin` alone.

use std::{sync::LazyLock, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState, clock, openai,
    status::wire::{WireRequests, WireStatus},
};

mod wire;

pub(super) use wire::WireTarget;

#[cfg(test)]
mod tests;

/// The page, whole.
const PAGE: &str = include_str!("page.html");
const HTML: &str = "text/html; charset=utf-8";

/// Scripts and styles of other places, frames and forms are refused by the browser.
static POLICY: LazyLock<String> = LazyLock::new(|| policy(PAGE));

/// Returns what answers at the address of metrics.
pub(super) fn page_routes() -> Router<ApiState> {
    Router::new().route("/status", get(page)).route("/status.json", get(json))
}

/// Returns the endpoint of the server's own address and its description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) = OpenApiRouter::new().routes(routes!(json)).split_for_parts();
    (router.method_not_allowed_fallback(openai::wrong_method), document)
}

async fn page() -> Response {
    let policy = HeaderValue::from_str(&POLICY).ok();
    let mut response = ([(header::CONTENT_TYPE, HTML)], PAGE).into_response();
    let headers = response.headers_mut();
    headers.extend(policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Says how the server does: requests of the last minutes, engines, targets of routes.
#[utoipa::path(
    get,
    path = "/admin/status",
    tag = "Status",
    responses((status = 200, body = WireStatus), openai::Failures)
)]
async fn json(
    State(state): State<ApiState>,
) -> ([(HeaderName, &'static str); 1], Json<WireStatus>) {
    ([(header::CACHE_CONTROL, "no-store")], Json(status(&state)))
}

fn status(state: &ApiState) -> WireStatus {
    let uptime_seconds = clock::unix_seconds().saturating_sub(state.started_unix_seconds());
    let window = wire::window(Duration::from_secs(uptime_seconds));
    let recent = state.metrics().requests().recent();
    let now = tokio::time::Instant::now().into_std();
    let targets = state.router().map(|router| router.targets()).unwrap_or_default();
    WireStatus {
        version: env!("CARGO_PKG_VERSION"),
        region: state.gateway().config.region.clone(),
        uptime_seconds,
        is_ready: state.is_ready(),
        window_seconds: window.as_secs(),
        requests: recent.into_iter().map(|recent| WireRequests::of(recent, window)).collect(),
        engines: state.metrics().engines().into_iter().map(Into::into).collect(),
        targets: targets.iter().map(|view| WireTarget::of(view, now)).collect(),
    }
}

/// Returns the policy under which a page runs its own script and style and nothing else.
fn policy(page: &str) -> String {
    let hash = |tag: &str| {
        let text = between(page, &format!("<{tag}>"), &format!("</{tag}>")).unwrap_or_default();
        STANDARD.encode(digest(&SHA256, text.as_bytes()))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(inner, _)| inner)
}
