//! The keys that are believed, each with who signs with it.

use jsonwebtoken::{
    DecodingKey, EncodingKey,
    jwk::{AlgorithmParameters, Jwk, KeyAlgorithm, PublicKeyUse},
};
use ring::signature::KeyPair as _;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    auth::{
        error::{AuthError, KeyError},
        rs256::key_pair,
    },
    config::{AuthConfig, KeyConfig},
};

/// Most keys of an issuer: one signs, a few did before.
const KEYS_MAX: usize = 64;

/// A public key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// What tokens call it.
    pub(super) id: String,
    /// Who signs with it: the issuer under each of its names.
    pub(super) issuers: Vec<String>,
    /// The key.
    pub(super) decoding: DecodingKey,
}

/// All public keys.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(pub(super) Vec<Key>);

impl KeySet {
    /// Returns the keys that a token may mean by `id`, which must be of who it says made it. Two of ours may.
    ///
    /// # Errors
    /// No key has this id, or those that have it are of others.
    pub(super) fn find(&self, id: &str, issuer: &str) -> Result<Vec<&Key>, AuthError> {
        let issuer = issuer.trim_end_matches('/');
        let mut keys: Vec<&Key> = self.0.iter().filter(|key| key.id == id).collect();
        if keys.is_empty() {
            return Err(AuthError::UnknownKey);
        }
        keys.retain(|key| key.issuers.iter().any(|name| name == issuer));
        if keys.is_empty() { Err(AuthError::WrongIssuer) } else { Ok(keys) }
    }
}

/// Our own keys.
#[derive(Debug, Default)]
pub(super) struct OwnKeys {
    /// Signs users' tokens, and the id that they call it by.
    pub(super) signing: Option<(String, EncodingKey)>,
    /// What our tokens are checked by: the key that signs, and the one that did or will.
    pub(super) public: Vec<Key>,
}

impl OwnKeys {
    /// Reads the keys of the settings.
    ///
    /// # Errors
    /// One that cannot be used.
    pub(super) fn new(config: &AuthConfig) -> Result<Self, KeyError> {
        let name = &config.service_name;
        let read = |key: &KeyConfig, setting, role| {
            let Some(pem) = &key.pem else { return Ok(None) };
            let id = format!("{name}_{role}_key");
            let origin = key.file.as_ref().map_or_else(
                || "from the environment".to_owned(),
                |path| path.display().to_string(),
            );
            read_own(pem.reveal(), (setting, origin), id, name).map(Some)
        };
        let signing = read(&config.signing_key, "auth.signing_key_file", "signing")?;
        let validation = read(&config.validation_key, "auth.validation_key_file", "validation")?;
        // A token keeps the id that it was signed under, while its key passes from one role to the other.
        let mut public = Vec::new();
        for (_, key) in [&signing, &validation].into_iter().flatten() {
            for role in ["signing", "validation"] {
                public.push(Key { id: format!("{name}_{role}_key"), ..key.clone() });
            }
        }
        let signing = signing.map(|(encoding, public)| (public.id, encoding));
        Ok(Self { signing, public })
    }
}

fn read_own(
    pem: &str,
    (setting, origin): (&'static str, String),
    id: String,
    service_name: &str,
) -> Result<(EncodingKey, Key), KeyError> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|source| KeyError::Pem {
        key: setting,
        origin: origin.clone(),
        source,
    })?;
    let encoding = EncodingKey::from_rsa_der(der.secret_der());
    let pair =
        key_pair(&encoding).map_err(|reason| KeyError::Rsa { key: setting, origin, reason })?;
    let decoding = DecodingKey::from_rsa_der(pair.public_key().as_ref());
    Ok((encoding, Key { id, issuers: vec![service_name.to_owned()], decoding }))
}

/// Reads the keys that an issuer publishes. Keys of other kinds stand beside those of RSA, and are passed over.
pub(super) fn read_jwks(bytes: &[u8], issuers: &[String]) -> Option<Vec<Key>> {
    #[derive(Deserialize)]
    struct Jwks {
        keys: Vec<Value>,
    }

    let jwks: Jwks = serde_json::from_slice(bytes).ok()?;
    let keys = jwks.keys.into_iter().filter_map(|value| {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let is_for_us = matches!(jwk.algorithm, AlgorithmParameters::RSA(_))
            && matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
            && matches!(jwk.common.key_algorithm, None | Some(KeyAlgorithm::RS256));
        let decoding = is_for_us.then(|| DecodingKey::from_jwk(&jwk).ok()).flatten()?;
        Some(Key { id: jwk.common.key_id?, issuers: issuers.to_vec(), decoding })
    });
    Some(keys.take(KEYS_MAX).collect())
}
