//! A TOML file as [`RawConfig`], with the place of each key for messages.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::{
    error::{ConfigError, nearest},
    layers::option_of,
    providers::{self, PROVIDERS},
    raw::{RawConfig, RawEngine, RawModel, RawServed},
    served::MODELS,
};

/// What a file says and where.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The settings.
    pub(super) raw: RawConfig,
    /// The place of each key that the file has, as `FILE:LINE:COLUMN`.
    pub(super) places: BTreeMap<String, String>,
}

impl File {
    /// Returns the place of a key, or of the table of a list, such as `[[models]]`, that leaves it out.
    pub(super) fn place(&self, key: &str) -> Option<&str> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(place);
            }
            key = key.rsplit_once('.').map(|(table, _)| table).filter(|it| it.ends_with(']'))?;
        }
    }
}

/// Reads the text of the file called `name`; with `known`, an unknown key is refused with the nearest of them.
///
/// # Errors
/// [`ConfigError::Syntax`] and [`ConfigError::UnknownKey`], with the place.
pub(super) fn parse(text: &str, name: &str, known: Option<&[String]>) -> Result<File, ConfigError> {
    let source = Source { text, name };
    let mut document = DeTable::parse(text).map_err(|error| source.refuse(&error, None))?;
    let places = source.places(document.get_ref());
    // Before the keys in them, which would be called unknown.
    source.check_models(document.get_ref())?;
    if let Some(known) = known {
        check_keys(&places, known)?;
    }
    let refuse = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        // The key at fault is the last one that opens before the fault; keys are in no section's midst.
        let before = places.iter().filter(|(_, (_, start))| *start <= at);
        let key = before.max_by_key(|(_, (_, start))| *start).map(|(key, _)| key.as_str());
        source.refuse(&error, key)
    };
    let models = document.get_mut().remove(MODELS);
    let mut raw = RawConfig::deserialize(toml::Deserializer::from(document)).map_err(refuse)?;
    if let Some(models) = models {
        let is_engine = |key: &str| {
            known.unwrap_or_default().iter().any(|known| *known == format!("engine.{key}"))
        };
        let tables = source.tables(&models)?;
        let served = tables.into_iter().map(|table| served(table, &is_engine).map_err(refuse));
        raw.models = Some(served.collect::<Result<_, _>>()?);
    }
    Ok(File { raw, places: places.into_iter().map(|(key, (place, _))| (key, place)).collect() })
}

/// Reads a table of `[[models]]`, whose keys are those of two sections. Derived code would read them too, and forget where
/// in the file they stand.
fn served<'t>(
    table: Spanned<DeTable<'t>>,
    is_engine: &dyn Fn(&str) -> bool,
) -> Result<RawServed, toml::de::Error> {
    let span = table.span();
    let (engine, model): (Vec<_>, Vec<_>) =
        table.into_inner().into_iter().partition(|(key, _)| is_engine(key.get_ref()));
    let section = |entries: Vec<(Spanned<_>, Spanned<DeValue<'t>>)>| {
        toml::Deserializer::from(Spanned::new(span.clone(), entries.into_iter().collect()))
    };
    Ok(RawServed {
        model: RawModel::deserialize(section(model))?,
        engine: RawEngine::deserialize(section(engine))?,
    })
}

/// Where a key begins: for people, and as an offset.
type Place = (String, usize);

/// Refuses the first key, in the order of the file, that is no section and no setting.
fn check_keys(places: &BTreeMap<String, Place>, known: &[String]) -> Result<(), ConfigError> {
    let sections: Vec<&str> =
        known.iter().filter_map(|key| key.split('.').next()).chain([MODELS, PROVIDERS]).collect();
    let is_known = |key: &str| match table_of(key) {
        // Their own reader names keys that they do not have.
        _ if key == ROUTES || table_of(key).is_some_and(|table| table.starts_with(ROUTES)) => true,
        Some(table) => key == table || keys_of_table(table, known).iter().any(|known| known == key),
        None => known
            .iter()
            .map(String::as_str)
            .chain(sections.iter().copied())
            .any(|known| known == key),
    };
    let unknown = places.iter().filter(|(key, _)| !is_known(key));
    let Some((key, (place, _))) = unknown.min_by_key(|(_, (_, start))| *start) else {
        return Ok(());
    };
    let own = table_of(key).map_or_else(|| known.to_vec(), |table| keys_of_table(table, known));
    let keys = || own.iter().map(String::as_str);
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let option = leaf.replace('_', "-");
    // Who writes the option's name, as in `[model] model`, means the option's key.
    let by_option = keys().find(|known| option_of(known).is_some_and(|known| known == option));
    // A setting of the server that stands in a model's table.
    let elsewhere = || known.iter().find(|known| known.rsplit('.').next() == Some(leaf));
    let by_option = by_option.or_else(|| elsewhere().map(String::as_str));
    let is_section = places.keys().any(|inner| {
        inner.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']))
    });
    let nearest = if is_section { nearest(key, sections) } else { nearest(key, keys()) };
    let nearest = by_option.filter(|_| !is_section).or(nearest).unwrap_or_default().to_owned();
    Err(ConfigError::UnknownKey { place: place.clone(), key: key.clone(), nearest })
}

