//! Who may call what: the one layer that every request passes before its body is read.
//!
//! What an endpoint asks for is a row; a path without one asks only that the caller is known. Behind the layer no handler
//! sees a token: they have the [`Caller`].

use std::{sync::Arc, time::Instant};

use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;

use crate::api::{
    ApiState, admin, body,
    correlation::RequestId,
    error::{ApiError, ApiErrorKind},
    gitlab, is_gitlab, openai, openapi,
};
use crate::auth::{COMPLETE_CODE, Caller, CallerKind, Credentials, GENERATE_CODE, Permit};
use crate::flags::pseudonym;
use crate::service::Account;
use crate::telemetry::{AuthFacts, Exchange};

/// Asked by who has no token: probes, and GitLab while it is set up.
const PUBLIC: [&str; 4] =
    ["/health", "/monitoring/healthz", "/monitoring/ready", "/v1/models/definitions"];

/// What an endpoint asks of a caller.
struct Access {
    /// Its path.
    path: &'static str,
    /// Unit primitives of which the caller must have one.
    any_of: &'static [&'static str],
    /// Whether a token that we gave to a user is enough.
    takes_user_tokens: bool,
    /// What logs call it.
    endpoint: &'static str,
    /// What a caller hears who may not. The gateway's words, which clients may look for.
    refusal: &'static str,
}

/// What somebody hears who may not complete, and so not tell.
const TELL_REFUSAL: &str = "your key or token does not allow events of completions";

/// Endpoints that ask for more than a known caller. `/v1/code/user_access_token` says by itself who may.
const ACCESS: [Access; 9] = [
    Access {
        path: "/v2/completions",
        endpoint: "gitlab.completions",
        any_of: &[COMPLETE_CODE],
        takes_user_tokens: true,
        refusal: "Unauthorized to access code completions",
    },
    Access {
        path: "/v2/code/completions",
        endpoint: "gitlab.completions",
        any_of: &[COMPLETE_CODE],
        takes_user_tokens: true,
        refusal: "Unauthorized to access code completions",
    },
    Access {
        path: "/v2/code/generations",
        endpoint: "gitlab.generations",
        any_of: &[GENERATE_CODE],
        takes_user_tokens: false,
        refusal: "Unauthorized to access code generations",
    },
    // Which of the two it is stands in the body, so its handler looks again.
    Access {
        path: "/v3/code/completions",
        endpoint: "gitlab.suggestions_v3",
        any_of: &[COMPLETE_CODE, GENERATE_CODE],
        takes_user_tokens: false,
        refusal: "Unauthorized to access code suggestions",
    },
    Access {
        path: "/v4/code/suggestions",
        endpoint: "gitlab.suggestions",
        any_of: &[COMPLETE_CODE, GENERATE_CODE],
        takes_user_tokens: false,
        refusal: "Unauthorized to access code suggestions",
    },
    Access {
        path: "/v1/completions",
        endpoint: "openai.completions",
        any_of: &[COMPLETE_CODE],
        takes_user_tokens: true,
        refusal: "your key or token does not allow completions",
    },
    // Editors ask for completions in chats too.
    Access {
        path: "/v1/chat/completions",
        endpoint: "openai.chat_completions",
        any_of: &[COMPLETE_CODE, GENERATE_CODE],
        takes_user_tokens: true,
        refusal: "your key or token does not allow chats",
    },
    // Who may complete may say what became of it.
    Access {
        path: "/v1/telemetry/events",
        endpoint: "telemetry.events",
        any_of: &[COMPLETE_CODE, GENERATE_CODE],
        takes_user_tokens: true,
        refusal: TELL_REFUSAL,
    },
    Access {
        path: "/v1/events",
        endpoint: "telemetry.events",
        any_of: &[COMPLETE_CODE, GENERATE_CODE],
        takes_user_tokens: true,
        refusal: TELL_REFUSAL,
    },
];

/// Returns by what pseudonym routes know a caller: that of their key's name, else their own.
pub(super) fn routed_user(caller: Option<&Caller>) -> Option<String> {
    let caller = caller?;
    caller.key_name.as_deref().map(pseudonym).or_else(|| caller.user.clone())
}

/// Finds out who calls and whether they may, and answers those who may not.
pub(super) async fn guard(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    if PUBLIC.contains(&head.uri.path()) || openapi::is_of(head.uri.path()) {
        return next.run(Request::from_parts(head, body)).await;
    }
    let began = Instant::now();
    let admitted = admit(&state, &head).await;
    let auth_ms = began.elapsed().as_secs_f64() * 1e3;
    let exchange = head.extensions.get::<Exchange>().cloned();
    tell(exchange.as_ref(), began, &admitted);
    let id = head.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    match admitted {
        Ok((caller, permit)) => {
            tracing::debug!(
                correlation_id = %id,
                caller = caller.kind.as_label(),
                key_name = caller.key_name,
                user = caller.user,
                realm = caller.realm.map(crate::auth::Realm::as_label),
                token_issuer = caller.issuer,
                auth_ms,
                "let in"
            );
            for secret in [header::AUTHORIZATION, X_API_KEY, API_KEY] {
                head.headers.remove(secret);
            }
            head.extensions.insert(Arc::new(caller));
            held(next.run(Request::from_parts(head, body)).await, permit)
        }
        Err(Refused { error, auth_error, .. }) => {
            tracing::debug!(correlation_id = %id, auth_error, auth_ms, "refused");
            let account = Account::open(&id, endpoint(head.uri.path()));
            account.count_in(state.metrics());
            account.part_of(exchange.as_ref());
            if is_gitlab(head.uri.path()) {
                account.caller(gitlab::caller(&head.headers));
            }
            account.fail(error.kind.as_label());
            drop(account);
            drain(&state, &head.headers, body).await;
            refusal(error, head.uri.path())
        }
    }
}

