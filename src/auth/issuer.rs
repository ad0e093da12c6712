//! Asking an OIDC issuer for its keys.
//!
//! # Source
//! `OpenID` Connect Discovery 1.0; JSON Web Key (RFC 7517).

use std::time::Duration;

use reqwest::{Client, Url, redirect::Policy};
use serde::Deserialize;

use crate::{
    auth::{
        error::KeyError,
        key_set::{Key, read_jwks},
    },
    config::Proxies,
    hub::through_proxies,
};

/// What an issuer's answer may take, from the connection to its last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys of RSA have half a kilobyte each.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// More than any set-up of proxies has.
const NUM_REDIRECTS_MAX: usize = 5;

/// Why an issuer's keys are not to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuerError {
    /// It cannot be asked, or does not answer.
    #[error("{what} cannot be read: {}", causes(source))]
    Network {
        /// Which of its two documents.
        what: &'static str,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answers otherwise.
    #[error("{what} is answered with status {status}")]
    Status {
        /// Which of its two documents.
        what: &'static str,
        /// The status.
        status: u16,
    },
    /// It answers too much.
    #[error("{0} has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge(&'static str),
    /// It answers something else.
    #[error("{0} is not what it must be")]
    Malformed(&'static str),
    /// It has no key that we could use.
    #[error("it publishes no key for RS256")]
    NoKeys,
}

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "the document at its jwks_uri";

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Makes a client that goes through `proxies`.
///
/// # Errors
/// A proxy's address that cannot be read, no certificates to trust.
pub(super) fn client(proxies: &Proxies, is_encrypted: bool) -> Result<Client, KeyError> {
    // Whoever in this process speaks TLS does so with this; the second to say so changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            .redirect(Policy::custom(|attempt| {
                let was_encrypted = attempt.previous().iter().any(|url| url.scheme() == "https");
                if attempt.previous().len() > NUM_REDIRECTS_MAX {
                    attempt.error("too many redirects")
                } else if was_encrypted && attempt.url().scheme() != "https" {
                    attempt.error("a redirect to an address that is not as safe")
                } else {
                    attempt.follow()
                }
            }));
        through_proxies(builder, proxies)
    };
    let built = match builder().and_then(reqwest::ClientBuilder::build) {
        // In a container without certificates an issuer that needs none must not fail for their lack.
        Err(_) if !is_encrypted => builder().and_then(|it| it.tls_certs_only([]).build()),
        built => built,
    };
    built.map_err(|source| KeyError::Client { source })
}

/// Returns the keys that the issuer at `address` publishes. Its tokens name it by this address or by the one that it says;
/// never by `reserved`: our own name, and those of other issuers.
///
/// # Errors
/// An issuer that does not answer, or not with keys.
pub(super) async fn keys(
    http: &Client,
    address: &str,
    reserved: Vec<String>,
) -> Result<Vec<Key>, IssuerError> {
    let what = DISCOVERY;
    let url = Url::parse(&format!("{address}{DISCOVERY}"));
    let bytes = read(http, url.map_err(|_| IssuerError::Malformed("its address"))?, what).await?;
    let discovery: Discovery =
        serde_json::from_slice(&bytes).map_err(|_| IssuerError::Malformed(what))?;
    let url = keys_url(address, &discovery.jwks_uri);
    let bytes = read(http, url.ok_or(IssuerError::Malformed("its jwks_uri"))?, JWKS).await?;
    let mut names = vec![address.to_owned()];
    let said = discovery.issuer.trim_end_matches('/');
    if said != address && !reserved.iter().any(|name| name == said) {
        names.push(said.to_owned());
    }
    let keys = read_jwks(&bytes, &names).ok_or(IssuerError::Malformed(JWKS))?;
    if keys.is_empty() { Err(IssuerError::NoKeys) } else { Ok(keys) }
}

/// Returns where an issuer's keys are. Keys that come in the clear are anybody's: where the issuer is asked over TLS, so
/// are its keys.
fn keys_url(address: &str, jwks_uri: &str) -> Option<Url> {
    let schemes: &[&str] =
        if address.starts_with("https:") { &["https"] } else { &["http", "https"] };
    Url::parse(jwks_uri).ok().filter(|url| schemes.contains(&url.scheme()))
}

async fn read(http: &Client, url: Url, what: &'static str) -> Result<Vec<u8>, IssuerError> {
    let network = |source: reqwest::Error| IssuerError::Network { what, source };
    let mut response = http.get(url).send().await.map_err(network)?;
    if !response.status().is_success() {
        return Err(IssuerError::Status { what, status: response.status().as_u16() });
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(IssuerError::TooLarge(what));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The library's own message names neither the refused connection nor the certificate; its causes do.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_as_safely_as_their_issuer() {
        let rows = [
            ("https://a.example", "https://b.example/keys", true),
            ("https://a.example", "http://a.example/keys", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/keys", true),
            ("http://127.0.0.1:1", "https://b.example/keys", true),
            ("http://127.0.0.1:1", "file:///etc/passwd", false),
            ("https://a.example", "keys", false),
        ];
        for (address, jwks_uri, is_asked) in rows {
            assert_eq!(keys_url(address, jwks_uri).is_some(), is_asked, "{address} {jwks_uri}");
        }
    }
}
