//! Prompts as files: found by task, family and a range of versions, rendered to what is to be completed.
//!
//! A prompt is data: `<task>/<family>/<version>.yml` with parameters, stops and templates, see `docs/prompts.md`. The
//! server's own are part of the binary ([`builtin`]); an operator's folder adds to them or stands in for them. The folder
//! is read elsewhere, for this is a function of texts.
//!
//! What a template is given stays text: messages go through the model's chat template, which masks them, a text is
//! encoded as plain text, and a gap's two sides are pieces apart from the sentinels.

use std::{collections::BTreeMap, fmt, sync::Arc};

use semver::Version;

mod builtin;
mod definition;
mod place;
mod render;
mod version;

pub use builtin::builtin;
pub use definition::{FILE_BYTES_MAX, Parameters, Prompt};
pub use place::Place;
pub use render::{Inputs, RenderError, Rendered};
pub use version::{VERSION_DEFAULT, VersionRange};

/// The family of prompts for any model with a chat template.
pub const FAMILY_BASE: &str = "base";
/// The family of prompts for models that fill gaps and know no conversation.
pub const FAMILY_FIM: &str = "fim";

/// Why a file is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PromptFileError {
    /// The file, below the folder of prompts.
    pub path: String,
    /// Where, from 1; `None` where it is of the whole file.
    pub line: Option<u64>,
    /// What is wrong, and the rule.
    pub reason: String,
}

impl fmt::Display for PromptFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.reason),
            None => write!(f, "{}: {}", self.path, self.reason),
        }
    }
}

/// All prompts in force.
#[derive(Clone, Debug, Default)]
pub struct PromptRegistry {
    /// By task, family and version.
    prompts: BTreeMap<String, BTreeMap<String, BTreeMap<Version, Arc<Prompt>>>>,
}

impl PromptRegistry {
    /// Puts prompts together; of two at the same place the later one counts.
    pub fn new(prompts: impl IntoIterator<Item = Arc<Prompt>>) -> Self {
        let mut registry = Self::default();
        for prompt in prompts {
            let Place { task, family, version } = prompt.place.clone();
            let families = registry.prompts.entry(task).or_default();
            families.entry(family).or_default().insert(version, prompt);
        }
        registry
    }

    /// Returns the newest prompt of the first family that has one which the range takes.
    pub fn find(
        &self,
        task: &str,
        families: &[&str],
        range: &VersionRange,
    ) -> Option<&Arc<Prompt>> {
        let of_task = self.prompts.get(task)?;
        families.iter().find_map(|family| {
            let versions = of_task.get(*family)?;
            versions.get(range.newest(versions.keys())?)
        })
    }

    /// Returns the places of the task's prompts of these families, as answers write them.
    pub fn places(&self, task: &str, families: &[&str]) -> Vec<String> {
        let of_task = self.prompts.get(task);
        let known =
            of_task.into_iter().flatten().filter(|(family, _)| families.contains(&family.as_str()));
        known
            .flat_map(|(_, versions)| versions.values().map(|prompt| prompt.place.to_string()))
            .collect()
    }

    /// Returns whether there is a prompt for the task, whichever family and version.
    pub fn has_task(&self, task: &str) -> bool {
        self.prompts.contains_key(task)
    }

    /// Returns whether there is a prompt for the task and the family, whichever version.
    pub fn has_family(&self, task: &str, family: &str) -> bool {
        self.prompts.get(task).is_some_and(|families| families.contains_key(family))
    }

    /// Returns all prompts by their places.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Prompt>> {
        self.prompts.values().flat_map(|families| families.values().flat_map(BTreeMap::values))
    }
}

/// Words in models' names, and the family of prompts that such a model is asked with; the first that matches counts.
const FAMILIES: &[(&str, &str)] = &[
    ("qwen", "qwen"),
    ("codestral", "codestral"),
    ("devstral", "codestral"),
    ("mistral", "codestral"),
    ("mixtral", "codestral"),
    ("deepseek", "deepseek"),
    ("codegemma", "gemma"),
    ("gemma", "gemma"),
    ("llama", "llama"),
];

/// Returns the families of prompts that models are asked with, each once.
fn families() -> impl Iterator<Item = &'static str> {
    let own = FAMILIES.iter().map(|(_, family)| *family);
    let own = own
        .enumerate()
        .filter(|(index, family)| FAMILIES[..*index].iter().all(|(_, earlier)| earlier != family));
    [FAMILY_BASE, FAMILY_FIM].into_iter().chain(own.map(|(_, family)| family))
}

/// Returns whether models are asked with prompts of a family.
fn is_family(family: &str) -> bool {
    families().any(|known| known == family)
}

/// Returns the family that a model's name tells, small and capital letters alike.
pub fn family_of(model_name: &str) -> Option<&'static str> {
    let name = model_name.to_lowercase();
    FAMILIES.iter().find(|(word, _)| name.contains(word)).map(|(_, family)| *family)
}

#[cfg(test)]
mod tests;
