//! The way to a service: one client with warm connections, limits on what comes back, and no redirects.
//!
//! A redirect could lead a request with its key to an address that answers for somebody else, such as a cloud's metadata
//! server, so none is followed. No body is logged, neither way.

use std::{
    error::Error as _,
    time::{Duration, Instant, SystemTime},
};

use reqwest::{
    Certificate, Client, Identity, Proxy, Response, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use tracing::debug;

use crate::{
    config::{HeaderConfig, ProviderConfig, Proxies, ProxyChoice, Violation},
    hub::through_proxies,
    provider::{
        ProviderError, ProviderErrorKind,
        hosted::{
            error::{Refusal, malformed},
            google::Tokens,
            protocol::{Abilities, Access, Outgoing},
        },
    },
    trace::SpanContext,
};

/// Largest answer that comes whole.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What is read of a refusal, for its code.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long the body of a refusal is waited for.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(100);
/// How long a connection waits for its next request: longer than a person thinks, shorter than most services keep it.
const IDLE_TIMEOUT: Duration = Duration::from_mins(4);
/// Finds out that a connection died which nobody uses, before a request does.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A shorter word of a header, such as `Bearer`, is no secret.
const SECRET_BYTES_MIN: usize = 8;
/// Longest id of a service that is kept.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// On whose behalf a service is asked, as it is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AskedBy<'a> {
    /// The request's name in the logs here.
    pub(super) correlation_id: Option<&'a str>,
    /// The span that asks, where traces are on.
    pub(super) span: Option<SpanContext>,
}

/// The way to one service.
#[derive(Debug)]
pub(super) struct Caller {
    provider: String,
    client: Client,
    base: String,
    headers: HeaderMap,
    tokens: Option<Tokens>,
}

