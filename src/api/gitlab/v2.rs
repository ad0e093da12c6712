//! The v2 endpoints: a file and its cursor in, a completion or whole code out.

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};

use crate::api::{
    ApiState, account_of, body,
    correlation::RequestId,
    gitlab::{
        call::{Call, marked},
        convert::{self, Asked, Asking, ModelWish, answer, wire_name},
        error::GitlabError,
        texts::bare,
        wire::v2::WireRequest,
    },
};
use crate::service::Account;

/// Returns the endpoints.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v2/code/completions", post(completions))
        .route("/v2/completions", post(completions))
        .route("/v2/code/generations", post(generations))
}

async fn completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(&id, "gitlab.completions", &request);
    let answer = answer(&state, request, &account, convert::v2::completion).await;
    answer.inspect_err(|error| account.fail(error.as_label()))
}

async fn generations(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(&id, "gitlab.generations", &request);
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
