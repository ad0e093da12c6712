//! From the texts of a request to the token ids of a prompt.

use std::{borrow::Cow, ops::Range};

use crate::{
    completion::{ContextItem, Language},
    prompt::{
        budget::{self, Demand, Shares},
        builder::window::{Before, Room},
        chat::ChatPiece,
        context::{self, OutlineCache},
        family::Layout,
        template::{ContextFile, FilesIds, FilesTemplate, FimTemplate, GapIds, Origin, Segment},
    },
    tokenizer::{Tokenizer, TokenizerError},
};

mod window;

/// Why no prompt could be built.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The answer would leave no room for a prompt.
    #[error(
        "`max_tokens` leaves {left} of {context} context tokens for the prompt, at least {least} are needed"
    )]
    NoRoom {
        /// What is left.
        left: usize,
        /// The model's context.
        context: usize,
        /// The least that makes sense.
        least: usize,
    },
    /// A text that may not be cut is longer than the context.
    #[error("the prompt has {num_tokens} tokens or more, at most {limit} fit beside the answer")]
    TooLong {
        /// Its tokens, or fewer where a glance at its length was enough.
        num_tokens: usize,
        /// What fits.
        limit: usize,
    },
    /// The tokenizer failed.
    #[error("the tokenizer failed")]
    Tokenizer(#[from] TokenizerError),
}

/// What is around the cursor.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    /// Text before the cursor.
    pub prefix: &'a str,
    /// Text after the cursor.
    pub suffix: &'a str,
    /// Path of the file.
    pub file_name: Option<&'a str>,
    /// Name of the repository or project.
    pub repository: Option<&'a str>,
    /// Language of the file: how comments are written.
    pub language: Option<Language>,
    /// Other files, the most useful first.
    pub context: &'a [ContextItem],
}

/// Token ids and where each span came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// What the model reads.
    pub token_ids: Vec<u32>,
    /// In order, without gaps; empty spans are left out.
    pub spans: Vec<(Origin, Range<usize>)>,
    /// Tokens of the other files that were looked at: of the first ones, until their share was full.
    pub num_context_tokens_sent: usize,
    /// Tokens of the other files in the prompt.
    pub num_context_tokens_used: usize,
}

impl Prompt {
    fn extend(&mut self, segments: &[Segment<'_>]) {
        for segment in segments {
            match segment {
                Segment::Special(id) => self.push(Origin::Template, &[*id]),
                Segment::Ids(origin, ids) => self.push(*origin, ids),
            }
        }
    }

    fn push(&mut self, origin: Origin, ids: &[u32]) {
        let start = self.token_ids.len();
        self.token_ids.extend_from_slice(ids);
        let end = self.token_ids.len();
        match self.spans.last_mut() {
            _ if start == end => {}
            Some((last, range)) if *last == origin => range.end = end,
            _ => self.spans.push((origin, start..end)),
        }
    }
}

/// Fewer tokens than this around a cursor say nothing.
const GAP_TOKENS_MIN: usize = 16;

/// Tokens by which the place of the typed part of a line grows. Few lines of code are longer, so that most are typed
/// from end to end without moving a border before them; it costs as many tokens of the other texts where those are cut.
const LINE_TOKENS: usize = 64;

/// Returns the tokens kept for what is typed on the cursor's line and may still be typed. All borders before it depend
/// on what is left, and one that moved at a keystroke would have everything behind it computed anew.
fn reserved_for_line(num_typed: usize, layout: Layout, room: usize) -> usize {
    match layout {
        Layout::Plain => num_typed,
        Layout::LineStart => {
            let whole = (num_typed / LINE_TOKENS + 1) * LINE_TOKENS;
            num_typed.max(whole.min(room / 4))
        }
    }
}

/// Builds prompts for one model.
#[derive(Clone, Copy, Debug)]
pub struct PromptBuilder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Tokens of prompt and answer together.
    pub context_tokens_max: usize,
    /// How a prompt is divided.
    pub shares: Shares,
    /// Where outlines of cut files are kept.
    pub outlines: Option<&'a OutlineCache>,
}

