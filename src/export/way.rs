//! The way to a service that is told something: one client, a limit on time, no redirects, and no word of what went out or
//! came back in a log.

use std::{error::Error as _, io, time::Duration};

use reqwest::{
    Client, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::{
    config::{Proxies, Secret, Violation},
    hub::through_proxies,
};

/// Longest time of a call: a collector that needs longer is not keeping up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause that a service may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The way to one service.
#[derive(Debug)]
pub(super) struct Way {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The answer's status; `None` where nobody answered.
    pub(super) status: Option<u16>,
    /// Why nobody answered, in words; empty where somebody did.
    pub(super) cause: &'static str,
    /// Whether another try may do better.
    pub(super) may_retry: bool,
    /// When, by the service's own word.
    pub(super) retry_after: Option<Duration>,
}

impl Way {
    /// Makes a client; asks nobody. `key` is the setting that says where.
    ///
    /// # Errors
    /// An address, header or proxy that cannot be used.
    pub(super) fn new(
        key: &str,
        url: &str,
        headers: &[(String, Secret)],
        proxies: &Proxies,
    ) -> Result<Self, Violation> {
        let broken = |rule: &str| Violation {
            key: key.to_owned(),
            rule: rule.to_owned(),
            got: "another".to_owned(),
        };
        // Whoever in this process speaks TLS does so with this; the second to say so changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = Url::parse(url).map_err(|_| broken("an address that can be used"))?;
        let mut builder = Client::builder()
            .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(CALL_TIMEOUT);
        if url.scheme() == "http" {
            // A collector on this machine must not fail for the lack of certificates that it does not need.
            builder = builder.tls_certs_only([]);
        }
        let client = through_proxies(builder, proxies).and_then(reqwest::ClientBuilder::build);
        let client = client.map_err(|_| broken("what a client can be made for"))?;
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_str(value.reveal());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(broken("headers that can be sent"));
            };
            value.set_sensitive(true);
            map.insert(name, value);
        }
        Ok(Self { client, url, headers: map })
    }

    /// Sends a body.
    ///
    /// # Errors
    /// It was not taken.
    pub(super) async fn post(
        &self,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<(), Refused> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        let request = request.header(header::CONTENT_TYPE, content_type).body(body);
        let unreachable = |error| Refused {
            status: None,
            cause: cause(&error),
            may_retry: true,
            retry_after: None,
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let after = response.headers().get(header::RETRY_AFTER);
        let after = after.and_then(|text| text.to_str().ok()?.parse().ok());
        Err(Refused {
            status: Some(status.as_u16()),
            cause: "",
            // As OTLP has it; all else would be refused again.
            may_retry: matches!(status.as_u16(), 429 | 502 | 503 | 504),
            retry_after: after.map(|seconds| Duration::from_secs(seconds).min(PAUSE_MAX)),
        })
    }
}

/// Returns why nobody answered. Words of our own, for those of an error may hold its address.
fn cause(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        return "timed out";
    }
    let mut next = error.source();
    while let Some(source) = next {
        match source.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return "connection refused",
            Some(io::ErrorKind::ConnectionReset) => return "connection reset",
            _ => next = source.source(),
        }
    }
    if error.is_connect() { "no connection could be made" } else { "no answer came" }
}
