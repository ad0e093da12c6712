//! OpenAI's completions: the legacy ones of texts, which most editors' plugins speak, those of conversations; its list
//! of models.
//!
//! # Source
//! The published API reference and vLLM's additions to it; `docs/api.md` says where we differ and why.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::future::try_join_all;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState,
    access::routed_user,
    account_of, body,
    clock::unix_seconds,
    correlation::RequestId,
    deadline,
    error::{ApiError, ApiErrorKind},
    finish_reason_name,
    openai::{
        convert::Asked,
        stream::Answer,
        wire::{
            WireCapabilities, WireChoice, WireError, WireFailure, WireModel, WireModels,
            WireRequest, WireResponse, WireSaid, WireUsage, WireUsageMember,
            chat::{WireDelta, WireTurn},
        },
    },
    steps, unknown_model,
};
use crate::auth::Caller;
use crate::completion::{CompletionRequest, Step};
use crate::flags::Actor;
use crate::provider::{CompletionStream, ProviderError};
use crate::service::{Account, CompletionService, NameKind, ServedName};

mod convert;
mod description;
mod stream;
mod wire;

pub(super) use description::Failures;

/// Returns the dialect's endpoints and their description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) = OpenApiRouter::new()
        .routes(routes!(completions))
        .routes(routes!(chat_completions))
        .routes(routes!(models))
        .routes(routes!(model))
        .split_for_parts();
    (router.method_not_allowed_fallback(wrong_method), document)
}

/// An error in this dialect's shape: `{"error": {"message", "type", "param", "code"}}`.
struct OpenAiError(ApiError);

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<ProviderError> for OpenAiError {
    fn from(error: ProviderError) -> Self {
        Self(ApiError::from_provider(error, convert::wire_name))
    }
}

impl OpenAiError {
    fn body(&self) -> WireFailure<'_> {
        let Self(error) = self;
        let (_, r#type, code) = self.row();
        let param = error.field.as_deref();
        WireFailure { error: WireError { message: &error.message, r#type, param, code } }
    }

    /// Returns status, `type` and `code`.
    fn row(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self.0.kind {
            ApiErrorKind::Invalid => (StatusCode::BAD_REQUEST, REQUEST, None),
            ApiErrorKind::PromptTooLong => {
                (StatusCode::BAD_REQUEST, REQUEST, Some("context_length_exceeded"))
            }
            ApiErrorKind::UnknownModel => (StatusCode::NOT_FOUND, REQUEST, Some("model_not_found")),
            ApiErrorKind::UnknownRoute => (StatusCode::NOT_FOUND, REQUEST, None),
            ApiErrorKind::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, None),
            ApiErrorKind::Unauthenticated => {
                (StatusCode::UNAUTHORIZED, REQUEST, Some("invalid_api_key"))
            }
            ApiErrorKind::Unauthorised => {
                (StatusCode::FORBIDDEN, REQUEST, Some("insufficient_permissions"))
            }
            ApiErrorKind::ForbiddenOrigin => {
                (StatusCode::FORBIDDEN, REQUEST, Some("origin_not_allowed"))
            }
            ApiErrorKind::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, Some("request_too_large"))
            }
            ApiErrorKind::ReadTimeout => {
                (StatusCode::REQUEST_TIMEOUT, REQUEST, Some("request_timeout"))
            }
            ApiErrorKind::Overloaded | ApiErrorKind::RateLimited => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            ApiErrorKind::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, SERVER, Some("unavailable"))
            }
            ApiErrorKind::DeadlineExceeded => {
                (StatusCode::GATEWAY_TIMEOUT, SERVER, Some("deadline_exceeded"))
            }
            ApiErrorKind::Upstream => (StatusCode::BAD_GATEWAY, SERVER, Some("upstream_error")),
            ApiErrorKind::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, SERVER, Some("internal_error"))
            }
        }
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let (status, ..) = self.row();
        let body = Json(self.body()).into_response();
        self.0.into_response(status, body)
    }
}

/// Answers who is not let in.
pub(super) fn refusal(error: ApiError) -> Response {
    OpenAiError(error).into_response()
}

/// Answers an unknown path.
pub(super) fn unknown_route(method: &Method) -> Response {
    let message = format!("no endpoint answers {method} on this path");
    OpenAiError(ApiError::new(ApiErrorKind::UnknownRoute, message)).into_response()
}

