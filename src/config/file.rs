//! A TOML file as [`RawConfig`], with the place of each key for messages.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};

use crate::config::{
    error::{ConfigError, nearest},
    layers::option_of,
    raw::RawConfig,
};

/// What a file says and where.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The settings.
    pub(super) raw: RawConfig,
    /// The place of each key that the file has, as `FILE:LINE:COLUMN`.
    pub(super) places: BTreeMap<String, String>,
}

/// Reads the text of the file called `name`; with `known`, an unknown key is refused with the nearest of them.
///
/// # Errors
/// [`ConfigError::Syntax`] and [`ConfigError::UnknownKey`], with the place.
pub(super) fn parse(text: &str, name: &str, known: Option<&[String]>) -> Result<File, ConfigError> {
    let source = Source { text, name };
    let document = DeTable::parse(text).map_err(|error| source.refuse(&error, None))?;
    let places = source.places(document.get_ref());
    if let Some(known) = known {
        check_keys(&places, known)?;
    }
    let raw = RawConfig::deserialize(toml::Deserializer::from(document)).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        // The key at fault is the last one that opens before the fault; keys are in no section's midst.
        let before = places.iter().filter(|(_, (_, start))| *start <= at);
        let key = before.max_by_key(|(_, (_, start))| *start).map(|(key, _)| key.as_str());
        source.refuse(&error, key)
    })?;
    Ok(File { raw, places: places.into_iter().map(|(key, (place, _))| (key, place)).collect() })
}

/// Where a key begins: for people, and as an offset.
type Place = (String, usize);

/// Refuses the first key, in the order of the file, that is no section and no setting.
fn check_keys(places: &BTreeMap<String, Place>, known: &[String]) -> Result<(), ConfigError> {
    let sections: Vec<&str> = known.iter().filter_map(|key| key.split('.').next()).collect();
    let keys = || known.iter().map(String::as_str);
    let is_known = |key: &str| keys().chain(sections.iter().copied()).any(|known| known == key);
    let unknown = places.iter().filter(|(key, _)| !is_known(key));
    let Some((key, (place, _))) = unknown.min_by_key(|(_, (_, start))| *start) else {
        return Ok(());
    };
    let leaf = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
    // Who writes the option's name, as in `[model] model`, means the option's key.
    let by_option = keys().find(|known| option_of(known).is_some_and(|option| option == leaf));
    let is_section = places.keys().any(|inner| inner.starts_with(&format!("{key}.")));
    let nearest = if is_section { nearest(key, sections) } else { nearest(key, keys()) };
    let nearest = by_option.filter(|_| !is_section).or(nearest).unwrap_or_default().to_owned();
    Err(ConfigError::UnknownKey { place: place.clone(), key: key.clone(), nearest })
}

struct Source<'a> {
    text: &'a str,
    name: &'a str,
}

impl Source<'_> {
    /// Returns each key with its place and offset: sections, and the keys in them.
    fn places(&self, document: &DeTable<'_>) -> BTreeMap<String, Place> {
        let mut places = BTreeMap::new();
        let mut insert = |key: String, at: usize| {
            places.insert(key, (self.place(at), at));
        };
        for (section, value) in document {
            insert(section.get_ref().to_string(), section.span().start);
            let DeValue::Table(table) = value.get_ref() else { continue };
            for key in table.keys() {
                insert(format!("{}.{}", section.get_ref(), key.get_ref()), key.span().start);
            }
        }
        places
    }

    fn refuse(&self, error: &toml::de::Error, key: Option<&str>) -> ConfigError {
        let place = self.place(error.span().map_or(0, |span| span.start));
        // The deserialiser speaks of Rust's types; operators do not.
        let message = error.message().replace("expected i64", "expected an integer");
        let message = message.replace("expected f64", "expected a number");
        let message = key.map_or_else(|| message.clone(), |key| format!("`{key}`: {message}"));
        ConfigError::Syntax { place, message }
    }

    /// Returns `FILE:LINE:COLUMN` of a byte of the text, both from 1.
    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }
}
