//! The proxies on the ways out of here: a client that takes them, and which one is on the way to an address, so that what it
//! does is not blamed on who was asked.
//!
//! The client finds its way by the same library and the same texts, and tells nobody.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, NoProxy, Proxy, Url};

use crate::config::{Proxies, Secret};

/// The ways to addresses.
pub(super) struct Ways(Matcher);

impl Ways {
    /// Returns the ways that the environment names.
    pub(super) fn new(proxies: &Proxies) -> Self {
        let text = |proxy: &Option<Secret>| {
            proxy.as_ref().map_or_else(String::new, |proxy| proxy.reveal().to_owned())
        };
        let exceptions = proxies.exceptions.clone().unwrap_or_default();
        let matcher = Matcher::builder().http(text(&proxies.http)).https(text(&proxies.https));
        Self(matcher.no(exceptions).build())
    }

    /// Returns the host and port of the proxy on the way to `url`, and nothing else of its address: it may hold a
    /// password. `None` where there is none on the way.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<String> {
        let proxy = self.0.intercept(&url.as_str().parse().ok()?)?;
        let host = proxy.uri().host()?;
        Some(proxy.uri().port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    }
}

/// Makes a client go the ways that the environment names, for whoever calls out of here.
///
/// # Errors
/// An address that cannot be read.
pub fn through_proxies(
    builder: ClientBuilder,
    proxies: &Proxies,
) -> Result<ClientBuilder, reqwest::Error> {
    let exceptions = proxies.exceptions.as_deref().and_then(NoProxy::from_string);
    // The library would read the environment itself, which is done once and elsewhere.
    let mut builder = builder.no_proxy();
    if let Some(address) = &proxies.http {
        builder = builder.proxy(Proxy::http(address.reveal())?.no_proxy(exceptions.clone()));
    }
    if let Some(address) = &proxies.https {
        builder = builder.proxy(Proxy::https(address.reveal())?.no_proxy(exceptions));
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_proxy_of_an_address_without_its_password() {
        let ways = Ways::new(&Proxies {
            http: Some("http://ada:s3cret@plain:3128".into()),
            https: Some("ada:s3@cret@secure".into()),
            exceptions: Some("mirror.example,10.0.0.0/8".to_owned()),
        });
        let rows = [
            ("http://hub.example/a", Some("plain:3128")),
            ("https://hub.example/a?b=c", Some("secure")),
            ("https://mirror.example", None),
            ("https://cdn.mirror.example", None),
            ("http://10.1.2.3:8080/a", None),
        ];
        for (url, expected) in rows {
            let found = ways.proxy_to(&Url::parse(url).unwrap());
            assert_eq!(found.as_deref(), expected, "{url}");
        }
        let none = Ways::new(&Proxies::default());
        assert_eq!(none.proxy_to(&Url::parse("https://hub.example").unwrap()), None);
    }
}
