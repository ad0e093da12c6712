//! Tokens and keys against a clock that stands: what is believed, in which order what is not is told, what is given out.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::{
    api_keys, claims::Claims, credentials::Credentials, error::AuthError, key_set::*, rs256,
    token::Rules, *,
};
use crate::config::{ApiKeyConfig, AuthConfig, BypassConfig, KeyConfig, Proxies};

const ONE: &str = include_str!("../../tests/keys/one.pem");
const TWO: &str = include_str!("../../tests/keys/two.pem");
/// In the older of the two forms.
const THREE: &str = include_str!("../../tests/keys/three.pem");

const NOW: u64 = 1_800_000_000;
const SERVICE: &str = "gitlab-ai-gateway";
const ISSUER: &str = "https://gitlab.example.com";

fn pem(text: &str) -> KeyConfig {
    KeyConfig { file: None, pem: Some(text.into()) }
}

fn encoding(pem: &str) -> EncodingKey {
    EncodingKey::from_rsa_der(PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_der())
}

fn public(id: &str, issuer: &str, pem: &str) -> Key {
    let pair = rs256::key_pair(&encoding(pem)).unwrap();
    let der = ring::signature::KeyPair::public_key(&pair).as_ref().to_vec();
    Key {
        id: id.to_owned(),
        issuers: vec![issuer.to_owned()],
        decoding: DecodingKey::from_rsa_der(&der),
    }
}

/// The claims of an instance's token, changed.
fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "instance", "aud": SERVICE, "exp": NOW + 3600, "nbf": NOW - 5,
        "iat": NOW, "jti": "1", "gitlab_realm": "self-managed", "scopes": ["complete_code"],
        "gitlab_instance_uid": "uid",
    });
    change(&mut claims);
    claims
}

fn sign(id: Option<&str>, claims: &Value, pem: &str) -> String {
    rs256::install();
    let mut header = Header::new(Algorithm::RS256);
    header.kid = id.map(str::to_owned);
    encode(&header, claims, &encoding(pem)).unwrap()
}

/// Writes a token by hand, as a forger does.
fn forge(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| base64_url(value.to_string().as_bytes());
    format!("{}.{}.{signature}", part(header), part(claims))
}

fn base64_url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn check(token: &str, now: u64) -> Result<Claims, AuthError> {
    rs256::install();
    let keys = KeySet(vec![public("k1", ISSUER, ONE), public("k2", "https://other", TWO)]);
    Rules { service_name: SERVICE, is_unsigned_believed: false }.check(token, &keys, now)
}

#[test]
fn a_true_token_is_believed() {
    let rows = [
        claims(|_| {}),
        claims(|c| c["aud"] = json!(["duo", SERVICE])),
        claims(|c| c["iss"] = json!("https://gitlab.example.com/")),
        claims(|c| c["exp"] = json!(NOW as f64 + 0.5)),
        claims(|c| c["nbf"] = Value::Null),
        claims(|c| c["nbf"] = json!(NOW + 30)),
        claims(|c| c["sub"] = Value::Null),
    ];
    for claims in rows {
        let token = sign(Some("k1"), &claims, ONE);
        assert!(check(&token, NOW).is_ok(), "{claims}");
    }
}

#[test]
fn what_is_wrong_with_a_token_is_known() {
    let good = claims(|_| {});
    let changed = |change: fn(&mut Value)| sign(Some("k1"), &claims(change), ONE);
    let token = sign(Some("k1"), &good, ONE);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other = claims(|c| c["scopes"] = json!(["generate_code"])).to_string();
    let swapped = format!("{header}.{}.{signature}", base64_url(other.as_bytes()));
    let rs256 = json!({"alg": "RS256", "typ": "JWT", "kid": "k1"});
    let with = |name: &str, value: Value| {
        let mut header = rs256.clone();
        header[name] = value;
        forge(&header, &good, signature)
    };
    let rows = [
        (sign(None, &good, ONE), AuthError::MissingKeyId),
        (sign(Some("k3"), &good, ONE), AuthError::UnknownKey),
        (sign(Some("k2"), &good, TWO), AuthError::WrongIssuer),
        (sign(Some("k1"), &good, TWO), AuthError::BadSignature),
        (changed(|c| c["iss"] = json!("https://other")), AuthError::WrongIssuer),
        (changed(|c| c["aud"] = json!("duo")), AuthError::WrongAudience),
        (changed(|c| c["aud"] = json!([])), AuthError::WrongAudience),
        (changed(|c| c["exp"] = json!(NOW - 60)), AuthError::Expired),
        (changed(|c| c["exp"] = json!(-1)), AuthError::Expired),
        (changed(|c| c["nbf"] = json!(NOW + 61)), AuthError::NotYetValid),
        (changed(|c| c["exp"] = Value::Null), AuthError::Malformed),
        (changed(|c| c["iss"] = json!(7)), AuthError::Malformed),
        (swapped, AuthError::BadSignature),
        (format!("{signed}."), AuthError::BadSignature),
        (with("alg", json!("none")), AuthError::Malformed),
        (with("alg", json!("HS256")), AuthError::WrongAlgorithm),
        (with("alg", json!("RS512")), AuthError::WrongAlgorithm),
        (with("crit", json!(["exp"])), AuthError::Malformed),
        (forge(&json!({"alg": "none"}), &good, ""), AuthError::Malformed),
        ("a.b.c".to_owned(), AuthError::Malformed),
        ("..".to_owned(), AuthError::Malformed),
        ("undefined".to_owned(), AuthError::Malformed),
        (format!("{token}.{token}"), AuthError::Malformed),
        (changed(|c| c["more"] = json!("x".repeat(16 << 10))), AuthError::Malformed),
    ];
    for (token, expected) in rows {
        assert_eq!(check(&token, NOW).unwrap_err(), expected, "{token}");
    }
    assert_eq!(check(&token, NOW + 3700).unwrap_err(), AuthError::Expired);
}

