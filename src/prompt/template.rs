//! A family's facts with the ids of one tokenizer, and the order of a prompt's segments.

use std::borrow::Cow;

use crate::{
    completion::Comments,
    prompt::{
        context::commented,
        family::{FileMark, FilesForm, FilesPlace, Fim, Layout, Order},
    },
};

/// Why a form does not fit a tokenizer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A sentinel is no single token.
    #[error(
        "the FIM form `{form}` needs `{token}` as one token, which the model's tokenizer does not have"
    )]
    MissingToken {
        /// The family, or that the form was given by hand.
        form: String,
        /// The sentinel.
        token: String,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextFile {
    /// Ids of its path line.
    pub header: Vec<u32>,
    /// Ids of its text.
    pub ids: Vec<u32>,
    /// Ids of what ends it.
    pub footer: Vec<u32>,
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

/// Other files and the lines that name things.
#[derive(Clone, Copy, Debug)]
pub struct FilesIds<'a> {
    /// The line that names the repository; empty where the form has none.
    pub name: &'a [u32],
    /// Other files, in order.
    pub files: &'a [ContextFile],
    /// The line that names the file being edited.
    pub current: &'a [u32],
}

/// A family's form for several files, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesTemplate {
    repo_name: Option<u32>,
    file: Option<u32>,
    place: FilesPlace,
    name_end: String,
    mark: String,
    /// How a file's lines become comments; `None` where they stand as they are.
    comments: Option<Comments>,
}

impl FilesTemplate {
    fn resolve(
        form: &FilesForm<'_>,
        need: impl Fn(&str) -> Result<u32, TemplateError>,
    ) -> Result<Self, TemplateError> {
        let (file, mark) = match form.file {
            FileMark::Token(token) => (Some(need(token)?), ""),
            FileMark::Text(text) => (None, text),
        };
        Ok(Self {
            repo_name: form.repo_name.map(|(token, _)| need(token)).transpose()?,
            file,
            place: form.place,
            name_end: form.repo_name.map_or("", |(_, end)| end).to_owned(),
            mark: mark.to_owned(),
            comments: None,
        })
    }

    /// Returns the form for families that were trained on one file: others stand before its text as comments.
    pub fn in_comments(comments: Comments) -> Self {
        Self {
            repo_name: None,
            file: None,
            place: FilesPlace::InPrefix,
            name_end: String::new(),
            mark: String::new(),
            comments: Some(comments),
        }
    }

    /// Returns a file's text as it is shown.
    pub fn content_text<'t>(&self, content: &'t str) -> Cow<'t, str> {
        let Some(comments) = self.comments else { return Cow::Borrowed(content) };
        Cow::Owned(content.lines().map(|line| commented(line, comments) + "\n").collect())
    }

    /// Returns the text that names a repository; `None` where the form has no place for it.
    pub fn name_text(&self, name: &str) -> Option<String> {
        self.repo_name.map(|_| format!("{name}{}", self.name_end))
    }

    /// Returns the text of a path's line.
    pub fn header_text(&self, path: &str) -> String {
        let line = format!("{}{path}", self.mark);
        self.comments.map_or_else(|| line.clone(), |comments| commented(&line, comments)) + "\n"
    }

    /// Returns the text that ends a file.
    pub fn footer_text(&self) -> &'static str {
        // What is a token needs no room around it.
        match (self.file, self.comments) {
            (Some(_), _) => "",
            (None, None) => "\n\n",
            (None, Some(_)) => "\n",
        }
    }

    /// Returns whether a name or other files begin the prefix.
    pub fn begins_prefix(&self) -> bool {
        match self.place {
            FilesPlace::BeforeGap => false,
            FilesPlace::AroundPrefixSentinel | FilesPlace::InPrefix => true,
        }
    }

    /// Returns the control tokens that show `num_files` files, the one being edited among them.
    pub fn num_sentinels(&self, num_files: usize) -> usize {
        usize::from(self.repo_name.is_some()) + if self.file.is_some() { num_files } else { 0 }
    }

    /// Returns the other files, up to the mark of the one being edited, and what names that one.
    fn segments<'a>(&self, shown: FilesIds<'a>) -> (Vec<Segment<'a>>, Segment<'a>) {
        let template = |ids| Segment::Ids(Origin::Template, ids);
        let mark = || self.file.map(Segment::Special);
        let mut segments = Vec::from_iter(self.repo_name.map(Segment::Special));
        segments.push(template(shown.name));
        for file in shown.files {
            segments.extend(mark());
            segments.push(template(&file.header));
            segments.extend([Segment::Ids(Origin::Context, &file.ids), template(&file.footer)]);
        }
        segments.extend(mark());
        (segments, template(shown.current))
    }
}

/// How one tokenizer is asked to fill a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FimTemplate {
    bos: Option<u32>,
    prefix: u32,
    suffix: u32,
    middle: Option<u32>,
    order: Order,
    layout: Layout,
    suffix_tokens_max: usize,
    files: Option<FilesTemplate>,
    stop_token_ids: Vec<u32>,
    stop_texts: Vec<String>,
}

