//! The settings of the gateway: how it answers GitLab, where its prompts are, and which feature flags hold for whom.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::config::{
    Environment, Violation,
    resolve::{broken, expand_home, said, word},
};

/// The word for no folder.
const NONE: &str = "none";
/// The realms that GitLab knows.
const REALMS: [&str; 2] = ["saas", "self-managed"];
/// Longest name of a region.
const REGION_BYTES_MAX: usize = 63;
/// Most rules of a list.
const RULES_MAX: usize = 1024;

/// `[gateway]`: how GitLab's dialect answers.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Gateway")]
pub struct RawGateway {
    /// Whether GitLab may send a model's endpoint and key along; they are not used, for a model of this server answers.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", hide_possible_values = true, hide_short_help = true)]
    pub custom_models: Option<bool>,
    /// Whether GitLab is told why a suggestion ended, or always "length" as its own gateway does.
    #[arg(long, value_name = "true|length", hide_short_help = true)]
    pub finish_reason: Option<String>,
    /// Where this server stands, as metrics are to say; a word such as eu-west-1.
    #[arg(long, value_name = "none|REGION", hide_short_help = true)]
    pub region: Option<String>,
}

/// `[prompts]`: prompts beside the binary's own.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Prompts")]
pub struct RawPrompts {
    /// Folder with prompts that add to the server's own or stand in for them; read again whenever a file changes.
    #[arg(long = "prompts-folder", value_name = "none|DIR", hide_short_help = true)]
    pub folder: Option<String>,
}

/// `[flags]`: feature flags.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Feature flags")]
pub struct RawFlags {
    /// Flags to switch on, for whom, separated by commas.
    #[arg(
        long = "flags-on",
        value_name = "FLAG[=user:ID|group:ID|instance:ID|realm:REALM|N%]",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub on: Option<Vec<String>>,
    /// Flags to switch off, for whom; this wins.
    #[arg(
        long = "flags-off",
        value_name = "FLAG[=…]",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub off: Option<Vec<String>>,
    /// Flags that callers of a realm may not ask for.
    #[arg(
        long = "flags-disallowed",
        value_name = "REALM:FLAG",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub disallowed: Option<Vec<String>>,
}

/// How GitLab's dialect answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Whether a request may bring a model's endpoint and key.
    pub has_custom_models: bool,
    /// Whether the reason of an end is told as it is; else it is always `length`.
    pub has_true_finish_reason: bool,
    /// Where the server stands: the label `region` of all metrics.
    pub region: Option<String>,
}

/// Prompts beside the binary's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptsConfig {
    /// Where they are.
    pub folder: Option<PathBuf>,
}

/// Feature flags.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlagsConfig {
    /// Switched on.
    pub on: Vec<FlagRule>,
    /// Switched off, which wins.
    pub off: Vec<FlagRule>,
    /// Realms, and what may not be asked for there.
    pub disallowed: Vec<(String, String)>,
}

/// A flag, and for whom it is switched.
#[derive(Clone, Debug, PartialEq)]
pub struct FlagRule {
    /// Its name.
    pub flag: String,
    /// For whom.
    pub scope: FlagScope,
}

/// For whom a flag is switched.
#[derive(Clone, Debug, PartialEq)]
pub enum FlagScope {
    /// All.
    Everyone,
    /// The user of this id.
    User(String),
    /// Who belongs to the group or namespace of this id.
    Group(String),
    /// The users of a GitLab instance.
    Instance(String),
    /// The users of `saas` or `self-managed`.
    Realm(String),
    /// So many of a hundred users, always the same ones.
    Percentage(f64),
}

impl RawGateway {
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            custom_models: self.custom_models.or(lower.custom_models),
            finish_reason: self.finish_reason.or(lower.finish_reason),
            region: self.region.or(lower.region),
        }
    }
}

impl RawPrompts {
    pub(super) fn or(self, lower: Self) -> Self {
        Self { folder: self.folder.or(lower.folder) }
    }
}