#[test]
fn a_secret_made_of_the_public_key_signs_nothing() {
    let Key { decoding, .. } = public("k1", ISSUER, ONE);
    let header = json!({"alg": "HS256", "kid": "k1"});
    let unsigned = forge(&header, &claims(|_| {}), "");
    let message = unsigned.trim_end_matches('.');
    let secret = decoding.try_get_as_bytes().unwrap();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = base64_url(ring::hmac::sign(&secret, message.as_bytes()).as_ref());
    let token = format!("{message}.{signature}");
    assert_eq!(check(&token, NOW).unwrap_err(), AuthError::WrongAlgorithm);
}

/// A guard whose clock stands at `NOW`.
fn guard(change: impl FnOnce(&mut AuthConfig)) -> Guard {
    let mut config = AuthConfig::open();
    change(&mut config);
    Guard::new(config, &Proxies::default(), Clock::of(|| NOW)).unwrap()
}

/// Says who asks with these headers, as a GitLab sends them beside its token.
async fn ask(
    guard: &Guard,
    authorization: &str,
    request: Credentials<'_>,
) -> Result<Caller, AuthError> {
    let request = Credentials { authorization: Some(authorization), ..request };
    guard.authenticate(&request).await
}

fn of_gitlab() -> Credentials<'static> {
    Credentials {
        authentication_type: Some("oidc"),
        realm: Some("self-managed"),
        instance_id: Some("instance"),
        global_user_id: Some("ada"),
        ..Credentials::default()
    }
}

fn own(change: impl FnOnce(&mut Value)) -> Value {
    claims(|c| {
        c["iss"] = json!(SERVICE);
        c["sub"] = json!("ada");
        c["gitlab_instance_id"] = json!("instance");
        change(c);
    })
}

const OWN_ID: &str = "gitlab-ai-gateway_signing_key";

#[tokio::test]
async fn the_request_must_agree_with_the_token() {
    let guard = guard(|config| config.signing_key = pem(ONE));
    let bearer = |claims: Value| format!("Bearer {}", sign(Some(OWN_ID), &claims, ONE));
    let token = bearer(own(|_| {}));
    let request = of_gitlab();
    let caller = ask(&guard, &token, request).await.unwrap();
    assert_eq!((caller.kind, caller.realm), (CallerKind::User, Some(Realm::SelfManaged)));
    assert!(caller.may(COMPLETE_CODE) && !caller.may(GENERATE_CODE));
    let rows = [
        (Credentials { authentication_type: None, ..request }, AuthError::WrongType),
        (Credentials { authentication_type: Some("OIDC"), ..request }, AuthError::WrongType),
        (Credentials { realm: Some("saas"), ..request }, AuthError::OtherRealm),
        (Credentials { realm: None, ..request }, AuthError::OtherRealm),
        (Credentials { instance_id: Some("other"), ..request }, AuthError::OtherInstance),
        (Credentials { global_user_id: Some("grace"), ..request }, AuthError::OtherUser),
        (Credentials { global_user_id: None, ..request }, AuthError::OtherUser),
    ];
    for (request, expected) in rows {
        assert_eq!(ask(&guard, &token, request).await.unwrap_err(), expected);
    }
    // Claims that say nothing agree with everything.
    let silent = bearer(own(|c| {
        for name in ["gitlab_realm", "gitlab_instance_id", "sub"] {
            c[name] = json!("");
        }
    }));
    let bare = Credentials { authentication_type: Some("oidc"), ..Credentials::default() };
    assert!(ask(&guard, &silent, bare).await.is_ok());
}