impl Caller {
    /// Makes a client; asks nobody.
    ///
    /// # Errors
    /// A setting that cannot be used, by its key.
    pub(super) fn new(
        config: &ProviderConfig,
        abilities: &Abilities,
        base: String,
        proxies: &Proxies,
    ) -> Result<Self, Violation> {
        // Whoever in this process speaks TLS does so with this; the second to say so changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client(config, proxies, base.starts_with("https:"))?;
        let tokens = match abilities.access {
            Access::Google => Some(Tokens::new(config, client.clone())?),
            Access::Key | Access::NeedsKey | Access::NeedsXApiKey => None,
        };
        let headers = headers(config, abilities.access)?;
        Ok(Self { provider: config.name.clone(), client, base, headers, tokens })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// A service that cannot be reached or refuses; the end of the time.
    pub(super) async fn call(
        &self,
        outgoing: Outgoing,
        asked_by: AskedBy<'_>,
        deadline: Option<Instant>,
    ) -> Result<Body, ProviderError> {
        within(deadline, self.send(outgoing, asked_by)).await?.map(|response| {
            let is_whole = content_type(&response).contains("application/json");
            Body { provider: self.provider.clone(), response, num_bytes: 0, is_whole }
        })
    }

    async fn send(
        &self,
        outgoing: Outgoing,
        asked_by: AskedBy<'_>,
    ) -> Result<Response, ProviderError> {
        let url = Url::parse(&format!("{}{}", self.base, outgoing.path)).map_err(|_| {
            let message = format!("the address of the provider `{}` cannot be used", self.provider);
            ProviderError::new(ProviderErrorKind::Internal, message)
        })?;
        let mut request = self.client.post(url).headers(self.headers.clone());
        for (name, value) in outgoing.headers {
            request = request.header(*name, *value);
        }
        let AskedBy { correlation_id, span } = asked_by;
        if let Some(id) = correlation_id.filter(|id| is_id(id)) {
            request = request.header("x-request-id", id);
        }
        if let Some(span) = span {
            request = request.header("traceparent", span.to_string());
        }
        if let Some(tokens) = &self.tokens {
            request = request.bearer_auth(tokens.token().await?.reveal());
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream, application/x-ndjson")
            .body(Value::Object(outgoing.body).to_string());
        let response = request.send().await.map_err(|error| self.unanswered(&error))?;
        let status = response.status();
        let id = request_id(response.headers());
        // A service may repeat anything as an id, our own key too.
        let upstream_request_id = id.filter(|id| !self.holds_secret(id));
        debug!(
            provider = self.provider,
            correlation_id,
            status = status.as_u16(),
            upstream_request_id,
            "asked"
        );
        if status.is_success() {
            return Ok(response);
        }
        if let Some(tokens) = self.tokens.as_ref().filter(|_| status.as_u16() == 401) {
            tokens.forget();
        }
        Err(self.refused(response).await)
    }

    /// Returns what it means that there was no answer.
    fn unanswered(&self, error: &reqwest::Error) -> ProviderError {
        let provider = &self.provider;
        if error.is_connect() || error.is_timeout() {
            let why = if is_certificate(error) { ": its certificate is not trusted" } else { "" };
            let message = format!("the provider `{provider}` cannot be reached{why}");
            return ProviderError::new(ProviderErrorKind::UpstreamUnreachable, message);
        }
        malformed(provider, "the connection was closed before it")
    }

    /// Returns whether a text has a value of the headers that nobody may see.
    fn holds_secret(&self, text: &str) -> bool {
        let secrets = self.headers.values().filter(|value| value.is_sensitive());
        let words = secrets.filter_map(|value| value.to_str().ok()).flat_map(str::split_whitespace);
        words.filter(|word| word.len() >= SECRET_BYTES_MIN).any(|word| text.contains(word))
    }

    async fn refused(&self, mut response: Response) -> ProviderError {
        let mut body = Vec::new();
        // The head says most of it; a body that is slow is not waited for.
        let reading = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                let room = REFUSAL_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == REFUSAL_BYTES_MAX {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(REFUSAL_PATIENCE, reading).await;
        let text = |name: &str| response.headers().get(name).and_then(|it| it.to_str().ok());
        let refusal = Refusal {
            provider: &self.provider,
            status: response.status().as_u16(),
            retry_after: text("retry-after"),
            retry_after_ms: text("retry-after-ms"),
            body: &body,
        };
        refusal.error(SystemTime::now())
    }
}

/// What comes behind the head of an answer. Dropping it closes the connection, which is how the service learns of it.
#[derive(Debug)]
pub(super) struct Body {
    provider: String,
    response: Response,
    num_bytes: usize,
    is_whole: bool,
}

impl Body {
    /// Returns whether the service answers at once, whatever it was asked.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Returns the provider's name.
    pub(super) fn provider(&self) -> &str {
        &self.provider
    }

    /// Returns more of it, of at most `bytes_max` in all; `None` at its end.
    ///
    /// # Errors
    /// [`ProviderErrorKind::UpstreamMalformed`] for an answer that is cut off, or has no end.
    pub(super) async fn chunk(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, ProviderError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|_| malformed(&self.provider, "it was cut off"))?;
        let Some(chunk) = chunk else { return Ok(None) };
        self.num_bytes += chunk.len();
        if self.num_bytes > bytes_max {
            let what = format!("it has more than {bytes_max} bytes");
            return Err(malformed(&self.provider, &what));
        }
        Ok(Some(chunk.to_vec()))
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// As [`Body::chunk`], and for what is no JSON.
    pub(super) async fn json(&mut self) -> Result<Value, ProviderError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(ANSWER_BYTES_MAX).await? {
            bytes.extend_from_slice(&chunk);
        }
        if std::str::from_utf8(&bytes).is_err() {
            return Err(malformed(&self.provider, "it is not UTF-8"));
        }
        serde_json::from_slice(&bytes).map_err(|_| malformed(&self.provider, "it is no JSON"))
    }
}

/// Waits for what must be there in time.
///
/// # Errors
/// [`ProviderErrorKind::DeadlineExceeded`].
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    future: impl Future<Output = T>,
) -> Result<T, ProviderError> {
    match deadline {
        None => Ok(future.await),
        Some(deadline) => tokio::time::timeout_at(deadline.into(), future)
            .await
            .map_err(|_| ProviderError::out_of_time()),
    }
}

fn content_type(response: &Response) -> &str {
    let value = response.headers().get(header::CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns the name that the service gave the request, for whoever has to ask it about one.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let names = ["x-request-id", "request-id", "mistral-correlation-id", "x-goog-request-id"];
    let id = names.iter().find_map(|name| headers.get(*name))?.to_str().ok()?;
    is_id(id).then_some(id)
}

fn is_id(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic())
}

/// Returns the headers of each request.
fn headers(config: &ProviderConfig, access: Access) -> Result<HeaderMap, Violation> {
    let mut headers = HeaderMap::new();
    for (name, value) in &config.headers {
        let (text, is_secret) = match value {
            HeaderConfig::Text(text) => (text.as_str(), false),
            HeaderConfig::Secret(secret) => (secret.value.reveal(), true),
        };
        let parsed = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(text));
        let (Ok(name), Ok(mut value)) = parsed else {
            let rule = "names and values that a header can have".to_owned();
            return Err(Violation { key: config.key("headers"), rule, got: format!("{name:?}") });
        };
        value.set_sensitive(is_secret);
        headers.insert(name, value);
    }
    let Some(key) = &config.api_key else { return Ok(headers) };
    let (name, text) = match access {
        Access::Key | Access::NeedsKey | Access::Google => {
            (header::AUTHORIZATION, format!("Bearer {}", key.value.reveal()))
        }
        Access::NeedsXApiKey => {
            (HeaderName::from_static("x-api-key"), key.value.reveal().to_owned())
        }
    };
    let Ok(mut value) = HeaderValue::from_str(&text) else {
        let (rule, got) = ("a key that a header can have".to_owned(), "another".to_owned());
        return Err(Violation { key: config.key("api_key_file"), rule, got });
    };
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

fn client(
    config: &ProviderConfig,
    proxies: &Proxies,
    is_encrypted: bool,
) -> Result<Client, Violation> {
    let broken = |leaf: &str, rule: &str, got: String| Violation {
        key: config.key(leaf),
        rule: rule.to_owned(),
        got,
    };
    let mut builder = Client::builder()
        .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.timeout_connect)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(config.num_calls_max as usize)
        .tcp_keepalive(KEEP_ALIVE)
        .tcp_nodelay(true);
    builder = match &config.proxy {
        ProxyChoice::None => builder.no_proxy(),
        ProxyChoice::Environment => through_proxies(builder, proxies).map_err(|_| {
            broken("proxy", "environment where that has addresses", "others".into())
        })?,
        ProxyChoice::Address(url) => {
            let proxy = Proxy::all(url)
                .map_err(|_| broken("proxy", "an address that can be used", url.clone()))?;
            builder.no_proxy().proxy(proxy)
        }
    };
    if let Some(file) = &config.ca {
        let certificates = Certificate::from_pem_bundle(file.text.reveal().as_bytes());
        let certificates = certificates.map_err(|_| {
            broken("ca_file", "a file of certificates in PEM", file.path.display().to_string())
        })?;
        builder = builder.tls_certs_only(certificates);
    } else if !is_encrypted {
        // A service on this machine must not fail for the lack of certificates that it does not need.
        builder = builder.tls_certs_only([]);
    }
    if let Some((certificate, key)) = &config.client_identity {
        let pem = [key.text.reveal(), "\n", certificate.text.reveal()].concat();
        let identity = Identity::from_pem(pem.as_bytes()).map_err(|_| {
            let rule = "a certificate that goes with `client_key_file`";
            broken("client_cert_file", rule, certificate.path.display().to_string())
        })?;
        builder = builder.identity(identity);
    }
    builder.build().map_err(|error| {
        let leaf = match (&config.ca, &config.client_identity) {
            (Some(_), _) => "ca_file",
            (None, Some(_)) => "client_cert_file",
            (None, None) => "url",
        };
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        broken(leaf, "what a TLS client can be made of", cause)
    })
}

/// An I/O error passes over what it wraps when it is asked for its source, and TLS wraps its own twice.
fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return is_certificate(inner);
    }
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
        || error.source().is_some_and(is_certificate)
}
