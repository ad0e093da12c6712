//! Prompts by name: GitLab's own test of a model (`model_configuration/check`), and whatever an operator's folder holds.

use axum::{
    Extension, Json,
    extract::{Path, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState, account_of, body,
    correlation::RequestId,
    gitlab::{
        call::{Call, marked},
        convert::{ModelWish, generation},
        description::{Headers, PromptFailures},
        error::GitlabError,
        texts::bare,
        wire::prompts::{WirePromptAnswer, WirePromptRequest, WirePromptUsage},
    },
};
use crate::prompt::registry::Inputs;
use crate::service::Account;

/// Returns the endpoints.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(text)).routes(routes!(object))
}

/// How the answer is written.
#[derive(Clone, Copy)]
enum Form {
    /// A text of JSON.
    Text,
    /// An object with the text and what it took.
    Object,
}

/// Asks the model with a prompt of the registry, and answers with its text.
#[utoipa::path(
    post,
    path = "/v1/prompts/{*id}",
    tag = "GitLab",
    params(("id" = String, Path, description = "Name of the prompt; it may hold slashes."), Headers),
    request_body = WirePromptRequest,
    responses(
        (status = 200, content((String = "application/json"), (serde_json::Value = "text/event-stream"))),
        PromptFailures
    )
)]
async fn text(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    task: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, GitlabError> {
    answer(&state, &id, task, request, Form::Text).await
}

/// Asks the model with a prompt of the registry, and answers with its text and what it took.
#[utoipa::path(
    post,
    path = "/v2/prompts/{*id}",
    tag = "GitLab",
    params(("id" = String, Path, description = "Name of the prompt; it may hold slashes."), Headers),
    request_body = WirePromptRequest,
    responses(
        (status = 200, content((WirePromptAnswer = "application/json"), (serde_json::Value = "text/event-stream"))),
        PromptFailures
    )
)]
async fn object(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    task: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, GitlabError> {
    answer(&state, &id, task, request, Form::Object).await
}

async fn answer(
    state: &ApiState,
    id: &RequestId,
    task: Result<Path<String>, PathRejection>,
    request: Request,
    form: Form,
) -> Result<Response, GitlabError> {
    let account = account_of(state, id, "gitlab.prompts", &request);
    // A name that is no UTF-8 is no prompt's either.
    let answer = match task {
        Ok(Path(task)) => run(state, &task, request, &account, form).await,
        Err(_) => Err(GitlabError::NoPrompt(Vec::new())),
    };
    // Who asks for a prompt by name tests the model as often as not.
    let answer = answer.map_err(GitlabError::of_model_test);
    answer.inspect_err(|error| account.fail(error.as_label()))
}

async fn run(
    state: &ApiState,
    task: &str,
    request: Request,
    account: &Account,
    form: Form,
) -> Result<Response, GitlabError> {
    let call = Call::open(state, account, &request, |_| "inputs")?;
    let wire: WirePromptRequest = body::read_json(state, request).await?;
    let service = call.service(&ModelWish::of_metadata(wire.model_metadata.as_ref())?)?;
    let asking = call.asking(service);
    let prompt = generation::find(task, wire.prompt_version.as_deref(), &asking)?;
    let inputs = Inputs(wire.inputs.unwrap_or_default());
    let admission = call.admit()?;
    let rendered = prompt.render(inputs, call.flags())?;
    let asked = generation::of_prompt(rendered, &prompt, &asking, wire.stream.unwrap_or(false));
    let asked = call.noted(asked);
    let response = if asked.is_streaming {
        bare(call.texts(service, asked, admission).await?)
    } else {
        let completion = call.whole(service, asked).await?;
        let usage = completion.usage;
        let first = completion.choices.into_iter().next();
        let content = first.map(|choice| choice.text).unwrap_or_default();
        match form {
            Form::Text => Json(content).into_response(),
            Form::Object => {
                let usage = WirePromptUsage {
                    input_tokens: usage.num_prompt_tokens,
                    output_tokens: usage.num_completion_tokens,
                    total_tokens: usage.num_prompt_tokens + usage.num_completion_tokens,
                };
                Json(WirePromptAnswer { content, usage }).into_response()
            }
        }
    };
    Ok(marked(response, Some(&prompt.place)))
}
