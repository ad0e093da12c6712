//! `GET /v1/models/definitions`: which models GitLab may choose from, and which is the default for what.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState,
    gitlab::{description::Failures, error::GitlabError},
};
use crate::provider::ModelInfo;
use crate::service::{NameKind, ServedModels, ServedName};

/// Returns the endpoint.
pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(definitions))
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Definitions)]
struct WireDefinitions<'a> {
    models: Vec<WireModel<'a>>,
    unit_primitives: Vec<WireFeature<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::DefinedModel)]
struct WireModel<'a> {
    name: &'a str,
    identifier: &'a str,
    provider: String,
    /// Null: what is not wanted any more is not served.
    deprecation: Option<&'static str>,
    description: String,
    /// Null: it costs what the machine costs.
    cost_indicator: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Feature)]
struct WireFeature<'a> {
    feature_setting: &'static str,
    default_model: &'a str,
    #[schema(value_type = Vec<String>)]
    default_models: [&'a str; 1],
    /// No model is kept for some users.
    models_for_tags: WireNothing,
    /// The older name of the same.
    models_for_size_preference: WireNothing,
    selectable_models: Vec<&'a str>,
    #[schema(value_type = Vec<String>)]
    beta_models: [&'static str; 0],
    #[schema(value_type = Vec<String>)]
    deprecated_models: [&'static str; 0],
    dev: Option<&'static str>,
    #[schema(value_type = Vec<String>)]
    unit_primitives: [&'static str; 1],
}

/// An object without members.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = gitlab::Nothing)]
struct WireNothing {}

/// Says whether a model is made for something.
type Suits = fn(&ModelInfo) -> bool;

/// What GitLab does with a model, its unit primitive, and whether a model is made for it.
const FEATURES: [(&str, &str, Suits); 2] = [
    ("code_completions", "complete_code", |model| model.has_fim),
    ("code_generations", "generate_code", |model| model.has_chat),
];

/// Says which models GitLab may choose from.
#[utoipa::path(
    get,
    path = "/v1/models/definitions",
    tag = "GitLab",
    responses((status = 200, body = WireDefinitions<'static>), Failures)
)]
async fn definitions(State(state): State<ApiState>) -> Result<Response, GitlabError> {
    let models = state.models();
    let features =
        FEATURES.map(|(setting, primitive, suits)| feature(models, setting, primitive, suits));
    let definitions =
        WireDefinitions { models: wire_models(models), unit_primitives: features.into() };
    Ok(Json(definitions).into_response())
}

fn wire_models(models: &ServedModels) -> Vec<WireModel<'_>> {
    let own = models.names().iter().filter(|served| served.kind != NameKind::Alias);
    own.map(wire_model).collect()
}

fn wire_model(ServedName { name, kind, service, model }: &ServedName) -> WireModel<'_> {
    let info = service.model();
    let of = match kind {
        NameKind::Adapter => format!(", an adapter of {model}"),
        NameKind::Model | NameKind::Alias => String::new(),
    };
    let description = if service.is_known() {
        format!("Served by this machine{of}, {} tokens of context", info.max_context_tokens)
    } else {
        format!("Served by this machine{of}, not loaded")
    };
    WireModel {
        name,
        identifier: name,
        provider: info.engine.clone(),
        deprecation: None,
        description,
        cost_indicator: None,
    }
}

/// The default is the first model that is made for it, else the first: it does what it can.
fn feature<'a>(
    models: &'a ServedModels,
    feature_setting: &'static str,
    unit_primitive: &'static str,
    suits: fn(&ModelInfo) -> bool,
) -> WireFeature<'a> {
    let own = || models.names().iter().filter(|served| served.kind != NameKind::Alias);
    let selectable: Vec<&str> = own()
        .filter(|served| suits(&served.service.model()))
        .map(|served| served.name.as_str())
        .collect();
    let first = || own().next().map_or("", |served| served.name.as_str());
    let default_model = selectable.first().copied().unwrap_or_else(first);
    WireFeature {
        feature_setting,
        default_model,
        default_models: [default_model],
        models_for_tags: WireNothing {},
        models_for_size_preference: WireNothing {},
        selectable_models: selectable,
        beta_models: [],
        deprecated_models: [],
        dev: None,
        unit_primitives: [unit_primitive],
    }
}
