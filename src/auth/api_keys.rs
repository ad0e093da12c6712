//! API keys: made once, known by their hash, compared in constant time.

use std::fmt::Write as _;

use ring::{
    digest::{SHA256, digest},
    error::Unspecified,
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::ConstantTimeEq as _;

use crate::config::ApiKeyConfig;

/// A key that somebody holds, by its hash.
pub type ApiKey = ApiKeyConfig;

/// What begins each key, so that one that leaked can be searched for.
const PREFIX: &str = "lacuna-";
/// 256 bits, which nobody guesses; so a plain hash hides them.
const SECRET_BYTES: usize = 32;

/// Draws a new key and returns it with its hash in hexadecimal.
///
/// # Errors
/// The system has no randomness.
pub fn draw_api_key() -> Result<(String, String), Unspecified> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret)?;
    let key = format!("{PREFIX}{}", hex(&secret));
    let hash = hex(digest(&SHA256, key.as_bytes()).as_ref());
    Ok((key, hash))
}

/// Returns the key that was shown. How long it looks does not tell how near somebody came.
pub(super) fn find<'a>(keys: &'a [ApiKey], shown: &str) -> Option<&'a ApiKey> {
    // Where there are none, what is shown is a token, and its hash is of no use.
    if keys.is_empty() {
        return None;
    }
    let digest = digest(&SHA256, shown.as_bytes());
    let mut found = None;
    for key in keys {
        if bool::from(key.digest.ct_eq(digest.as_ref())) {
            found = Some(key);
        }
    }
    found
}

/// Returns bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing into a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
