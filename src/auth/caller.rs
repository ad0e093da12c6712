//! Who asks, and what they may.

use crate::auth::{api_keys::ApiKey, claims::Claims, credentials::Credentials};
use crate::flags::pseudonym;

/// The unit primitive of completions.
pub const COMPLETE_CODE: &str = "complete_code";
/// The unit primitive of generations.
pub const GENERATE_CODE: &str = "generate_code";
/// The unit primitive of asking other models through the gateway.
pub const PROVIDER_PROXY: &str = "ai_gateway_model_provider_proxy";
/// The scope of keys that may change how the server works; no key has it that does not say so.
const ADMIN: &str = "admin";
/// What an older GitLab sold in place of the first two.
const CODE_SUGGESTIONS: &str = "code_suggestions";

/// How a caller showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// Not at all: the server is open.
    Anonymous,
    /// Not at all: checks are bypassed.
    Debug,
    /// By a token of an issuer, as GitLab does.
    Instance,
    /// By a token of ours, as an editor does.
    User,
    /// By an API key.
    ApiKey,
}

impl CallerKind {
    /// Returns the label for logs.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Debug => "debug",
            Self::Instance => "instance",
            Self::User => "user",
            Self::ApiKey => "api_key",
        }
    }
}

/// Whose GitLab it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Realm {
    /// GitLab's own.
    Saas,
    /// Somebody's.
    SelfManaged,
}

impl Realm {
    /// Returns the realm of this name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "saas" => Some(Self::Saas),
            "self-managed" => Some(Self::SelfManaged),
            _ => None,
        }
    }

    /// Returns the name.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Saas => "saas",
            Self::SelfManaged => "self-managed",
        }
    }
}

/// Who asks. Holds no token and no key, and of a user a hash only.
#[derive(Clone, Debug)]
pub struct Caller {
    /// How they showed it.
    pub kind: CallerKind,
    /// Name of the API key.
    pub key_name: Option<String>,
    /// The user's [`pseudonym`], the same wherever users are told apart.
    pub user: Option<String>,
    /// The GitLab that the user is known to, for users of two may have one id.
    pub(super) instance: Option<String>,
    /// Whose GitLab it is: what the token says, else what the request says.
    pub realm: Option<Realm>,
    /// Who made the token.
    pub issuer: Option<String>,
    /// Unit primitives that they may use; `None` is all.
    pub scopes: Option<Vec<String>>,
    /// What the token says, for a token that is made from it.
    pub(super) claims: Option<Box<Claims>>,
    /// Limits of their own.
    pub(super) api_key: Option<ApiKey>,
}

impl Caller {
    /// Returns whether they may use a unit primitive.
    pub fn may(&self, unit_primitive: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|scope| scope == unit_primitive))
    }

    /// Returns whether they may change how the server works: by an API key that says so, and by nothing else. Who is let
    /// in without showing anything may complete, not administer.
    pub fn may_administer(&self) -> bool {
        let has_scope = |scopes: &Vec<String>| scopes.iter().any(|scope| scope == ADMIN);
        self.kind == CallerKind::ApiKey && self.scopes.as_ref().is_some_and(has_scope)
    }

    /// Returns whom limits are counted for; `None` where nobody can be told apart.
    pub(super) fn subject(&self) -> Option<String> {
        let key = self.key_name.as_ref().map(|name| format!("key:{name}"));
        let instance = self.instance.as_deref().unwrap_or_default();
        key.or_else(|| self.user.as_ref().map(|user| format!("user:{instance}:{user}")))
    }

    /// Somebody who showed nothing and may all.
    pub(super) fn unknown(kind: CallerKind, credentials: &Credentials<'_>) -> Self {
        Self {
            kind,
            key_name: None,
            user: credentials.user().map(pseudonym),
            instance: None,
            realm: credentials.realm.and_then(Realm::parse),
            issuer: None,
            scopes: None,
            claims: None,
            api_key: None,
        }
    }

    pub(super) fn of_key(key: &ApiKey, credentials: &Credentials<'_>) -> Self {
        Self {
            kind: CallerKind::ApiKey,
            key_name: Some(key.name.clone()),
            user: None,
            scopes: Some(key.scopes.clone()),
            api_key: Some(key.clone()),
            ..Self::unknown(CallerKind::ApiKey, credentials)
        }
    }

    /// Who showed a token that is true and agrees with the request.
    pub(super) fn of_token(
        claims: Claims,
        kind: CallerKind,
        has_legacy_scope: bool,
        credentials: &Credentials<'_>,
    ) -> Self {
        let mut scopes = claims.scopes.clone();
        if has_legacy_scope && scopes.iter().any(|scope| scope == CODE_SUGGESTIONS) {
            scopes.extend([COMPLETE_CODE, GENERATE_CODE].map(str::to_owned));
        }
        let realm = Claims::text(claims.gitlab_realm.as_ref()).or(credentials.realm);
        let instance = Claims::text(claims.gitlab_instance_id.as_ref()).map(pseudonym);
        let user = match kind {
            CallerKind::User => Claims::text(claims.sub.as_ref()),
            // Only the instance is proven; which of its users it asks for is its word.
            _ => credentials.user().or(Claims::text(claims.sub.as_ref())),
        };
        Self {
            kind,
            key_name: None,
            user: user.map(pseudonym),
            instance,
            realm: realm.and_then(Realm::parse),
            issuer: Some(claims.iss.clone()),
            scopes: Some(scopes),
            claims: Some(Box::new(claims)),
            api_key: None,
        }
    }
}
