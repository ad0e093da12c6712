//! Adapters as people write them in a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};

/// Reads adapters: a list as the option has it, or a table of names.
pub(super) fn read<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "a list such as [\"review=./adapters/review\"], or a table such as { review = \"./adapters/review\" }"
    )]
    enum Adapters {
        List(Vec<String>),
        Table(BTreeMap<String, String>),
    }
    let pair = |(name, source): (String, String)| {
        if name.contains('=') {
            return Err(D::Error::custom(format!("a name has no `=`, got {name:?}")));
        }
        Ok(format!("{name}={source}"))
    };
    match Adapters::deserialize(deserializer)? {
        Adapters::List(list) => Ok(Some(list)),
        Adapters::Table(table) => table.into_iter().map(pair).collect::<Result<_, _>>().map(Some),
    }
}