impl FimTemplate {
    /// Looks up the form's tokens; `name` is the family's, for errors.
    ///
    /// # Errors
    /// [`TemplateError::MissingToken`] for a sentinel that is no token; stop tokens may be missing.
    pub fn resolve(
        name: &str,
        fim: &Fim<'_>,
        token_id: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, TemplateError> {
        let need = |token: &str| {
            let (form, token) = (name.to_owned(), token.to_owned());
            token_id(&token).ok_or(TemplateError::MissingToken { form, token })
        };
        Ok(Self {
            bos: fim.bos.map(need).transpose()?,
            prefix: need(fim.prefix)?,
            suffix: need(fim.suffix)?,
            middle: fim.middle.map(need).transpose()?,
            order: fim.order,
            layout: fim.layout,
            suffix_tokens_max: fim.suffix_tokens_max.unwrap_or(usize::MAX),
            files: fim.files.map(|form| FilesTemplate::resolve(&form, need)).transpose()?,
            stop_token_ids: fim.stop_tokens.iter().filter_map(|token| token_id(token)).collect(),
            stop_texts: fim.stop_texts.iter().map(|&text| text.to_owned()).collect(),
        })
    }

    /// Puts the typed part of the line elsewhere than the family would.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// Returns what comes before everything.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos
    }

    /// Returns where the typed part of the cursor's line goes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns the most tokens of a suffix that make sense.
    pub fn suffix_tokens_max(&self) -> usize {
        self.suffix_tokens_max
    }

    /// Returns the form for several files, where the family has one.
    pub fn files(&self) -> Option<&FilesTemplate> {
        self.files.as_ref()
    }

