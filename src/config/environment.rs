//! The environment: the one place of the program that reads it, and the settings it may hold.

use std::{collections::BTreeMap, env, path::PathBuf};

use clap::{Args as _, FromArgMatches as _};

use crate::config::{
    Secret,
    aliases::{self, ALIASES, Alias},
    auth::{API_KEYS, SIGNING_KEY, VALIDATION_KEY},
    error::{ConfigError, nearest},
    raw::RawConfig,
};

/// What begins the name of each variable that is ours.
const PREFIX: &str = "LACUNA_";
/// The variable that names the file of settings; it is no setting itself.
const CONFIG: &str = "LACUNA_CONFIG";

/// The key that this program shows to a server that it asks.
const API_KEY: &str = "LACUNA_API_KEY";
/// Variables that are ours and no settings.
const NO_SETTINGS: [&str; 5] = [CONFIG, SIGNING_KEY, VALIDATION_KEY, API_KEYS, API_KEY];

/// A copy of the process's variables, so that everything after it is a function of values.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Those of our variables that the gateway's stand for, with their names.
    gateway: BTreeMap<&'static str, &'static str>,
}

impl Environment {
    /// Returns the environment of this process. What is not UTF-8 is replaced, so that it is refused, not passed over.
    pub fn of_process() -> Self {
        Self::from_variables(env::vars_os().map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        }))
    }

    /// Returns an environment of these variables.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        // An empty variable counts as absent: compose files and unit templates cannot leave one out.
        let variables = variables.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut environment = Self { variables, gateway: BTreeMap::new() };
        environment.read_gateway();
        environment
    }

    /// Sets ours where only the gateway's are set.
    fn read_gateway(&mut self) {
        for Alias { theirs, ours, translate } in ALIASES {
            let is_ours = self.variables.contains_key(ours) && !self.gateway.contains_key(ours);
            let Some(value) = self.get(theirs).filter(|_| !is_ours).map(translate) else {
                continue;
            };
            self.gateway.insert(ours, theirs);
            let joined = self.get(ours).map(|before| format!("{before},{value}")).unwrap_or(value);
            self.variables.insert(ours.to_owned(), joined);
        }
    }

    /// Returns the name under which somebody set `variable`.
    pub(super) fn spelled<'a>(&self, variable: &'a str) -> &'a str {
        self.gateway.get(variable).copied().unwrap_or(variable)
    }

    /// Returns the gateway's variables that are set and mean nothing here.
    pub fn unused_of_gateway(&self) -> Vec<&str> {
        let is_used = |name: &str| ALIASES.iter().any(|alias| alias.theirs == name);
        let names = self.variables.keys().map(String::as_str);
        names.filter(|name| name.starts_with(aliases::PREFIX) && !is_used(name)).collect()
    }

    /// Returns the file of settings that the environment names.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.get(CONFIG).map(PathBuf::from)
    }

    /// Returns the settings among the variables.
    ///
    /// # Errors
    /// [`ConfigError::UnknownVariable`] and [`ConfigError::Variable`].
    pub(super) fn settings(&self) -> Result<RawConfig, ConfigError> {
        let command = RawConfig::augment_args(clap::Command::new("lacuna").no_binary_name(true));
        let options: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        let mut raw = RawConfig::default();
        for (name, value) in &self.variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if NO_SETTINGS.contains(&name.as_str()) || is_service_link(rest, value) {
                continue;
            }
            let option = rest.to_lowercase().replace('_', "-");
            if !options.contains(&option.as_str()) || name != &variable(&option) {
                return Err(unknown(name, &options));
            }
            // Each goes through the parser of its option alone, so that both take the same texts.
            let argument = format!("--{option}={value}");
            let said = command
                .clone()
                .try_get_matches_from([argument])
                .and_then(|matches| RawConfig::from_arg_matches(&matches))
                .map_err(|error| refuse(self.spelled(name), value, &error))?;
            raw = raw.or(said);
        }
        Ok(raw)
    }

    /// Returns the key that is shown to servers.
    pub fn api_key(&self) -> Option<Secret> {
        self.get(API_KEY).map(Secret::from)
    }

    /// Returns the user's own folder.
    pub(super) fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }

    /// Returns the folder of Hugging Face's own tools.
    pub(super) fn hugging_face_home(&self) -> Option<PathBuf> {
        if let Some(home) = self.get("HF_HOME") {
            return Some(PathBuf::from(home));
        }
        let caches = self.get("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(self.home()?.join(".cache")));
        caches.map(|caches| caches.join("huggingface"))
    }

    /// Returns the folder where they keep their downloads.
    pub(super) fn hub_cache(&self) -> Option<PathBuf> {
        let said = self.get("HF_HUB_CACHE").or_else(|| self.get("HUGGINGFACE_HUB_CACHE"));
        let said = said.map(PathBuf::from);
        said.or_else(|| self.hugging_face_home().map(|home| home.join("hub")))
    }

    /// Returns whether the variable is one of the words that Hugging Face's own tools take for yes.
    pub(super) fn is_set(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
    }

    /// Returns a proxy, the one for all kinds of addresses where there is none of this kind.
    pub(super) fn proxy(&self, name: &str) -> Option<Secret> {
        self.either_case(name).or_else(|| self.either_case("ALL_PROXY")).map(Secret::from)
    }

    /// Returns a variable that is written in either case; the small letters are the older custom and win.
    pub(super) fn either_case(&self, name: &str) -> Option<&str> {
        self.get(&name.to_ascii_lowercase()).or_else(|| self.get(name))
    }

    /// Returns a variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

/// Returns the variable of an option.
pub fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.to_uppercase().replace('-', "_"))
}

