//! Whether a token is true: signed by a key that is believed, for us, now.

use jsonwebtoken::{Algorithm, Validation, dangerous::insecure_decode, decode, errors::ErrorKind};

use crate::auth::{
    claims::Claims,
    error::AuthError,
    key_set::{Key, KeySet},
};

/// Longest token that is looked at; those of GitLab have some 3 kB.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// What tokens are checked against.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// Whom tokens must be for.
    pub(super) service_name: &'a str,
    /// Whether a token without its signature is believed.
    pub(super) is_unsigned_believed: bool,
}

impl Rules<'_> {
    /// Returns what a token says that is true at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(super) fn check(&self, token: &str, keys: &KeySet, now: u64) -> Result<Claims, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed);
        }
        // Read before it is checked, for who made it and with which key.
        let unproven = insecure_decode::<Claims>(token).map_err(|error| of_library(&error))?;
        let claims = if self.is_unsigned_believed {
            unproven.claims
        } else {
            let header = unproven.header;
            if header.alg != Algorithm::RS256 {
                return Err(AuthError::WrongAlgorithm);
            }
            // Who made it asks that we know something that we do not.
            if header.crit.is_some() {
                return Err(AuthError::Malformed);
            }
            let id = header.kid.ok_or(AuthError::MissingKeyId)?;
            verify(token, &keys.find(&id, &unproven.claims.iss)?)?
        };
        claims.check(self.service_name, now)?;
        Ok(claims)
    }
}

/// Returns what a token says that one of `keys` has signed.
fn verify(token: &str, keys: &[&Key]) -> Result<Claims, AuthError> {
    let mut refusal = AuthError::UnknownKey;
    for key in keys {
        match decode::<Claims>(token, &key.decoding, &signature_only()) {
            Ok(proven) => return Ok(proven.claims),
            Err(error) => refusal = of_library(&error),
        }
    }
    Err(refusal)
}

/// The library checks the signature; times it would take from the system's clock, and words of ours it has not.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn of_library(error: &jsonwebtoken::errors::Error) -> AuthError {
    match error.kind() {
        ErrorKind::InvalidSignature => AuthError::BadSignature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => AuthError::WrongAlgorithm,
        _ => AuthError::Malformed,
    }
}
