//! Values of the metadata by key, of the kind that they must be, or an error that names the key.

use crate::{
    error::ConfigError,
    gguf::{Gguf, GgufArray, GgufValue},
    shown::shorten,
};

/// A list by its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a, 'g> {
    pub(super) gguf: &'g Gguf<'a>,
}

impl<'a> Keys<'a, '_> {
    /// Returns a text.
    pub(super) fn text(self, key: &str) -> Result<&'a str, ConfigError> {
        let value = self.gguf.metadata().get(key).ok_or_else(|| self.missing(key))?;
        as_text(Some(*value)).ok_or_else(|| self.invalid(key, "a text", value))
    }

    /// Returns a list of texts.
    pub(super) fn texts(self, key: &str) -> Result<Vec<&'a str>, ConfigError> {
        let array = self.array(key)?;
        let mut texts = Vec::with_capacity(array.len());
        for (index, value) in array.values().enumerate() {
            let text = as_text(value).ok_or_else(|| {
                let value = value.map_or_else(|| "an array".to_owned(), |value| value.to_string());
                self.invalid(&element(key, index), "a text in UTF-8", value)
            })?;
            texts.push(text);
        }
        Ok(texts)
    }

    /// Returns a list.
    pub(super) fn array(self, key: &str) -> Result<GgufArray<'a>, ConfigError> {
        match self.gguf.metadata().get(key) {
            Some(GgufValue::Array(array)) => Ok(*array),
            Some(other) => Err(self.invalid(key, "an array", other)),
            None => Err(self.missing(key)),
        }
    }

    /// Returns a truth value, or what holds where there is none.
    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.gguf.metadata().get(key) {
            None => Ok(default),
            Some(GgufValue::Flag(flag)) => Ok(*flag),
            Some(other) => Err(self.invalid(key, "a truth value", other)),
        }
    }

    /// Returns the id of a token, where the file names one.
    pub(super) fn id(self, key: &str, num_tokens: usize) -> Result<Option<u32>, ConfigError> {
        match self.gguf.metadata().get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(id)) if *id < num_tokens as u64 => Ok(Some(*id as u32)),
            Some(other) => Err(self.invalid(key, format!("below {num_tokens}"), other)),
        }
    }

    /// Says that a key is not there.
    pub(super) fn missing(self, key: &str) -> ConfigError {
        ConfigError::Missing { file: self.gguf.file().to_owned(), field: key.to_owned() }
    }

    /// Says that a value breaks a rule.
    pub(super) fn invalid(
        self,
        key: &str,
        rule: impl Into<String>,
        value: impl std::fmt::Display,
    ) -> ConfigError {
        ConfigError::Invalid {
            file: self.gguf.file().to_owned(),
            field: key.to_owned(),
            rule: rule.into(),
            value: value.to_string(),
        }
    }
}

fn as_text(value: Option<GgufValue<'_>>) -> Option<&str> {
    match value {
        Some(GgufValue::Text(bytes)) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Returns an element of a list as messages have it.
pub(super) fn element(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}

/// Returns a text as messages have it.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shorten(text))
}
