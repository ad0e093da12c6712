//! What became of completions, as editors tell it: shown, taken, sent away. Kept where the settings name a store.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::{
    ApiState,
    access::credentials,
    body, check_items,
    error::{ApiError, ApiErrorKind},
    json::{Integer, Number, Object},
    openai,
    telemetry::wire::{WireEvent, WireEvents, WireStored, WireTabbyEvent},
};
use crate::auth::Caller;
use crate::flags::pseudonym;
use crate::service::Account;
use crate::telemetry::client::client;
use crate::telemetry::store::{Event, EventKind, Store, StoreRefusal, Stored, bare_id};

mod wire;

/// Events of a request: what an editor gathers in minutes.
const EVENTS_MAX: usize = 100;
/// Longest id: a request's with what the dialects put before it.
const ID_BYTES_MAX: usize = 160;
/// Choices of a completion, beyond any that there are.
const CHOICES_MAX: i128 = 1024;
/// Numbers above are milliseconds: as seconds they would be beyond the year 5000.
const SECONDS_MAX: f64 = 1e11;
/// An editor that was offline tells what happened in the meantime; what is older is dated so long ago.
const AGE_MS_MAX: i64 = 7 * 24 * 3_600_000;
/// Milliseconds of eleven days, characters of more than a file.
const COUNT_MAX: f64 = 1e9;
/// When another try makes sense: a queue empties within a moment, a database comes back within some.
const RETRY_AFTER_BUSY: Duration = Duration::from_secs(1);
const RETRY_AFTER_AWAY: Duration = Duration::from_secs(5);

/// A refusal, in the shape of the OpenAI dialect, for it has no dialect of its own.
struct TelemetryError(ApiError);

impl From<ApiError> for TelemetryError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for TelemetryError {
    fn into_response(self) -> Response {
        openai::refusal(self.0)
    }
}

/// Returns the endpoints and their description.
pub(super) fn routes() -> (Router<ApiState>, OpenApi) {
    let (router, document) =
        OpenApiRouter::new().routes(routes!(events)).routes(routes!(tabby_event)).split_for_parts();
    (router.method_not_allowed_fallback(wrong_method), document)
}

async fn wrong_method(method: Method) -> Response {
    openai::wrong_method(method).await
}

/// Notes who asks, and has the completion of the request kept when it ends.
pub(super) fn keep(state: &ApiState, account: &Account, request: &Request) {
    let caller = request.extensions().get::<Arc<Caller>>().map(AsRef::as_ref);
    let (name, agent) = client_words(request.headers());
    let realm = caller.and_then(|caller| caller.realm).map(|realm| realm.as_label().to_owned());
    account.client(client(name, agent), realm);
    if let Some(store) = state.store() {
        account.keep_in(store.clone(), user(caller, request.headers()));
    }
}

/// Returns by what pseudonym the store knows a user: what a token or a header says of them, else the key's.
fn user(caller: Option<&Caller>, headers: &HeaderMap) -> Option<String> {
    let caller = caller?;
    let own = caller.user.clone();
    let told = || credentials(headers).global_user_id.filter(|id| !id.is_empty()).map(pseudonym);
    own.or_else(told).or_else(|| caller.key_name.as_deref().map(pseudonym))
}

/// Returns what a client calls itself.
fn client_words(headers: &HeaderMap) -> (Option<&str>, Option<&str>) {
    let name = headers.get("x-gitlab-client-name").and_then(|value| value.to_str().ok());
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    (name, agent)
}

/// Keeps what became of completions.
///
/// Answers 200 once they are on the disk. The same event twice counts once. A server that keeps none says so and takes
/// them all the same.
#[utoipa::path(
    post,
    path = "/v1/telemetry/events",
    tag = "Telemetry",
    request_body(
        content = WireEvents,
        example = json!({"events": [{"type": "shown", "completion_id": "cmpl-6f1c"}, {"type": "accepted", "completion_id": "cmpl-6f1c", "elapsed_ms": 1200, "accepted_lines": 2}]})
    ),
    responses((status = 200, body = WireStored), openai::Failures)
)]
async fn events(
    State(state): State<ApiState>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Result<Json<WireStored>, TelemetryError> {
    let user = user(Some(&caller), request.headers());
    let mut wire: WireEvents = body::read_json(&state, request).await?;
    let told = match wire.events.take() {
        Some(events) => {
            if wire.alone() != WireEvent::default() {
                let rule = "must stand alone: what an event has stands in the list";
                return Err(ApiError::invalid("events", rule).into());
            }
            check_items("events", events.len(), EVENTS_MAX)?;
            let named = |(index, Object(event))| (format!("events[{index}]."), event);
            events.into_iter().enumerate().map(named).collect()
        }
        None => vec![(String::new(), wire.alone())],
    };
    let now_ms = state.store().map_or(0, Store::now_ms);
    let events =
        told.into_iter().map(|(place, event)| convert(&place, &event, user.as_deref(), now_ms));
    let events = events.collect::<Result<Vec<Event>, ApiError>>()?;
    let stored = record(&state, events).await?;
    let Stored { stored, duplicates } = stored.unwrap_or_default();
    Ok(Json(WireStored { enabled: state.store().is_some(), stored, duplicates }))
}

/// Keeps what became of a completion, as Tabby's clients tell it.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "Telemetry",
    params(("select_kind" = Option<String>, Query, description = "What part was taken; passed over.")),
    request_body = WireTabbyEvent,
    responses((status = 200, description = "Kept, or passed over."), openai::Failures)
)]
async fn tabby_event(
    State(state): State<ApiState>,
    Extension(caller): Extension<Arc<Caller>>,
    request: Request,
) -> Result<StatusCode, TelemetryError> {
    let user = user(Some(&caller), request.headers());
    let wire: WireTabbyEvent = body::read_json(&state, request).await?;
    let kind = match wire.kind.as_deref() {
        Some("view") => EventKind::Shown,
        Some("select") => EventKind::Accepted,
        Some("dismiss") => EventKind::Rejected,
        // Its clients tell of chats and other things too.
        Some(_) => return Ok(StatusCode::OK),
        None => return Err(ApiError::invalid("type", "is required").into()),
    };
    let event = WireEvent {
        kind: Some(kind.as_label().to_owned()),
        completion_id: wire.completion_id,
        choice_index: wire.choice_index,
        // Its description names no bound.
        elapsed_ms: wire.elapsed.filter(|Number(elapsed)| *elapsed >= 0.0),
        ..WireEvent::default()
    };
    let now_ms = state.store().map_or(0, Store::now_ms);
    let event = convert("", &event, user.as_deref(), now_ms)?;
    record(&state, vec![event]).await?;
    Ok(StatusCode::OK)
}

