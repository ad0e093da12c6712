//! Who may ask: the settings of authentication, and the secrets that come from files and the environment only.

use std::{fs, net::IpAddr, num::NonZeroU32, path::PathBuf};

use crate::config::{
    Config, Environment, Secret, Violation,
    resolve::{broken, expand_home, integer, said},
};

mod api_keys;
mod raw;

pub use api_keys::{API_KEY_SCOPES, ApiKeyConfig, is_api_key_name, is_scope, misspelt_scope};
pub(super) use raw::RawAuth;

/// The word for a file that there is not.
const NONE: &str = "none";

/// Most requests of a key or a user that a limit may allow.
const LIMIT_MAX: i64 = 1_000_000;

/// Variables that hold secrets, so that they are no settings: options stand in lists of processes.
pub(super) const SIGNING_KEY: &str = "LACUNA_SIGNING_KEY";
pub(super) const VALIDATION_KEY: &str = "LACUNA_VALIDATION_KEY";
pub(super) const API_KEYS: &str = "LACUNA_API_KEYS";

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// OIDC issuers whose tokens are taken, without a slash at the end.
    pub issuers: Vec<String>,
    /// Whom tokens are for, and from whom ours are.
    pub service_name: String,
    /// Signs users' tokens.
    pub signing_key: KeyConfig,
    /// Signed them before, or will.
    pub validation_key: KeyConfig,
    /// The file of API keys.
    pub api_keys_file: Option<PathBuf>,
    /// The API keys of that file and of the environment.
    pub api_keys: Vec<ApiKeyConfig>,
    /// Whether everybody is let in on an address beyond this machine.
    pub allows_anonymous: bool,
    /// Whether `code_suggestions` stands for completions and generations.
    pub has_legacy_scope: bool,
    /// Requests of a key or a user in a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Requests of a key or a user in work at once.
    pub concurrent_requests: Option<NonZeroU32>,
    /// What is not checked.
    pub bypass: BypassConfig,
}

/// A private key: where it was said, and its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyConfig {
    /// The file that holds it.
    pub file: Option<PathBuf>,
    /// The key in PEM, of that file or of the environment.
    pub pem: Option<Secret>,
}

/// What is not checked, for looking for faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BypassConfig {
    /// Nothing is.
    pub external: bool,
    /// Nothing is, for who sends `Bypass-Auth: true`.
    pub external_with_header: bool,
    /// Signatures of tokens are not.
    pub jwt_signature: bool,
}

impl BypassConfig {
    /// Returns the switches that are on, by their keys.
    pub fn names(self) -> Vec<&'static str> {
        let switches = [
            (self.external, "auth.bypass_external"),
            (self.external_with_header, "auth.bypass_external_with_header"),
            (self.jwt_signature, "auth.bypass_jwt_signature"),
        ];
        switches.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name).collect()
    }
}

impl AuthConfig {
    /// Returns settings that ask nobody who they are.
    pub fn open() -> Self {
        Self {
            issuers: Vec::new(),
            service_name: "gitlab-ai-gateway".to_owned(),
            signing_key: KeyConfig::default(),
            validation_key: KeyConfig::default(),
            api_keys_file: None,
            api_keys: Vec::new(),
            allows_anonymous: false,
            has_legacy_scope: false,
            requests_per_minute: None,
            concurrent_requests: None,
            bypass: BypassConfig::default(),
        }
    }

    /// Returns whether tokens are taken.
    pub fn has_tokens(&self) -> bool {
        !self.issuers.is_empty()
            || self.signing_key.pem.is_some()
            || self.validation_key.pem.is_some()
    }

    /// Returns whether nobody can say who they are, so that everybody is let in.
    pub fn is_open(&self) -> bool {
        !self.has_tokens() && self.api_keys.is_empty() && self.bypass.names().is_empty()
    }
}

