//! Model families as data: how each is recognised, how it wants a gap to be asked, and what ends its answer.
//!
//! [`FAMILIES`] has a row a family, [`recognise()`] picks one by what a model proves of itself.

mod aliases;
mod recognise;
mod spelled;
mod table;
mod written;

pub use aliases::by_alias;
pub use recognise::{Evidence, Recognised, recognise};
pub use spelled::{SpelledGap, spelled_gap};
pub use table::FAMILIES;
pub use written::{broken_up, control_texts, written_gap};

use serde::Serialize;

/// Which side of the gap comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Prefix, suffix, middle.
    Psm,
    /// Suffix, prefix, middle.
    Spm,
}

impl Order {
    /// Returns the word for it.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Psm => "psm",
            Self::Spm => "spm",
        }
    }
}

/// Where the typed part of the cursor's line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// It ends the prefix, as the model cards show.
    Plain,
    /// It follows the middle sentinel, as the beginning of the answer. A keystroke then adds a token at the very end
    /// of the prompt, so that prefix and suffix stay cached; `llama.vim` asks Qwen2.5-Coder in the same way.
    LineStart,
}

/// What stands before a file's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileMark<'a> {
    /// A control token.
    Token(&'a str),
    /// Words at the beginning of a line; an empty line ends the file.
    Text(&'a str),
}

/// Where other files are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesPlace {
    /// Before the sentinels of the gap, and the name of the edited file too.
    BeforeGap,
    /// Before the sentinels of the gap, with the mark of the edited file; its path begins the prefix.
    AroundPrefixSentinel,
    /// Behind the sentinel of the prefix, as the beginning of it.
    InPrefix,
}

/// How other files are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FilesForm<'a> {
    /// Comes before the repository's name, where that is shown, and what ends the name.
    pub repo_name: Option<(&'a str, &'a str)>,
    /// Comes before each file's path, which a line end follows.
    pub file: FileMark<'a>,
    /// Where all that goes.
    pub place: FilesPlace,
}

/// How a gap is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fim<'a> {
    /// Comes before everything.
    pub bos: Option<&'a str>,
    /// Sentinel before the prefix.
    pub prefix: &'a str,
    /// Sentinel before the suffix.
    pub suffix: &'a str,
    /// Sentinel before the answer; Codestral has none, its answer goes on from the prefix.
    pub middle: Option<&'a str>,
    /// Which side comes first, as it was trained.
    pub order: Order,
    /// The layout that serves it best.
    pub layout: Layout,
    /// Most tokens of the text after the cursor, where it was trained on short ones only.
    pub suffix_tokens_max: Option<usize>,
    /// Its form for several files, where it was trained on one.
    pub files: Option<FilesForm<'a>>,
    /// Tokens that end an answer, besides those that the model's configuration names; those that its tokenizer lacks
    /// are passed over.
    pub stop_tokens: &'a [&'a str],
    /// Texts that end an answer where the request names none.
    pub stop_texts: &'a [&'a str],
}

/// Whether a family was trained to fill gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Training {
    /// It was, in this form.
    Fim(Fim<'static>),
    /// It was not, whatever tokens it has; why that is known.
    Without(&'static str),
}

/// What a model of the family has that others lack. All that is said must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Signs {
    /// Tokens of its tokenizer, control tokens each.
    pub tokens: &'static [&'static str],
    /// As `architectures` of `config.json` names it. GGUF files of Mistral's models say Llama.
    pub architectures: &'static [&'static str],
    /// Ids of its tokenizer, from and to.
    pub num_ids: Option<(u32, u32)>,
    /// Words that its models' names have beside the family's own, in small letters; they decide between families whose
    /// other signs are the same.
    pub names: &'static [&'static str],
}

/// Where the form of a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// In the files of its instruct models (`tokenizer_config.json`, `chat_template.jinja`, or a GGUF file's metadata).
    OfCheckpoint,
    /// There are base models only.
    None,
}

/// What the makers advise for conversations. Gaps are filled greedily where a request says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChatSampling {
    /// Temperature.
    pub temperature: f32,
    /// Share of the likeliest tokens.
    pub top_p: Option<f32>,
    /// Number of the likeliest tokens.
    pub top_k: Option<u32>,
}

/// Facts about one family.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Family {
    /// Name in the configuration.
    pub name: &'static str,
    /// Which published models it has.
    pub models: &'static str,
    /// How it is recognised.
    pub signs: Signs,
    /// Whether and how it fills gaps.
    pub training: Training,
    /// Where the form of a conversation stands.
    pub chat_template: ChatTemplate,
    /// What is advised for conversations, where the card says.
    pub chat_sampling: Option<ChatSampling>,
    /// Longest context of its smallest model, as published.
    pub context_tokens: u32,
    /// Licence of the weights.
    pub licence: &'static str,
    /// Whether the hub asks to accept the licence first; `None` where we do not know.
    pub is_gated: Option<bool>,
    /// Where these facts are from.
    pub source: &'static str,
}

impl Family {
    /// Returns how it fills gaps, if it does.
    pub fn fim(&self) -> Option<&Fim<'static>> {
        match &self.training {
            Training::Fim(fim) => Some(fim),
            Training::Without(_) => None,
        }
    }
}

/// Returns the family of that name.
pub fn by_name(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}

/// Returns how the family of that name fills gaps.
pub fn fim_by_name(name: &str) -> Option<&'static Fim<'static>> {
    by_name(name).and_then(Family::fim)
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
    fn a_familys_own_sentinels_end_its_answers() {
        for family in FAMILIES {
            let Some(fim) = family.fim() else { continue };
            let mut sentinels = vec![fim.prefix, fim.suffix];
            sentinels.extend(fim.middle);
            let mut texts = Vec::new();
            if let Some(files) = fim.files {
                sentinels.extend(files.repo_name.map(|(token, _)| token));
                match files.file {
                    FileMark::Token(token) => sentinels.push(token),
                    FileMark::Text(text) => texts.push(format!("\n{text}")),
                }
            }
            for sentinel in sentinels {
                assert!(fim.stop_tokens.contains(&sentinel), "{}: {sentinel}", family.name);
            }
            for text in texts {
                assert!(fim.stop_texts.contains(&text.as_str()), "{}: {text}", family.name);
            }
        }
    }

    #[test]
    fn a_familys_sentinels_are_among_its_signs() {
        for family in FAMILIES {
            let Some(fim) = family.fim() else { continue };
            for sentinel in [Some(fim.prefix), Some(fim.suffix), fim.middle].into_iter().flatten() {
                assert!(family.signs.tokens.contains(&sentinel), "{}: {sentinel}", family.name);
            }
            assert!(!family.signs.architectures.is_empty(), "{}", family.name);
        }
    }
}
