//! Asking the hub: who is asked, who is told the token, what a refusal means.
//!
//! Redirects are followed by hand: the token goes to the endpoint's own address only, never to the network that it
//! hands files out from, and what the endpoint says of a file on the way is read.

use std::{error::Error as _, time::Duration};

use reqwest::{
    Client, Method, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap},
};

use crate::{
    config::{HubConfig, HubModel, Secret},
    hub::{
        HubError, PullEvent, Watch,
        error::Fault,
        proxy::{Ways, through_proxies},
    },
};

/// More than any chain of mirrors has.
const NUM_REDIRECTS_MAX: usize = 10;
/// Longest pause between two tries, unless the server asks for a longer one.
const DELAY_MAX: Duration = Duration::from_mins(1);
/// Longest pause that a server may ask for; one that wants more is believed to be away.
const ASKED_DELAY_MAX: Duration = Duration::from_mins(5);
/// Largest answer that is read into memory: tokenizers have tens of megabytes.
const TEXT_BYTES_MAX: usize = 128 << 20;

/// What is asked for, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// Of which model.
    pub(super) model: &'a HubModel,
    /// Which of its files, or what it has.
    pub(super) file: Option<&'a str>,
}

/// Asks the hub.
pub(super) struct HubClient<'a> {
    http: Client,
    ways: Ways,
    endpoint: Url,
    token: Option<Secret>,
    num_retries: u32,
    retry_delay: Duration,
    watch: Watch<'a>,
}

impl<'a> HubClient<'a> {
    /// Makes a client that tells `watch` of retries; asks nobody.
    pub(super) fn new(config: &HubConfig, watch: Watch<'a>) -> Result<Self, HubError> {
        // Whoever in this process speaks TLS does so with this; the second to say so changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = Url::parse(&config.endpoint).map_err(|error| broken(&error))?;
        let http = match builder(config)?.build() {
            // A mirror in a container without certificates must not fail for the lack of what it does not need.
            Err(_) if endpoint.scheme() == "http" => builder(config)?.tls_certs_only([]).build(),
            built => built,
        };
        Ok(Self {
            http: http.map_err(|error| broken(&error))?,
            ways: Ways::new(&config.proxies),
            endpoint,
            token: config.token.clone(),
            num_retries: config.num_retries,
            retry_delay: config.retry_delay,
            watch,
        })
    }

    /// Tells what happens.
    pub(super) fn tell(&self, event: PullEvent<'_>) {
        (self.watch)(event);
    }

    /// Returns an address below the endpoint; a slash inside of a segment is written as a character of its name.
    pub(super) fn url<'s>(&self, segments: impl IntoIterator<Item = &'s str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Returns where a file of a commit is.
    pub(super) fn file_url(&self, repository: &str, commit: &str, file: &str) -> Url {
        let segments = repository.split('/').chain(["resolve", commit]).chain(file.split('/'));
        self.url(segments)
    }

    /// Returns the name of the endpoint, for messages.
    pub(super) fn host(&self) -> String {
        host(&self.endpoint)
    }

    /// Asks once for `range` of what is at `url`, or for all of it.
    pub(super) async fn get(
        &self,
        asked: Asked<'_>,
        url: Url,
        range: Option<&str>,
    ) -> Result<Response, HubError> {
        self.follow(Method::GET, asked, url, range).await
    }

    /// Returns what the endpoint says of the file at `url`, with retries.
    pub(super) async fn head(&self, asked: Asked<'_>, url: Url) -> Result<HeaderMap, HubError> {
        let answer = self.retried(asked, async || {
            let response = self.follow(Method::HEAD, asked, url.clone(), None).await?;
            Ok(response.headers().clone())
        });
        answer.await
    }

    /// Returns the first bytes of what is at `url`, of which no more is read than those, or all of them; with retries.
    pub(super) async fn bytes(
        &self,
        asked: Asked<'_>,
        url: Url,
        first: Option<u64>,
    ) -> Result<Vec<u8>, HubError> {
        let range = first.map(|num_bytes| format!("bytes=0-{}", num_bytes.saturating_sub(1)));
        let answer = self.retried(asked, async || {
            let mut response = self.get(asked, url.clone(), range.as_deref()).await?;
            let at = response.url().clone();
            let place = response.headers().get(header::CONTENT_RANGE);
            let is_start = place.is_some_and(|place| place.as_bytes().starts_with(b"bytes 0-"));
            if response.status() == StatusCode::PARTIAL_CONTENT && !is_start {
                let what = "it sends another range than was asked for".to_owned();
                return Err(HubError::Answer { host: host(&at), what });
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| network(&at, error))? {
                bytes.extend_from_slice(&chunk);
                // Some servers know no ranges and send all of a file.
                if let Some(wanted) = first.filter(|wanted| bytes.len() as u64 >= *wanted) {
                    bytes.truncate(wanted as usize);
                    break;
                }
                if bytes.len() > TEXT_BYTES_MAX {
                    let what = format!("an answer of more than {TEXT_BYTES_MAX} bytes");
                    return Err(HubError::Answer { host: host(&at), what });
                }
            }
            Ok(bytes)
        });
        answer.await
    }

