//! What cannot be had: each reason has its own words, with what to do, and without a secret.

use std::{error::Error as _, fs};

use lacuna::{
    config::HubConfig,
    hub::{self, Fault, HubError},
};

use crate::fixture::{Hub, SIGNATURE, TOKEN, Trouble, model};

/// Pulls what cannot be pulled and returns what is said, causes included.
async fn refused(config: &HubConfig, name: &str) -> (HubError, String) {
    let error = hub::pull(config, &model(name), &|_| {}).await.unwrap_err();
    let (mut message, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    assert!(!message.contains(TOKEN), "{message}");
    assert!(!message.contains(SIGNATURE), "{message}");
    assert!(!format!("{error:?}").contains(TOKEN), "{error:?}");
    (error, message)
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    // Status, code and message of the listing; whether a token was sent; what must be said.
    let rows = [
        (
            (401, "GatedRepo", "Access to model is restricted"),
            false,
            "/org/name, then set HF_TOKEN",
        ),
        ((403, "GatedRepo", "not in the authorized list"), true, "let the token read gated"),
        (
            (403, "", "Access to gated repositories is off"),
            true,
            "is gated: accept its conditions at http://127.0.0.1",
        ),
        (
            (403, "", ""),
            true,
            "answered 403 for `org/name` and says nothing of a gate: let the token",
        ),
        ((403, "", ""), false, "set HF_TOKEN to a token that may read it; where a proxy"),
        ((401, "", "Invalid credentials in Authorization header"), true, "does not know the token"),
        ((401, "", ""), true, "does not know the token"),
        ((401, "RepoNotFound", "Repository not found"), false, "check the name, or set HF_TOKEN"),
        ((401, "", ""), false, "check the name, or set HF_TOKEN"),
        ((404, "RepoNotFound", ""), true, "check the name, and whose token it is"),
        ((404, "RevisionNotFound", ""), true, "has no revision `main`: see its branches"),
        ((500, "", ""), true, "answered 500 (a fault of the server"),
        ((429, "", ""), true, "answered 429 (too many requests; wait, or set HF_TOKEN"),
        ((418, "", ""), true, "answered 418"),
    ];
    let hub = Hub::with_model().await;
    for (answer, has_token, says) in rows {
        let mut config = hub.config();
        config.token = config.token.filter(|_| has_token);
        hub.behaviour().listing = Some(answer);
        let (_, message) = refused(&config, "org/name").await;
        assert!(message.contains(says), "{answer:?}: {message}");
        hub.behaviour().listing = None;
        // Of a gated repository the listing is public, and its files are not.
        hub.behaviour().file = Some(answer).filter(|(status, ..)| *status == 403);
        if hub.behaviour().file.is_some() {
            let (_, message) = refused(&config, "org/name").await;
            assert!(message.contains(says), "{answer:?}: {message}");
        }
        hub.behaviour().file = None;
    }
    let (_, message) = refused(&hub.config(), "org/name@v9").await;
    assert!(message.contains("`org/name` has no revision `v9`"), "{message}");
    hub.behaviour().file = Some((404, "EntryNotFound", ""));
    let (_, message) = refused(&hub.config(), "org/name").await;
    assert!(message.contains("and does not have it; pull again"), "{message}");
}

#[tokio::test]
async fn addresses_of_the_network_stay_out_of_messages() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    config.num_retries = 0;
    for trouble in [Trouble::Cut(10), Trouble::Status(503, None), Trouble::Status(403, None)] {
        hub.trouble([trouble]);
        refused(&config, "org/name").await;
    }
}

