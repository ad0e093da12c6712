//! The v2 endpoints: a file and its cursor in, a completion or whole code out.

use axum::{
    Extension, Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState, account_of, body,
    correlation::RequestId,
    gitlab::{
        call::{Call, marked},
        convert::{self, Asked, Asking, ModelWish, answer, wire_name},
        description::{Failures, Headers},
        error::GitlabError,
        texts::bare,
        wire::{answer::WireV2Answer, v2::WireRequest},
    },
};
use crate::service::Account;

/// Returns the endpoints.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(completions))
        .routes(routes!(direct_completions))
        .routes(routes!(generations))
}

/// Completes at a cursor.
///
/// Asked by GitLab, in a user's place.
#[utoipa::path(
    post,
    path = "/v2/code/completions",
    tag = "GitLab",
    params(Headers),
    request_body = WireRequest,
    responses(
        (status = 200, content((WireV2Answer<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    complete(&state, &id, request).await
}

/// Completes at a cursor.
///
/// Asked by editors themselves, with the token that GitLab got for their user.
#[utoipa::path(
    post,
    path = "/v2/completions",
    tag = "GitLab",
    params(Headers),
    request_body = WireRequest,
    responses(
        (status = 200, content((WireV2Answer<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn direct_completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    complete(&state, &id, request).await
}

async fn complete(
    state: &ApiState,
    id: &RequestId,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(state, id, "gitlab.completions", &request);
    let answer = answer(state, request, &account, convert::v2::completion).await;
    answer.inspect_err(|error| account.fail(error.as_label()))
}

/// Writes whole code from instructions: a comment, an empty function, or a prompt of the client.
#[utoipa::path(
    post,
    path = "/v2/code/generations",
    tag = "GitLab",
    params(Headers),
    request_body = WireRequest,
    responses(
        (status = 200, content((WireV2Answer<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn generations(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(&state, &id, "gitlab.generations", &request);
    let answer = answer(&state, request, &account, convert::v2::generation).await;
    answer.inspect_err(|error| account.fail(error.as_label()))
}

async fn answer(
    state: &ApiState,
    request: Request,
    account: &Account,
    translate: fn(WireRequest, &Asking<'_>) -> Result<Asked, GitlabError>,
) -> Result<Response, GitlabError> {
    let call = Call::open(state, account, &request, wire_name)?;
    let wire: WireRequest = body::read_json(state, request).await?;
    call.count_telemetry(wire.telemetry.as_deref().unwrap_or_default());
    let service = call.service(&ModelWish::of_v2(&wire)?)?;
    let admission = call.admit()?;
    let asked = call.noted(translate(wire, &call.asking(service))?);
    let place = asked.prompt.as_ref().map(|(place, _)| place.clone());
    let response = if asked.is_streaming {
        bare(call.texts(service, asked, admission).await?)
    } else {
        let model = service.model();
        let said = call.said(&model, asked.request.language);
        let completion = call.whole(service, asked).await?;
        Json(answer::v2(completion, said)).into_response()
    };
    Ok(marked(response, place.as_ref()))
}
