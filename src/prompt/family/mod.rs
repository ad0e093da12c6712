//! The table of model families: how each wants a gap to be asked, and what ends its answer.

/// Which side of the gap comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Prefix, suffix, middle.
    Psm,
    /// Suffix, prefix, middle.
    Spm,
}

/// Where the typed part of the cursor's line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// It ends the prefix, as the model cards show.
    Plain,
    /// It follows the middle sentinel, as the beginning of the answer. A keystroke then adds a token at the very end
    /// of the prompt, so that prefix and suffix stay cached; `llama.vim` asks Qwen2.5-Coder in the same way.
    LineStart,
}

/// The sentinels of a prompt with several files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepoForm {
    /// Comes before the repository's name.
    pub repo_name: &'static str,
    /// Comes before each file's path.
    pub file_sep: &'static str,
}

/// Facts about one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FimFamily {
    /// Name in the configuration.
    pub name: &'static str,
    /// Sentinel before the prefix.
    pub prefix: &'static str,
    /// Sentinel before the suffix.
    pub suffix: &'static str,
    /// Sentinel before the answer.
    pub middle: &'static str,
    /// Which side comes first.
    pub order: Order,
    /// The layout that serves it best.
    pub layout: Layout,
    /// Most tokens of the text after the cursor, where it was trained on short ones only.
    pub suffix_tokens_max: Option<usize>,
    /// Its form for several files, where it was trained on one.
    pub repo: Option<RepoForm>,
    /// Tokens that end an answer, besides those that the model's configuration names; those that its tokenizer lacks
    /// are passed over.
    pub stop_tokens: &'static [&'static str],
    /// Texts that end an answer where the request names none.
    pub stop_texts: &'static [&'static str],
}

/// All families, the most particular first: recognition takes the first whose sentinels the tokenizer has.
pub const FAMILIES: &[FimFamily] = &[QWEN2_5_CODER, DEMO];

/// Qwen2.5-Coder and Qwen3-Coder.
///
/// # Source
/// Qwen2.5-Coder's model card and technical report (arXiv 2409.12186), §3.2.
const QWEN2_5_CODER: FimFamily = FimFamily {
    name: "qwen2.5-coder",
    prefix: "<|fim_prefix|>",
    suffix: "<|fim_suffix|>",
    middle: "<|fim_middle|>",
    order: Order::Psm,
    layout: Layout::LineStart,
    suffix_tokens_max: None,
    repo: Some(RepoForm { repo_name: "<|repo_name|>", file_sep: "<|file_sep|>" }),
    stop_tokens: &[
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_start|>",
        "<|fim_prefix|>",
        "<|fim_middle|>",
        "<|fim_suffix|>",
        "<|fim_pad|>",
        "<|repo_name|>",
        "<|file_sep|>",
    ],
    stop_texts: &[],
};

/// The embedded demo model: Qwen's sentinels, trained on one file at a time and on suffixes of at most 96 tokens,
/// most of them under 28 (`models/demo/README.md`).
///
/// It is too small for more than a line, so that a line is what it gives where the request says nothing else.
const DEMO: FimFamily = FimFamily {
    name: "lacuna-demo",
    suffix_tokens_max: Some(32),
    repo: None,
    stop_texts: &["\n"],
    ..QWEN2_5_CODER
};

/// Returns the family of that name.
pub fn by_name(name: &str) -> Option<&'static FimFamily> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// Returns the first family whose three sentinels the tokenizer knows.
pub fn recognise(has_token: impl Fn(&str) -> bool) -> Option<&'static FimFamily> {
    FAMILIES
        .iter()
        .find(|family| [family.prefix, family.suffix, family.middle].into_iter().all(&has_token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for family in FAMILIES {
            assert_eq!(by_name(family.name), Some(family));
        }
        assert_eq!(by_name("no-such-family"), None);
    }

    #[test]
    fn recognises_by_all_three_sentinels() {
        let has_qwen = |token: &str| token.starts_with("<|fim_");
        assert_eq!(recognise(has_qwen).map(|family| family.name), Some("qwen2.5-coder"));
        assert_eq!(recognise(|token| token == "<|fim_prefix|>"), None);
    }

    #[test]
    fn a_familys_own_sentinels_end_its_answers() {
        for family in FAMILIES {
            let sentinels = [family.prefix, family.suffix, family.middle];
            let of_repo = family.repo.map(|repo| [repo.repo_name, repo.file_sep]);
            for sentinel in sentinels.into_iter().chain(of_repo.into_iter().flatten()) {
                assert!(family.stop_tokens.contains(&sentinel), "{}: {sentinel}", family.name);
            }
        }
    }
}
