//! Which family a model is of, by what it proves: its tokens, its architecture, the size of its vocabulary.
//!
//! Tokens alone prove little: Mellum, Granite and StarCoder2 spell theirs alike and order them otherwise, and some
//! vocabularies have sentinels that no training ever saw. A name only decides between families that all of that fits.

use std::collections::BTreeSet;

use crate::prompt::family::{FAMILIES, Family, aliases::match_len, by_alias};

/// What is known of a model.
pub struct Evidence<'a> {
    /// Whether its tokenizer has this very text as one control token.
    pub has_token: &'a dyn Fn(&str) -> bool,
    /// As `architectures` of its configuration names it.
    pub architecture: &'a str,
    /// Ids of its tokenizer.
    pub num_ids: u32,
    /// Name of its repository, folder or file.
    pub name: &'a str,
}

impl std::fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recognised {
    /// All signs of this family hold, and of no other.
    BySigns(&'static Family),
    /// Several families fit, and the name is this one's.
    ByName(&'static Family),
    /// Several families fit and the name says nothing: the first of the table, which may be another model's form.
    Assumed(&'static Family),
    /// None fits; the name suggests this one.
    Unknown(Option<&'static Family>),
}

impl Recognised {
    /// Returns the family.
    pub fn family(self) -> Option<&'static Family> {
        match self {
            Self::BySigns(family) | Self::ByName(family) | Self::Assumed(family) => Some(family),
            Self::Unknown(_) => None,
        }
    }

    /// Returns why it is this one, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BySigns(_) => "its tokens, architecture and vocabulary",
            Self::ByName(_) => "its tokens and architecture; its name among several that fit",
            Self::Assumed(_) => "its tokens and architecture; the first of several that fit",
            Self::Unknown(_) => "no family fits its tokens, architecture and vocabulary",
        }
    }
}

/// Returns the family of a model.
pub fn recognise(evidence: &Evidence<'_>) -> Recognised {
    let fitting: Vec<&'static Family> =
        FAMILIES.iter().filter(|family| fits(family, evidence)).collect();
    let named = |family: &&'static Family| match_len(family, evidence.name).unwrap_or(0);
    let lengths: BTreeSet<usize> = fitting.iter().map(named).collect();
    let longest = lengths.last().copied().unwrap_or(0);
    match fitting[..] {
        [] => Recognised::Unknown(by_alias(evidence.name)),
        [family] => Recognised::BySigns(family),
        [first, ..] => match fitting.iter().find(|family| named(family) == longest) {
            Some(family) if longest > 0 => Recognised::ByName(family),
            _ => Recognised::Assumed(first),
        },
    }
}

fn fits(family: &Family, evidence: &Evidence<'_>) -> bool {
    let signs = &family.signs;
    signs.architectures.contains(&evidence.architecture)
        && signs.num_ids.is_none_or(|(least, most)| (least..=most).contains(&evidence.num_ids))
        && signs.tokens.iter().all(|token| (evidence.has_token)(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIGCODE: &[&str] =
        &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>", "<file_sep>"];
    const QWEN: &[&str] =
        &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"];
    const MISTRAL: &[&str] = &["[INST]", "[PREFIX]", "[SUFFIX]", "[MIDDLE]"];

    fn of(tokens: &[&str], architecture: &str, num_ids: u32, name: &str) -> Recognised {
        let has_token = |token: &str| tokens.contains(&token);
        recognise(&Evidence { has_token: &has_token, architecture, num_ids, name })
    }

    #[test]
    fn the_same_tokens_are_several_families() {
        let (llama, mistral) = ("LlamaForCausalLM", "MistralForCausalLM");
        let rows = [
            (BIGCODE, "Starcoder2ForCausalLM", 49_152, "starcoder2"),
            (BIGCODE, llama, 98_304, "mellum"),
            (BIGCODE, llama, 49_152, "granite-code"),
            (BIGCODE, llama, 96_539, "opencoder"),
            (BIGCODE, llama, 64_000, "yi-coder"),
            (BIGCODE, "GPTBigCodeForCausalLM", 49_152, "starcoder"),
            (BIGCODE, "StableLmForCausalLM", 50_280, "stable-code"),
            (QWEN, "Qwen3ForCausalLM", 151_669, "qwen3"),
            (MISTRAL, mistral, 32_768, "codestral"),
            (MISTRAL, llama, 32_768, "codestral"),
            (MISTRAL, mistral, 131_072, "devstral"),
        ];
        for (tokens, architecture, num_ids, expected) in rows {
            // A name that says otherwise changes nothing.
            for name in ["model", "Qwen/Qwen2.5-Coder-7B", "codestral-latest", "mellum"] {
                let found = of(tokens, architecture, num_ids, name);
                assert_eq!(found.family().map(|family| family.name), Some(expected), "{found:?}");
                assert!(matches!(found, Recognised::BySigns(_)), "{found:?}");
            }
        }
    }

    #[test]
    fn a_name_decides_only_between_families_that_fit() {
        let (moe, dense) = ("Qwen3MoeForCausalLM", "Qwen2ForCausalLM");
        let rows = [
            (moe, "Qwen/Qwen3-Coder-30B-A3B-Instruct", true, "qwen3-coder"),
            (moe, "Qwen/Qwen3-30B-A3B", true, "qwen3"),
            (moe, "model", false, "qwen3-coder"),
            (moe, "codestral", false, "qwen3-coder"),
            (dense, "Qwen/Qwen2.5-Coder-7B-Instruct", true, "qwen2.5-coder"),
            (dense, "Qwen/Qwen2.5-7B-Instruct", true, "qwen2.5"),
            (dense, "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", true, "qwen2.5"),
            (dense, "Qwen/QwQ-32B", true, "qwen2.5"),
            (dense, "model", false, "qwen2.5-coder"),
            (dense, "mellum", false, "qwen2.5-coder"),
        ];
        for (architecture, name, is_by_name, expected) in rows {
            let found = of(QWEN, architecture, 151_665, name);
            assert_eq!(found.family().map(|family| family.name), Some(expected), "{name}");
            assert_eq!(matches!(found, Recognised::ByName(_)), is_by_name, "{found:?}");
            assert_eq!(matches!(found, Recognised::Assumed(_)), !is_by_name, "{found:?}");
        }
    }

    #[test]
    fn a_name_without_the_tokens_proves_nothing() {
        let found = of(&[], "Qwen2ForCausalLM", 151_665, "Qwen/Qwen2.5-Coder-7B");
        assert_eq!(found.family(), None);
        let Recognised::Unknown(Some(suggested)) = found else { panic!("{found:?}") };
        assert_eq!(suggested.name, "qwen2.5-coder");
        let partly = of(&QWEN[..2], "Qwen2ForCausalLM", 151_665, "model");
        assert_eq!(partly, Recognised::Unknown(None));
    }
}