/// Writes events, where there is a store.
async fn record(state: &ApiState, events: Vec<Event>) -> Result<Option<Stored>, ApiError> {
    let Some(store) = state.store() else { return Ok(None) };
    let refused = |refusal: StoreRefusal| {
        let (kind, wait) = match refusal {
            StoreRefusal::Busy => (ApiErrorKind::Overloaded, RETRY_AFTER_BUSY),
            StoreRefusal::Unavailable => (ApiErrorKind::Unavailable, RETRY_AFTER_AWAY),
        };
        ApiError { retry_after: Some(wait), ..ApiError::new(kind, refusal.to_string()) }
    };
    store.record_events(events).await.map(Some).map_err(refused)
}

/// Reads an event; `place` is what stands before its fields' names.
fn convert(
    place: &str,
    wire: &WireEvent,
    user: Option<&str>,
    now_ms: i64,
) -> Result<Event, ApiError> {
    let invalid = |field: &str, rule: &str| ApiError::invalid(format!("{place}{field}"), rule);
    let kind = wire.kind.as_deref().and_then(EventKind::parse);
    let kind = kind.ok_or_else(|| invalid("type", "must be shown, accepted or rejected"))?;
    let id = wire.completion_id.as_deref().unwrap_or_default();
    let is_id = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    if !is_id {
        let rule = "must be the id of a completion, 1 to 160 visible characters of ASCII";
        return Err(invalid("completion_id", rule));
    }
    let Integer(choice_index) = wire.choice_index.unwrap_or(Integer(0));
    if !(0..CHOICES_MAX).contains(&choice_index) {
        return Err(invalid("choice_index", "must be between 0 and 1023"));
    }
    let count = |field: &str, number: Option<Number>| {
        let number = number.map(|Number(number)| number);
        if number.is_some_and(|number| number < 0.0) {
            return Err(invalid(field, "must not be negative"));
        }
        // What is beyond all measure is of no use, and no reason to lose the event.
        Ok(number.filter(|number| *number <= COUNT_MAX).map(|number| number.round() as u32))
    };
    Ok(Event {
        completion_id: bare_id(id).to_owned(),
        choice_index: choice_index as u32,
        kind,
        user: user.map(str::to_owned),
        at_ms: dated(wire.timestamp.map(|Number(time)| time), now_ms),
        received_ms: now_ms,
        elapsed_ms: count("elapsed_ms", wire.elapsed_ms)?,
        accepted_chars: count("accepted_chars", wire.accepted_chars)?,
        accepted_lines: count("accepted_lines", wire.accepted_lines)?,
    })
}

/// Returns when something happened, by the client's clock as far as it can be believed.
fn dated(timestamp: Option<f64>, now_ms: i64) -> i64 {
    let Some(time) = timestamp.filter(|time| time.is_finite()) else { return now_ms };
    let ms = if time.abs() < SECONDS_MAX { time * 1e3 } else { time };
    (ms.round() as i64).clamp(now_ms - AGE_MS_MAX, now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_requests() {
        let rows = [
            ("cmpl-a", "a"),
            ("chatcmpl-b", "b"),
            ("c", "c"),
            ("cmpl-", "cmpl-"),
            ("cmplx-d", "cmplx-d"),
        ];
        for (told, id) in rows {
            assert_eq!(bare_id(told), id);
        }
    }

    #[test]
    fn times_are_believed_within_a_week() {
        let now = 1_790_000_000_000;
        let rows = [
            (None, now),
            (Some(1_789_999_990.5), now - 9_500),
            (Some(1_789_999_990_000.0), now - 10_000),
            (Some(1_890_000_000.0), now),
            (Some(0.0), now - AGE_MS_MAX),
            (Some(-5.0), now - AGE_MS_MAX),
            (Some(f64::NAN), now),
            (Some(f64::MAX), now),
        ];
        for (timestamp, expected) in rows {
            assert_eq!(dated(timestamp, now), expected, "{timestamp:?}");
        }
    }
}
