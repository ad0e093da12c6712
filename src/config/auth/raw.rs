//! The settings of authentication exactly as somebody typed them.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::scalar::integer;

/// `[auth]`: who may ask.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Authentication")]
pub struct RawAuth {
    /// File of API keys, a line each; `lacuna keys new NAME` makes one. None has none.
    #[arg(long, value_name = "FILE|none")]
    pub api_keys_file: Option<String>,
    /// Addresses of OIDC issuers whose tokens are taken, such as a GitLab's, separated by commas.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub issuers: Option<Vec<String>>,
    /// Lets everybody in on an address beyond this machine.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true)]
    pub allow_anonymous: Option<bool>,
    /// Name that tokens are for, and that ours are from.
    #[arg(long = "auth-service-name", value_name = "NAME", hide_short_help = true)]
    pub service_name: Option<String>,
    /// File of the private key (RSA, PEM) that signs users' tokens. None signs none.
    #[arg(long, value_name = "FILE|none", hide_short_help = true)]
    pub signing_key_file: Option<String>,
    /// File of the key that signs next, or signed before.
    #[arg(long, value_name = "FILE|none", hide_short_help = true)]
    pub validation_key_file: Option<String>,
    /// Whether the scope `code_suggestions` of an older GitLab stands for completions and generations.
    #[arg(
        long = "auth-legacy-scope",
        value_name = "true|false",
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub legacy_scope: Option<bool>,
    /// Requests of a key or a user in a minute; more are refused with 429, 0 refuses none.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub requests_per_minute: Option<i64>,
    /// Requests of a key or a user in work at once; more are refused with 429, 0 refuses none.
    #[arg(long, value_name = "N", value_parser = integer, allow_negative_numbers = true, hide_short_help = true)]
    pub concurrent_requests: Option<i64>,
    /// For looking for faults only: lets everybody in, whatever is configured.
    #[arg(
        long = "auth-bypass-external",
        value_name = "true|false",
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub bypass_external: Option<bool>,
    /// For looking for faults only: lets in who sends `Bypass-Auth: true`.
    #[arg(
        long = "auth-bypass-external-with-header",
        value_name = "true|false",
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub bypass_external_with_header: Option<bool>,
    /// For looking for faults only: believes tokens without their signature.
    #[arg(
        long = "auth-bypass-jwt-signature",
        value_name = "true|false",
        hide_possible_values = true,
        hide_short_help = true
    )]
    pub bypass_jwt_signature: Option<bool>,
}

impl RawAuth {
    pub(in crate::config) fn or(self, lower: Self) -> Self {
        Self {
            api_keys_file: self.api_keys_file.or(lower.api_keys_file),
            issuers: self.issuers.or(lower.issuers),
            allow_anonymous: self.allow_anonymous.or(lower.allow_anonymous),
            service_name: self.service_name.or(lower.service_name),
            signing_key_file: self.signing_key_file.or(lower.signing_key_file),
            validation_key_file: self.validation_key_file.or(lower.validation_key_file),
            legacy_scope: self.legacy_scope.or(lower.legacy_scope),
            requests_per_minute: self.requests_per_minute.or(lower.requests_per_minute),
            concurrent_requests: self.concurrent_requests.or(lower.concurrent_requests),
            bypass_external: self.bypass_external.or(lower.bypass_external),
            bypass_external_with_header: self
                .bypass_external_with_header
                .or(lower.bypass_external_with_header),
            bypass_jwt_signature: self.bypass_jwt_signature.or(lower.bypass_jwt_signature),
        }
    }
}
