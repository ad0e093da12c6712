//! Why somebody is not let in, and why keys cannot be used.

/// Why a request is not believed. The texts are those of GitLab's gateway, which clients and people look for; what
/// exactly was wrong with a token is for our log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The request shows nothing.
    #[error("No authorization header presented")]
    NoHeader,
    /// What it shows is no bearer token.
    #[error("Invalid authorization header")]
    InvalidHeader,
    /// It does not say that its token is one of OIDC.
    #[error("Invalid authentication token type - only OIDC is supported")]
    WrongType,
    /// No API key is this one, and no tokens are taken.
    #[error("Unknown API key")]
    UnknownApiKey,
    /// The token is none, or longer than any.
    #[error("Forbidden by auth provider")]
    Malformed,
    /// The token is not signed by RS256.
    #[error("Forbidden by auth provider")]
    WrongAlgorithm,
    /// The token names no key.
    #[error("Forbidden by auth provider")]
    MissingKeyId,
    /// The key that it names is not known.
    #[error("Forbidden by auth provider")]
    UnknownKey,
    /// The key is not of who the token says made it.
    #[error("Forbidden by auth provider")]
    WrongIssuer,
    /// It was not signed by that key.
    #[error("Forbidden by auth provider")]
    BadSignature,
    /// It is for others.
    #[error("Forbidden by auth provider")]
    WrongAudience,
    /// Its time is over.
    #[error("Forbidden by auth provider")]
    Expired,
    /// Its time has not begun.
    #[error("Forbidden by auth provider")]
    NotYetValid,
    /// It is of another realm than the request says.
    #[error("Header mismatch 'X-Gitlab-Realm'")]
    OtherRealm,
    /// It is of another instance than the request says.
    #[error("Header mismatch 'X-Gitlab-Instance-Id'")]
    OtherInstance,
    /// It is of another user than the request says.
    #[error("Header mismatch 'X-Gitlab-Global-User-Id'")]
    OtherUser,
}

impl AuthError {
    /// Returns the label for logs.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::NoHeader => "no_header",
            Self::InvalidHeader => "invalid_header",
            Self::WrongType => "wrong_type",
            Self::UnknownApiKey => "unknown_api_key",
            Self::Malformed => "malformed",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::MissingKeyId => "missing_key_id",
            Self::UnknownKey => "unknown_key",
            Self::WrongIssuer => "wrong_issuer",
            Self::BadSignature => "bad_signature",
            Self::WrongAudience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherRealm => "other_realm",
            Self::OtherInstance => "other_instance",
            Self::OtherUser => "other_user",
        }
    }
}

/// A key of ours that cannot be used, or a client that cannot be made. Nothing starts with one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is no key in PEM.
    #[error(
        "`{key}` ({origin}) must be a private RSA key in PEM, as `openssl genrsa 2048` makes one: {source}"
    )]
    Pem {
        /// The setting.
        key: &'static str,
        /// The file or variable that it is from.
        origin: String,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The key is not of RSA, or too short.
    #[error(
        "`{key}` ({origin}) must be a private RSA key of 2048 to 4096 bits, as `openssl genrsa 2048` makes one: {reason}"
    )]
    Rsa {
        /// The setting.
        key: &'static str,
        /// The file or variable that it is from.
        origin: String,
        /// What is wrong.
        reason: ring::error::KeyRejected,
    },
    /// Issuers cannot be asked.
    #[error("cannot ask issuers for their keys")]
    Client {
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}