impl RawFlags {
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            on: self.on.or(lower.on),
            off: self.off.or(lower.off),
            disallowed: self.disallowed.or(lower.disallowed),
        }
    }
}

/// Checks `[gateway]`.
pub(super) fn gateway(raw: RawGateway) -> Result<GatewayConfig, Violation> {
    let reasons = [("true", true), ("length", false)];
    Ok(GatewayConfig {
        has_custom_models: said("gateway.custom_models", raw.custom_models)?,
        has_true_finish_reason: word("gateway.finish_reason", raw.finish_reason, &reasons)?,
        region: region(&said("gateway.region", raw.region)?)?,
    })
}

fn region(text: &str) -> Result<Option<String>, Violation> {
    if text == NONE {
        return Ok(None);
    }
    let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if (1..=REGION_BYTES_MAX).contains(&text.len()) && is_word(text) {
        return Ok(Some(text.to_owned()));
    }
    let rule = format!(
        "none, or at most {REGION_BYTES_MAX} letters, digits, hyphens, underscores and dots"
    );
    Err(broken("gateway.region", &rule, format!("{text:?}")))
}

/// Checks `[prompts]`. Whether the folder can be read is seen when it is.
pub(super) fn prompts(
    raw: RawPrompts,
    environment: &Environment,
) -> Result<PromptsConfig, Violation> {
    let folder = said("prompts.folder", raw.folder)?;
    match folder.as_str() {
        NONE => Ok(PromptsConfig { folder: None }),
        "" => Err(broken("prompts.folder", "none or a folder", "nothing")),
        folder => Ok(PromptsConfig { folder: Some(expand_home(folder, environment)) }),
    }
}

/// Checks `[flags]`.
pub(super) fn flags(raw: RawFlags) -> Result<FlagsConfig, Violation> {
    Ok(FlagsConfig {
        on: rules("flags.on", raw.on)?,
        off: rules("flags.off", raw.off)?,
        disallowed: list("flags.disallowed", raw.disallowed)?
            .iter()
            .map(|text| disallowed(text))
            .collect::<Result<_, _>>()?,
    })
}

fn list(key: &'static str, value: Option<Vec<String>>) -> Result<Vec<String>, Violation> {
    let list = said(key, value)?;
    if list.len() > RULES_MAX {
        return Err(broken(key, &format!("at most {RULES_MAX} rules"), list.len()));
    }
    Ok(list)
}

fn rules(key: &'static str, value: Option<Vec<String>>) -> Result<Vec<FlagRule>, Violation> {
    list(key, value)?.iter().map(|text| rule(key, text)).collect()
}

fn rule(key: &'static str, text: &str) -> Result<FlagRule, Violation> {
    let (flag, scope) = match text.trim().split_once('=') {
        Some((flag, scope)) => (flag, self::scope(scope)),
        None => (text.trim(), Some(FlagScope::Everyone)),
    };
    match scope {
        Some(scope) if is_flag(flag) => Ok(FlagRule { flag: flag.to_owned(), scope }),
        _ => {
            let rule = "flags such as `new_prompt`, `new_prompt=user:ID`, `=group:ID`, `=instance:ID`, `=realm:saas` or `=25%`";
            Err(broken(key, rule, format!("{text:?}")))
        }
    }
}

fn scope(text: &str) -> Option<FlagScope> {
    if let Some(number) = text.strip_suffix('%') {
        let percentage: f64 = number.parse().ok()?;
        return (0.0..=100.0).contains(&percentage).then_some(FlagScope::Percentage(percentage));
    }
    let (kind, id) = text.split_once(':')?;
    let id = Some(id.to_owned()).filter(|id| !id.is_empty())?;
    match kind {
        "user" => Some(FlagScope::User(id)),
        "group" => Some(FlagScope::Group(id)),
        "instance" => Some(FlagScope::Instance(id)),
        "realm" if REALMS.contains(&id.as_str()) => Some(FlagScope::Realm(id)),
        _ => None,
    }
}

