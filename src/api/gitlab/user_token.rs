//! Tokens for editors: GitLab asks for one in a user's name and hands it on.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{
    ApiState,
    access::credentials,
    correlation::RequestId,
    error::{ApiError, ApiErrorKind},
    gitlab::{
        self, GitlabError,
        description::{Failures, Headers},
    },
};
use crate::auth::{Caller, UserTokenError};
use crate::service::Account;
use crate::telemetry::Exchange;

/// A token for one user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::UserToken)]
struct WireToken {
    token: String,
    /// Seconds since 1970.
    expires_at: u64,
}

/// Makes a token for an editor of the user that the headers name.
#[utoipa::path(
    post,
    path = "/v1/code/user_access_token",
    tag = "GitLab",
    params(Headers),
    responses(
        (status = 200, body = WireToken),
        (status = 500, description = "This server has no key to sign tokens with."),
        Failures
    )
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(id): Extension<RequestId>,
    exchange: Option<Extension<Exchange>>,
    headers: HeaderMap,
) -> Response {
    let error = match state.guard().issue(&caller, &credentials(&headers)) {
        Ok(issued) => {
            let body = WireToken { token: issued.token, expires_at: issued.expires_at };
            return Json(body).into_response();
        }
        Err(error) => error,
    };
    let account = Account::open(&id.0, "gitlab.user_access_token");
    account.count_in(state.metrics());
    account.part_of(exchange.as_ref().map(|Extension(exchange)| exchange));
    account.caller(gitlab::caller(&headers));
    account.fail(match error {
        UserTokenError::NotAllowed => ApiErrorKind::Unauthorised.as_label(),
        UserTokenError::NoUser | UserTokenError::TooLong => ApiErrorKind::Invalid.as_label(),
        UserTokenError::Unsigned => ApiErrorKind::Internal.as_label(),
    });
    let status = match error {
        UserTokenError::NotAllowed => StatusCode::FORBIDDEN,
        UserTokenError::Unsigned => {
            tracing::warn!("a token for an editor was asked for: auth.signing_key_file is not set");
            StatusCode::INTERNAL_SERVER_ERROR
        }
        UserTokenError::NoUser | UserTokenError::TooLong => {
            return GitlabError::from(ApiError::invalid("X-Gitlab-Global-User-Id", error))
                .into_response();
        }
    };
    (status, Json(json!({ "detail": error.to_string() }))).into_response()
}
