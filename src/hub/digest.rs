//! What a file must be, by its hash: SHA-256 of large files, Git's own of small ones.
//!
//! The hash in hexadecimal is also a blob's name in the cache, as it is the entity tag that the hub sends.

use std::fmt::{self, Write as _};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// Of the bytes.
    Sha256,
    /// SHA-1 of Git's header for a blob, and the bytes.
    GitBlob,
}

/// The hash of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    /// Small letters.
    hex: String,
}

impl Digest {
    /// Reads a hash in hexadecimal, whose length tells which it is.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let algorithm = match text.len() {
            64 => Algorithm::Sha256,
            40 => Algorithm::GitBlob,
            _ => return None,
        };
        let is_hex = text.chars().all(|c| c.is_ascii_hexdigit());
        is_hex.then(|| Self { algorithm, hex: text.to_ascii_lowercase() })
    }

    /// Returns what computes the hash of a file of so many bytes.
    pub(crate) fn hasher(&self, num_bytes: u64) -> Hasher {
        match self.algorithm {
            Algorithm::Sha256 => Hasher(Context::new(&SHA256)),
            Algorithm::GitBlob => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {num_bytes}\0").as_bytes());
                Hasher(context)
            }
        }
    }

    /// Returns whether the hash is this one.
    pub(crate) fn is(&self, hasher: Hasher) -> bool {
        let found = hasher.0.finish();
        let mut hex = String::with_capacity(self.hex.len());
        for byte in found.as_ref() {
            // Writing into a text does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex == self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

/// A hash on its way.
pub(crate) struct Hasher(Context);

impl Hasher {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_hub_does() {
        // `printf hello | sha256sum` and `printf hello | git hash-object --stdin`.
        let rows = [
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
        ];
        for hex in rows {
            for (text, is_it) in [("hello", true), ("hellp", false)] {
                let digest = Digest::parse(&hex.to_uppercase()).unwrap();
                let mut hasher = digest.hasher(5);
                for byte in text.as_bytes() {
                    hasher.update(&[*byte]);
                }
                assert_eq!(digest.is(hasher), is_it, "{hex} {text}");
                assert_eq!(digest.to_string(), hex);
            }
        }
    }

    #[test]
    fn takes_hashes_only() {
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(41), "../../../etc/passwd"] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
