//! Tokens of Google's: from a service account, whose key signs for one, or from the metadata server of a machine there.
//!
//! A token is kept until shortly before its end. Whoever needs one then asks, and whoever needs it meanwhile waits for the
//! same answer.
//!
//! # Source
//! RFC 7523 (JWT as an authorisation grant), as `oauth2.googleapis.com/token` takes it; Compute Engine's metadata server.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use reqwest::{Client, RequestBuilder, header};
use ring::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    config::{FileConfig, ProviderConfig, Secret, Violation},
    provider::{
        ProviderError, ProviderErrorKind,
        hosted::error::{code_of, is_known, malformed},
    },
};

/// What the tokens are for: all of Google's cloud that the account may use.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// As long as Google takes a grant for at most.
const GRANT_LIFETIME: Duration = Duration::from_hours(1);
/// How long before its end a token is asked for anew; Google's metadata server gives a new one five minutes before.
const REFRESH_BEFORE: Duration = Duration::from_mins(4);
/// What an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A token has two kilobytes at most.
const ANSWER_BYTES_MAX: usize = 64 << 10;

type Asking = Shared<BoxFuture<'static, Result<Token, ProviderError>>>;

/// Gives tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Arc<Source>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// The question under way, and when it began.
    asking: Option<(Instant, Asking)>,
}

#[derive(Clone, Debug)]
struct Token {
    value: Secret,
    expires: Instant,
}

#[derive(Debug)]
struct Source {
    provider: String,
    client: Client,
    kind: SourceKind,
}

#[derive(Debug)]
enum SourceKind {
    Account { email: String, key_id: String, key: Box<KeyPair>, token_uri: String },
    Metadata { url: String },
}

/// A service account's file, as far as it counts here.
#[derive(Deserialize)]
struct AccountFile {
    client_email: String,
    #[serde(default)]
    private_key_id: String,
    private_key: String,
    token_uri: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

impl Tokens {
    /// Reads the service account, where there is one; asks nobody.
    ///
    /// # Errors
    /// A file that is no service account, by its key.
    pub(super) fn new(config: &ProviderConfig, client: Client) -> Result<Self, Violation> {
        let (kind, client) = if let Some(file) = &config.credentials {
            (account(config, file)?, client)
        } else {
            let path = "computeMetadata/v1/instance/service-accounts/default/token";
            let url = format!("http://{}/{path}", config.metadata_host);
            // It is on this machine, and a proxy on the way would be given the tokens of another.
            let builder = Client::builder().no_proxy().tls_certs_only([]);
            let builder = builder.redirect(reqwest::redirect::Policy::none());
            let client = builder.build().map_err(|error| Violation {
                key: config.key("credentials_file"),
                rule: "said where the metadata server cannot be asked".to_owned(),
                got: error.to_string(),
            })?;
            (SourceKind::Metadata { url }, client)
        };
        let source = Arc::new(Source { provider: config.name.clone(), client, kind });
        Ok(Self { source, state: Mutex::default() })
    }

    /// Returns a token that holds for a while.
    ///
    /// # Errors
    /// None is to be had, and none that was holds on.
    pub(super) async fn token(&self) -> Result<Secret, ProviderError> {
        let (kept, asking) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let kept = state.token.clone().filter(|token| token.expires > now);
            match kept {
                Some(token) if token.expires > now + REFRESH_BEFORE => return Ok(token.value),
                kept => {
                    // Whoever asked may have left, and then nobody has listened since.
                    state.asking.take_if(|(began, _)| *began + TIMEOUT < now);
                    let source = Arc::clone(&self.source);
                    let ask = || (now, async move { source.ask().await }.boxed().shared());
                    (kept, state.asking.get_or_insert_with(ask).1.clone())
                }
            }
        };
        let answer = asking.clone().await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.asking.as_ref().is_some_and(|(_, now)| now.ptr_eq(&asking)) {
            state.asking = None;
            if let Ok(token) = &answer {
                state.token = Some(token.clone());
            }
        }
        match (answer, kept) {
            (Ok(token), _) | (Err(_), Some(token)) => Ok(token.value),
            (Err(error), None) => Err(error),
        }
    }