    /// Returns the ids that end an answer.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stop_token_ids
    }

    /// Returns the texts that end an answer where the request names none.
    pub fn stop_texts(&self) -> &[String] {
        &self.stop_texts
    }

    /// Returns the control tokens around a gap.
    pub fn num_sentinels(&self) -> usize {
        2 + usize::from(self.bos.is_some()) + usize::from(self.middle.is_some())
    }

    /// Returns the segments of a gap, and of other files where there are any to show.
    pub fn segments<'a>(
        &self,
        shown: Option<(&FilesTemplate, FilesIds<'a>)>,
        ids: GapIds<'a>,
    ) -> Vec<Segment<'a>> {
        let mut segments = Vec::from_iter(self.bos.map(Segment::Special));
        let mut before = vec![Segment::Special(self.prefix)];
        if let Some((form, shown)) = shown {
            let (others, current) = form.segments(shown);
            match form.place {
                FilesPlace::BeforeGap => segments.extend(others.into_iter().chain([current])),
                FilesPlace::InPrefix => before.extend(others.into_iter().chain([current])),
                FilesPlace::AroundPrefixSentinel => {
                    segments.extend(others);
                    before.push(current);
                }
            }
        }
        before.push(Segment::Ids(Origin::Prefix, ids.prefix));
        let after = [Segment::Special(self.suffix), Segment::Ids(Origin::Suffix, ids.suffix)];
        match self.order {
            Order::Psm => segments.extend(before.into_iter().chain(after)),
            Order::Spm => segments.extend(after.into_iter().chain(before)),
        }
        segments.extend(self.middle.map(Segment::Special));
        segments.push(Segment::Ids(Origin::Typed, ids.typed));
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::family::{FAMILIES, fim_by_name};

    fn id_of(token: &str) -> u32 {
        token.bytes().map(u32::from).sum()
    }

    fn template(name: &str) -> FimTemplate {
        FimTemplate::resolve(name, fim_by_name(name).unwrap(), |token| Some(id_of(token))).unwrap()
    }

    /// Writes the segments down, ids of texts as they are: 1 and 2 are the prefix, 3 the suffix, 4 is typed, 5 and 6 name
    /// the repository and the edited file, 7, 8 and 9 are a file's header, text and end.
    fn written(name: &str, shows_files: bool) -> String {
        let template = template(name);
        let fim = fim_by_name(name).unwrap();
        let mut tokens = vec![fim.prefix, fim.suffix];
        tokens.extend(fim.bos);
        tokens.extend(fim.middle);
        tokens.extend(fim.files.and_then(|files| files.repo_name).map(|(token, _)| token));
        if let Some(FileMark::Token(token)) = fim.files.map(|files| files.file) {
            tokens.push(token);
        }
        let file = ContextFile { header: vec![7], ids: vec![8], footer: vec![9] };
        let files = [file];
        let shown = FilesIds { name: &[5], files: &files, current: &[6] };
        let ids = GapIds { prefix: &[1, 2], suffix: &[3], typed: &[4] };
        let form = template.files().filter(|_| shows_files);
        let segments = template.segments(form.map(|form| (form, shown)), ids);
        let word = |segment: &Segment<'_>| match segment {
            Segment::Special(id) => {
                (*tokens.iter().find(|token| id_of(token) == *id).unwrap()).to_owned()
            }
            Segment::Ids(_, ids) => {
                let ids: Vec<String> = ids.iter().map(|id| format!(" {id} ")).collect();
                ids.concat()
            }
        };
        segments.iter().map(word).collect()
    }

    #[test]
    fn lays_a_gap_out_as_each_family_was_trained() {
        let bigcode = "<fim_prefix> 1  2 <fim_suffix> 3 <fim_middle> 4 ";
        let rows = [
            ("qwen2.5-coder", "<|fim_prefix|> 1  2 <|fim_suffix|> 3 <|fim_middle|> 4 "),
            ("qwen3-coder", "<|fim_prefix|> 1  2 <|fim_suffix|> 3 <|fim_middle|> 4 "),
            ("codestral", "<s>[SUFFIX] 3 [PREFIX] 1  2  4 "),
            (
                "deepseek-coder",
                "<｜begin▁of▁sentence｜><｜fim▁begin｜> 1  2 <｜fim▁hole｜> 3 <｜fim▁end｜> 4 ",
            ),
            ("codellama", "<s>▁<PRE> 1  2 ▁<SUF> 3 ▁<MID> 4 "),
            ("codegemma", "<bos><|fim_prefix|> 1  2 <|fim_suffix|> 3 <|fim_middle|> 4 "),
            ("starcoder2", bigcode),
            ("starcoder", bigcode),
            ("santacoder", "<fim-prefix> 1  2 <fim-suffix> 3 <fim-middle> 4 "),
            ("granite-code", bigcode),
            ("stable-code", bigcode),
            ("mellum", "<fim_suffix> 3 <fim_prefix> 1  2 <fim_middle> 4 "),
            ("seed-coder", "<[fim-suffix]> 3 <[fim-prefix]> 1  2 <[fim-middle]> 4 "),
        ];
        for (name, expected) in rows {
            assert_eq!(written(name, false), expected, "{name}");
        }
    }

    #[test]
    fn shows_other_files_as_each_family_was_trained() {
        let rows = [
            (
                "qwen2.5-coder",
                "<|repo_name|> 5 <|file_sep|> 7  8  9 <|file_sep|> 6 <|fim_prefix|> 1  2 <|fim_suffix|> 3 <|fim_middle|> 4 ",
            ),
            (
                "starcoder2",
                "<repo_name> 5 <file_sep> 7  8  9 <file_sep><fim_prefix> 6  1  2 <fim_suffix> 3 <fim_middle> 4 ",
            ),
            (
                "mellum",
                " 5 <filename> 7  8  9 <filename> 6 <fim_suffix> 3 <fim_prefix> 1  2 <fim_middle> 4 ",
            ),
            ("codestral", "<s>[SUFFIX] 3 [PREFIX] 5  7  8  9  6  1  2  4 "),
        ];
        for (name, expected) in rows {
            assert_eq!(written(name, true), expected, "{name}");
        }
        for family in FAMILIES {
            let has_form = family.fim().is_some_and(|fim| fim.files.is_some());
            let is_tested = rows.iter().any(|row| row.0 == family.name);
            assert!(!has_form || is_tested || family.name == "qwen3-coder", "{}", family.name);
        }
    }

    #[test]
    fn writes_names_and_paths_as_each_family_was_trained() {
        let rows = [
            ("qwen2.5-coder", Some("shop\n"), "src/a.py\n", ""),
            ("starcoder2", Some("shop"), "src/a.py\n", ""),
            ("mellum", None, "src/a.py\n", ""),
            ("codestral", None, "+++++ src/a.py\n", "\n\n"),
        ];
        for (name, repository, path, end) in rows {
            let template = template(name);
            let files = template.files().unwrap();
            assert_eq!(files.name_text("shop").as_deref(), repository, "{name}");
            assert_eq!(files.header_text("src/a.py"), path, "{name}");
            assert_eq!(files.footer_text(), end, "{name}");
        }
    }

    #[test]
    fn every_family_needs_its_sentinels_but_not_its_stops() {
        for family in FAMILIES {
            let Some(fim) = family.fim() else { continue };
            for missing in [Some(fim.prefix), Some(fim.suffix), fim.middle, fim.bos] {
                let Some(missing) = missing else { continue };
                let lacks = |token: &str| (token != missing).then_some(7);
                let (form, token) = (family.name.to_owned(), missing.to_owned());
                let expected = TemplateError::MissingToken { form, token };
                assert_eq!(FimTemplate::resolve(family.name, fim, lacks), Err(expected));
            }
            let lacks_stop = |token: &str| (token != fim.stop_tokens[0]).then_some(7);
            let is_needed = fim.middle == Some(fim.stop_tokens[0]);
            assert!(is_needed || FimTemplate::resolve(family.name, fim, lacks_stop).is_ok());
        }
    }
}