/// Says in a request's line and span who asks, or why they are not let in.
fn tell(
    exchange: Option<&Exchange>,
    began: Instant,
    admitted: &Result<(Caller, Option<Permit>), Refused>,
) {
    let Some(exchange) = exchange else { return };
    let ended = Instant::now();
    let mut span = exchange.parent().past("admit", began, ended);
    let mut auth = AuthFacts { took: Some(ended - began), ..AuthFacts::default() };
    match admitted {
        Ok((caller, _)) => {
            span.set("lacuna.caller", caller.kind.as_label());
            auth.token_issuer.clone_from(&caller.issuer);
            auth.key_name.clone_from(&caller.key_name);
        }
        Err(refused) => {
            span.fail(refused.auth_error);
            auth.error = Some(refused.auth_error);
            auth.key_name.clone_from(&refused.key_name);
        }
    }
    exchange.auth(auth);
}

/// A request that is not let in.
struct Refused {
    error: ApiError,
    /// What logs say of it, where clients are told less.
    auth_error: &'static str,
    /// Whose key it was.
    key_name: Option<String>,
}

/// Returns who calls, and their place among their requests in work.
async fn admit(state: &ApiState, head: &Parts) -> Result<(Caller, Option<Permit>), Refused> {
    let guard = state.guard();
    let caller =
        guard.authenticate(&credentials(&head.headers)).await.map_err(|error| Refused {
            auth_error: error.as_label(),
            error: ApiError::new(ApiErrorKind::Unauthenticated, error.to_string()),
            key_name: None,
        })?;
    let refused = |error: ApiError| Refused {
        auth_error: error.kind.as_label(),
        error,
        key_name: caller.key_name.clone(),
    };
    authorise(&caller, head.uri.path()).map_err(refused)?;
    let permit = guard.count(&caller).map_err(|limited| {
        refused(ApiError {
            retry_after: Some(limited.retry_after),
            ..ApiError::new(ApiErrorKind::RateLimited, limited.message)
        })
    })?;
    Ok((caller, permit))
}

/// Returns what logs call the endpoint of a path.
fn endpoint(path: &str) -> &'static str {
    let known = ACCESS.iter().find(|access| access.path == path);
    match (known, path) {
        (Some(access), _) => access.endpoint,
        (None, "/v1/code/user_access_token") => "gitlab.user_access_token",
        (None, path) if path.starts_with("/v1/prompts/") || path.starts_with("/v2/prompts/") => {
            "gitlab.prompts"
        }
        (None, _) => "other",
    }
}

fn authorise(caller: &Caller, path: &str) -> Result<(), ApiError> {
    if path.starts_with(admin::ROOT) {
        let refusal = "only an API key with the scope admin may look after routes";
        let refuse = || ApiError::new(ApiErrorKind::Unauthorised, refusal);
        return caller.may_administer().then_some(()).ok_or_else(refuse);
    }
    let Some(access) = ACCESS.iter().find(|access| access.path == path) else { return Ok(()) };
    let has_scope = access.any_of.iter().any(|scope| caller.may(scope));
    let is_of_user = caller.kind == CallerKind::User;
    if has_scope && (access.takes_user_tokens || !is_of_user) {
        return Ok(());
    }
    Err(ApiError::new(ApiErrorKind::Unauthorised, access.refusal))
}

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Returns what a request shows of who it is from.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    // What is no text agrees with nothing.
    let of = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let gitlab = |name: &'static str| of(HeaderName::from_static(name));
    Credentials {
        authorization: of(header::AUTHORIZATION),
        api_key: of(X_API_KEY).or_else(|| of(API_KEY)),
        authentication_type: gitlab("x-gitlab-authentication-type"),
        realm: gitlab("x-gitlab-realm"),
        instance_id: gitlab("x-gitlab-instance-id"),
        global_user_id: gitlab("x-gitlab-global-user-id"),
        project_id: gitlab("x-gitlab-project-id"),
        namespace_id: gitlab("x-gitlab-namespace-id"),
        root_namespace_id: gitlab("x-gitlab-root-namespace-id"),
        bypass: gitlab("bypass-auth"),
    }
}

/// A whole answer is done when it is here; a stream keeps its place until its end, or until nobody reads it.
fn held(response: Response, permit: Option<Permit>) -> Response {
    let Some(permit) = permit.filter(|_| response.body().size_hint().exact().is_none()) else {
        return response;
    };
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &permit;
            frame
        }))
    })
}

/// Reads what a refused client still sends, for most read an answer only then.
async fn drain(state: &ApiState, headers: &HeaderMap, body: Body) {
    // Who asks before they send has not sent.
    if !headers.contains_key(header::EXPECT) {
        let discarding = body::discard(body.into_data_stream(), state.body_bytes_max());
        let _ = tokio::time::timeout(state.read_timeout(), discarding).await;
    }
}

/// Answers in the shape of the dialect that the path looks like.
fn refusal(error: ApiError, path: &str) -> Response {
    let is_unknown = error.kind == ApiErrorKind::Unauthenticated;
    // GitLab's people know by the root's answer that a gateway is there.
    let mut response = if is_gitlab(path) || path == "/" {
        gitlab::refusal(error)
    } else {
        openai::refusal(error)
    };
    if is_unknown {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_row_and_is_not_public() {
        for (index, access) in ACCESS.iter().enumerate() {
            assert!(ACCESS[..index].iter().all(|other| other.path != access.path));
            assert!(!PUBLIC.contains(&access.path) && !access.any_of.is_empty(), "{}", access.path);
        }
    }
}
