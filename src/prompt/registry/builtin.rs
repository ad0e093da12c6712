//! The prompts that the binary carries: the files of `prompts/`, compiled in.

use std::sync::Arc;

use crate::prompt::registry::{Prompt, PromptFileError};

/// Path and text of each; a test holds the list to the folder.
const FILES: &[(&str, &str)] = &[
    (
        "code_suggestions/generations/base/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/base/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/codestral/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/codestral/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/deepseek/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/deepseek/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/fim/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/fim/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/gemma/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/gemma/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/llama/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/llama/1.0.0.yml"),
    ),
    (
        "code_suggestions/generations/qwen/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/generations/qwen/1.0.0.yml"),
    ),
    (
        "code_suggestions/hosted_completions/base/1.0.0.yml",
        include_str!("../../../prompts/code_suggestions/hosted_completions/base/1.0.0.yml"),
    ),
    (
        "model_configuration/check/base/1.0.0.yml",
        include_str!("../../../prompts/model_configuration/check/base/1.0.0.yml"),
    ),
    (
        "model_configuration/check/fim/1.0.0.yml",
        include_str!("../../../prompts/model_configuration/check/fim/1.0.0.yml"),
    ),
];

/// Returns the binary's own prompts.
///
/// # Errors
/// Never in a build whose tests passed: the files are part of it.
pub fn builtin() -> Result<Vec<Arc<Prompt>>, PromptFileError> {
    FILES.iter().map(|(path, text)| Prompt::parse(path, text).map(Arc::new)).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn collect(folder: &Path, root: &Path, paths: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                collect(&path, root, paths);
            } else {
                paths.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_of_the_folder_is_compiled_in_and_can_be_used() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("prompts");
        let mut paths = BTreeSet::new();
        collect(&root, &root, &mut paths);
        let listed: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, paths);
        assert_eq!(builtin().unwrap().len(), paths.len());
    }
}
