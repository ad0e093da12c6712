//! The GitLab AI Gateway's code completion, as GitLab and its editors' language server call it.
//!
//! # Source
//! The gateway's published behaviour, August 2026; `docs/api.md` says where we differ and why.

use axum::body::Bytes;
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{Stream, stream};
use serde_json::json;

use crate::api::{
    Admission, ApiState, body,
    clock::unix_seconds,
    correlation::RequestId,
    error::{ApiError, ApiErrorKind},
    gitlab::{convert::Asked, wire::WireRequest},
};
use crate::completion::CompletionRequest;
use crate::provider::{CompletionEvent, CompletionStream, ProviderError, ProviderErrorKind};
use crate::service::{Account, CompletionService};

mod convert;
mod user_token;
mod wire;

/// Returns the dialect's endpoints.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v2/code/completions", post(completions))
        .route("/v2/completions", post(completions))
        .route("/v1/code/user_access_token", post(user_token::create))
        .method_not_allowed_fallback(wrong_method)
}

/// An error in this dialect's shape: `{"detail": "…"}`, but `{"error": "…"}` to who is not known.
struct GitlabError(ApiError);

impl From<ApiError> for GitlabError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<ProviderError> for GitlabError {
    fn from(error: ProviderError) -> Self {
        Self(ApiError::from_provider(error, convert::wire_name))
    }
}

impl IntoResponse for GitlabError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let (status, detail) = match error.kind {
            ApiErrorKind::Invalid | ApiErrorKind::PromptTooLong | ApiErrorKind::UnknownModel => {
                (StatusCode::UNPROCESSABLE_ENTITY, named(&error))
            }
            ApiErrorKind::UnknownRoute => (StatusCode::NOT_FOUND, "Not Found".to_owned()),
            ApiErrorKind::WrongMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned())
            }
            ApiErrorKind::Unauthenticated => {
                let body = Json(json!({ "error": error.message }));
                return error.into_response(StatusCode::UNAUTHORIZED, body);
            }
            ApiErrorKind::Unauthorised | ApiErrorKind::ForbiddenOrigin => {
                (StatusCode::FORBIDDEN, error.message.clone())
            }
            ApiErrorKind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, error.message.clone()),
            ApiErrorKind::ReadTimeout => (StatusCode::REQUEST_TIMEOUT, error.message.clone()),
            ApiErrorKind::Overloaded | ApiErrorKind::RateLimited => {
                (StatusCode::TOO_MANY_REQUESTS, TOO_MANY.to_owned())
            }
            ApiErrorKind::Unavailable | ApiErrorKind::DeadlineExceeded | ApiErrorKind::Internal => {
                (StatusCode::SERVICE_UNAVAILABLE, "Inference failed".to_owned())
            }
        };
        error.into_response(status, Json(json!({ "detail": detail })))
    }
}

/// The original's words, which clients may look for.
const TOO_MANY: &str = "Too many requests. Please try again later.";

/// A rule's message with the field in it, also where the provider left it out.
fn named(error: &ApiError) -> String {
    match &error.field {
        Some(field) if !error.message.contains(field.as_str()) => {
            format!("`{field}`: {}", error.message)
        }
        _ => error.message.clone(),
    }
}

/// Answers who is not let in.
pub(super) fn refusal(error: ApiError) -> Response {
    GitlabError(error).into_response()
}

/// Answers an unknown path.
pub(super) fn unknown_route() -> Response {
    GitlabError(ApiError::new(ApiErrorKind::UnknownRoute, "unknown path")).into_response()
}

/// Answers a method that the endpoint does not have.
pub(super) async fn wrong_method() -> Response {
    GitlabError(ApiError::new(ApiErrorKind::WrongMethod, "unknown method")).into_response()
}

async fn completions(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, GitlabError> {
    let account = Account::open(&id.0, "gitlab.completions");
    let answer = answer(&state, request, &account).await;
    answer.inspect_err(|GitlabError(error)| account.fail(error.kind.as_label()))
}

async fn answer(
    state: &ApiState,
    request: Request,
    account: &Account,
) -> Result<Response, GitlabError> {
    let wire: WireRequest = body::read_json(state, request).await?;
    let models = state.models()?;
    // Clients name what their GitLab was told of, which need not be anything that is served here.
    let served = convert::model_names(&wire).find_map(|name| models.find(name));
    let service = served.map_or(models.first(), |served| &served.service);
    let Asked { request, is_streaming } = convert::asked(wire, service.limits().num_choices_limit)?;
    account.streaming(is_streaming);
    let admission = state.admit()?;
    if is_streaming {
        streamed(service, request, account, admission).await
    } else {
        whole(service, request, account).await
    }
}

async fn whole(
    service: &CompletionService,
    request: CompletionRequest,
    account: &Account,
) -> Result<Response, GitlabError> {
    let created = unix_seconds();
    let language = request.language;
    let completion = service.complete(request, account.clone()).await?.collect().await?;
    let model = service.model();
    Ok(Json(convert::response(completion, &model, language, created)).into_response())
}

/// Bare text under the content type of events, without an end mark, as the original does.
async fn streamed(
    service: &CompletionService,
    request: CompletionRequest,
    account: &Account,
    admission: Admission,
) -> Result<Response, GitlabError> {
    let mut events = service.complete(request, account.clone()).await?;
    // An error before the first byte still gets its status.
    let first = next_text(&mut events).await?;
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let body = match first {
        Some(first) => {
            Body::from_stream(texts(Texts { first: Some(first), events, _admission: admission }))
        }
        None => Body::empty(),
    };
    Ok((headers, body).into_response())
}

struct Texts {
    /// The text read ahead, until it is handed on.
    first: Option<Bytes>,
    events: CompletionStream,
    /// Held to the end of the answer.
    _admission: Admission,
}

/// An error after the start cuts the connection: an orderly end would pass a part off as the whole.
fn texts(texts: Texts) -> impl Stream<Item = Result<Bytes, ProviderError>> + Send {
    stream::try_unfold(texts, async |mut texts| {
        let next = match texts.first.take() {
            Some(first) => Some(first),
            None => match next_text(&mut texts.events).await {
                Ok(next) => next,
                Err(error) => {
                    // hyper drops what it has not yet written when a body fails; this turn lets it write.
                    tokio::task::yield_now().await;
                    return Err(error);
                }
            },
        };
        Ok(next.map(|text| (text, texts)))
    })
}

/// Returns the next text that is not empty; `None` at the end.
async fn next_text(events: &mut CompletionStream) -> Result<Option<Bytes>, ProviderError> {
    loop {
        match events.next().await {
            Some(Ok(CompletionEvent::Chunk(chunk))) if chunk.choice_index == 0 => {
                if !chunk.text.is_empty() {
                    return Ok(Some(Bytes::from(chunk.text)));
                }
            }
            Some(Ok(CompletionEvent::Chunk(_))) => {}
            Some(Ok(CompletionEvent::Done(_))) => return Ok(None),
            Some(Err(error)) => return Err(error),
            None => {
                let kind = ProviderErrorKind::Internal;
                return Err(ProviderError::new(kind, "the completion ended early"));
            }
        }
    }
}