impl PromptBuilder<'_> {
    /// Builds the prompt for a gap, cutting what does not fit beside `max_tokens` of an answer.
    ///
    /// # Errors
    /// [`PromptError::NoRoom`]; [`PromptError::Tokenizer`].
    pub fn gap(
        &self,
        template: &FimTemplate,
        gap: Gap<'_>,
        max_tokens: usize,
    ) -> Result<Prompt, PromptError> {
        let room = self.room(max_tokens, GAP_TOKENS_MIN)?;
        let block = budget::block_tokens(self.context_tokens_max);
        let (before, typed) = self.split_typed(template.layout(), gap.prefix, room)?;
        let reserved = reserved_for_line(typed.len(), template.layout(), room);
        let total = room - reserved - template.num_sentinels();
        let suffix_tokens = total.min(template.suffix_tokens_max());
        let suffix_end = budget::head_worth_encoding(gap.suffix, suffix_tokens);
        let suffix = self.tokenizer.encode(&gap.suffix[..suffix_end])?;
        let in_comments =
            || Cow::Owned(FilesTemplate::in_comments(context::comments_of(gap.language)));
        let form = template.files().map_or_else(in_comments, Cow::Borrowed);
        let shown = Shown::encode(self, &form, &gap, total)?;
        let start = budget::tail_worth_encoding(before, self.context_tokens_max);
        let before = &before[start..];
        let prefix = if form.begins_prefix() && !shown.files.is_empty() {
            self.tokenizer.encode(before)?
        } else {
            self.encode_document(before)?
        };
        let demand = Demand {
            prefix: prefix.len(),
            suffix: suffix.len().min(suffix_tokens),
            context: shown.num_tokens(),
        };
        let budget = budget::divide(total, demand, self.shares, block);
        let bytes_of = |id| self.tokenizer.token_bytes(id);
        let suffix = &suffix[budget::keep_head(&suffix, budget.suffix, bytes_of)];
        let num_suffix_bytes = suffix.iter().map(|id| bytes_of(*id).len()).sum();
        let before = Before { text: before, start, ids: &prefix, num_suffix_bytes };
        let room = Room { num_tokens: budget.prefix, block };
        let prefix = window::window(self, &gap, before, room)?;
        let ids = GapIds { prefix: &prefix, suffix, typed: &typed };
        let num_context_tokens_sent = shown.num_text_tokens();
        let mut prompt = Prompt { num_context_tokens_sent, ..Prompt::default() };
        let shown = shown.fit(budget.context, bytes_of);
        prompt.num_context_tokens_used = shown.num_text_tokens();
        prompt.extend(&template.segments(shown.ids().map(|ids| (&*form, ids)), ids));
        Ok(prompt)
    }

    /// Encodes a text that begins a document, with what the model saw before its first word.
    fn encode_document(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        match self.tokenizer.document_lead() {
            lead if lead.is_empty() || text.is_empty() => self.tokenizer.encode(text),
            lead => self.tokenizer.encode(&format!("{lead}{text}")),
        }
    }

    /// Builds the prompt of a plain continuation; a text that does not fit is refused, never cut.
    ///
    /// # Errors
    /// [`PromptError::NoRoom`], [`PromptError::TooLong`], [`PromptError::Tokenizer`].
    pub fn text(&self, text: &str, max_tokens: usize) -> Result<Prompt, PromptError> {
        let limit = self.room(max_tokens, 1)?;
        self.check_length(text.len(), limit)?;
        let bos = self.tokenizer.bos_token_id();
        let ids = bos.into_iter().chain(self.encode_document(text)?).collect();
        self.tokens(ids, max_tokens)
    }

    /// Builds the prompt of a conversation; one that does not fit is refused, never cut.
    ///
    /// # Errors
    /// [`PromptError::NoRoom`], [`PromptError::TooLong`], [`PromptError::Tokenizer`].
    pub fn chat(&self, pieces: &[ChatPiece], max_tokens: usize) -> Result<Prompt, PromptError> {
        let limit = self.room(max_tokens, 1)?;
        let num_bytes: usize = pieces.iter().map(ChatPiece::num_bytes).sum();
        self.check_length(num_bytes, limit)?;
        let mut prompt = Prompt::default();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                ChatPiece::Special(id) => prompt.push(Origin::Template, &[*id]),
                ChatPiece::Text(text) if index == 0 => {
                    prompt.push(Origin::Prefix, &self.encode_document(text)?);
                }
                ChatPiece::Text(text) => {
                    let lead = self.tokenizer.segment_lead();
                    let text = format!("{lead}{text}");
                    prompt.push(Origin::Prefix, &self.tokenizer.encode(&text)?);
                }
            }
        }
        let num_tokens = prompt.token_ids.len();
        if num_tokens > limit {
            Err(PromptError::TooLong { num_tokens, limit })
        } else {
            Ok(prompt)
        }
    }

    /// No token is longer than the longest, so that a text of megabytes need not be encoded to be refused.
    fn check_length(&self, num_bytes: usize, limit: usize) -> Result<(), PromptError> {
        let num_tokens = num_bytes / self.tokenizer.token_bytes_max();
        if num_tokens > limit { Err(PromptError::TooLong { num_tokens, limit }) } else { Ok(()) }
    }

    /// Builds the prompt of given ids.
    ///
    /// # Errors
    /// [`PromptError::NoRoom`], [`PromptError::TooLong`].
    pub fn tokens(&self, token_ids: Vec<u32>, max_tokens: usize) -> Result<Prompt, PromptError> {
        let limit = self.room(max_tokens, 1)?;
        let num_tokens = token_ids.len();
        if num_tokens > limit {
            return Err(PromptError::TooLong { num_tokens, limit });
        }
        let spans = Vec::from_iter((num_tokens > 0).then_some((Origin::Prefix, 0..num_tokens)));
        Ok(Prompt { token_ids, spans, ..Prompt::default() })
    }

    /// Returns the tokens that are left for a prompt beside the answer, at least `least`.
    fn room(&self, max_tokens: usize, least: usize) -> Result<usize, PromptError> {
        let context = self.context_tokens_max;
        let left = context.saturating_sub(max_tokens);
        if left < least { Err(PromptError::NoRoom { left, context, least }) } else { Ok(left) }
    }

    /// Splits what was typed on the cursor's line off the prefix. A line that would take half of the room, such as
    /// minified code, stays where it is and can be cut.
    fn split_typed<'t>(
        &self,
        layout: Layout,
        prefix: &'t str,
        room: usize,
    ) -> Result<(&'t str, Vec<u32>), PromptError> {
        let line_start = match layout {
            Layout::Plain => return Ok((prefix, Vec::new())),
            Layout::LineStart => prefix.rfind('\n').map_or(0, |index| index + 1),
        };
        let (before, typed) = prefix.split_at(line_start);
        if budget::head_worth_encoding(typed, room / 2) < typed.len() {
            return Ok((prefix, Vec::new()));
        }
        let ids = self.tokenizer.encode(typed)?;
        if ids.len() > room / 2 { Ok((prefix, Vec::new())) } else { Ok((before, ids)) }
    }
}

