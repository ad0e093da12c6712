//! Values of settings as text and as numbers, before any rule looks at them.

use clap::builder::{StringValueParser, TypedValueParser};
use serde::{Deserialize, Serialize};

/// A number, or a word or unit that stands for one: `8`, `"auto"`, `"2GiB"`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(untagged, expecting = "an integer or a string")]
pub enum Scalar {
    /// A bare number.
    Integer(i64),
    /// Anything else.
    Text(String),
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Text(text.to_owned()), Self::Integer)
    }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Takes any text: whether it is a number is for the setting's own rule to say.
pub(super) fn scalar() -> impl TypedValueParser<Value = Scalar> {
    StringValueParser::new().map(|text| Scalar::from(text.as_str()))
}

/// Takes an integer.
pub(super) fn integer(text: &str) -> Result<i64, &'static str> {
    text.parse().map_err(|_| "must be an integer")
}

/// Takes a number.
pub(super) fn number(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "must be a number")
}
