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

/// Returns the length of the longest of the family's names that `name` has as whole words: `starcoder3` is no
/// `starcoder`, and `granite-4.1` no `granite-4`.
pub(super) fn match_len(family: &Family, name: &str) -> Option<usize> {
    let name = name.to_lowercase().replace(['_', ' '], "-");
    let names = std::iter::once(&family.name).chain(family.signs.names);
    names.filter(|words| has_words(&name, words)).map(|words| words.len()).max()
}

fn has_words(name: &str, words: &str) -> bool {
    name.match_indices(words).any(|(start, _)| {
        let mut behind = name[start + words.len()..].chars();
        let is_end = match behind.next() {
            // A version goes on.
            Some('.') => !behind.next().is_some_and(|c| c.is_ascii_digit()),
            next => !next.is_some_and(char::is_alphanumeric),
        };
        is_end && !name[..start].ends_with(char::is_alphanumeric)
    })
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
            ("Qwen/Qwen2.5-7B-Instruct", Some("qwen2.5")),
            ("qwen2_7b", Some("qwen2.5")),
            ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", Some("qwen2.5")),
            ("Qwen/CodeQwen1.5-7B", None),
            ("Qwen3.5-9B", None),
            ("deepseek-ai/DeepSeek-V3", None),
            ("codellama:7b-code", Some("codellama")),
            ("CodeLlama-13b-hf", Some("codellama")),
            ("starcoder2:3b", Some("starcoder2")),
            ("bigcode/starcoder", Some("starcoder")),
            ("starcoder.Q4_K_M.gguf", Some("starcoder")),
            ("bigcode/starcoderbase-1b", Some("starcoder")),
            ("starcoder3", None),
            ("mystarcoder", None),
            ("stable-code:3b-code", Some("stable-code")),
            ("ibm-granite/granite-8b-code-base-4k", Some("granite-code")),
            ("granite-4.0-micro", Some("granite-4")),
            ("granite-4.1-8b", None),
            ("granite-3.3-8b-instruct", None),
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
