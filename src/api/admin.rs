//! Looking after the targets of routes: how they do, and deciding over them. For keys with the scope `admin` alone; every
//! change is a line in the log that says who made it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::Method,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{ToSchema, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState, body,
    correlation::RequestId,
    error::{ApiError, ApiErrorKind},
    json::Integer,
    openai,
    status::WireTarget,
};
use crate::auth::Caller;
use crate::routing::{ChangeError, Router as Routes, circuit_breaker::Override};

/// Where all of it is.
pub(super) const ROOT: &str = "/admin/";

/// A refusal, in the shape that unknown paths have.
struct AdminError(ApiError);

impl From<ApiError> for AdminError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        openai::refusal(self.0)
    }
}

type Answer = Result<Json<Value>, AdminError>;

/// Returns the endpoints and their description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) = OpenApiRouter::new()
        .routes(routes!(targets))
        .routes(routes!(decide))
        .routes(routes!(weigh))
        .split_for_parts();
    (router.method_not_allowed_fallback(wrong_method), document)
}

async fn wrong_method(method: Method) -> AdminError {
    let message = format!("this endpoint does not answer {method}");
    ApiError::new(ApiErrorKind::WrongMethod, message).into()
}

/// Says how the targets of routes do.
#[utoipa::path(
    get,
    path = "/admin/targets",
    tag = "Routes",
    responses((status = 200, body = Value), openai::Failures)
)]
async fn targets(State(state): State<ApiState>) -> Answer {
    let router = router(&state)?;
    let now = tokio::time::Instant::now().into_std();
    let targets = router.targets();
    let targets: Vec<WireTarget> = targets.iter().map(|view| WireTarget::of(view, now)).collect();
    let table = router.table();
    let routes: Vec<Value> = table
        .routes()
        .map(|route| {
            let weights = route.targets.iter().map(|it| (it.name.clone(), json!(it.weight)));
            let targets: Vec<&str> = route.targets.iter().map(|it| it.name.as_str()).collect();
            let weights: serde_json::Map<String, Value> = weights.collect();
            json!({ "name": route.name, "targets": targets, "weights": weights })
        })
        .collect();
    Ok(Json(json!({ "targets": targets, "routes": routes })))
}

/// Opens or closes a target's breaker, drains it, or leaves it to itself again.
#[utoipa::path(
    post,
    path = "/admin/targets/{name}/{action}",
    tag = "Routes",
    params(
        ("name" = String, Path, description = "Name of the target."),
        ("action" = String, Path, description = "`open`, `close`, `drain` or `auto`.")
    ),
    responses((status = 200, body = Value), openai::Failures)
)]
async fn decide(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Arc<Caller>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer {
    let Ok(Path((name, action))) = path else { return Err(unknown("no target has this name")) };
    let manual = match action.as_str() {
        "open" => Override::Open,
        "close" => Override::Closed,
        "auto" => Override::Auto,
        "drain" => Override::Drained,
        _ => return Err(unknown("a target's action is open, close, auto or drain")),
    };
    router(&state)?.decide(&name, manual).map_err(|error| refused(&error))?;
    audit(&id, &caller, &format!("{} {name}", manual.as_label()));
    Ok(Json(json!({ "target": name, "override": manual.as_label() })))
}

/// Shares of a route's traffic.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = admin::Weights)]
struct WireWeights {
    /// From the names of all its targets to percentages, 100 in all.
    #[schema(value_type = BTreeMap<String, i64>)]
    weights: BTreeMap<String, Integer>,
}

/// Shifts a route's traffic among its targets.
#[utoipa::path(
    post,
    path = "/admin/routes/{name}/weights",
    tag = "Routes",
    params(("name" = String, Path, description = "Name of the route.")),
    request_body = WireWeights,
    responses((status = 200, body = Value), openai::Failures)
)]
async fn weigh(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    Extension(caller): Extension<Arc<Caller>>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let Ok(Path(route)) = path else { return Err(unknown("no route has this name")) };
    let wire: WireWeights = body::read_json(&state, request).await?;
    let weight =
        |(name, Integer(weight)): (String, Integer)| Some((name, u32::try_from(weight).ok()?));
    let weights: Option<Vec<(String, u32)>> = wire.weights.into_iter().map(weight).collect();
    let weights = weights.ok_or_else(|| ApiError::invalid("weights", "must be from 0 to 100"))?;
    router(&state)?.set_weights(&route, &weights).map_err(|error| refused(&error))?;
    let shares: Vec<String> =
        weights.iter().map(|(name, weight)| format!("{name}={weight}")).collect();
    audit(&id, &caller, &format!("weights of {route}: {}", shares.join(" ")));
    Ok(Json(json!({ "route": route, "weights": weights.into_iter().collect::<BTreeMap<_, _>>() })))
}

/// Names in it are those of the settings, for only such were found.
fn audit(id: &RequestId, caller: &Caller, change: &str) {
    tracing::info!(
        correlation_id = %id.0,
        caller = caller.kind.as_label(),
        key_name = caller.key_name,
        change,
        "routing was changed by hand"
    );
}

fn router(state: &ApiState) -> Result<&Arc<Routes>, AdminError> {
    state.router().ok_or_else(|| unknown("there are no routes in the settings"))
}

fn unknown(message: &str) -> AdminError {
    ApiError::new(ApiErrorKind::UnknownRoute, message).into()
}

fn refused(error: &ChangeError) -> AdminError {
    match error {
        ChangeError::UnknownTarget => unknown("no target has this name"),
        ChangeError::Weights => {
            let rule = "must be of targets of a route that there is, and sum to 100";
            ApiError::invalid("weights", rule).into()
        }
    }
}