#[tokio::test]
async fn what_must_not_be_written_is_not() {
    let hub = Hub::with_model().await;
    for name in ["../../evil", "/etc/evil", "a\\..\\evil"] {
        hub.behaviour().further_name = Some(name);
        let (error, _) = refused(&hub.config(), "org/name").await;
        assert!(matches!(error, HubError::UnsafeName { .. }), "{name}: {error}");
    }
    assert!(!hub.home.path().join("hub").exists(), "nothing was written");
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_found_before_anything_comes() {
    let hub = Hub::with_model().await;
    hub.behaviour().claimed_size = Some(1 << 60);
    let (error, message) = refused(&hub.config(), "org/name").await;
    assert!(matches!(error, HubError::NoSpace { .. }), "{error}");
    assert!(message.contains("--hub-cache"), "{message}");
    assert_eq!(hub.seen().len(), 1, "the listing only");
}

#[tokio::test]
async fn a_listing_without_end_is_no_models() {
    let hub = Hub::with_model().await;
    hub.behaviour().num_further = 100_000;
    let (error, message) = refused(&hub.config(), "org/name").await;
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    assert!(message.contains("has 100005 files, more than 100000"), "{message}");
}

#[tokio::test]
async fn pickles_alone_are_refused() {
    let hub = Hub::start(&[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")]).await;
    let (_, message) = refused(&hub.config(), "org/name").await;
    assert!(message.contains("as pickles only (pytorch_model.bin)"), "{message}");
    assert!(message.contains("safetensors or GGUF"), "{message}");
}

#[tokio::test]
async fn offline_asks_nobody() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    config.is_offline = true;
    let (_, message) = refused(&config, "org/name").await;
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
    let error = hub::find(&config, &model("org/name")).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(hub.seen(), []);
}

#[tokio::test]
async fn a_hub_that_is_away_is_told_from_one_that_is_none() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.endpoint = format!("http://{free}");
    let (error, message) = refused(&config, "org/name").await;
    assert!(matches!(error, HubError::Network { fault: Fault::Unreachable, .. }), "{error:?}");
    assert!(message.contains("HF_ENDPOINT") && message.contains("HTTPS_PROXY"), "{message}");
    config.endpoint = format!("{}/org/name/resolve", hub.endpoint);
    let (_, message) = refused(&config, "org/name").await;
    assert!(message.contains("there is no `org/name` at 127.0.0.1"), "{message}");
}

#[tokio::test]
async fn a_proxy_is_asked_unless_the_host_is_an_exception() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    // The hub itself stands in for a proxy: it answers whatever host it is asked for.
    config.proxies.http = Some(hub.endpoint.as_str().into());
    config.endpoint = "http://hub.invalid".to_owned();
    config.proxies.exceptions = Some("127.0.0.1".to_owned());
    hub::pull(&config, &model("org/name"), &|_| {}).await.unwrap();
    config.proxies.exceptions = Some("hub.invalid".to_owned());
    let (error, _) = refused(&config, "org/other").await;
    assert!(matches!(error, HubError::Network { .. }), "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_is_away_is_told_from_the_hub() {
    let hub = Hub::with_model().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A server that knows no tunnels is reached, and leads nowhere.
    let no_tunnel = hub.endpoint.trim_start_matches("http://").to_owned();
    let rows = [
        (free.to_string(), "http://hub.invalid", "cannot be reached, or does not lead there"),
        (free.to_string(), "https://hub.invalid", "cannot be reached, or does not lead there"),
        (no_tunnel, "https://hub.invalid", "cannot be reached, or does not lead there"),
        ("no-such.invalid:1".to_owned(), "http://hub.invalid", "has a name that is not known here"),
    ];
    for (proxy, endpoint, says) in rows {
        let mut config = hub.config();
        config.endpoint = endpoint.to_owned();
        let address = lacuna::config::Secret::from(format!("http://ada:s3cret@{proxy}").as_str());
        config.proxies.http = Some(address.clone());
        config.proxies.https = Some(address);
        let (error, message) = refused(&config, "org/name").await;
        assert!(matches!(error, HubError::Proxy { .. }), "{error:?}");
        let expected =
            format!("the proxy {proxy} on the way to hub.invalid {says}; check HTTPS_PROXY");
        assert!(message.starts_with(&expected), "{message}");
        let shown = format!("{message}{error:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("ada"), "{shown}");
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_named() {
    let hub = Hub::with_model().await;
    let mut config = hub.config();
    let file = hub.home.path().join("file");
    fs::write(&file, "").unwrap();
    config.cache = Some(file.clone());
    let (error, message) = refused(&config, "org/name").await;
    assert!(matches!(error, HubError::Cache { .. }), "{error:?}");
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    config.cache = None;
    let (_, message) = refused(&config, "org/name").await;
    assert!(message.contains("set HOME, HF_HOME or `hub.cache`"), "{message}");
}
