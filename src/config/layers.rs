//! The layers of settings, one over the other: options, variables, the file, the defaults.

use std::{fs, path::Path};

use clap::Args as _;

use crate::config::{
    Config, ConfigError, Environment, Violation,
    environment::variable,
    file::{self, File},
    raw::{RawConfig, RawModel},
    resolve::resolve,
    served,
};

/// The defaults are the example that operators read, so neither can drift from the other.
const DEFAULTS: &str = include_str!("../../lacuna.example.toml");

impl Config {
    /// Returns the settings in force: those of `options`, else of the environment, else of the file, else the defaults.
    ///
    /// # Errors
    /// The first setting that cannot be used, with where it was said.
    pub fn load(
        options: &RawConfig,
        environment: &Environment,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let defaults = defaults()?;
        let variables = environment.settings()?;
        let file =
            file.map(|path| read(path, Some(&keys(&defaults)))).transpose()?.unwrap_or_default();
        let mut typed = options.clone().or(variables.clone()).or(file.raw.clone());
        if options.model.source.is_some() && file.raw.model == RawModel::default() {
            // Who names a model on the command line wants that one, whatever a file says that is always there.
            typed.models = None;
        }
        let one_spelling = served::check_spelling(&typed);
        let resolved = one_spelling.and_then(|()| resolve(typed.or(defaults), environment));
        resolved.map_err(|violation| {
            let key = violation.key.as_str();
            let option = option_of(key).unwrap_or_default();
            let origin = if says(options, key) {
                Some(format!("from --{option}"))
            } else if says(&variables, key) {
                Some(format!("from {}", environment.spelled(&variable(&option))))
            } else {
                file.place(key).map(|place| format!("at {place}"))
            };
            ConfigError::Value { violation, origin }
        })
    }
}

/// Says where in the file a rule is broken that shows only when the settings are used.
pub fn broken_in(file: Option<&Path>, violation: Violation) -> ConfigError {
    let place = |path: &Path| {
        let file = read(path, None).ok()?;
        file.place(&violation.key).map(|place| format!("at {place}"))
    };
    ConfigError::Value { origin: file.and_then(place), violation }
}

/// Returns each setting's default as it would be typed.
///
/// # Errors
/// Never in a build whose tests passed: the file is part of the binary.
pub fn defaults() -> Result<RawConfig, ConfigError> {
    Ok(file::parse(DEFAULTS, "lacuna.example.toml", None)?.raw)
}

/// Returns the option that sets `key`, without its dashes.
pub fn option_of(key: &str) -> Option<String> {
    // clap's ids are the names of the fields, which are the last parts of the keys; a test holds that none is twice.
    let leaf = key.rsplit('.').next()?;
    let command = RawConfig::augment_args(clap::Command::new("lacuna"));
    let option = command.get_arguments().find(|argument| argument.get_id() == leaf)?;
    option.get_long().map(ToOwned::to_owned)
}

/// Returns each key that `raw` sets, with its section and value.
pub fn entries(raw: &RawConfig) -> Vec<(String, toml::Value)> {
    // Numbers, texts and lists of texts always serialise; an empty answer would fail the tests of the defaults.
    let sections = toml::Table::try_from(raw).unwrap_or_default();
    let mut entries = Vec::new();
    for (section, keys) in sections {
        let toml::Value::Table(keys) = keys else { continue };
        entries.extend(keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
    }
    entries
}

fn keys(raw: &RawConfig) -> Vec<String> {
    entries(raw).into_iter().map(|(key, _)| key).collect()
}

fn says(raw: &RawConfig, key: &str) -> bool {
    keys(raw).iter().any(|said| said == key)
}

fn read(path: &Path, known: Option<&[String]>) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    file::parse(&text, &path.display().to_string(), known)
}
