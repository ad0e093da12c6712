//! Errors in this dialect's shape: `{"detail": "…"}`, but `{"error": "…"}` to who is not known.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::prompt::registry::RenderError;
use crate::provider::ProviderError;
use crate::{
    api::{
        error::{ApiError, ApiErrorKind},
        gitlab::convert,
    },
    provider::LOADING,
};

/// The original's words, which clients may look for.
const TOO_MANY: &str = "Too many requests. Please try again later.";

const FAILED: &str = "Inference failed";

/// A request that gets no suggestion.
#[derive(Debug)]
pub(super) enum GitlabError {
    /// What other dialects know as well.
    Api(ApiError),
    /// There is no such prompt, or none of such a version; those that the model could be asked with.
    NoPrompt(Vec<String>),
    /// The model failed where somebody tests it, so that its own words are what is asked for.
    Model(ApiError),
}

impl GitlabError {
    /// Returns the label for logs.
    pub(super) fn as_label(&self) -> &'static str {
        match self {
            Self::Api(error) | Self::Model(error) => error.kind.as_label(),
            Self::NoPrompt(_) => "unknown_prompt",
        }
    }

    /// Says that a model is being tested: what it fails with is told.
    pub(super) fn of_model_test(self) -> Self {
        match self {
            Self::Api(error) if status(error.kind) == StatusCode::SERVICE_UNAVAILABLE => {
                Self::Model(error)
            }
            other => other,
        }
    }
}

impl From<ApiError> for GitlabError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ProviderError> for GitlabError {
    fn from(error: ProviderError) -> Self {
        Self::Api(ApiError::from_provider(error, convert::wire_name))
    }
}

impl From<RenderError> for GitlabError {
    fn from(error: RenderError) -> Self {
        Self::Api(ApiError::new(ApiErrorKind::Invalid, error.to_string()))
    }
}

impl IntoResponse for GitlabError {
    fn into_response(self) -> Response {
        let (error, status, detail) = match self {
            Self::Api(error) if error.kind == ApiErrorKind::Unauthenticated => {
                let body = Json(json!({ "error": error.message }));
                return error.into_response(StatusCode::UNAUTHORIZED, body);
            }
            Self::Api(error) => {
                let status = status(error.kind);
                let detail = detail(&error);
                (error, status, detail)
            }
            Self::NoPrompt(others) => {
                let error = ApiError::new(ApiErrorKind::UnknownRoute, "no prompt");
                let there_are = if others.is_empty() {
                    "`lacuna prompts list` has those there are".to_owned()
                } else {
                    format!("there are {}", others.join(", "))
                };
                let detail = format!("there is no prompt of this name and version; {there_are}");
                (error, StatusCode::NOT_FOUND, detail)
            }
            Self::Model(error) => {
                let detail = format!("{}: {}", status(error.kind).as_u16(), error.message);
                (error, StatusCode::MISDIRECTED_REQUEST, detail)
            }
        };
        error.into_response(status, Json(json!({ "detail": detail })))
    }
}

fn status(kind: ApiErrorKind) -> StatusCode {
    match kind {
        ApiErrorKind::Invalid | ApiErrorKind::PromptTooLong | ApiErrorKind::UnknownModel => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ApiErrorKind::UnknownRoute => StatusCode::NOT_FOUND,
        ApiErrorKind::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        ApiErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ApiErrorKind::Unauthorised | ApiErrorKind::ForbiddenOrigin => StatusCode::FORBIDDEN,
        ApiErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ApiErrorKind::ReadTimeout => StatusCode::REQUEST_TIMEOUT,
        ApiErrorKind::Overloaded | ApiErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ApiErrorKind::Unavailable
        | ApiErrorKind::DeadlineExceeded
        | ApiErrorKind::Upstream
        | ApiErrorKind::Internal => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn detail(error: &ApiError) -> String {
    match error.kind {
        ApiErrorKind::Invalid | ApiErrorKind::PromptTooLong | ApiErrorKind::UnknownModel => {
            named(error)
        }
        ApiErrorKind::UnknownRoute => "Not Found".to_owned(),
        ApiErrorKind::WrongMethod => "Method Not Allowed".to_owned(),
        ApiErrorKind::Unauthenticated
        | ApiErrorKind::Unauthorised
        | ApiErrorKind::ForbiddenOrigin
        | ApiErrorKind::BodyTooLarge
        | ApiErrorKind::ReadTimeout => error.message.clone(),
        ApiErrorKind::Overloaded | ApiErrorKind::RateLimited => TOO_MANY.to_owned(),
        // Before there is a model nothing has failed.
        ApiErrorKind::Unavailable if error.message == LOADING => format!("{FAILED}: {LOADING}"),
        ApiErrorKind::Unavailable
        | ApiErrorKind::DeadlineExceeded
        | ApiErrorKind::Upstream
        | ApiErrorKind::Internal => FAILED.to_owned(),
    }
}

/// A rule's message with the field in it, also where the provider left it out.
fn named(error: &ApiError) -> String {
    match &error.field {
        Some(field) if !error.message.contains(field.as_str()) => {
            format!("`{field}`: {}", error.message)
        }
        _ => error.message.clone(),
    }
}
