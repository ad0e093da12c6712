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

/// Returns whether a file's name is that of a part, and of which.
pub(crate) fn is_later_part(file: &str) -> bool {
    let Some(stem) = file.strip_suffix(".gguf") else { return false };
    let mut words = stem.rsplitn(4, '-');
    let (count, of, number) = (words.next(), words.next(), words.next());
    let is_number = |word: &str| word.len() == 5 && word.chars().all(|c| c.is_ascii_digit());
    of == Some("of")
        && count.is_some_and(is_number)
        && number.is_some_and(|number| is_number(number) && number != "00001")
        && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_later_parts_by_their_names() {
        for name in ["m-00002-of-00003.gguf", "a-b-q8_0-00003-of-00003.gguf"] {
            assert!(is_later_part(name), "{name}");
        }
        for name in [
            "m-00001-of-00003.gguf",
            "m.gguf",
            "m-00002-of-00003.bin",
            "m-2-of-3.gguf",
            "00002-of-00003.gguf",
            "m-00002-in-00003.gguf",
        ] {
            assert!(!is_later_part(name), "{name}");
        }
    }
}
