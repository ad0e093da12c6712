//! Families by the names that people and editors use: `codestral-latest`, `deepseek-coder:6.7b`, `org/name`.

use crate::prompt::family::{FAMILIES, Family};

/// Returns the family that a name suggests: the one with the longest part of the name.
///
/// It is a suggestion only. What a tokenizer proves comes first, see [`recognise()`](super::recognise()).
pub fn by_alias(name: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .filter_map(|family| Some((match_len(family, name)?, family)))
        // The first of equals, as everywhere in the table.
        .reduce(|best, other| if other.0 > best.0 { other } else { best })
        .map(|(_, family)| family)
}

/// Returns the length of the longest of the family's names that is part of `name`.
pub(super) fn match_len(family: &Family, name: &str) -> Option<usize> {
    let name = name.to_lowercase().replace(['_', ' '], "-");
    let names = std::iter::once(&family.name).chain(family.signs.names);
    names.filter(|part| name.contains(**part)).map(|part| part.len()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_wins() {
        let rows = [
            ("codestral-latest", Some("codestral")),
            ("mistralai/Codestral-22B-v0.1", Some("codestral")),
            ("devstral:24b", Some("devstral")),
            ("deepseek-coder:6.7b", Some("deepseek-coder")),
            ("deepseek-coder-v2:16b-lite-base-q4_0", Some("deepseek-coder-v2")),
            ("Qwen/Qwen2.5-Coder-7B-Instruct", Some("qwen2.5-coder")),
            ("qwen3-coder:30b", Some("qwen3-coder")),
            ("Qwen3-8B", Some("qwen3")),
            ("codellama:7b-code", Some("codellama")),
            ("CodeLlama-13b-hf", Some("codellama")),
            ("starcoder2:3b", Some("starcoder2")),
            ("bigcode/starcoder", Some("starcoder")),
            ("stable-code:3b-code", Some("stable-code")),
            ("ibm-granite/granite-8b-code-base-4k", Some("granite-code")),
            ("granite-4.0-micro", Some("granite-4")),
            ("JetBrains/Mellum-4b-base", Some("mellum")),
            ("01-ai/Yi-Coder-9B", Some("yi-coder")),
            ("gpt-4o", None),
            ("", None),
        ];
        for (name, expected) in rows {
            assert_eq!(by_alias(name).map(|family| family.name), expected, "{name}");
        }
    }

    #[test]
    fn every_family_is_found_by_its_own_name() {
        for family in FAMILIES {
            assert_eq!(by_alias(family.name).map(|found| found.name), Some(family.name));
        }
    }
}
