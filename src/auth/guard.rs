//! All of authentication in its order: who asks, how often, and which tokens they are given.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::EncodingKey;

use crate::{
    auth::{
        api_keys,
        caller::{Caller, CallerKind},
        claims::Claims,
        credentials::Credentials,
        directory::Directory,
        error::{AuthError, KeyError},
        key_set::{KeySet, OwnKeys},
        limits::{Limited, Limits, Permit, Table},
        rs256,
        token::Rules,
        user_token::{self, UserToken, UserTokenError},
    },
    config::{AuthConfig, Proxies},
};

/// How often somebody is reminded of a check that is bypassed.
const REMINDER: Duration = Duration::from_hours(1);

/// The only type of token there is.
const OIDC: &str = "oidc";

/// Tells the time, in seconds since 1970.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self::of(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()))
    }

    /// One that tells what `unix_seconds` returns.
    pub fn of(unix_seconds: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(unix_seconds))
    }

    /// Returns seconds since 1970.
    pub fn unix_seconds(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Lets requests in, or not.
#[derive(Debug)]
pub struct Guard {
    config: AuthConfig,
    signing: Option<(String, EncodingKey)>,
    directory: Directory,
    clock: Clock,
    /// What limits are counted from; their time never goes back.
    started: Instant,
    subjects: Mutex<Table>,
}

impl Guard {
    /// Guards by these settings. Keys of issuers are not there before [`Guard::keep`] runs.
    ///
    /// # Errors
    /// A key of ours that cannot be used.
    pub fn new(config: AuthConfig, proxies: &Proxies, clock: Clock) -> Result<Self, KeyError> {
        rs256::install();
        let OwnKeys { signing, public } = OwnKeys::new(&config)?;
        let (name, issuers) = (config.service_name.clone(), config.issuers.clone());
        Ok(Self {
            directory: Directory::new(public, name, issuers, proxies)?,
            config,
            signing,
            clock,
            started: Instant::now(),
            subjects: Mutex::default(),
        })
    }

    /// Returns whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.config.is_open()
    }

    /// Returns whether the keys of an issuer are known now; `None` where there are no issuers.
    pub fn has_issuer_keys(&self) -> Option<bool> {
        self.directory.has_issuer_keys()
    }

    /// Returns whether nobody could be let in without the keys of an issuer.
    pub fn needs_issuers(&self) -> bool {
        let AuthConfig { api_keys, bypass, .. } = &self.config;
        !self.config.issuers.is_empty() && api_keys.is_empty() && bypass.names().is_empty()
    }

    /// Keeps the keys of issuers fresh and reminds of what is bypassed, for ever. Somebody must run it.
    pub async fn keep(&self) -> Infallible {
        let reminding = async {
            loop {
                for switch in self.config.bypass.names() {
                    tracing::warn!(switch, "authentication is bypassed");
                }
                tokio::time::sleep(REMINDER).await;
            }
        };
        tokio::select! {
            never = self.directory.keep(&self.clock) => never,
            never = reminding => never,
        }
    }

    /// Returns who a request is from.
    ///
    /// # Errors
    /// The first check that it does not pass.
    pub async fn authenticate(&self, request: &Credentials<'_>) -> Result<Caller, AuthError> {
        let AuthConfig { bypass, api_keys, .. } = &self.config;
        let asks_to_bypass = request.bypass.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if bypass.external || bypass.external_with_header && asks_to_bypass {
            return Ok(Caller::unknown(CallerKind::Debug, request));
        }
        if self.is_open() {
            return Ok(Caller::unknown(CallerKind::Anonymous, request));
        }
        let known = request.api_keys().find_map(|shown| api_keys::find(api_keys, shown));
        if let Some(key) = known {
            return Ok(Caller::of_key(key, request));
        }
        if !self.config.has_tokens() && !bypass.jwt_signature {
            let is_shown = request.api_key.is_some();
            return Err(match request.bearer() {
                Err(error) if !is_shown => error,
                _ => AuthError::UnknownApiKey,
            });
        }
        let has_keys = !api_keys.is_empty();
        let token = match request.bearer() {
            Err(_) if has_keys && request.api_key.is_some() => {
                return Err(AuthError::UnknownApiKey);
            }
            bearer => bearer?,
        };
        if request.authentication_type != Some(OIDC) {
            // Who has mistyped a key must not be sent to look for GitLab's headers.
            let is_jwt = token.matches('.').count() == 2;
            let is_key = has_keys && !is_jwt;
            return Err(if is_key { AuthError::UnknownApiKey } else { AuthError::WrongType });
        }
        let claims = match self.check(token, &self.directory.keys()) {
            Err(AuthError::UnknownKey) => self.check(token, &*self.directory.hurried().await),
            checked => checked,
        }?;
        let is_own = claims.iss == self.config.service_name;
        claims.agree(request, is_own)?;
        let kind = if is_own { CallerKind::User } else { CallerKind::Instance };
        Ok(Caller::of_token(claims, kind, self.config.has_legacy_scope, request))
    }

    fn check(&self, token: &str, keys: &KeySet) -> Result<Claims, AuthError> {
        let rules = Rules {
            service_name: &self.config.service_name,
            is_unsigned_believed: self.config.bypass.jwt_signature,
        };
        rules.check(token, keys, self.clock.unix_seconds())
    }

    /// Counts a request; `None` where the caller has no limits.
    ///
    /// # Errors
    /// One that comes too soon.
    pub fn count(&self, caller: &Caller) -> Result<Option<Permit>, Limited> {
        let own = caller.api_key.as_ref();
        let limits = Limits {
            requests_per_minute: own
                .and_then(|key| key.requests_per_minute)
                .or(self.config.requests_per_minute),
            concurrent_requests: own
                .and_then(|key| key.concurrent_requests)
                .or(self.config.concurrent_requests),
        };
        let Some(subject) = caller.subject().filter(|_| limits != Limits::default()) else {
            return Ok(None);
        };
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        subjects.count(subject, limits, self.started.elapsed()).map(Some)
    }

    /// Signs a token for the user that the request names, with what `caller` may hand on.
    ///
    /// # Errors
    /// A caller that may not, a request without a user, no key to sign with.
    pub fn issue(
        &self,
        caller: &Caller,
        request: &Credentials<'_>,
    ) -> Result<UserToken, UserTokenError> {
        let (name, now) = (&self.config.service_name, self.clock.unix_seconds());
        user_token::issue(caller, request, name, self.signing.as_ref(), now)
    }
}
