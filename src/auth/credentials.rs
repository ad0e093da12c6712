//! What a request shows of who it is from, taken from its head as it came.

use crate::auth::error::AuthError;

/// The values of the headers that matter; `None` where one is missing. Holds secrets, so it is never shown.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// `Authorization`. One that is no text is empty.
    pub authorization: Option<&'a str>,
    /// `x-api-key`, or `api-key`.
    pub api_key: Option<&'a str>,
    /// `X-Gitlab-Authentication-Type`.
    pub authentication_type: Option<&'a str>,
    /// `X-Gitlab-Realm`.
    pub realm: Option<&'a str>,
    /// `X-Gitlab-Instance-Id`.
    pub instance_id: Option<&'a str>,
    /// `X-Gitlab-Global-User-Id`.
    pub global_user_id: Option<&'a str>,
    /// `x-gitlab-project-id`.
    pub project_id: Option<&'a str>,
    /// `x-gitlab-namespace-id`.
    pub namespace_id: Option<&'a str>,
    /// `x-gitlab-root-namespace-id`.
    pub root_namespace_id: Option<&'a str>,
    /// `Bypass-Auth`.
    pub bypass: Option<&'a str>,
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(***)")
    }
}

impl<'a> Credentials<'a> {
    /// Returns the token of `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Result<&'a str, AuthError> {
        let header = self.authorization.ok_or(AuthError::NoHeader)?;
        let (scheme, token) = header.trim().split_once(' ').ok_or(AuthError::InvalidHeader)?;
        let token = token.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains(' ') {
            return Err(AuthError::InvalidHeader);
        }
        Ok(token)
    }

    /// Returns the user that the request names; an empty name is nobody's.
    pub(super) fn user(&self) -> Option<&'a str> {
        self.global_user_id.map(str::trim).filter(|id| !id.is_empty())
    }

    /// Returns what may be an API key, the header for it first: clients that send both have a placeholder in the other.
    pub(super) fn api_keys(&self) -> impl Iterator<Item = &'a str> {
        self.api_key.map(str::trim).into_iter().chain(self.bearer().ok())
    }
}