/// Other files as they will be shown, and the lines that name the repository and the file being edited.
#[derive(Debug, Default)]
struct Shown {
    name: Vec<u32>,
    files: Vec<ContextFile>,
    current: Vec<u32>,
    /// Control tokens of a file, and beside all files.
    num_sentinels: (usize, usize),
}

impl Shown {
    /// Encodes other files until their share of `total` is full; what comes behind could not be shown.
    fn encode(
        builder: &PromptBuilder<'_>,
        form: &FilesTemplate,
        gap: &Gap<'_>,
        total: usize,
    ) -> Result<Self, TokenizerError> {
        let share = (total as f64 * builder.shares.context) as usize;
        let mut shown = Self {
            num_sentinels: (form.num_sentinels(1) - form.num_sentinels(0), form.num_sentinels(1)),
            ..Self::default()
        };
        let tokenizer = builder.tokenizer;
        let footer = tokenizer.encode(form.footer_text())?;
        for item in gap.context.iter().filter(|item| !item.content.is_empty()) {
            if shown.files.iter().map(|file| shown.num_tokens_of(file)).sum::<usize>() >= share {
                break;
            }
            let worth = budget::head_worth_encoding(&item.content, share);
            shown.files.push(ContextFile {
                header: tokenizer.encode(&form.header_text(&one_line(&item.name)))?,
                ids: tokenizer.encode(&form.content_text(&item.content[..worth]))?,
                footer: footer.clone(),
            });
        }
        if !shown.files.is_empty() {
            let name = form.name_text(&one_line(gap.repository.unwrap_or("repository")));
            shown.name = tokenizer.encode(&name.unwrap_or_default())?;
            let current = one_line(gap.file_name.unwrap_or("file"));
            shown.current = tokenizer.encode(&form.header_text(&current))?;
        }
        Ok(shown)
    }

    /// Keeps the first files that fit, the last one cut on a line border, and puts the most useful one last: it is
    /// then the nearest to the gap.
    fn fit<'t>(mut self, num_tokens: usize, bytes_of: impl Fn(u32) -> &'t [u8]) -> Self {
        let mut left = num_tokens.saturating_sub(self.num_frame_tokens());
        let mut fitting = Vec::new();
        for mut file in std::mem::take(&mut self.files) {
            let room = left.saturating_sub(self.num_tokens_of(&file) - file.ids.len());
            let kept = budget::keep_head(&file.ids, room, &bytes_of);
            if kept.is_empty() {
                break;
            }
            file.ids.truncate(kept.end);
            left -= self.num_tokens_of(&file);
            fitting.push(file);
        }
        fitting.reverse();
        Self { files: fitting, ..self }
    }

    fn ids(&self) -> Option<FilesIds<'_>> {
        let ids = FilesIds { name: &self.name, files: &self.files, current: &self.current };
        (!self.files.is_empty()).then_some(ids)
    }

    fn num_tokens_of(&self, file: &ContextFile) -> usize {
        self.num_sentinels.0 + file.header.len() + file.ids.len() + file.footer.len()
    }

    fn num_frame_tokens(&self) -> usize {
        self.num_sentinels.1 + self.name.len() + self.current.len()
    }

    fn num_text_tokens(&self) -> usize {
        self.files.iter().map(|file| file.ids.len()).sum()
    }

    /// Returns the tokens of all of it; none where there is no file.
    fn num_tokens(&self) -> usize {
        if self.files.is_empty() {
            return 0;
        }
        let files = self.files.iter().map(|file| self.num_tokens_of(file));
        self.num_frame_tokens() + files.sum::<usize>()
    }
}

/// Longest name that the repository form shows; a path has 255 characters in the gateway's contract.
const NAME_CHARS_MAX: usize = 255;

/// Returns a name as the one line that the form gives it.
fn one_line(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect::<String>().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests;