#[test]
fn a_token_of_an_instance_is_compared_with_the_instance() {
    let claims: Claims = serde_json::from_value(claims(|_| {})).unwrap();
    let request = of_gitlab();
    assert_eq!(claims.agree(&request, false), Ok(()));
    let other = Credentials { instance_id: Some("other"), ..request };
    assert_eq!(claims.agree(&other, false), Err(AuthError::OtherInstance));
    let user = Credentials { global_user_id: Some("grace"), ..request };
    assert_eq!(claims.agree(&user, false), Ok(()), "of a user it says nothing");
}

#[tokio::test]
async fn headers_are_told_apart_before_tokens_are_looked_at() {
    let guard = guard(|config| config.signing_key = pem(ONE));
    let none = guard.authenticate(&Credentials::default()).await.unwrap_err();
    assert_eq!(none, AuthError::NoHeader);
    for header in ["", "invalid", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b"] {
        let error = ask(&guard, header, Credentials::default()).await.unwrap_err();
        assert_eq!(error, AuthError::InvalidHeader, "{header}");
    }
    let error = ask(&guard, "bearer x", Credentials::default()).await.unwrap_err();
    assert_eq!(error, AuthError::WrongType);
}

#[tokio::test]
async fn a_mistyped_key_is_told_as_one_where_tokens_are_taken_too() {
    let key = ApiKeyConfig {
        name: "ada".to_owned(),
        digest: [0; 32],
        scopes: Vec::new(),
        requests_per_minute: None,
        concurrent_requests: None,
    };
    let guard = guard(|config| {
        config.signing_key = pem(ONE);
        config.api_keys = vec![key];
    });
    let shown = Credentials { api_key: Some("wrong"), ..Credentials::default() };
    assert_eq!(guard.authenticate(&shown).await.unwrap_err(), AuthError::UnknownApiKey);
    let error = ask(&guard, "Bearer wrong", Credentials::default()).await.unwrap_err();
    assert_eq!(error, AuthError::UnknownApiKey);
    let error = ask(&guard, "Bearer a.b.c", Credentials::default()).await.unwrap_err();
    assert_eq!(error, AuthError::WrongType);
    let none = guard.authenticate(&Credentials::default()).await.unwrap_err();
    assert_eq!(none, AuthError::NoHeader);
}

#[tokio::test]
async fn keys_pass_from_one_role_to_the_other() {
    let token = format!("Bearer {}", sign(Some(OWN_ID), &own(|_| {}), ONE));
    // Before: three is announced. Then three signs. Then one is dropped.
    let rows = [(pem(ONE), pem(THREE), true), (pem(THREE), pem(ONE), true)];
    for (signing_key, validation_key, is_believed) in
        rows.into_iter().chain([(pem(THREE), KeyConfig::default(), false)])
    {
        let guard = guard(|config| {
            config.signing_key = signing_key;
            config.validation_key = validation_key;
        });
        assert_eq!(ask(&guard, &token, of_gitlab()).await.is_ok(), is_believed);
    }
}

#[tokio::test]
async fn switches_bypass_what_they_say_and_no_more() {
    let forged = format!("Bearer {}", forge(&json!({"alg": "RS256"}), &own(|_| {}), "AAAA"));
    let late = own(|c| c["exp"] = json!(NOW - 3600));
    let late = format!("Bearer {}", forge(&json!({"alg": "RS256"}), &late, "AAAA"));
    let by = |bypass: BypassConfig| {
        guard(|config| {
            config.signing_key = pem(ONE);
            config.bypass = bypass;
        })
    };
    let none = BypassConfig::default();
    let external = by(BypassConfig { external: true, ..none });
    let caller = external.authenticate(&Credentials::default()).await.unwrap();
    assert_eq!((caller.kind, caller.may("anything")), (CallerKind::Debug, true));
    let with_header = by(BypassConfig { external_with_header: true, ..none });
    assert!(with_header.authenticate(&Credentials::default()).await.is_err());
    let asking = Credentials { bypass: Some("true"), ..Credentials::default() };
    assert!(with_header.authenticate(&asking).await.is_ok());
    assert!(by(none).authenticate(&asking).await.is_err());
    let unsigned = by(BypassConfig { jwt_signature: true, ..none });
    assert_eq!(ask(&unsigned, &forged, of_gitlab()).await.unwrap().kind, CallerKind::User);
    assert_eq!(ask(&unsigned, &late, of_gitlab()).await.unwrap_err(), AuthError::Expired);
    assert!(ask(&by(none), &forged, of_gitlab()).await.is_err());
}