fn disallowed(text: &str) -> Result<(String, String), Violation> {
    match text.trim().split_once(':') {
        Some((realm, flag)) if REALMS.contains(&realm) && is_flag(flag) => {
            Ok((realm.to_owned(), flag.to_owned()))
        }
        _ => {
            let rule = "flags of a realm, such as `self-managed:expanded_ai_logging`";
            Err(broken("flags.disallowed", rule, format!("{text:?}")))
        }
    }
}

fn is_flag(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

impl From<&GatewayConfig> for RawGateway {
    fn from(config: &GatewayConfig) -> Self {
        let reason = if config.has_true_finish_reason { "true" } else { "length" };
        Self {
            custom_models: Some(config.has_custom_models),
            finish_reason: Some(reason.to_owned()),
            region: Some(config.region.clone().unwrap_or_else(|| NONE.to_owned())),
        }
    }
}

impl From<&PromptsConfig> for RawPrompts {
    fn from(config: &PromptsConfig) -> Self {
        let folder = config.folder.as_ref();
        let text =
            folder.map_or_else(|| NONE.to_owned(), |path| path.to_string_lossy().into_owned());
        Self { folder: Some(text) }
    }
}

impl From<&FlagsConfig> for RawFlags {
    fn from(config: &FlagsConfig) -> Self {
        let rules = |rules: &[FlagRule]| Some(rules.iter().map(print).collect());
        let disallowed = config.disallowed.iter().map(|(realm, flag)| format!("{realm}:{flag}"));
        Self {
            on: rules(&config.on),
            off: rules(&config.off),
            disallowed: Some(disallowed.collect()),
        }
    }
}

fn print(rule: &FlagRule) -> String {
    let flag = &rule.flag;
    match &rule.scope {
        FlagScope::Everyone => flag.clone(),
        FlagScope::User(id) => format!("{flag}=user:{id}"),
        FlagScope::Group(id) => format!("{flag}=group:{id}"),
        FlagScope::Instance(id) => format!("{flag}=instance:{id}"),
        FlagScope::Realm(realm) => format!("{flag}=realm:{realm}"),
        FlagScope::Percentage(percentage) => format!("{flag}={percentage}%"),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ConfigError, tests::load};

    #[test]
    fn what_is_printed_reads_back() {
        let files = [
            "[gateway]\ncustom_models = true\nfinish_reason = \"length\"\nregion = \"eu-west_1.a\"\n",
            "[prompts]\nfolder = \"~/prompts\"\n",
            "[flags]\non = [\"a\", \"b=user:7\", \"b=group:x y\", \"c=instance:1\", \"d=realm:saas\", \"e=12.5%\"]\n",
            "[flags]\noff = [\"a=100%\"]\ndisallowed = [\"self-managed:logs\"]\n",
        ];
        for text in files {
            let config = load(text).unwrap();
            assert_eq!(load(&config.to_toml().unwrap()).unwrap(), config, "{text}");
        }
        let config = load(files[2]).unwrap();
        assert_eq!(config.flags.on.len(), 6);
        assert_eq!(load(files[1]).unwrap().prompts.folder, Some("/home/ada/prompts".into()));
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let rows = [
            ("[gateway]\nfinish_reason = \"stop\"", "gateway.finish_reason"),
            ("[gateway]\nregion = \"a b\"", "gateway.region"),
            ("[gateway]\nregion = \"\"", "gateway.region"),
            ("[prompts]\nfolder = \"\"", "prompts.folder"),
            ("[flags]\non = [\"a b\"]", "flags.on"),
            ("[flags]\non = [\"a=user:\"]", "flags.on"),
            ("[flags]\non = [\"a=101%\"]", "flags.on"),
            ("[flags]\noff = [\"a=realm:mars\"]", "flags.off"),
            ("[flags]\ndisallowed = [\"logs\"]", "flags.disallowed"),
            ("[flags]\ndisallowed = [\"mars:logs\"]", "flags.disallowed"),
        ];
        for (text, key) in rows {
            let ConfigError::Value { violation, .. } = load(text).unwrap_err() else {
                panic!("{text}")
            };
            assert_eq!(violation.key, key, "{text}");
        }
    }
}
