//! The v3 and v4 endpoints: components in, a completion or whole code out; v4 streams events, v3 bare text.

use axum::{
    Extension, Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState, account_of, body,
    clock::unix_seconds,
    correlation::RequestId,
    gitlab::{
        call::{Call, marked},
        convert::{ModelWish, answer, components::Components, components::wire_name},
        description::{Failures, Headers},
        error::GitlabError,
        sse,
        texts::bare,
        wire::{
            answer::{WireStreamMetadata, WireStreamModel, WireStreamStart, WireSuggestions},
            components::WireComponents,
        },
    },
};
use crate::auth::{COMPLETE_CODE, GENERATE_CODE};
use crate::service::Account;

/// Returns the endpoints.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(with_bare_streams)).routes(routes!(with_events))
}

/// How a stream is written.
#[derive(Clone, Copy)]
enum Streams {
    Bare,
    Events,
}

/// Completes at a cursor, or writes whole code, as the first component says.
///
/// A stream is bare text.
#[utoipa::path(
    post,
    path = "/v3/code/completions",
    tag = "GitLab",
    params(Headers),
    request_body = WireComponents,
    responses(
        (status = 200, content((WireSuggestions<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn with_bare_streams(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(&state, &id, "gitlab.suggestions_v3", &request);
    let answer = answer(&state, request, &account, Streams::Bare).await;
    answer.inspect_err(|error| account.fail(error.as_label()))
}

/// Completes at a cursor, or writes whole code, as the first component says.
///
/// A stream is events: `stream_start`, a `content_chunk` for each piece, `stream_end`.
#[utoipa::path(
    post,
    path = "/v4/code/suggestions",
    tag = "GitLab",
    params(Headers),
    request_body = WireComponents,
    responses(
        (status = 200, content((WireSuggestions<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn with_events(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = account_of(&state, &id, "gitlab.suggestions", &request);
    let answer = answer(&state, request, &account, Streams::Events).await;
    answer.inspect_err(|error| account.fail(error.as_label()))
}

async fn answer(
    state: &ApiState,
    request: Request,
    account: &Account,
    streams: Streams,
) -> Result<Response, GitlabError> {
    let call = Call::open(state, account, &request, wire_name)?;
    let wire: WireComponents = body::read_json(state, request).await?;
    let mut wish = ModelWish::of_metadata(wire.model_metadata.as_ref())?;
    let components = Components::check(wire)?;
    wish.name(components.model_name());
    let scope = if components.is_generation() { GENERATE_CODE } else { COMPLETE_CODE };
    call.authorise(scope, "Unauthorized to access code suggestions")?;
    let service = call.service(&wish)?;
    let admission = call.admit()?;
    let asked = call.noted(components.asked(&call.asking(service))?);
    let prompt = asked.prompt.clone();
    let model = service.model();
    let response = match (asked.is_streaming, streams) {
        (true, Streams::Bare) => bare(call.texts(service, asked, admission).await?),
        (true, Streams::Events) => {
            let name = prompt.as_ref().map_or(&model.name, |(_, name)| name);
            let texts = call.texts(service, asked, admission).await?;
            let start = WireStreamStart {
                metadata: WireStreamMetadata {
                    model: WireStreamModel { engine: "agent", name },
                    timestamp: unix_seconds(),
                    enabled_feature_flags: call.flags(),
                    region: state.gateway().config.region.as_deref(),
                },
            };
            sse::respond(&start, texts)
        }
        (false, _) => {
            let said = call.said(&model, asked.request.language);
            let completion = call.whole(service, asked).await?;
            Json(answer::suggestions(completion, said)).into_response()
        }
    };
    Ok(marked(response, prompt.as_ref().map(|(place, _)| place)))
}
