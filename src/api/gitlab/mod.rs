//! The GitLab AI Gateway's code suggestions, as GitLab and its editors' language server call them.
//!
//! `wire` is the bytes' shape, `convert` the way to the vocabulary and back, `call` what all endpoints do, and each group
//! of endpoints has a file: [`v2`], [`suggestions`] (v3 and v4), [`prompts`], [`definitions`].
//!
//! # Source
//! The gateway's published behaviour, August 2026; `docs/api.md` says where we differ and why.

use axum::{
    Router,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState,
    error::{ApiError, ApiErrorKind},
    gitlab::{context::GitlabContext, error::GitlabError},
};
use crate::telemetry::Caller;

mod call;
mod context;
mod convert;
mod definitions;
mod description;
mod error;
mod gateway;
mod intent;
mod prompts;
mod sse;
mod suggestions;
mod texts;
mod user_token;
mod v2;
mod wire;

pub use gateway::Gateway;

/// Returns the dialect's endpoints and their description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) = OpenApiRouter::new()
        .merge(v2::routes())
        .merge(suggestions::routes())
        .merge(prompts::routes())
        .merge(definitions::routes())
        .routes(routes!(user_token::create))
        .split_for_parts();
    (router.method_not_allowed_fallback(wrong_method), document)
}

/// Answers who is not let in.
pub(super) fn refusal(error: ApiError) -> Response {
    GitlabError::from(error).into_response()
}

/// Returns who calls, as the headers tell.
pub(super) fn caller(headers: &HeaderMap) -> Caller {
    GitlabContext::of(headers).caller
}

/// Answers an unknown path.
pub(super) fn unknown_route() -> Response {
    GitlabError::from(ApiError::new(ApiErrorKind::UnknownRoute, "unknown path")).into_response()
}

/// Answers a method that the endpoint does not have.
pub(super) async fn wrong_method() -> Response {
    GitlabError::from(ApiError::new(ApiErrorKind::WrongMethod, "unknown method")).into_response()
}
