//! How this dialect's failures are described, the same for all its endpoints.

use std::collections::BTreeMap;

use utoipa::{
    IntoResponses, PartialSchema as _,
    openapi::{RefOr, Response},
};

use crate::api::{openai::wire::WireFailure, openapi};

/// How requests fail.
const FAILURES: [(u16, &str); 12] = [
    (400, "A value of the request breaks a rule; `param` names it."),
    (401, "Nobody knows who asks."),
    (403, "Who asks may not."),
    (404, "There is no such model or endpoint."),
    (405, "The endpoint does not have this method."),
    (408, "The body came too slowly."),
    (413, "The body is too large."),
    (429, "Too many requests; `Retry-After` says when to come again."),
    (500, "A fault of this server."),
    (502, "A service that was asked in this server's place failed."),
    (503, "The model is loading or down."),
    (504, "The time allowed for the request ran out."),
];

/// Failures that every endpoint has.
pub(in crate::api) struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        openapi::failures(&FAILURES, &WireFailure::schema())
    }
}