#[tokio::test]
async fn the_older_scope_stands_for_both_only_where_that_is_said() {
    let token = own(|c| c["scopes"] = json!(["code_suggestions"]));
    let token = format!("Bearer {}", sign(Some(OWN_ID), &token, ONE));
    for has_legacy_scope in [false, true] {
        let guard = guard(|config| {
            config.signing_key = pem(ONE);
            config.has_legacy_scope = has_legacy_scope;
        });
        let caller = ask(&guard, &token, of_gitlab()).await.unwrap();
        let may = [COMPLETE_CODE, GENERATE_CODE].map(|scope| caller.may(scope));
        assert_eq!(may, [has_legacy_scope; 2]);
    }
}

#[tokio::test]
async fn api_keys_are_known_by_their_hash_wherever_they_stand() {
    let (key, hash) = draw_api_key().unwrap();
    let (other, _) = draw_api_key().unwrap();
    assert!(key.starts_with("lacuna-") && key.len() == 71 && key != other);
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, key.as_bytes()).as_ref());
    assert_eq!(api_keys::hex(&digest), hash);
    let ada = ApiKeyConfig {
        name: "ada".to_owned(),
        digest,
        scopes: vec![COMPLETE_CODE.to_owned()],
        requests_per_minute: NonZeroU32::new(1),
        concurrent_requests: None,
    };
    let guard = guard(|config| config.api_keys = vec![ada]);
    let none = Credentials::default();
    let bearer = format!("Bearer {key}");
    let in_header = Credentials { api_key: Some(&key), ..none };
    for (authorization, request) in
        [(bearer.as_str(), none), ("", in_header), ("Bearer undefined", in_header)]
    {
        let caller = ask(&guard, authorization, request).await.unwrap();
        assert_eq!((caller.kind, caller.key_name.as_deref()), (CallerKind::ApiKey, Some("ada")));
        assert!(caller.may(COMPLETE_CODE) && !caller.may(GENERATE_CODE));
    }
    let rows = [
        (format!("Bearer {other}"), AuthError::UnknownApiKey),
        (format!("Bearer {hash}"), AuthError::UnknownApiKey),
        ("Bearer ".to_owned(), AuthError::InvalidHeader),
    ];
    for (authorization, expected) in rows {
        assert_eq!(ask(&guard, &authorization, none).await.unwrap_err(), expected);
    }
    assert_eq!(guard.authenticate(&none).await.unwrap_err(), AuthError::NoHeader);
    // The key's own limit holds where the server has none.
    let caller = ask(&guard, &bearer, none).await.unwrap();
    assert!(guard.count(&caller).unwrap().is_some());
    assert!(guard.count(&caller).is_err());
}

#[tokio::test]
async fn an_open_server_looks_at_nothing() {
    let guard = guard(|_| {});
    for header in ["", "Bearer ", "Bearer undefined", "Bearer EMPTY", "Basic YTpi"] {
        let caller = ask(&guard, header, Credentials::default()).await.unwrap();
        assert_eq!((caller.kind, caller.may(COMPLETE_CODE)), (CallerKind::Anonymous, true));
        assert!(guard.count(&caller).unwrap().is_none());
    }
}

/// Whom an instance is, as its token says.
fn instance(change: impl FnOnce(&mut Value)) -> Caller {
    let claims = serde_json::from_value(claims(change)).unwrap();
    Caller::of_token(claims, CallerKind::Instance, false, &of_gitlab())
}

#[tokio::test]
async fn a_user_s_token_says_what_the_instance_s_does() {
    let guard = guard(|config| config.signing_key = pem(THREE));
    let caller = instance(|c| c["scopes"] = json!(["complete_code", "generate_code"]));
    let issued = guard.issue(&caller, &of_gitlab()).unwrap();
    assert_eq!(issued.expires_at, NOW + 3600);
    assert!(!format!("{issued:?}").contains(&issued.token));
    let token: jsonwebtoken::TokenData<Value> =
        jsonwebtoken::dangerous::insecure_decode(&issued.token).unwrap();
    assert_eq!(token.header.kid.as_deref(), Some(OWN_ID));
    let mut said = token.claims;
    let id = said.as_object_mut().unwrap().remove("jti").unwrap();
    assert_eq!(id.as_str().map(str::len), Some(36));
    let expected = json!({
        "iss": SERVICE, "aud": SERVICE, "sub": "ada", "iat": NOW, "nbf": NOW, "exp": NOW + 3600,
        "scopes": ["complete_code"], "gitlab_realm": "self-managed",
        "gitlab_instance_id": "instance", "gitlab_instance_uid": "uid",
    });
    assert_eq!(said, expected);
    let bearer = format!("Bearer {}", issued.token);
    let user = ask(&guard, &bearer, of_gitlab()).await.unwrap();
    assert_eq!((user.kind, user.issuer.as_deref()), (CallerKind::User, Some(SERVICE)));
}