/// Answers a method that the endpoint does not have.
pub(super) async fn wrong_method(method: Method) -> Response {
    let message = format!("this endpoint does not answer {method}");
    OpenAiError(ApiError::new(ApiErrorKind::WrongMethod, message)).into_response()
}

/// What is completed, and with that the shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Texts and gaps.
    Text,
    /// Conversations.
    Chat,
}

/// Who speaks in an answer.
const ASSISTANT: &str = "assistant";

impl Form {
    fn endpoint(self) -> &'static str {
        match self {
            Self::Text => "openai.completions",
            Self::Chat => "openai.chat_completions",
        }
    }

    fn id(self, request_id: &str) -> String {
        match self {
            Self::Text => format!("cmpl-{request_id}"),
            Self::Chat => format!("chatcmpl-{request_id}"),
        }
    }

    fn whole_object(self) -> &'static str {
        match self {
            Self::Text => "text_completion",
            Self::Chat => "chat.completion",
        }
    }

    fn piece_object(self) -> &'static str {
        match self {
            Self::Text => "text_completion",
            Self::Chat => "chat.completion.chunk",
        }
    }

    fn whole(self, text: String) -> WireSaid {
        match self {
            Self::Text => WireSaid::Text(text),
            Self::Chat => WireSaid::Message(WireTurn { role: ASSISTANT, content: text }),
        }
    }

    fn piece(self, text: String, is_first: bool) -> WireSaid {
        match self {
            Self::Text => WireSaid::Text(text),
            Self::Chat => WireSaid::Delta(WireDelta {
                role: is_first.then_some(ASSISTANT),
                content: (is_first || !text.is_empty()).then_some(text),
            }),
        }
    }
}

/// What every answer and event of a completion begins with.
struct Head {
    form: Form,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn response(
        &self,
        object: &'static str,
        choices: Vec<WireChoice>,
        usage: WireUsageMember,
    ) -> WireResponse<'_> {
        WireResponse {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            usage,
        }
    }
}

