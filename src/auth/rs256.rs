//! RS256 by ring, for the library that knows tokens: its own two providers would be a second and a third cryptography
//! beside the one that TLS has here.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
    signature::{Error, Signer, Verifier},
};
use ring::{
    error::KeyRejected,
    rand::SystemRandom,
    rsa::KeyPair,
    signature::{
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        check(*algorithm)?;
        Ok(Box::new(Rs256Signer(key_pair(key).map_err(|_| ErrorKind::InvalidKeyFormat)?)))
    },
    verifier_factory: |algorithm, key| {
        check(*algorithm)?;
        Ok(Box::new(Rs256Verifier(key.clone())))
    },
    // They make keys into JWKs, which nothing here asks for.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes the library use ring. The second to say so changes nothing.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

/// Reads a private key, whose DER may be either of the two that OpenSSL writes.
///
/// # Errors
/// A key that is not of RSA, broken, or shorter than 2048 bits.
pub(super) fn key_pair(key: &EncodingKey) -> std::result::Result<KeyPair, KeyRejected> {
    KeyPair::from_pkcs8(key.as_bytes()).or_else(|error| {
        // Of a key in the other form the first error says nothing.
        KeyPair::from_der(key.as_bytes()).map_err(|_| error)
    })
}

fn check(algorithm: Algorithm) -> Result<()> {
    if algorithm == Algorithm::RS256 { Ok(()) } else { Err(ErrorKind::InvalidAlgorithm.into()) }
}

struct Rs256Signer(KeyPair);

impl Signer<Vec<u8>> for Rs256Signer {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| Error::new())?;
        Ok(signature)
    }
}

impl JwtSigner for Rs256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

struct Rs256Verifier(DecodingKey);

impl Verifier<Vec<u8>> for Rs256Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let algorithm = &RSA_PKCS1_2048_8192_SHA256;
        let verified = match self.0.kind() {
            DecodingKeyKind::SecretOrDer(der) => {
                UnparsedPublicKey::new(algorithm, der).verify(message, signature)
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                RsaPublicKeyComponents { n: number(n), e: number(e) }
                    .verify(algorithm, message, signature)
            }
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Rs256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

/// Some issuers write a number with the sign's byte before it, which ring refuses.
fn number(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}