    /// Tries again while that may help. A name that is not known is no matter of time before anything has come.
    async fn retried<T>(
        &self,
        asked: Asked<'_>,
        attempt: impl AsyncFn() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut num_failed = 0;
        loop {
            let error = match attempt().await {
                Err(error) if !error.is_unknown_name() => error,
                done => return done,
            };
            num_failed += 1;
            let Some(delay) = self.delay(&error, num_failed) else { return Err(error) };
            let file = asked.file.unwrap_or("the list of files");
            self.tell(PullEvent::Retry { file, error: &error, delay });
            tokio::time::sleep(delay).await;
        }
    }

    /// Returns the pause before another try after `num_failed` in a row; `None` where there is to be none.
    pub(super) fn delay(&self, error: &HubError, num_failed: u32) -> Option<Duration> {
        if !error.is_transient() || num_failed > self.num_retries {
            return None;
        }
        let doubled = self.retry_delay.saturating_mul(1 << (num_failed - 1).min(16));
        let own = doubled.min(DELAY_MAX.max(self.retry_delay));
        match error {
            HubError::Status { retry_after_seconds: Some(seconds), .. } => {
                let asked = Duration::from_secs(*seconds);
                (asked <= ASKED_DELAY_MAX).then_some(asked)
            }
            _ => Some(own),
        }
    }

    async fn follow(
        &self,
        method: Method,
        asked: Asked<'_>,
        mut url: Url,
        range: Option<&str>,
    ) -> Result<Response, HubError> {
        for _ in 0..=NUM_REDIRECTS_MAX {
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            if let Some(token) = self.token.as_ref().filter(|_| self.is_endpoint(&url)) {
                request = request.bearer_auth(token.reveal());
            }
            let response = request.send().await.map_err(|error| self.unsent(&url, error))?;
            // Of a large file the endpoint itself says what it is, and where it is.
            let is_told =
                method == Method::HEAD && response.headers().contains_key(LINKED_ETAG_HEADER);
            if response.status().is_success() || is_told {
                return Ok(response);
            }
            if !response.status().is_redirection() {
                return Err(self.refusal(asked, &url, response.status(), response.headers()));
            }
            url = next(&url, response.headers())?;
        }
        let what = format!("it redirects more than {NUM_REDIRECTS_MAX} times");
        Err(HubError::Answer { host: self.host(), what })
    }

    /// Returns what it means that a request was not sent: where a proxy is on the way, nobody else was called.
    fn unsent(&self, url: &Url, error: reqwest::Error) -> HubError {
        let proxy = self.ways.proxy_to(url).filter(|_| error.is_connect());
        match (network(url, error), proxy) {
            (HubError::Network { host, fault, source }, Some(proxy))
                if fault != Fault::Certificate =>
            {
                HubError::Proxy { proxy, host, fault, source }
            }
            (error, _) => error,
        }
    }

    fn is_endpoint(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Returns what a status that is no success means.
    fn refusal(
        &self,
        asked: Asked<'_>,
        url: &Url,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> HubError {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = text("x-error-code").unwrap_or_default();
        let message = text("x-error-message").unwrap_or_default().to_ascii_lowercase();
        let HubModel { repository, revision, .. } = asked.model;
        let (repository, has_token) = (repository.clone(), self.token.is_some());
        let page =
            |path: &[&str]| self.url(repository.split('/').chain(path.iter().copied())).to_string();
        let is_gated = code == "GatedRepo" || message.contains("gated");
        match (status.as_u16(), code) {
            _ if !self.is_endpoint(url) => self::status(url, status, headers),
            (401 | 403, _) if is_gated => {
                let page = page(&[]);
                HubError::Gated { repository, page, has_token }
            }
            (401, "") if has_token => HubError::TokenRefused { host: self.host() },
            (401, _) if message.contains("invalid credentials") => {
                HubError::TokenRefused { host: self.host() }
            }
            (403, _) => HubError::Forbidden { host: self.host(), repository, has_token },
            (404, "RevisionNotFound") => {
                let (revision, page) = (revision.clone(), page(&["tree", "main"]));
                HubError::NoRevision { repository, revision, page }
            }
            (404, _) if asked.file.is_some() => {
                let file = asked.file.unwrap_or_default().to_owned();
                HubError::NoFile { repository, file }
            }
            (401 | 404, _) => HubError::NoRepository { repository, host: self.host(), has_token },
            _ => self::status(url, status, headers),
        }
    }
}

/// Looks up addresses as the system does, and marks its failures: the libraries between give theirs no type.
struct Resolver;

/// A name that has no address, or that nobody could be asked for.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address that could be found")]
struct NoAddress(#[source] std::io::Error);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The library sets the port of the address that is asked.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(NoAddress)?;
            let addresses: Addrs = Box::new(found.collect::<Vec<_>>().into_iter());
            Ok(addresses)
        })
    }
}