/// Returns whether Kubernetes, not a person, set this: a service called `lacuna` gives each pod of its namespace
/// `LACUNA_SERVICE_HOST`, `LACUNA_PORT=tcp://…`, `LACUNA_PORT_5052_TCP_ADDR` and more.
fn is_service_link(rest: &str, value: &str) -> bool {
    rest.starts_with("SERVICE_")
        || rest.starts_with("PORT_")
        || rest == "PORT" && (value.starts_with("tcp://") || value.starts_with("udp://"))
}

fn unknown(name: &str, options: &[&str]) -> ConfigError {
    let mut variables: Vec<String> = options.iter().map(|option| variable(option)).collect();
    variables.extend(NO_SETTINGS.map(str::to_owned));
    let nearest =
        nearest(&name.to_uppercase(), variables.iter().map(String::as_str)).unwrap_or_default();
    ConfigError::UnknownVariable { name: name.to_owned(), nearest: nearest.to_owned() }
}

fn refuse(name: &str, value: &str, error: &clap::Error) -> ConfigError {
    let rule = std::error::Error::source(error).map_or_else(
        // Options without a parser of their own take any text or one of a few words.
        || "must be true or false".to_owned(),
        ToString::to_string,
    );
    ConfigError::Variable { name: name.to_owned(), rule, got: value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::scalar::Scalar;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    #[test]
    fn every_kind_of_setting_is_read() {
        let raw = environment(&[
            ("LACUNA_PORT", "6000"),
            ("LACUNA_MODEL", "--odd"),
            ("LACUNA_THREADS", "auto"),
            ("LACUNA_KV_CACHE_MEMORY", "2GiB"),
            ("LACUNA_PREFIX_CACHE", "false"),
            ("LACUNA_SUFFIX_SHARE", "0.5"),
            ("LACUNA_CORS_ALLOWED_ORIGINS", "https://a.example,https://b.example"),
            ("LACUNA_LOG", "debug"),
            ("LACUNA_CONFIG", "x.toml"),
            ("LACUNA_DTYPE", ""),
            ("OTHER", "x"),
        ])
        .settings()
        .unwrap();
        assert_eq!(raw.server.port, Some(6000));
        assert_eq!(raw.model.source.as_deref(), Some("--odd"));
        assert_eq!(raw.model.dtype, None);
        assert_eq!(raw.engine.threads, Some(Scalar::Text("auto".to_owned())));
        assert_eq!(raw.engine.kv_cache_memory, Some(Scalar::Text("2GiB".to_owned())));
        assert_eq!(raw.engine.prefix_cache, Some(false));
        assert_eq!(raw.completion.suffix_share, Some(0.5));
        assert_eq!(raw.server.cors_allowed_origins.map(|origins| origins.len()), Some(2));
        assert_eq!(raw.log.filter.as_deref(), Some("debug"));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let rows = [
            ("LACUNA_PROT", "1", "unknown variable `LACUNA_PROT`; the nearest is `LACUNA_PORT`"),
            ("LACUNA_port", "1", "unknown variable `LACUNA_port`; the nearest is `LACUNA_PORT`"),
            ("LACUNA_PORT", "x", "the variable `LACUNA_PORT` must be an integer, got x"),
            (
                "LACUNA_SUFFIX_SHARE",
                "x",
                "the variable `LACUNA_SUFFIX_SHARE` must be a number, got x",
            ),
            (
                "LACUNA_PREFIX_CACHE",
                "maybe",
                "the variable `LACUNA_PREFIX_CACHE` must be true or false, got maybe",
            ),
        ];
        for (name, value, message) in rows {
            let error = environment(&[(name, value)]).settings().unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_are_passed_over() {
        let raw = environment(&[
            ("LACUNA_SERVICE_HOST", "10.0.0.7"),
            ("LACUNA_SERVICE_PORT_HTTP", "5052"),
            ("LACUNA_PORT", "tcp://10.0.0.7:5052"),
            ("LACUNA_PORT_5052_TCP_ADDR", "10.0.0.7"),
        ])
        .settings()
        .unwrap();
        assert_eq!(raw, RawConfig::default());
    }

    #[test]
    fn the_gateway_s_variables_stand_for_ours() {
        let gateway = environment(&[
            ("AIGW_GITLAB_URL", "https://gitlab.example.com"),
            ("AIGW_CUSTOMER_PORTAL_URL", "https://customers.example.com"),
            ("AIGW_AUTH__BYPASS_EXTERNAL", "True"),
            ("AIGW_AUTH__BYPASS_JWT_SIGNATURE", "0"),
            ("AIGW_CLOUD_CONNECTOR_SERVICE_NAME", "gateway"),
            ("AIGW_SELF_SIGNED_JWT__SIGNING_KEY", "pem"),
            ("AIGW_LOGGING__LEVEL", "debug"),
            ("AIGW_FASTAPI__API_PORT", ""),
        ]);
        let auth = gateway.settings().unwrap().auth;
        let issuers = ["https://gitlab.example.com", "https://customers.example.com"];
        assert_eq!(auth.issuers.unwrap(), issuers);
        assert_eq!(auth.bypass_external, Some(true));
        assert_eq!(auth.bypass_jwt_signature, Some(false));
        assert_eq!(auth.service_name.as_deref(), Some("gateway"));
        assert_eq!(gateway.get(SIGNING_KEY), Some("pem"));
        assert_eq!(gateway.unused_of_gateway(), ["AIGW_LOGGING__LEVEL"]);

        let gateway = environment(&[
            ("AIGW_CUSTOM_MODELS__ENABLED", "True"),
            ("AIGW_CUSTOM_MODELS__DISABLE_STREAMING", "False"),
            ("AIGW_FEATURE_FLAGS__DISALLOWED_FLAGS", r#"{"self-managed":["logs"]}"#),
            ("AIGW_FEATURE_FLAGS__EXCL_POST_PROCESS", r#"["strip_asterisks"]"#),
        ]);
        let raw = gateway.settings().unwrap();
        assert_eq!(raw.gateway.custom_models, Some(true));
        assert_eq!(raw.flags.disallowed.unwrap(), ["self-managed:logs"]);
        assert_eq!(raw.postprocess.completion.unwrap(), ["all", "-asterisks"]);
        assert_eq!(raw.postprocess.generation.unwrap(), ["all"]);
        assert_eq!(gateway.unused_of_gateway(), ["AIGW_CUSTOM_MODELS__DISABLE_STREAMING"]);
    }

    #[test]
    fn ours_win_over_the_gateway_s() {
        let both = environment(&[
            ("AIGW_GITLAB_URL", "https://theirs.example"),
            ("AIGW_CUSTOMER_PORTAL_URL", "https://theirs.example"),
            ("LACUNA_ISSUERS", "https://ours.example"),
        ]);
        let issuers = both.settings().unwrap().auth.issuers;
        assert_eq!(issuers.unwrap(), ["https://ours.example"]);
    }

    #[test]
    fn a_refusal_names_the_variable_that_was_set() {
        let error = environment(&[("AIGW_AUTH__BYPASS_EXTERNAL", "maybe")]).settings().unwrap_err();
        let message = "the variable `AIGW_AUTH__BYPASS_EXTERNAL` must be true or false, got maybe";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn the_hub_cache_is_where_hugging_face_has_it() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            assert_eq!(environment(variables).hub_cache(), expected.map(PathBuf::from));
        };
        check(&[("HOME", "/h")], Some("/h/.cache/huggingface/hub"));
        check(&[("HOME", "/h"), ("HF_HOME", "/f")], Some("/f/hub"));
        check(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], Some("/c"));
        check(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub"));
        check(&[], None);
    }
}
