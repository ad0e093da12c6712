//! A model in several files: the first has the metadata, each a table of its own tensors.

use std::path::{Path, PathBuf};

use crate::{
    error::ConfigError,
    gguf::{Gguf, GgufValue},
};

const COUNT_KEY: &str = "split.count";
const INDEX_KEY: &str = "split.no";
/// Most files of a model; the names have five digits.
const FILES_MAX: u64 = 99_999;

/// Returns the files of the model whose first one `path` is, that one included.
///
/// # Errors
/// [`ConfigError::Invalid`] where the file is not the first, or its name not that of a part.
pub(crate) fn files_of(path: &Path, gguf: &Gguf<'_>) -> Result<Vec<PathBuf>, ConfigError> {
    let invalid = |key: &str, rule: String, value: String| ConfigError::Invalid {
        file: gguf.file().to_owned(),
        field: key.to_owned(),
        rule,
        value,
    };
    let number = |key: &str| match gguf.metadata().get(key) {
        None => Ok(0),
        Some(GgufValue::Unsigned(number)) if *number <= FILES_MAX => Ok(*number),
        Some(other) => Err(invalid(key, format!("from 0 to {FILES_MAX}"), other.to_string())),
    };
    let (count, index) = (number(COUNT_KEY)?, number(INDEX_KEY)?);
    if index != 0 {
        let rule = "0: a model is named by the first of its files".to_owned();
        return Err(invalid(INDEX_KEY, rule, index.to_string()));
    }
    if count <= 1 {
        return Ok(vec![path.to_owned()]);
    }
    let Some(stem) = gguf.file().strip_suffix(&part(1, count)) else {
        let rule = format!("1 in a file whose name does not end in {}", part(1, count));
        return Err(invalid(COUNT_KEY, rule, count.to_string()));
    };
    let file = |number| path.with_file_name(format!("{stem}{}", part(number, count)));
    Ok((1..=count).map(file).collect())
}

/// Returns how the name of a part ends.
fn part(number: u64, count: u64) -> String {
    format!("-{number:05}-of-{count:05}.gguf")
}

/// The name of one of a model's files, such as `coder-q8_0-00002-of-00003.gguf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartName<'a> {
    /// What the names of all of them begin with.
    pub stem: &'a str,
    /// Which it is; the first is 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl<'a> PartName<'a> {
    /// Reads a file's name or path; `None` where it is not that of a part.
    pub fn parse(file: &'a str) -> Option<Self> {
        let (stem, ending) = file.rsplit_once('.')?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let read = |text: &str| {
            let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        let (number, count) = (read(number)?, read(count)?);
        ending.eq_ignore_ascii_case("gguf").then_some(Self { stem, number, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_parts_by_their_names() {
        let rows = [
            ("m-00002-of-00003.gguf", Some(("m", 2, 3))),
            ("a-b-q8_0-00001-of-00003.GGUF", Some(("a-b-q8_0", 1, 3))),
            ("folder/m-00003-of-00003.gguf", Some(("folder/m", 3, 3))),
            ("m.gguf", None),
            ("m-00002-of-00003.bin", None),
            ("m-2-of-3.gguf", None),
            ("00002-of-00003.gguf", None),
            ("m-00002-in-00003.gguf", None),
        ];
        for (name, expected) in rows {
            let found = PartName::parse(name).map(|part| (part.stem, part.number, part.count));
            assert_eq!(found, expected, "{name}");
        }
    }
}