    /// Drops a token that was refused.
    pub(super) fn forget(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).token = None;
    }
}

fn account(config: &ProviderConfig, file: &FileConfig) -> Result<SourceKind, Violation> {
    let broken = || Violation {
        key: config.key("credentials_file"),
        rule: "the JSON of a service account with its private key".to_owned(),
        got: format!("{}, which is none", file.path.display()),
    };
    let read: AccountFile = serde_json::from_str(file.text.reveal()).map_err(|_| broken())?;
    let der = PrivateKeyDer::from_pem_slice(read.private_key.as_bytes()).map_err(|_| broken())?;
    let key =
        KeyPair::from_pkcs8(der.secret_der()).or_else(|_| KeyPair::from_der(der.secret_der()));
    let is_address = ["https://", "http://"].iter().any(|it| read.token_uri.starts_with(it));
    match key {
        Ok(key) if is_address => Ok(SourceKind::Account {
            email: read.client_email,
            key_id: read.private_key_id,
            key: Box::new(key),
            token_uri: read.token_uri,
        }),
        Ok(_) | Err(_) => Err(broken()),
    }
}

impl Source {
    async fn ask(&self) -> Result<Token, ProviderError> {
        let asked = Instant::now();
        let request = match &self.kind {
            SourceKind::Metadata { url } => {
                self.client.get(url).header("metadata-flavor", "Google")
            }
            SourceKind::Account { token_uri, .. } => {
                let grant = self.grant(SystemTime::now())?;
                let body = format!(
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={grant}"
                );
                let kind = "application/x-www-form-urlencoded";
                self.client.post(token_uri).header(header::CONTENT_TYPE, kind).body(body)
            }
        };
        let answered = tokio::time::timeout(TIMEOUT, self.read(request)).await;
        let answer = answered.unwrap_or_else(|_| Err(self.unreachable()))?;
        Ok(Token {
            value: Secret::from(answer.access_token.as_str()),
            expires: asked + Duration::from_secs(answer.expires_in.min(86_400)),
        })
    }

    async fn read(&self, request: RequestBuilder) -> Result<TokenAnswer, ProviderError> {
        let mut response = request.send().await.map_err(|_| self.unreachable())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| self.unreachable())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(malformed(&self.provider, "Google's token is too long"));
            }
        }
        let status = response.status();
        if !status.is_success() {
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let code = code_of(&body).filter(|code| is_known(code));
            let code = code.map_or_else(String::new, |code| format!(" ({code})"));
            let message = format!(
                "Google gives no token for the provider `{}`: status {}{code}",
                self.provider,
                status.as_u16()
            );
            let kind = match status.as_u16() {
                429 => ProviderErrorKind::UpstreamExhausted,
                500.. => ProviderErrorKind::UpstreamFailed,
                _ => ProviderErrorKind::UpstreamRefused,
            };
            return Err(ProviderError::new(kind, message));
        }
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        let is_token = |answer: &TokenAnswer| {
            !answer.access_token.is_empty()
                && answer.access_token.chars().all(|c| c.is_ascii_graphic())
        };
        answer.filter(is_token).ok_or_else(|| malformed(&self.provider, "Google's token is none"))
    }

    fn unreachable(&self) -> ProviderError {
        let message =
            format!("Google cannot be asked for a token for the provider `{}`", self.provider);
        ProviderError::new(ProviderErrorKind::UpstreamUnreachable, message)
    }

    /// Returns what the account signs to be given a token.
    fn grant(&self, now: SystemTime) -> Result<String, ProviderError> {
        let SourceKind::Account { email, key_id, key, token_uri } = &self.kind else {
            return Ok(String::new());
        };
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": key_id});
        let claims = json!({
            "iss": email,
            "scope": SCOPE,
            "aud": token_uri,
            "iat": now.as_secs(),
            "exp": (now + GRANT_LIFETIME).as_secs(),
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; key.public().modulus_len()];
        let signed =
            key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature);
        signed.map_err(|_| {
            let message = format!("the account of the provider `{}` cannot sign", self.provider);
            ProviderError::new(ProviderErrorKind::Internal, message)
        })?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
