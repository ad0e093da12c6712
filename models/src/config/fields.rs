//! Reads the fields of a JSON object such that each error names the field and its value.

use serde_json::{Map, Value};

use crate::{error::ConfigError, shown::shorten};

/// An object of a configuration file. A field that is null counts as absent, as transformers writes both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    file: &'a str,
    parent: Option<&'a str>,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Reads the top-level object of `file`.
    pub(crate) fn new(file: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, parent: None, map }
    }

    /// Reads the fields whose names begin with `parent`, which `map` has without it.
    pub(crate) fn below(file: &'a str, parent: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { file, parent: Some(parent), map }
    }

    /// Returns the field's value, whatever it is.
    pub(crate) fn value(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// Returns whether the field is written, be it as null: some families' defaults stand for what is not.
    pub(crate) fn is_written(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Returns the first field, by name, that has a value and is not in the list.
    pub(crate) fn first_other_than(&self, known: &[&str]) -> Option<(&'a str, &'a Value)> {
        let others = self.map.iter().filter(|(name, _)| !known.contains(&name.as_str()));
        others
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.as_str(), value))
            .min_by_key(|(name, _)| *name)
    }

    /// Returns every field that has a value.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let all = self.map.iter().filter(|(_, value)| !value.is_null());
        all.map(|(name, value)| (name.as_str(), value))
    }

    /// Returns a whole number that must be there.
    pub(crate) fn count(&self, field: &str) -> Result<usize, ConfigError> {
        self.optional_count(field)?.ok_or_else(|| self.missing(field))
    }

    /// Returns a whole number. Ranges are checked where the fields meet, in `DecoderSpec::check`.
    pub(crate) fn optional_count(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.read(field, "a whole number from 0", |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok())
        })
    }

    /// Returns a number.
    pub(crate) fn optional_number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.read(field, "a number", Value::as_f64)
    }

    /// Returns a number that must be there.
    pub(crate) fn number(&self, field: &str) -> Result<f64, ConfigError> {
        self.optional_number(field)?.ok_or_else(|| self.missing(field))
    }

    /// Returns a truth value.
    pub(crate) fn optional_flag(&self, field: &str) -> Result<Option<bool>, ConfigError> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// Returns a list.
    pub(crate) fn optional_list(&self, field: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        self.read(field, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// Returns an object in this one, which must be at the top level.
    pub(crate) fn optional_object(&self, field: &'a str) -> Result<Option<Self>, ConfigError> {
        let map = self.read(field, "an object", Value::as_object)?;
        Ok(map.map(|map| Self { file: self.file, parent: Some(field), map }))
    }

    /// Says that a field is not there.
    pub(crate) fn missing(&self, field: &str) -> ConfigError {
        ConfigError::Missing { file: self.file.to_owned(), field: self.path(field) }
    }

    /// Says that a field breaks a rule.
    pub(crate) fn invalid(&self, field: &str, rule: &str, value: &Value) -> ConfigError {
        ConfigError::Invalid {
            file: self.file.to_owned(),
            field: self.path(field),
            rule: rule.to_owned(),
            value: shorten(&value.to_string()),
        }
    }

    fn read<T>(
        &self,
        field: &str,
        rule: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.value(field) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.invalid(field, rule, value))
    }

    /// Returns a field's name with its parents.
    pub(crate) fn path(&self, field: &str) -> String {
        match self.parent {
            None => field.to_owned(),
            Some(parent) => format!("{parent}.{field}"),
        }
    }
}