impl Config {
    /// Checks that a server of these settings is open to a network only where that is wanted. Only what listens needs
    /// to: the settings of a container hold for its tools too.
    ///
    /// # Errors
    /// An address beyond this machine, with nobody asked who they are; limits of keys and users that nothing tells.
    pub fn check_exposure(&self) -> Result<(), Violation> {
        let auth = &self.auth;
        // Whoever knows the switch's name knows its header.
        let is_bypassed = auth.bypass.external || auth.bypass.external_with_header;
        if !auth.is_open() && !is_bypassed {
            return Ok(());
        }
        let limits = [
            ("auth.requests_per_minute", auth.requests_per_minute),
            ("auth.concurrent_requests", auth.concurrent_requests),
        ];
        let limit = limits.into_iter().find_map(|(key, limit)| limit.map(|limit| (key, limit)));
        if let Some((key, limit)) = limit.filter(|_| auth.is_open()) {
            let rule = "0 while nobody says who they are; `auth.api_keys_file` or `auth.issuers` changes that";
            return Err(broken(key, rule, limit));
        }
        let host = match self.server.host {
            IpAddr::V6(host) => host.to_ipv4_mapped().map_or(IpAddr::V6(host), IpAddr::V4),
            host @ IpAddr::V4(_) => host,
        };
        if host.is_loopback() || auth.allows_anonymous {
            return Ok(());
        }
        let rule = "a loopback address such as 127.0.0.1 while nobody is asked who they are; make an API key \
                    (`lacuna keys new NAME`, --api-keys-file) or name your GitLab (--issuers), see \
                    docs/authentication.md, or let everybody in with --allow-anonymous";
        Err(broken("server.host", rule, host))
    }
}

/// Checks and completes the settings of authentication, and reads the files that they name.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn resolve(raw: RawAuth, environment: &Environment) -> Result<AuthConfig, Violation> {
    let mut issuers = said("auth.issuers", raw.issuers)?;
    for issuer in &mut issuers {
        *issuer = issuer.trim().trim_end_matches('/').to_owned();
        if !is_address(issuer) {
            let rule = "a list of http or https addresses such as https://gitlab.example.com";
            return Err(broken("auth.issuers", rule, issuer));
        }
    }
    let service_name = said("auth.service_name", raw.service_name)?;
    if service_name.is_empty() || service_name.contains(|c: char| c.is_control()) {
        let rule = "a name such as gitlab-ai-gateway";
        return Err(broken("auth.service_name", rule, format!("{service_name:?}")));
    }
    let api_keys_file = file("auth.api_keys_file", raw.api_keys_file, environment)?;
    let api_keys = api_keys(api_keys_file.as_ref(), environment)?;
    let key = |key, said: Option<String>, variable| -> Result<KeyConfig, Violation> {
        let file = file(key, said, environment)?;
        let of_file = file.as_ref().map(|path| read(key, path)).transpose()?;
        let pem = environment.get(variable).map(unfolded).or(of_file);
        Ok(KeyConfig { file, pem: pem.as_deref().map(Secret::from) })
    };
    Ok(AuthConfig {
        issuers,
        service_name,
        signing_key: key("auth.signing_key_file", raw.signing_key_file, SIGNING_KEY)?,
        validation_key: key("auth.validation_key_file", raw.validation_key_file, VALIDATION_KEY)?,
        api_keys_file,
        api_keys,
        allows_anonymous: said("auth.allow_anonymous", raw.allow_anonymous)?,
        has_legacy_scope: said("auth.legacy_scope", raw.legacy_scope)?,
        requests_per_minute: limit("auth.requests_per_minute", raw.requests_per_minute)?,
        concurrent_requests: limit("auth.concurrent_requests", raw.concurrent_requests)?,
        bypass: BypassConfig {
            external: said("auth.bypass_external", raw.bypass_external)?,
            external_with_header: said(
                "auth.bypass_external_with_header",
                raw.bypass_external_with_header,
            )?,
            jwt_signature: said("auth.bypass_jwt_signature", raw.bypass_jwt_signature)?,
        },
    })
}

