//! The way to a provider over TLS: who is trusted, who is shown a certificate, and what keys and proxies see.

use std::{path::Path, sync::Arc};

use lacuna::provider::ProviderErrorKind as Kind;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    rows::ROWS,
    stub::{Act, Stub},
    support::{complete, gap, load, provider, provider_of},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/tls");

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(Path::new(FOLDER).join(name)).unwrap()
}

/// Returns what a server speaks TLS with; it asks for a certificate of its clients where `is_mutual`.
fn tls(is_mutual: bool) -> TlsAcceptor {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&ring))
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let config = if is_mutual {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), ring);
        config.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        config.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(Path::new(FOLDER).join("server.key")).unwrap();
    let config = config.with_single_cert(vec![certificate("server.pem")], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn asked(is_mutual: bool, more: &str) -> Result<String, (Kind, String)> {
    let whole = (ROWS[0].whole)(1);
    let stub = Stub::start_over(move |_| Act::json(&whole), Some(tls(is_mutual))).await;
    let text = format!(
        "[[providers]]\nname = \"far\"\nprotocol = \"openai-completions\"\nfim = \"suffix\"\nmodel = \"m\"\nurl = \"https://{}/v1\"\n{more}\n",
        stub.address
    );
    let far = provider_of(&load(&text, &[]).unwrap()).unwrap();
    let answer = complete(&far, gap("a", "b")).await;
    answer
        .map(|completion| completion.choices[0].text.clone())
        .map_err(|error| (error.kind, error.message))
}

#[tokio::test]
async fn a_server_is_trusted_whose_authority_is_named() {
    let ca = format!("ca_file = \"{FOLDER}/ca.pem\"");
    assert_eq!(asked(false, &ca).await, Ok("a + b".to_owned()));
    let (kind, message) = asked(false, "").await.unwrap_err();
    assert_eq!(kind, Kind::UpstreamUnreachable);
    assert_eq!(message, "the provider `far` cannot be reached: its certificate is not trusted");
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_it_has_one() {
    let ca = format!("ca_file = \"{FOLDER}/ca.pem\"");
    let own = format!(
        "{ca}\nclient_cert_file = \"{FOLDER}/client.pem\"\nclient_key_file = \"{FOLDER}/client.key\""
    );
    assert_eq!(asked(true, &own).await, Ok("a + b".to_owned()));
    let (kind, _) = asked(true, &ca).await.unwrap_err();
    assert!(matches!(kind, Kind::UpstreamUnreachable | Kind::UpstreamMalformed), "{kind:?}");
}

#[tokio::test]
async fn calls_go_through_the_proxy_that_is_named() {
    let whole = (ROWS[0].whole)(1);
    let proxy = Stub::start(move |_| Act::json(&whole)).await;
    let far = provider(&ROWS[0], &Stub::gone(), &format!("proxy = {:?}", proxy.url()));
    complete(&far, gap("a", "b")).await.unwrap();
    let asked = proxy.asked().pop().unwrap();
    assert!(asked.path.starts_with("http://127.0.0.1:"), "{}", asked.path);
}
