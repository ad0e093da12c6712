//! What a token says, and whether that holds now, here and for this request.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::auth::{credentials::Credentials, error::AuthError};

/// Clocks of two machines differ by less.
const CLOCK_SKEW_SECONDS: f64 = 60.0;

/// The claims of a token, of GitLab, its portal or ours.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Claims {
    /// Who made it.
    pub(super) iss: String,
    /// Whose it is: an instance's, or a user's.
    #[serde(default)]
    pub(super) sub: Option<String>,
    /// Whom it is for.
    pub(super) aud: Audience,
    /// Seconds since 1970 at which it ends; some write a fraction.
    pub(super) exp: f64,
    /// Seconds since 1970 at which it begins.
    #[serde(default)]
    pub(super) nbf: Option<f64>,
    /// Of this token alone, and named so that they are not among the rest.
    #[serde(default)]
    iat: Value,
    #[serde(default)]
    jti: Value,
    /// Whose GitLab it is.
    #[serde(default)]
    pub(super) gitlab_realm: Option<String>,
    /// Which GitLab it is.
    #[serde(default)]
    pub(super) gitlab_instance_id: Option<String>,
    /// Unit primitives that were bought.
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    /// The rest.
    #[serde(flatten)]
    pub(super) extra: Map<String, Value>,
}

/// Whom a token is for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Audience {
    /// One.
    One(String),
    /// Any of these.
    Any(Vec<String>),
}

impl Claims {
    /// Returns the text of a claim that is not empty.
    pub(super) fn text(claim: Option<&String>) -> Option<&str> {
        claim.map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Checks that the token holds at `now`, in seconds since 1970, for `service_name`.
    ///
    /// # Errors
    /// Whom it is for, or its time.
    pub(super) fn check(&self, service_name: &str, now: u64) -> Result<(), AuthError> {
        let is_ours = match &self.aud {
            Audience::One(name) => name == service_name,
            Audience::Any(names) => names.iter().any(|name| name == service_name),
        };
        if !is_ours {
            return Err(AuthError::WrongAudience);
        }
        let now = now as f64;
        if now >= self.exp + CLOCK_SKEW_SECONDS {
            return Err(AuthError::Expired);
        }
        if self.nbf.is_some_and(|begin| now + CLOCK_SKEW_SECONDS < begin) {
            return Err(AuthError::NotYetValid);
        }
        Ok(())
    }

    /// Checks that the request says the same as the token, where the token says something. A token of ours is of a user,
    /// others are of an instance.
    ///
    /// # Errors
    /// The first that differs.
    pub(super) fn agree(&self, request: &Credentials<'_>, is_own: bool) -> Result<(), AuthError> {
        let differs = |claim: Option<&String>, header: Option<&str>| {
            Self::text(claim).is_some_and(|claim| header != Some(claim))
        };
        if differs(self.gitlab_realm.as_ref(), request.realm) {
            return Err(AuthError::OtherRealm);
        }
        if differs(self.gitlab_instance_id.as_ref(), request.instance_id) {
            return Err(AuthError::OtherInstance);
        }
        if is_own && differs(self.sub.as_ref(), request.global_user_id) {
            return Err(AuthError::OtherUser);
        }
        if !is_own && differs(self.sub.as_ref(), request.instance_id) {
            return Err(AuthError::OtherInstance);
        }
        Ok(())
    }
}
