//! Google's tokens: of a service account and of the metadata server, kept, renewed, and asked for once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use lacuna::provider::ProviderErrorKind as Kind;
use ring::{
    rsa::KeyPair,
    signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{
    rows::{ROWS, Row},
    stub::{Act, Stub},
    support::{complete, gap, provider},
};

const KEY: &str = include_str!("../keys/one.pem");

fn row() -> &'static Row {
    ROWS.iter().find(|row| row.protocol == "vertex-mistral").unwrap()
}

/// Starts a server that gives tokens by `token`, and otherwise answers with `status`.
async fn stub(token: impl Fn(usize) -> Act + Send + Sync + 'static, status: u16) -> Stub {
    let num_tokens = AtomicUsize::new(0);
    let whole = (row().whole)(1);
    Stub::start(move |asked| {
        if asked.path.starts_with("/computeMetadata/") || asked.path == "/token" {
            return token(num_tokens.fetch_add(1, Ordering::Relaxed));
        }
        Act::json(&whole).status(status)
    })
    .await
}

fn token(number: usize, expires_in: u64) -> Act {
    Act::json(
        &json!({"access_token": format!("ya29.{number}"), "expires_in": expires_in, "token_type": "Bearer"}),
    )
}

/// Returns how often tokens were asked for, and the tokens that calls showed.
fn seen(stub: &Stub) -> (usize, Vec<String>) {
    let (calls, tokens): (Vec<_>, Vec<_>) =
        stub.asked().into_iter().partition(|asked| asked.path.contains("Predict"));
    (tokens.len(), calls.iter().map(|call| call.headers["authorization"].clone()).collect())
}

#[tokio::test]
async fn a_token_of_the_metadata_server_is_kept_and_asked_for_once_by_many() {
    let stub = stub(|number| token(number, 3600), 200).await;
    let far = provider(row(), &stub, "");
    join_all((0..5).map(|_| complete(&far, gap("a", "b")))).await.into_iter().for_each(|answer| {
        answer.unwrap();
    });
    complete(&far, gap("a", "b")).await.unwrap();
    assert_eq!(seen(&stub), (1, vec!["Bearer ya29.0".to_owned(); 6]));
    let asked = stub.asked();
    let asked = asked.iter().find(|asked| asked.path.starts_with("/computeMetadata/")).unwrap();
    assert_eq!(asked.path, "/computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!(asked.headers["metadata-flavor"], "Google");
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_and_kept_where_none_is_given() {
    // The first and the second end in a minute, and then no more are given.
    let answers = |number| if number < 2 { token(number, 60) } else { Act::whole(500, "", "") };
    let stub = stub(answers, 200).await;
    let far = provider(row(), &stub, "");
    for _ in 0..3 {
        complete(&far, gap("a", "b")).await.unwrap();
    }
    let shown = ["Bearer ya29.0", "Bearer ya29.1", "Bearer ya29.1"].map(str::to_owned).to_vec();
    assert_eq!(seen(&stub), (3, shown));
}

#[tokio::test]
async fn a_token_that_is_refused_is_not_shown_again() {
    let stub = stub(|number| token(number, 3600), 401).await;
    let far = provider(row(), &stub, "");
    for _ in 0..2 {
        let error = complete(&far, gap("a", "b")).await.unwrap_err();
        assert_eq!(error.kind, Kind::UpstreamRefused);
    }
    assert_eq!(seen(&stub), (2, ["Bearer ya29.0", "Bearer ya29.1"].map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn where_no_token_is_to_be_had_nothing_is_asked() {
    let rows = [
        (
            Act::whole(400, "", r#"{"error": "invalid_grant", "error_description": "s3cret"}"#),
            Kind::UpstreamRefused,
        ),
        (Act::whole(503, "", ""), Kind::UpstreamFailed),
        (Act::whole(200, "", "{}"), Kind::UpstreamMalformed),
        (Act::json(&json!({"access_token": "a b", "expires_in": 1})), Kind::UpstreamMalformed),
        (Act::whole(200, "", " ".repeat(1 << 20)), Kind::UpstreamMalformed),
        (Act::Leave, Kind::UpstreamUnreachable),
    ];
    for (act, kind) in rows {
        let stub = stub(move |_| act.clone(), 200).await;
        let error = complete(&provider(row(), &stub, ""), gap("a", "b")).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.message.contains("s3cret"), "{error}");
        assert_eq!(seen(&stub).1, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_service_account_signs_for_its_token() {
    let grants = Arc::new(Mutex::new(Vec::new()));
    let whole = (row().whole)(1);
    let taken = Arc::clone(&grants);
    let stub = Stub::start(move |asked| {
        if asked.path == "/token" {
            taken.lock().unwrap().push(asked.clone());
            return token(0, 3600);
        }
        Act::json(&whole)
    })
    .await;
    let file = NamedTempFile::new().unwrap();
    let token_uri = format!("{}/token", stub.url());
    let account = json!({"type": "service_account", "client_email": "ada@p.iam.example", "private_key_id": "k1",
        "private_key": KEY, "token_uri": token_uri, "project_id": "p"});
    std::fs::write(file.path(), account.to_string()).unwrap();
    let far = provider(row(), &stub, &format!("credentials_file = {:?}", file.path()));
    complete(&far, gap("a", "b")).await.unwrap();
    complete(&far, gap("a", "b")).await.unwrap();

    let grants = grants.lock().unwrap();
    let [grant] = grants.as_slice() else { panic!("{} grants", grants.len()) };
    assert_eq!(grant.headers["content-type"], "application/x-www-form-urlencoded");
    let (kind, assertion) = grant.text.split_once("&assertion=").unwrap();
    assert_eq!(kind, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
    let (message, signature) = assertion.rsplit_once('.').unwrap();
    let read = |part: &str| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    let (header, claims) = message.split_once('.').unwrap();
    assert_eq!(read(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let claims = read(claims);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("ada@p.iam.example"), &json!(token_uri)));
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    let der = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let pair = KeyPair::from_pkcs8(der.secret_der()).unwrap();
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref())
        .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
}
