//! An OIDC issuer on a free port, with keys that can be changed, and a GitLab's way of asking with its tokens.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use lacuna::{
    auth::{Clock, Guard},
    config::{AuthConfig, Proxies, Secret},
};
use ring::rsa::{KeyPair, PublicKeyComponents};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::open_guard;

pub(crate) const ONE: &str = include_str!("../../keys/one.pem");
pub(crate) const TWO: &str = include_str!("../../keys/two.pem");
pub(crate) const THREE: &str = include_str!("../../keys/three.pem");

/// Whom tokens are for.
pub(crate) const SERVICE: &str = "gitlab-ai-gateway";
/// When the tests' clocks begin.
const NOW: u64 = 1_800_000_000;

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock::of(move || time.load(Ordering::Relaxed))
    }
}

/// Makes a guard by these settings that keeps its keys until the test ends.
pub(crate) fn guard(clock: &TestClock, change: impl FnOnce(&mut AuthConfig)) -> Arc<Guard> {
    let mut config = AuthConfig::open();
    change(&mut config);
    let guard = Guard::new(config, &Proxies::default(), clock.clock());
    let guard = Arc::new(guard.unwrap());
    let kept = Arc::clone(&guard);
    tokio::spawn(async move { kept.keep().await });
    guard
}

/// Sets the key that signs our own tokens.
pub(crate) fn signs_with(config: &mut AuthConfig, pem: &str) {
    config.signing_key.pem = Some(Secret::from(pem));
}

/// How an issuer answers.
pub(crate) enum Manner {
    /// As it should.
    Good,
    /// With 500.
    Failing,
    /// With a redirect to where it answers as it should.
    Moved,
    /// With a redirect to itself.
    Circling,
    /// With more than anybody reads.
    Endless,
    /// With keys that are elsewhere than HTTP.
    Elsewhere,
    /// In our own name.
    Posing,
}

struct Shared {
    manner: Manner,
    keys: Vec<(String, String)>,
    num_asked: usize,
    address: String,
}

/// A running issuer.
pub(crate) struct Issuer(Arc<Mutex<Shared>>);

impl Issuer {
    /// Starts one that publishes these keys: what tokens call them, and their private halves.
    pub(crate) async fn start(manner: Manner, keys: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared { manner, keys: Vec::new(), num_asked: 0, address };
        let issuer = Self(Arc::new(Mutex::new(shared)));
        issuer.publish(keys);
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/moved", get(moved))
            .route("/keys", get(keys_of))
            .with_state(Arc::clone(&issuer.0));
        tokio::spawn(async move { axum_serve(listener, router).await });
        issuer
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap()
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: &[(&str, &str)]) {
        let owned = |(id, pem): &(&str, &str)| ((*id).to_owned(), (*pem).to_owned());
        self.lock().keys = keys.iter().map(owned).collect();
    }

    /// Answers otherwise from now on.
    pub(crate) fn behave(&self, manner: Manner) {
        self.lock().manner = manner;
    }

    /// Returns how often its configuration was asked for.
    pub(crate) fn num_asked(&self) -> usize {
        self.lock().num_asked
    }

    pub(crate) fn address(&self) -> String {
        self.lock().address.clone()
    }

    /// Returns an instance's token that holds for an hour, in a header.
    pub(crate) fn bearer(&self, (id, pem): (&str, &str), now: u64) -> String {
        bearer(id, pem, &self.claims(now))
    }

    /// Returns what an instance's token says.
    pub(crate) fn claims(&self, now: u64) -> Value {
        json!({
            "iss": self.address(), "sub": "instance", "aud": [SERVICE, "duo"], "iat": now,
            "nbf": now, "exp": now + 3600, "jti": "1", "gitlab_realm": "self-managed",
            "scopes": ["complete_code", "generate_code"], "gitlab_instance_uid": "uid",
        })
    }
}

async fn axum_serve(listener: TcpListener, router: Router) {
    let options = lacuna::server::ServeOptions {
        read_timeout: crate::support::PATIENCE,
        drain_timeout: crate::support::PATIENCE,
        drain: lacuna::api::DrainFlag::default(),
    };
    lacuna::server::serve(listener, router, options, std::future::pending()).await;
}

type Asked = State<Arc<Mutex<Shared>>>;

async fn discovery(State(shared): Asked) -> Response {
    let mut shared = shared.lock().unwrap();
    shared.num_asked += 1;
    match shared.manner {
        Manner::Failing => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Manner::Moved => Redirect::temporary("/moved").into_response(),
        Manner::Circling => {
            Redirect::temporary("/.well-known/openid-configuration").into_response()
        }
        Manner::Endless => " ".repeat(1 << 20).into_response(),
        Manner::Elsewhere => {
            Json(json!({"issuer": shared.address, "jwks_uri": "file:///etc/passwd"}))
                .into_response()
        }
        Manner::Posing => configuration(SERVICE, &shared.address),
        Manner::Good => configuration(&shared.address, &shared.address),
    }
}

async fn moved(State(shared): Asked) -> Response {
    let shared = shared.lock().unwrap();
    configuration(&shared.address, &shared.address)
}

fn configuration(issuer: &str, address: &str) -> Response {
    Json(json!({"issuer": issuer, "jwks_uri": format!("{address}/keys")})).into_response()
}

async fn keys_of(State(shared): Asked) -> Json<Value> {
    let keys = shared.lock().unwrap().keys.clone();
    let keys = keys.iter().map(|(id, pem)| {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let pair = KeyPair::from_pkcs8(der.secret_der())
            .or_else(|_| KeyPair::from_der(der.secret_der()))
            .unwrap();
        let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
        let number = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": number(n), "e": number(e)})
    });
    Json(json!({ "keys": keys.collect::<Vec<_>>() }))
}

/// Signs claims and returns the header that shows them.
pub(crate) fn bearer(id: &str, pem: &str, claims: &Value) -> String {
    // A guard makes the library use the cryptography that is here.
    drop(open_guard());
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(id.to_owned());
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let token = encode(&header, claims, &EncodingKey::from_rsa_der(der.secret_der())).unwrap();
    format!("Authorization: Bearer {token}")
}

/// The headers that a GitLab sends beside a token.
pub(crate) const OF_GITLAB: [&str; 4] = [
    "X-Gitlab-Authentication-Type: oidc",
    "X-Gitlab-Realm: self-managed",
    "X-Gitlab-Instance-Id: instance",
    "X-Gitlab-Global-User-Id: ada",
];
