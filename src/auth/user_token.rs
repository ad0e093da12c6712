//! Tokens that we give out: GitLab asks for one a user, and hands it to the user's editor.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Map, Value, json};

use crate::auth::{
    api_keys::hex,
    caller::{COMPLETE_CODE, Caller, CallerKind, PROVIDER_PROXY, Realm},
    claims::Claims,
    credentials::Credentials,
};

/// How long a token of a user holds; editors ask for another before it ends.
const LIFETIME: Duration = Duration::from_hours(1);

/// The unit primitives that a user's token may carry on.
const SCOPES: [&str; 2] = [COMPLETE_CODE, PROVIDER_PROXY];

/// Most bytes of what is carried on of GitLab's own claims, as JSON: they are a handful of words. With what else a token
/// says, that stays far below what a token may have.
const CARRIED_BYTES_MAX: usize = 4 << 10;
/// Longest name of a user, an instance or a namespace that a token says.
const NAME_BYTES_MAX: usize = 512;

/// A token that is given out. It is a secret, so it is never shown.
pub struct UserToken {
    /// The token.
    pub token: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

impl std::fmt::Debug for UserToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Why no token is given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserTokenError {
    /// Who asks is no GitLab that bought completions.
    #[error("Unauthorized to create user access token")]
    NotAllowed,
    /// The request names no user.
    #[error("must name the user")]
    NoUser,
    /// What the token is to say of the user is too long.
    #[error("must name the user and the instance in at most {NAME_BYTES_MAX} bytes each")]
    TooLong,
    /// There is no key to sign with, or signing failed.
    #[error("Failed to generate JWT")]
    Unsigned,
}

/// Signs a token for the user that the request names, with what `caller` may hand on.
///
/// # Errors
/// A caller that may not, a request without a user, no key to sign with.
pub(super) fn issue(
    caller: &Caller,
    request: &Credentials<'_>,
    service_name: &str,
    key: Option<&(String, EncodingKey)>,
    now: u64,
) -> Result<UserToken, UserTokenError> {
    let scopes: Vec<&str> = SCOPES.into_iter().filter(|scope| caller.may(scope)).collect();
    // Who has a key or a token of a user is one user, and must not become another.
    let is_instance = match caller.kind {
        CallerKind::Anonymous | CallerKind::Debug | CallerKind::Instance => true,
        CallerKind::User | CallerKind::ApiKey => false,
    };
    if !is_instance || scopes.is_empty() {
        return Err(UserTokenError::NotAllowed);
    }
    let (id, key) = key.ok_or(UserTokenError::Unsigned)?;
    let user = request.global_user_id.filter(|id| !id.is_empty()).ok_or(UserTokenError::NoUser)?;
    let names = [Some(user), request.instance_id, request.project_id, request.namespace_id];
    let names = names.into_iter().chain([request.root_namespace_id]).flatten();
    if names.map(str::len).any(|length| length > NAME_BYTES_MAX) {
        return Err(UserTokenError::TooLong);
    }
    let expires_at = now + LIFETIME.as_secs();
    let mut claims = handed_on(caller, request);
    claims.extend([
        ("iss".to_owned(), json!(service_name)),
        ("aud".to_owned(), json!(service_name)),
        ("sub".to_owned(), json!(user)),
        ("iat".to_owned(), json!(now)),
        ("nbf".to_owned(), json!(now)),
        ("exp".to_owned(), json!(expires_at)),
        ("jti".to_owned(), json!(draw_id()?)),
        ("scopes".to_owned(), json!(scopes)),
    ]);
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(id.clone());
    let token = encode(&header, &claims, key).map_err(|_| UserTokenError::Unsigned)?;
    Ok(UserToken { token, expires_at })
}

/// What the caller's token says of their GitLab, completed by what the request says where the token says nothing.
fn handed_on(caller: &Caller, request: &Credentials<'_>) -> Map<String, Value> {
    let of_token = caller.claims.as_deref();
    let mut room = CARRIED_BYTES_MAX;
    let mut claims = Map::new();
    // What finds no room is left out whole: nothing here asks for it.
    for (name, claim) in of_token.iter().flat_map(|claims| &claims.extra) {
        let Some(left) = room.checked_sub(name.len() + claim.to_string().len()) else { continue };
        room = left;
        claims.insert(name.clone(), claim.clone());
    }
    let mut say = |name: &str, proven: Option<&str>, said: Option<&str>| {
        if let Some(text) = proven.or(said).filter(|text| !text.is_empty()) {
            claims.entry(name).or_insert_with(|| json!(text));
        }
    };
    let realm = caller.realm.map(Realm::as_label);
    let instance = of_token.and_then(|claims| Claims::text(claims.gitlab_instance_id.as_ref()));
    say("gitlab_realm", realm, None);
    say("gitlab_instance_id", instance, request.instance_id);
    // Beyond GitLab's own, nobody could say which namespaces there are.
    if caller.realm == Some(Realm::Saas) {
        say("gitlab_project_id", None, request.project_id);
        say("gitlab_namespace_id", None, request.namespace_id);
        say("gitlab_root_namespace_id", None, request.root_namespace_id);
    }
    claims
}

/// Draws what tells this token from all others, in the form of a random UUID.
fn draw_id() -> Result<String, UserTokenError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| UserTokenError::Unsigned)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let parts = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]];
    Ok(parts.map(hex).join("-"))
}
