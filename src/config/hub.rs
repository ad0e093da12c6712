//! Where models are downloaded from and kept: the settings of the Hugging Face hub, and the variables of its own tools.

use std::{fmt, fs, path::PathBuf, time::Duration};

use crate::config::{
    Environment, Violation,
    raw::RawHub,
    resolve::{AUTO, broken, expand_home, integer, said, time, word},
};

/// Where Hugging Face's own tools ask.
const ENDPOINT: &str = "https://huggingface.co";

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `org/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Of a repository of GGUF files the one that is meant: its path, or its quantisation such as `Q4_K_M`.
    pub file: Option<String>,
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
    }
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The proxies that the environment names, as `curl` and its like take them. They may hold a password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://` addresses.
    pub http: Option<Secret>,
    /// For `https://` addresses.
    pub https: Option<Secret>,
    /// Hosts that are reached without one, separated by commas.
    pub exceptions: Option<String>,
}

/// Where models are downloaded from and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubConfig {
    /// Folder that is shared with Hugging Face's own tools; `None` where nothing says where it is.
    pub cache: Option<PathBuf>,
    /// Address of the hub or of a mirror, without a slash at its end.
    pub endpoint: String,
    /// Whether the network must not be asked.
    pub is_offline: bool,
    /// Files that are downloaded at once.
    pub num_parallel_files: usize,
    /// Longest time for a connection, and without a byte of an answer.
    pub idle_timeout: Duration,
    /// Tries after the first that bring no byte.
    pub num_retries: u32,
    /// Pause before the first of them; it doubles.
    pub retry_delay: Duration,
    /// Says who asks; goes to the endpoint only.
    pub token: Option<Secret>,
    /// What lies between here and the network.
    pub proxies: Proxies,
}

/// Checks and completes the settings of the hub.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn resolve(raw: RawHub, environment: &Environment) -> Result<HubConfig, Violation> {
    let cache = said("hub.cache", raw.cache)?;
    let offline = [(AUTO, None), ("on", Some(true)), ("off", Some(false))];
    let is_offline = word("hub.offline", raw.offline, &offline)?;
    let second = Duration::from_secs(1);
    let hour = Duration::from_hours(1);
    Ok(HubConfig {
        cache: match cache.as_str() {
            AUTO => environment.hub_cache(),
            // It would be the current folder, whatever that is.
            "" => return Err(broken("hub.cache", "auto or a folder", "nothing")),
            cache => Some(expand_home(cache, environment)),
        },
        endpoint: endpoint(&said("hub.endpoint", raw.endpoint)?, environment)?,
        is_offline: is_offline.unwrap_or_else(|| environment.is_set("HF_HUB_OFFLINE")),
        num_parallel_files: integer("hub.parallel_files", raw.parallel_files, 1..=64)?,
        idle_timeout: time("hub.idle_timeout", raw.idle_timeout, second..=hour)?,
        num_retries: integer("hub.retries", raw.retries, 0..=100)?,
        retry_delay: time("hub.retry_delay", raw.retry_delay, Duration::from_millis(1)..=hour)?,
        token: token(environment),
        proxies: Proxies {
            http: environment.proxy("HTTP_PROXY"),
            https: environment.proxy("HTTPS_PROXY"),
            exceptions: environment.either_case("NO_PROXY").map(ToOwned::to_owned),
        },
    })
}

fn endpoint(said: &str, environment: &Environment) -> Result<String, Violation> {
    let said = if said == AUTO { environment.get("HF_ENDPOINT").unwrap_or(ENDPOINT) } else { said };
    let rest = said.strip_prefix("https://").or_else(|| said.strip_prefix("http://"));
    let is_plain = |rest: &str| {
        !rest.trim_end_matches('/').is_empty()
            && rest.chars().all(|c| c.is_ascii_graphic() && !"?#@".contains(c))
    };
    if !rest.is_some_and(is_plain) {
        let rule = "auto, or an http or https address such as https://huggingface.co";
        return Err(broken("hub.endpoint", rule, said));
    }
    Ok(said.trim_end_matches('/').to_owned())
}

/// Returns the token of the environment, else that which Hugging Face's own login left in a file.
fn token(environment: &Environment) -> Option<Secret> {
    let variables = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];
    let said = variables.iter().find_map(|name| environment.get(name)).map(ToOwned::to_owned);
    let file = || {
        let path = environment.get("HF_TOKEN_PATH").map(PathBuf::from);
        let path = path.or_else(|| Some(environment.hugging_face_home()?.join("token")))?;
        // Most have none; one that cannot be read is as good as none, and the hub says what it then lacks.
        fs::read_to_string(path).ok()
    };
    let token = said.or_else(file)?;
    // What no header can hold would fail each request with a message about headers.
    let token = token.trim();
    let is_token = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
    is_token.then(|| Secret::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RawConfig};

    fn hub(variables: &[(&str, &str)]) -> HubConfig {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let environment = Environment::from_variables(variables);
        Config::load(&RawConfig::default(), &environment, None).unwrap().hub
    }

    #[test]
    fn the_variables_of_hugging_face_are_honoured() {
        let config = hub(&[]);
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!((config.is_offline, config.token), (false, None));
        assert_eq!(config.cache, None, "not the current folder");
        let config = hub(&[
            ("HF_ENDPOINT", "http://mirror.example:8080/hf/"),
            ("HF_HUB_OFFLINE", "1"),
            ("HF_TOKEN", " hf_secret\n"),
            ("https_proxy", "http://user:word@proxy:3128"),
            ("NO_PROXY", "localhost"),
        ]);
        assert_eq!(config.endpoint, "http://mirror.example:8080/hf");
        assert!(config.is_offline);
        assert_eq!(config.token.as_ref().map(Secret::reveal), Some("hf_secret"));
        assert_eq!(config.proxies.exceptions.as_deref(), Some("localhost"));
        let shown = format!("{config:?}");
        assert!(!shown.contains("secret") && !shown.contains("word"), "{shown}");
    }

    #[test]
    fn offline_takes_the_words_that_python_takes() {
        for (value, is_offline) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("no", false)]
        {
            assert_eq!(hub(&[("HF_HUB_OFFLINE", value)]).is_offline, is_offline, "{value}");
        }
        let variables = [("HF_HUB_OFFLINE", "1"), ("LACUNA_OFFLINE", "off")];
        assert!(!hub(&variables).is_offline, "the setting wins over the variable");
    }

    #[test]
    fn a_token_is_read_from_the_file_of_the_login() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let reveal = |config: HubConfig| config.token.map(|token| token.reveal().to_owned());
        assert_eq!(reveal(hub(&[("HF_HOME", home)])).as_deref(), Some("hf_file"));
        let both = [("HF_HOME", home), ("HF_TOKEN", "hf_said")];
        assert_eq!(reveal(hub(&both)).as_deref(), Some("hf_said"));
        let elsewhere = [("HF_HOME", home), ("HF_TOKEN_PATH", "/no/such/file")];
        assert_eq!(reveal(hub(&elsewhere)), None);
    }
}