/// What the endpoint says of a large file's content, wherever that is.
pub(super) const LINKED_ETAG_HEADER: &str = "x-linked-etag";

fn builder(config: &HubConfig) -> Result<reqwest::ClientBuilder, HubError> {
    let builder = Client::builder()
        .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Resolver)
        .connect_timeout(config.idle_timeout)
        .read_timeout(config.idle_timeout);
    through_proxies(builder, &config.proxies).map_err(|_| HubError::Client {
        what: "a proxy's address (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot be read".to_owned(),
    })
}

fn broken(error: &dyn std::error::Error) -> HubError {
    let mut what = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        what = format!("{what}: {error}");
        source = error.source();
    }
    HubError::Client { what }
}

/// Returns where a redirect leads. What began encrypted stays so.
fn next(url: &Url, headers: &HeaderMap) -> Result<Url, HubError> {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    let is_allowed = |next: &Url| match next.scheme() {
        "https" => true,
        scheme => scheme == "http" && url.scheme() == "http",
    };
    next.filter(is_allowed).ok_or_else(|| {
        let what = "it redirects to no address that is as safe".to_owned();
        HubError::Answer { host: host(url), what }
    })
}

fn status(url: &Url, status: StatusCode, headers: &HeaderMap) -> HubError {
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    HubError::Status {
        host: host(url),
        status: status.as_u16(),
        retry_after_seconds: retry_after.and_then(|seconds| seconds.trim().parse().ok()),
    }
}

/// Returns who was asked: no path and no query, which may be signed.
fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"))
}

/// Returns what it means that there was no answer, or half of one.
pub(super) fn network(url: &Url, error: reqwest::Error) -> HubError {
    let mut fault = if error.is_timeout() {
        Fault::Timeout
    } else if error.is_connect() {
        Fault::Unreachable
    } else {
        Fault::Cut
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        if is_certificate(error) {
            fault = Fault::Certificate;
        } else if error.is::<NoAddress>() {
            fault = Fault::UnknownHost;
        }
        cause = error.source();
    }
    HubError::Network { host: host(url), fault, source: Some(Box::new(error.without_url())) }
}

fn is_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    // An I/O error passes over what it wraps when it is asked for its source, and TLS wraps its own twice.
    if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        return is_certificate(inner);
    }
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn redirects_lead_to_what_is_as_safe() {
        let rows = [
            ("https://a/b", "https://c/d", Some("https://c/d")),
            ("https://a/b", "/d", Some("https://a/d")),
            ("http://a/b", "http://c/d", Some("http://c/d")),
            ("http://a/b", "https://c/d", Some("https://c/d")),
            ("https://a/b", "http://c/d", None),
            ("https://a/b", "file:///etc/passwd", None),
        ];
        for (from, location, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, location.parse().unwrap());
            let next = next(&Url::parse(from).unwrap(), &headers);
            assert_eq!(next.ok().as_ref().map(Url::as_str), expected, "{from} {location}");
        }
        assert!(next(&Url::parse("http://a").unwrap(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_certificate_is_told_from_other_troubles() {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let error = std::io::Error::other(unknown);
        assert!(is_certificate(&error));
        assert!(is_certificate(&std::io::Error::other(error)));
        assert!(!is_certificate(&std::io::Error::other(rustls::Error::DecryptError)));
        assert!(!is_certificate(&std::io::Error::other("certificate")));
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_from_other_troubles() {
        // A label has at most 63 characters, so that the system asks nobody.
        let address = format!("http://{}.example", "a".repeat(64));
        let environment = crate::config::Environment::from_variables([]);
        let raw = crate::config::RawConfig::default();
        let config = crate::config::Config::load(&raw, &environment, None).unwrap().hub;
        let client = HubClient::new(&config, &|_| {}).unwrap();
        let error = client.http.get(&address).send().await.unwrap_err();
        let error = network(&Url::parse(&address).unwrap(), error);
        assert!(matches!(error, HubError::Network { fault: Fault::UnknownHost, .. }), "{error:?}");
    }

    #[test]
    fn pauses_double_up_to_a_minute_unless_the_server_says() {
        let environment = crate::config::Environment::from_variables([]);
        let raw = crate::config::RawConfig::default();
        let config = crate::config::Config::load(&raw, &environment, None).unwrap().hub;
        let client = HubClient::new(&HubConfig { num_retries: 8, ..config }, &|_| {}).unwrap();
        let status = |status, retry_after_seconds| {
            let host = String::new();
            HubError::Status { host, status, retry_after_seconds }
        };
        let rows = [
            (503, None, 1, Some(1)),
            (503, None, 2, Some(2)),
            (503, None, 6, Some(32)),
            (503, None, 8, Some(60)),
            (503, None, 9, None),
            (429, Some(90), 1, Some(90)),
            (429, Some(301), 1, None),
            (404, None, 1, None),
        ];
        for (code, asked, num_failed, expected) in rows {
            let delay = client.delay(&status(code, asked), num_failed);
            assert_eq!(delay, expected.map(Duration::from_secs), "{code} {asked:?} {num_failed}");
        }
    }
}
