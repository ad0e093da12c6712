//! Where a prompt stands: `<task>/<family>/<version>.yml`, a task being one or more words.

use std::fmt;

use semver::Version;

use crate::prompt::registry::PromptFileError;

/// Longest word of a path.
const WORD_BYTES_MAX: usize = 64;
/// Words of a task, family and version apart.
const TASK_WORDS_MAX: usize = 4;

/// A prompt's place; its text is what an answer says of the prompt that made it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// What it is for: `code_suggestions/generations`.
    pub task: String,
    /// Which models it is for; `base` is any.
    pub family: String,
    /// Which of several it is.
    pub version: Version,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.task, self.family, self.version)
    }
}

impl Place {
    /// Reads a path below the folder of prompts, with `/` between its parts.
    ///
    /// # Errors
    /// [`PromptFileError`] with the form that a path must have.
    pub fn parse(path: &str) -> Result<Self, PromptFileError> {
        let refused = || {
            PromptFileError {
            path: path.to_owned(),
            line: None,
            reason: "must be named TASK/FAMILY/VERSION.yml, such as code_suggestions/generations/base/1.0.0.yml"
                .to_owned(),
        }
        };
        let stem = path.strip_suffix(".yml").ok_or_else(refused)?;
        let mut words: Vec<&str> = stem.split('/').collect();
        let version = words.pop().and_then(|text| Version::parse(text).ok());
        let (Some(version), Some(family)) = (version, words.pop()) else { return Err(refused()) };
        let is_task = (1..=TASK_WORDS_MAX).contains(&words.len());
        if !is_task || !is_word(family) || !words.iter().all(|word| is_word(word)) {
            return Err(refused());
        }
        Ok(Self { task: words.join("/"), family: family.to_owned(), version })
    }
}

/// Words go into headers and logs, so they are plain.
fn is_word(word: &str) -> bool {
    (1..=WORD_BYTES_MAX).contains(&word.len())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && !word.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_task_family_and_version() {
        let path = "code_suggestions/generations/base/1.2.0-dev.yml";
        let place = Place::parse(path).unwrap();
        assert_eq!(place.task, "code_suggestions/generations");
        assert_eq!((place.family.as_str(), place.version.pre.as_str()), ("base", "dev"));
        assert_eq!(format!("{place}.yml"), path);
        let wrong = [
            "",
            "base/1.0.0.yml",
            "a/base/1.0.yml",
            "a/base/1.0.0.yaml",
            "a//1.0.0.yml",
            "../a/base/1.0.0.yml",
            "a b/base/1.0.0.yml",
            "a/b/c/d/e/base/1.0.0.yml",
        ];
        for path in wrong {
            let error = Place::parse(path).unwrap_err();
            assert!(error.to_string().contains("TASK/FAMILY/VERSION.yml"), "{path}: {error}");
        }
    }
}