/// The key of the tables of routes.
const ROUTES: &str = "routes";
/// The key of the tables in each of them.
const TARGETS: &str = "targets";

/// Returns the table of `[[models]]`, `[[providers]]` or `[[routes]]` that a key is or lies in, such as `models[1]`.
fn table_of(key: &str) -> Option<&str> {
    let table = key.split('.').next()?;
    table.ends_with(']').then_some(table)
}

/// Returns the keys that a table may have: of `[[models]]` those of a model and of its engine.
fn keys_of_table(table: &str, known: &[String]) -> Vec<String> {
    if table.split('[').next() == Some(PROVIDERS) {
        return providers::keys().iter().map(|leaf| format!("{table}.{leaf}")).collect();
    }
    let leaves = known.iter().filter_map(|key| match key.split_once('.') {
        Some(("model" | "engine", leaf)) => Some(leaf),
        _ => None,
    });
    leaves.map(|leaf| format!("{table}.{leaf}")).collect()
}

struct Source<'a> {
    text: &'a str,
    name: &'a str,
}

impl Source<'_> {
    /// Returns each key with its place and offset: sections, tables of lists such as `[[models]]`, and the keys in them.
    fn places(&self, document: &DeTable<'_>) -> BTreeMap<String, Place> {
        let mut sections = Vec::new();
        for (section, value) in document {
            let name = section.get_ref().to_string();
            for (index, item) in value.get_ref().as_array().into_iter().flatten().enumerate() {
                if let Some(table) = item.get_ref().as_table() {
                    let name = format!("{name}[{index}]");
                    let targets =
                        table.get(TARGETS).and_then(|targets| targets.get_ref().as_array());
                    for (index, target) in targets.into_iter().flatten().enumerate() {
                        let name = format!("{name}.{TARGETS}[{index}]");
                        sections.push((name, target.span().start, target));
                    }
                    sections.push((name, item.span().start, item));
                }
            }
            sections.push((name, section.span().start, value));
        }
        let mut places = BTreeMap::new();
        for (name, at, value) in sections {
            for key in value.get_ref().as_table().into_iter().flat_map(DeTable::keys) {
                let at = key.span().start;
                places.insert(format!("{name}.{}", key.get_ref()), (self.place(at), at));
            }
            places.insert(name, (self.place(at), at));
        }
        places
    }

    /// Refuses several models where there is one, and one where there are several.
    fn check_models(&self, document: &DeTable<'_>) -> Result<(), ConfigError> {
        if let Some(model) = document.get("model").filter(|model| model.get_ref().is_array()) {
            return Err(self.refuse_models("model", model));
        }
        if let Some(models) = document.get(MODELS).filter(|models| !models.get_ref().is_array()) {
            return Err(self.refuse_models(MODELS, models));
        }
        Ok(())
    }

    /// Returns the tables of `[[models]]`.
    fn tables<'t>(
        &self,
        models: &Spanned<DeValue<'t>>,
    ) -> Result<Vec<Spanned<DeTable<'t>>>, ConfigError> {
        let refuse = |at: &Spanned<DeValue<'t>>| self.refuse_models(MODELS, at);
        let items = models.get_ref().as_array().ok_or_else(|| refuse(models))?;
        let table = |item: &Spanned<DeValue<'t>>| {
            let table = item.get_ref().as_table().ok_or_else(|| refuse(item))?;
            Ok(Spanned::new(item.span(), table.clone()))
        };
        items.iter().map(table).collect()
    }

    fn refuse_models(&self, key: &str, at: &Spanned<DeValue<'_>>) -> ConfigError {
        ConfigError::Syntax {
            place: self.place(at.span().start),
            message: format!("`{key}`: several models are tables, each under `[[{MODELS}]]`"),
        }
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
