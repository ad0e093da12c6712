//! What the descriptions of this dialect's endpoints share: the headers that GitLab sends, and how a failure looks.

use std::collections::BTreeMap;

use utoipa::{
    IntoParams, IntoResponses,
    openapi::{
        RefOr, Response, Schema,
        path::{Parameter, ParameterIn},
        schema::{ObjectBuilder, SchemaType, Type},
    },
};

use crate::api::openapi;

/// Headers that an endpoint heeds, and what they say.
const HEADERS: [(&str, &str); 12] = [
    ("X-Gitlab-Authentication-Type", "`oidc`; must agree with the token."),
    ("X-Gitlab-Realm", "`saas` or `self-managed`; must agree with the token."),
    ("X-Gitlab-Instance-Id", "The GitLab instance; must agree with the token."),
    ("X-Gitlab-Global-User-Id", "The user; must agree with the token, and is logged as a hash."),
    ("X-Gitlab-Root-Namespace-Id", "A group of the user's, for feature flags."),
    ("X-Gitlab-Enabled-Feature-Flags", "Flags that are on for the user, separated by commas."),
    ("X-Gitlab-Language-Server-Version", "Pieces of other files are heeded from 7.17.1 on."),
    ("X-Gitlab-Version", "Version of the GitLab instance; logged."),
    (
        "X-Gitlab-Enabled-Instance-Verbose-Ai-Logs",
        "`true`: the instance wants source text logged; heeded with models of its own.",
    ),
    ("X-Gitlab-Client-Type", "Kind of the client, such as `ide`; logged."),
    ("X-Gitlab-Client-Name", "Name of the client; logged."),
    ("X-Gitlab-Client-Version", "Version of the client; logged."),
];

/// How requests fail that are not a matter of one endpoint.
const FAILURES: [(u16, &str); 8] = [
    (403, "Who asks may not."),
    (404, "There is no such endpoint or prompt."),
    (405, "The endpoint does not have this method."),
    (408, "The body came too slowly."),
    (413, "The body is too large."),
    (422, "A value of the request breaks a rule; the text names it."),
    (429, "Too many requests; `Retry-After` says when to come again."),
    (503, "The model is loading, is down, or failed."),
];

/// Headers of a request.
pub(super) struct Headers;

impl IntoParams for Headers {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        openapi::headers(&HEADERS)
    }
}

/// Failures that every endpoint has.
pub(super) struct Failures;

impl IntoResponses for Failures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = openapi::failures(&FAILURES, &object("detail"));
        let unknown = [(401, "Nobody knows who asks.")];
        responses.extend(openapi::failures(&unknown, &object("error")));
        responses
    }
}

/// Failures of the endpoints of prompts: GitLab tests models there, and is told why one fails.
pub(super) struct PromptFailures;

impl IntoResponses for PromptFailures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = Failures::responses();
        let rows = [(421, "The model failed; the text has its status and why.")];
        responses.extend(openapi::failures(&rows, &object("detail")));
        responses
    }
}

/// Returns an object of one text.
fn object(member: &str) -> RefOr<Schema> {
    let text = ObjectBuilder::new().schema_type(Type::String);
    ObjectBuilder::new().property(member, text).required(member).into()
}

/// Describes a whole number, which is as wide as JSON's readers let it be.
pub(super) fn number() -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::Integer).into()
}

/// Describes a whole number, or null.
pub(super) fn optional_number() -> RefOr<Schema> {
    or_null().into()
}

/// Describes a number of things, or null.
pub(super) fn optional_count() -> RefOr<Schema> {
    or_null().minimum(Some(0)).into()
}

fn or_null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
}