#[tokio::test]
async fn a_user_s_token_is_one_that_we_take_whatever_the_instance_s_says() {
    let guard = guard(|config| config.signing_key = pem(THREE));
    let caller = instance(|c| {
        c["aaa"] = json!("x".repeat(11_000));
        c["zzz"] = json!("kept");
    });
    let bearer = format!("Bearer {}", guard.issue(&caller, &of_gitlab()).unwrap().token);
    let user = ask(&guard, &bearer, of_gitlab()).await.unwrap();
    let extra = &user.claims.as_ref().unwrap().extra;
    assert_eq!((extra.get("aaa"), extra.get("zzz")), (None, Some(&json!("kept"))));
    // The same user is called the same wherever users are told apart.
    assert_eq!(user.user, Some(crate::flags::pseudonym("ada")));
}

#[test]
fn the_namespace_that_is_proven_wins() {
    let guard = guard(|config| config.signing_key = pem(ONE));
    let caller = instance(|c| {
        c["gitlab_realm"] = json!("saas");
        c["gitlab_root_namespace_id"] = json!("proven");
    });
    let request =
        Credentials { namespace_id: Some("2"), root_namespace_id: Some("said"), ..of_gitlab() };
    let issued = guard.issue(&caller, &request).unwrap();
    let token: jsonwebtoken::TokenData<Value> =
        jsonwebtoken::dangerous::insecure_decode(&issued.token).unwrap();
    assert_eq!(token.claims["gitlab_root_namespace_id"], "proven");
    assert_eq!(token.claims["gitlab_namespace_id"], "2");
    assert_eq!(token.claims.get("gitlab_project_id"), None);
}

#[test]
fn tokens_are_not_given_to_everybody() {
    let signing = guard(|config| config.signing_key = pem(ONE));
    let bought = instance(|_| {});
    let user = Caller { kind: CallerKind::User, ..bought.clone() };
    let key = Caller { kind: CallerKind::ApiKey, ..bought.clone() };
    let other = instance(|c| c["scopes"] = json!(["duo_chat"]));
    let nobody = Credentials { global_user_id: None, ..of_gitlab() };
    let long = "n".repeat(600);
    let long = Credentials { namespace_id: Some(&long), ..of_gitlab() };
    let rows = [
        (&signing, &user, of_gitlab(), UserTokenError::NotAllowed),
        (&signing, &key, of_gitlab(), UserTokenError::NotAllowed),
        (&signing, &other, of_gitlab(), UserTokenError::NotAllowed),
        (&signing, &bought, nobody, UserTokenError::NoUser),
        (&signing, &bought, long, UserTokenError::TooLong),
        (&guard(|_| {}), &bought, of_gitlab(), UserTokenError::Unsigned),
    ];
    for (guard, caller, request, expected) in rows {
        assert_eq!(guard.issue(caller, &request).unwrap_err(), expected);
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_the_start() {
    let public = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let other = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for text in ["", "s3cret", public, other] {
        let config = AuthConfig { validation_key: pem(text), ..AuthConfig::open() };
        let error = Guard::new(config, &Proxies::default(), Clock::system()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("`auth.validation_key_file` (from the environment) must be"),
            "{text}"
        );
        assert!(text.contains("openssl genrsa") && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn keys_of_other_kinds_are_passed_over() {
    let keys = json!({"keys": [
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "RSA", "kid": "enc", "use": "enc", "n": "AAAA", "e": "AQAB"},
        {"kty": "RSA", "kid": "ps", "alg": "PS256", "n": "AAAA", "e": "AQAB"},
        {"kty": "RSA", "n": "AAAA", "e": "AQAB"},
        {"kty": "odd", "kid": "odd"},
        {"kty": "RSA", "kid": "bare", "n": "AAAA", "e": "AQAB"},
        {"kty": "RSA", "kid": "full", "use": "sig", "alg": "RS256", "n": "AAAA", "e": "AQAB"},
    ]});
    let keys = read_jwks(keys.to_string().as_bytes(), &[]).unwrap();
    assert_eq!(keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["bare", "full"]);
    assert!(read_jwks(b"[]", &[]).is_none() && read_jwks(b"", &[]).is_none());
}
