//! A family's facts with the ids of one tokenizer, and the order of a prompt's segments.

use crate::prompt::family::{FimFamily, Layout, Order};

/// Why a family does not fit a tokenizer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A sentinel is no single token.
    #[error(
        "FIM family `{family}` needs the token `{token}`, which the model's tokenizer does not have"
    )]
    MissingToken {
        /// The family.
        family: &'static str,
        /// The sentinel.
        token: &'static str,
    },
}

/// One piece of a prompt. Only [`Segment::Special`] is a control token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// A control token, by id.
    Special(u32),
    /// Text, encoded as plain text.
    Ids(Origin, &'a [u32]),
}

/// Where a span of a prompt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A sentinel or a line that we wrote.
    Template,
    /// Another file.
    Context,
    /// Before the cursor.
    Prefix,
    /// After the cursor.
    Suffix,
    /// The cursor's line, behind the middle sentinel.
    Typed,
}

/// A file shown beside the one being edited, cut to its share already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextFile {
    /// Ids of its path line.
    pub header: Vec<u32>,
    /// Ids of its text.
    pub ids: Vec<u32>,
}

impl ContextFile {
    /// Returns the tokens that it takes in a prompt, its separator included.
    pub fn num_tokens(&self) -> usize {
        1 + self.header.len() + self.ids.len()
    }
}

/// The texts around the gap, encoded and cut.
#[derive(Clone, Copy, Debug)]
pub struct GapIds<'a> {
    /// Before the cursor, without what `typed` holds.
    pub prefix: &'a [u32],
    /// After the cursor.
    pub suffix: &'a [u32],
    /// The cursor's line up to the cursor, in [`Layout::LineStart`]; else empty.
    pub typed: &'a [u32],
}

/// The sentinels of a prompt with several files, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepoIds {
    /// Comes before the repository's name.
    pub repo_name: u32,
    /// Comes before each file's path.
    pub file_sep: u32,
}

/// How one tokenizer is asked to fill a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FimTemplate {
    prefix: u32,
    suffix: u32,
    middle: u32,
    order: Order,
    layout: Layout,
    suffix_tokens_max: usize,
    repo: Option<RepoIds>,
    stop_token_ids: Vec<u32>,
    stop_texts: Vec<String>,
}

impl FimTemplate {
    /// Looks up the family's tokens.
    ///
    /// # Errors
    /// [`TemplateError::MissingToken`] for a sentinel that is no token; stop tokens may be missing.
    pub fn resolve(
        family: &FimFamily,
        token_id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, TemplateError> {
        let need = |token: &'static str| {
            token_id(token).ok_or(TemplateError::MissingToken { family: family.name, token })
        };
        let repo = match family.repo {
            Some(form) => {
                Some(RepoIds { repo_name: need(form.repo_name)?, file_sep: need(form.file_sep)? })
            }
            None => None,
        };
        Ok(Self {
            prefix: need(family.prefix)?,
            suffix: need(family.suffix)?,
            middle: need(family.middle)?,
            order: family.order,
            layout: family.layout,
            suffix_tokens_max: family.suffix_tokens_max.unwrap_or(usize::MAX),
            repo,
            stop_token_ids: family.stop_tokens.iter().filter_map(|token| token_id(token)).collect(),
            stop_texts: family.stop_texts.iter().map(|&text| text.to_owned()).collect(),
        })
    }

    /// Puts the typed part of the line elsewhere than the family would.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Returns where the typed part of the cursor's line goes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the most tokens of a suffix that make sense.
    pub fn suffix_tokens_max(&self) -> usize {
        self.suffix_tokens_max
    }

    /// Returns the sentinels for several files, where the family has them.
    pub fn repo(&self) -> Option<RepoIds> {
        self.repo
    }

    /// Returns the ids that end an answer.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stop_token_ids
    }

    /// Returns the texts that end an answer where the request names none.
    pub fn stop_texts(&self) -> &[String] {
        &self.stop_texts
    }

    /// Returns the segments of a gap in one file: three sentinels around the texts.
    pub fn gap<'a>(&self, ids: GapIds<'a>) -> [Segment<'a>; 6] {
        let before = [Segment::Special(self.prefix), Segment::Ids(Origin::Prefix, ids.prefix)];
        let after = [Segment::Special(self.suffix), Segment::Ids(Origin::Suffix, ids.suffix)];
        let ([a, b], [c, d]) = match self.order {
            Order::Psm => (before, after),
            Order::Spm => (after, before),
        };
        [a, b, c, d, Segment::Special(self.middle), Segment::Ids(Origin::Typed, ids.typed)]
    }
}

/// Returns the segments that come before the gap when other files are shown; `name` and `current` are the ids of the
/// lines that name the repository and the file being edited.
pub fn repository<'a>(
    repo: RepoIds,
    name: &'a [u32],
    files: &'a [ContextFile],
    current: &'a [u32],
) -> Vec<Segment<'a>> {
    let template = |ids| Segment::Ids(Origin::Template, ids);
    let mut segments = vec![Segment::Special(repo.repo_name), template(name)];
    for file in files {
        segments.extend([Segment::Special(repo.file_sep), template(&file.header)]);
        segments.push(Segment::Ids(Origin::Context, &file.ids));
    }
    segments.extend([Segment::Special(repo.file_sep), template(current)]);
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::family::{FAMILIES, by_name};

    fn id_of(token: &str) -> Option<u32> {
        token.starts_with("<|").then(|| token.bytes().map(u32::from).sum())
    }

    #[test]
    fn lays_a_gap_out_in_the_familys_order() {
        let ids = GapIds { prefix: &[1, 2], suffix: &[3], typed: &[4] };
        let family = by_name("qwen2.5-coder").unwrap();
        let special = |token| Segment::Special(id_of(token).unwrap());
        let (before, after, middle) =
            (special("<|fim_prefix|>"), special("<|fim_suffix|>"), special("<|fim_middle|>"));
        let psm = FimTemplate::resolve(family, id_of).unwrap();
        let expected = [
            before,
            Segment::Ids(Origin::Prefix, &[1, 2]),
            after,
            Segment::Ids(Origin::Suffix, &[3]),
            middle,
            Segment::Ids(Origin::Typed, &[4]),
        ];
        assert_eq!(psm.gap(ids), expected);
        let spm = FimTemplate::resolve(&FimFamily { order: Order::Spm, ..*family }, id_of).unwrap();
        let expected = [
            after,
            Segment::Ids(Origin::Suffix, &[3]),
            before,
            Segment::Ids(Origin::Prefix, &[1, 2]),
            middle,
            Segment::Ids(Origin::Typed, &[4]),
        ];
        assert_eq!(spm.gap(ids), expected);
    }

    #[test]
    fn every_family_needs_its_sentinels_but_not_its_stops() {
        for family in FAMILIES {
            for missing in [family.prefix, family.suffix, family.middle] {
                let result = FimTemplate::resolve(family, |token| (token != missing).then_some(7));
                let expected = TemplateError::MissingToken { family: family.name, token: missing };
                assert_eq!(result, Err(expected));
            }
            let lacks_stop = |token: &str| (token != "<|im_end|>").then_some(7);
            assert!(FimTemplate::resolve(family, lacks_stop).is_ok());
        }
    }
}