/// Completes a text, or with `suffix` the gap between two.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "OpenAI",
    request_body = WireRequest,
    responses(
        (status = 200, content((WireResponse<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiError> {
    complete(Form::Text, &state, request, &id).await
}

/// Continues a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "OpenAI",
    request_body = WireRequest,
    responses(
        (status = 200, content((WireResponse<'static> = "application/json"), (serde_json::Value = "text/event-stream"))),
        Failures
    )
)]
async fn chat_completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, OpenAiError> {
    complete(Form::Chat, &state, request, &id).await
}

async fn complete(
    form: Form,
    state: &ApiState,
    request: Request,
    id: &RequestId,
) -> Result<Response, OpenAiError> {
    let account = account_of(state, id, form.endpoint(), &request);
    let answer = answer(form, state, request, id, &account).await;
    answer.inspect_err(|OpenAiError(error)| account.fail(error.kind.as_label()))
}

async fn answer(
    form: Form,
    state: &ApiState,
    request: Request,
    id: &RequestId,
    account: &Account,
) -> Result<Response, OpenAiError> {
    let caller = request.extensions().get::<Arc<Caller>>().map(Arc::clone);
    let deadline = deadline::asked(request.headers());
    let left_out = steps::left_out(request.headers())?;
    let wire: WireRequest = body::read_json(state, request).await?;
    let max_tokens = convert::max_tokens_name(&wire, form);
    let asking = Asking { form, id, caller: caller.as_deref(), deadline, left_out };
    let answer = answer_to(wire, asking, state, account).await;
    answer.map_err(|OpenAiError(error)| OpenAiError(error.renamed("max_tokens", max_tokens)))
}

/// What is known of a request before its body is.
struct Asking<'a> {
    form: Form,
    id: &'a RequestId,
    caller: Option<&'a Caller>,
    deadline: Option<Instant>,
    /// Steps of post-processing that it does without.
    left_out: Vec<Step>,
}

async fn answer_to(
    wire: WireRequest,
    asking: Asking<'_>,
    state: &ApiState,
    account: &Account,
) -> Result<Response, OpenAiError> {
    let Asking { form, id, caller, deadline, left_out } = asking;
    let service = state.service(wire.model.as_deref())?;
    let model = service.model();
    let admission = state.admit()?;
    let mut asked = convert::asked(wire, form, &model, service, state.models())?;
    let realm = caller.and_then(|caller| caller.realm).map(|realm| realm.as_label().to_owned());
    let actor = Actor { user: routed_user(caller), realm, ..Actor::default() };
    let flags = state.gateway().flags.in_force(&[], &actor);
    for request in &mut asked.requests {
        request.deadline = deadline;
        request.asker.user.clone_from(&actor.user);
        request.asker.realm.clone_from(&actor.realm);
        request.asker.flags.clone_from(&flags);
        request.postprocessing.leave_out(left_out.iter().copied());
    }
    account.streaming(asked.is_streaming);
    let (id, created) = (form.id(&id.0), unix_seconds());
    let head = Head { form, id, created, model: model.name.clone() };
    if !asked.is_streaming {
        return whole(service, head, account, asked).await;
    }
    let has_logprobs = asked.requests.iter().any(|request| request.logprobs.is_some());
    let Asked { num_choices, echo, usage, .. } = asked;
    let streams = start(service, account, asked.requests).await?;
    let answer = Answer { head, num_choices, echo, has_logprobs, usage, _admission: admission };
    Ok(stream::respond(answer, streams).await?)
}

async fn whole(
    service: &CompletionService,
    head: Head,
    account: &Account,
    asked: Asked,
) -> Result<Response, OpenAiError> {
    let Asked { requests, echo, num_choices, .. } = asked;
    let has_logprobs = requests.iter().any(|request| request.logprobs.is_some());
    // All run at once; the first to fail takes the others with it.
    let completions = try_join_all(requests.into_iter().map(async |request| {
        let stream = service.complete(request, account.clone()).await?;
        stream.collect().await
    }))
    .await?;
    let mut usage = WireUsage::default();
    let mut choices = Vec::with_capacity(completions.len() * num_choices as usize);
    for (prompt_index, completion) in completions.into_iter().enumerate() {
        convert::add_usage(&mut usage, completion.usage);
        for choice in completion.choices {
            let echoed = echo.as_ref().map_or("", |texts| texts[prompt_index].as_str());
            choices.push(WireChoice {
                index: prompt_index as u32 * num_choices + choice.index,
                said: head.form.whole(if echoed.is_empty() {
                    choice.text
                } else {
                    format!("{echoed}{}", choice.text)
                }),
                logprobs: has_logprobs
                    .then(|| convert::logprobs(head.form, choice.logprobs, &mut 0)),
                finish_reason: Some(finish_reason_name(choice.finish_reason)),
            });
        }
    }
    let usage = WireUsageMember::Counted(usage);
    Ok(Json(head.response(head.form.whole_object(), choices, usage)).into_response())
}

async fn start(
    service: &CompletionService,
    account: &Account,
    requests: Vec<CompletionRequest>,
) -> Result<Vec<CompletionStream>, ProviderError> {
    let starts = requests.into_iter().map(|request| service.complete(request, account.clone()));
    try_join_all(starts).await
}

/// Lists what is served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "OpenAI",
    responses((status = 200, body = WireModels<'static>), Failures)
)]
async fn models(State(state): State<ApiState>) -> Result<Response, OpenAiError> {
    let models = state.models().names().iter().map(|served| wire_model(served, &state));
    Ok(Json(WireModels { object: "list", data: models.collect() }).into_response())
}

/// Tells of one model.
///
/// Its name may hold slashes.
#[utoipa::path(
    get,
    path = "/v1/models/{*id}",
    tag = "OpenAI",
    params(("id" = String, Path, description = "A name of `/v1/models`.")),
    responses((status = 200, body = WireModel<'static>), Failures)
)]
async fn model(
    State(state): State<ApiState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, OpenAiError> {
    let models = state.models();
    // A name that is no UTF-8 is no model's either.
    let served = id.ok().and_then(|Path(id)| models.find(&id));
    let served = served.ok_or_else(|| unknown_model(models))?;
    Ok(Json(wire_model(served, &state)).into_response())
}

fn wire_model<'a>(served: &'a ServedName, state: &ApiState) -> WireModel<'a> {
    let model = served.service.model();
    WireModel {
        id: &served.name,
        object: "model",
        created: state.started_unix_seconds(),
        owned_by: model.engine.clone(),
        root: (served.kind == NameKind::Alias).then(|| served.model.clone()),
        parent: (served.kind == NameKind::Adapter).then(|| served.model.clone()),
        capabilities: served.service.is_known().then(|| WireCapabilities {
            fim: model.has_fim,
            repo_fim: model.has_repo_fim,
            chat: model.has_chat,
            max_context: model.max_context_tokens,
        }),
    }
}