/// Writes the settings as somebody would have typed them; what came from the environment is a secret and stays there.
pub(super) fn print(auth: &AuthConfig) -> RawAuth {
    let path = |file: Option<&PathBuf>| {
        Some(file.map_or_else(|| NONE.to_owned(), |file| file.to_string_lossy().into_owned()))
    };
    let limit = |limit: Option<NonZeroU32>| Some(limit.map_or(0, |limit| limit.get().into()));
    RawAuth {
        api_keys_file: path(auth.api_keys_file.as_ref()),
        issuers: Some(auth.issuers.clone()),
        allow_anonymous: Some(auth.allows_anonymous),
        service_name: Some(auth.service_name.clone()),
        signing_key_file: path(auth.signing_key.file.as_ref()),
        validation_key_file: path(auth.validation_key.file.as_ref()),
        legacy_scope: Some(auth.has_legacy_scope),
        requests_per_minute: limit(auth.requests_per_minute),
        concurrent_requests: limit(auth.concurrent_requests),
        bypass_external: Some(auth.bypass.external),
        bypass_external_with_header: Some(auth.bypass.external_with_header),
        bypass_jwt_signature: Some(auth.bypass.jwt_signature),
    }
}

fn api_keys(
    file: Option<&PathBuf>,
    environment: &Environment,
) -> Result<Vec<ApiKeyConfig>, Violation> {
    const KEY: &str = "auth.api_keys_file";
    let text = file.map(|path| read(KEY, path)).transpose()?.unwrap_or_default();
    let lines = "a file of lines such as NAME:SHA256";
    let mut keys = api_keys::parse(text.lines()).map_err(|what| broken(KEY, lines, what))?;
    let more = environment.get(API_KEYS).unwrap_or_default();
    // A file of variables has no lines in a value.
    let more = api_keys::parse(more.split(['\n', ';'])).map_err(|what| Violation {
        key: API_KEYS.to_owned(),
        rule: "lines such as NAME:SHA256, or such between semicolons".to_owned(),
        got: what,
    })?;
    // The variable was set for this start; the file lies there for all.
    keys.retain(|key| more.iter().all(|other| other.name != key.name));
    keys.extend(more);
    Ok(keys)
}

fn file(
    key: &'static str,
    said: Option<String>,
    environment: &Environment,
) -> Result<Option<PathBuf>, Violation> {
    let text = self::said(key, said)?;
    if text.is_empty() {
        return Err(broken(key, "none or a file", "nothing"));
    }
    Ok((text != NONE).then(|| expand_home(&text, environment)))
}

fn read(key: &'static str, path: &PathBuf) -> Result<String, Violation> {
    fs::read_to_string(path).map_err(|error| {
        broken(key, "none or a file that can be read", format!("{}: {error}", path.display()))
    })
}

/// A file of variables has no lines in a value, so that keys are written there with `\n` for each end.
fn unfolded(pem: &str) -> String {
    pem.replace("\\n", "\n")
}

fn limit(key: &'static str, value: Option<i64>) -> Result<Option<NonZeroU32>, Violation> {
    Ok(NonZeroU32::new(integer(key, value, 0..=LIMIT_MAX)?))
}

fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic() && !"?#@,".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, RawConfig};

    fn load(raw: &RawConfig, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::load(raw, &Environment::from_variables(variables), None)
    }

    #[test]
    fn keys_come_from_the_file_and_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        fs::write(file.path(), format!("ada:{one}\ngrace:{one}\n")).unwrap();
        let more = format!("ada:{two};linus:{two}");
        let variables =
            [("LACUNA_API_KEYS_FILE", file.path().to_str().unwrap()), ("LACUNA_API_KEYS", &more)];
        let auth = load(&RawConfig::default(), &variables).unwrap().auth;
        let keys: Vec<_> = auth.api_keys.iter().map(|k| (k.name.as_str(), k.digest[0])).collect();
        assert_eq!(keys, [("grace", 1), ("ada", 2), ("linus", 2)]);
        assert!(!auth.is_open());
    }

    #[test]
    fn secrets_are_shown_nowhere() {
        let pem = "-----BEGIN PRIVATE KEY-----\\ns3cret\\n-----END PRIVATE KEY-----";
        let config = load(&RawConfig::default(), &[("LACUNA_SIGNING_KEY", pem)]).unwrap();
        let key = config.auth.signing_key.pem.as_ref().unwrap();
        assert_eq!(key.reveal(), pem.replace("\\n", "\n"));
        for shown in [format!("{config:?}"), config.to_toml().unwrap()] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_secrets() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "ada:s3cret").unwrap();
        let path = file.path().to_str().unwrap();
        let rows = [
            ("LACUNA_ISSUERS", "gitlab.example.com", "`auth.issuers` must be a list of http"),
            ("LACUNA_ISSUERS", "https://", "`auth.issuers` must be a list of http"),
            ("LACUNA_API_KEYS", "ada", "`LACUNA_API_KEYS` must be lines such as NAME:SHA256"),
            ("LACUNA_API_KEYS_FILE", path, "`auth.api_keys_file` must be a file of lines"),
            ("LACUNA_API_KEYS_FILE", "/no/keys", "`auth.api_keys_file` must be none or a file"),
            ("LACUNA_SIGNING_KEY_FILE", "/no/key", "`auth.signing_key_file` must be none or a"),
            ("LACUNA_REQUESTS_PER_MINUTE", "-1", "`auth.requests_per_minute` must be between"),
        ];
        for (name, value, expected) in rows {
            let error = load(&RawConfig::default(), &[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn only_what_is_asked_for_is_open_to_a_network() {
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], bool);

        let key = format!("ada:{}", "0f".repeat(32));
        let rows: &[Row<'_>] = &[
            ("127.0.0.1", &[], true),
            ("::1", &[], true),
            ("::ffff:127.0.0.1", &[], true),
            ("0.0.0.0", &[], false),
            ("::", &[], false),
            ("192.0.2.7", &[], false),
            ("0.0.0.0", &[("LACUNA_ALLOW_ANONYMOUS", "true")], true),
            ("0.0.0.0", &[("LACUNA_API_KEYS", &key)], true),
            ("0.0.0.0", &[("AIGW_GITLAB_URL", "https://gitlab.example.com")], true),
            ("0.0.0.0", &[("AIGW_AUTH__BYPASS_EXTERNAL", "true")], false),
            ("0.0.0.0", &[("AIGW_AUTH__BYPASS_EXTERNAL_WITH_HEADER", "true")], false),
            (
                "0.0.0.0",
                &[("AIGW_AUTH__BYPASS_EXTERNAL", "true"), ("LACUNA_ALLOW_ANONYMOUS", "true")],
                true,
            ),
            ("127.0.0.1", &[("AIGW_AUTH__BYPASS_EXTERNAL", "true")], true),
            ("0.0.0.0", &[("LACUNA_SIGNING_KEY", "pem")], true),
            ("127.0.0.1", &[("LACUNA_REQUESTS_PER_MINUTE", "60")], false),
            ("127.0.0.1", &[("LACUNA_CONCURRENT_REQUESTS", "6")], false),
            ("127.0.0.1", &[("LACUNA_CONCURRENT_REQUESTS", "6"), ("LACUNA_API_KEYS", &key)], true),
        ];
        for (host, variables, is_allowed) in rows {
            let mut raw = RawConfig::default();
            raw.server.host = Some((*host).to_owned());
            let checked = load(&raw, variables).unwrap().check_exposure();
            assert_eq!(checked.is_ok(), *is_allowed, "{host} {variables:?} {checked:?}");
        }
    }
}
