//! What can be wrong with the settings. Each message says where, what and the rule.

use std::{io, path::PathBuf};

/// A setting that cannot be used. Nothing starts with one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or a value has the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What the parser says.
        message: String,
    },
    /// The file has a key that does not exist.
    #[error("{place}: unknown key `{key}`; the nearest is `{nearest}`")]
    UnknownKey {
        /// File, line and column.
        place: String,
        /// The key with its section.
        key: String,
        /// The likeliest one that exists.
        nearest: String,
    },
    /// The environment has a `LACUNA_` variable that sets nothing.
    #[error("unknown variable `{name}`; the nearest is `{nearest}`")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The likeliest one that exists.
        nearest: String,
    },
    /// A variable's text has the wrong type.
    #[error("the variable `{name}` {rule}, got {got}")]
    Variable {
        /// The variable.
        name: String,
        /// The rule, beginning with `must`.
        rule: String,
        /// Its text.
        got: String,
    },
    /// A value breaks a rule.
    #[error("{violation}{}", origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default())]
    Value {
        /// The key, the rule and the value.
        violation: Violation,
        /// Who said so: a place in the file, a variable, an option.
        origin: Option<String>,
    },
}

/// A value that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` must be {rule}, got {got}")]
pub struct Violation {
    /// The setting, with its section.
    pub key: String,
    /// What holds for it.
    pub rule: String,
    /// What was typed.
    pub got: String,
}

/// Returns the candidate that looks most like `typed`; the last part of a dotted name counts most.
pub(super) fn nearest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let leaf = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let typed_leaf = typed.rsplit('.').next().unwrap_or(typed);
    let likeness = |candidate: &'a str| {
        let by_leaf = strsim::normalized_damerau_levenshtein(typed_leaf, leaf(candidate));
        // The whole name decides between equal leaves only, so it weighs less than any edit of a leaf.
        by_leaf + strsim::jaro_winkler(typed, candidate) / 100.0
    };
    candidates.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_nearest_name() {
        let keys = ["server.port", "server.host", "model.served_name", "engine.block_size"];
        let rows = [
            ("server.prot", "server.port"),
            ("port", "server.port"),
            ("engine.port", "server.port"),
            ("engine.blocksize", "engine.block_size"),
            ("model.name", "model.served_name"),
        ];
        for (typed, expected) in rows {
            assert_eq!(nearest(typed, keys), Some(expected), "{typed}");
        }
    }
}
