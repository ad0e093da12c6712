//! From a request to what a service is asked: texts cut to what its model reads, without secrets, other files as comments.
//!
//! No tokenizer of a model elsewhere is here, so that lengths are bytes, and a token is a number of them that the settings
//! say. An estimate that is too low cuts more than it must; one that is too high is refused there.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value};

use crate::{
    completion::{CompletionRequest, Input, Language},
    config::FimForm,
    prompt::{
        Fim,
        budget::{self, Demand, Shares},
        context::{self, ContextOptions, Texts},
        family::{FAMILIES, broken_up, control_texts, written_gap},
        registry::{FAMILY_BASE, Inputs, PromptRegistry, VERSION_DEFAULT, VersionRange, family_of},
        template::FilesTemplate,
    },
    provider::{
        ProviderError, ProviderErrorKind,
        hosted::protocol::{Abilities, HostedPrompt},
    },
};

/// Gives the prompts in force.
pub type PromptSource = Arc<dyn Fn() -> Arc<PromptRegistry> + Send + Sync>;

/// The prompts that ask in words for what is missing in a gap.
const TASK: &str = "code_suggestions/hosted_completions";
/// What a token has at most on the average: a text that has more bytes than so many tokens fits nowhere.
const BYTES_PER_TOKEN_MAX: usize = 12;
/// Tokens that sentinels, the names of files and the like may take.
const FRAME_TOKENS: usize = 64;
/// Tokens that a prompt in words may take beside what it is given.
const WORDS_TOKENS: usize = 512;
/// Below this many tokens a prompt holds little.
pub(super) const PROMPT_TOKENS_MIN: u32 = 16;

/// How requests become prompts.
pub(super) struct Prompts {
    /// The provider's name.
    pub(super) provider: String,
    /// The model's name there.
    pub(super) model: String,
    /// What the protocol has.
    pub(super) abilities: &'static Abilities,
    /// How a gap is asked for.
    pub(super) form: FimForm,
    /// The family's form.
    pub(super) fim: Option<&'static Fim<'static>>,
    /// Tokens of prompt and answer together.
    pub(super) context_tokens_max: usize,
    /// Bytes of a token.
    pub(super) bytes_per_token: f64,
    /// How a prompt is divided.
    pub(super) shares: Shares,
    /// What is done to the texts.
    pub(super) context: ContextOptions,
    /// The prompts in words.
    pub(super) source: PromptSource,
}

impl std::fmt::Debug for Prompts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompts").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// A prompt and what it takes.
#[derive(Debug)]
pub(super) struct Built {
    /// What is to be completed.
    pub(super) prompt: HostedPrompt,
    /// Bytes of all of it.
    pub(super) num_bytes: usize,
    /// Bytes of other files that were offered.
    pub(super) num_context_bytes_sent: usize,
    /// Bytes of those that are in it.
    pub(super) num_context_bytes_used: usize,
    /// Texts that end the answer, by the prompt's own rules.
    pub(super) stops: Vec<String>,
}

/// A gap that fits.
struct Sides {
    prefix: String,
    suffix: String,
    /// Other files as comments, the most useful last.
    files: Vec<String>,
    /// The line that names the edited file; empty where nobody else is named.
    header: String,
    num_context_bytes_sent: usize,
}

impl Prompts {
    /// Makes the prompt of a request with `max_tokens` of an answer.
    ///
    /// # Errors
    /// What the service cannot be asked for, by the field of the request; a text that fits nowhere.
    pub(super) fn build(
        &self,
        request: &mut CompletionRequest,
        max_tokens: u32,
    ) -> Result<Built, ProviderError> {
        let room = self.room(max_tokens)?;
        match &mut request.input {
            Input::Tokens(_) => Err(ProviderError::invalid(
                "prompt",
                format!("the provider `{}` takes texts, and no token ids", self.provider),
            )),
            Input::Chat(messages) => {
                if !self.abilities.has_chat {
                    let message =
                        format!("the provider `{}` knows no conversations", self.provider);
                    return Err(ProviderError::invalid("messages", message));
                }
                let messages = std::mem::take(messages);
                let num_bytes = messages.iter().map(|message| message.content.len()).sum();
                Self::check_length("messages", num_bytes, room)?;
                Ok(Built::of(HostedPrompt::Chat(messages), num_bytes))
            }
            Input::Text(text) if self.abilities.has_text() => {
                let text = std::mem::take(text);
                Self::check_length("prompt", text.len(), room)?;
                let text = self.safe(&text).into_owned();
                let num_bytes = text.len();
                Ok(Built::of(HostedPrompt::Text(text), num_bytes))
            }
            // What goes on is a gap with nothing behind it.
            Input::Text(text) => {
                let texts = Texts {
                    prefix: std::mem::take(text),
                    suffix: String::new(),
                    items: Vec::new(),
                };
                Self::check_length("prompt", texts.prefix.len(), room)?;
                self.gap("prompt", texts, request, room)
            }
            Input::Fim { prefix, suffix } => {
                let texts = Texts {
                    prefix: std::mem::take(prefix),
                    suffix: std::mem::take(suffix),
                    items: std::mem::take(&mut request.context),
                };
                self.gap("suffix", texts, request, room)
            }
        }
    }

    /// Returns the tokens that a text takes, about.
    pub(super) fn num_tokens(&self, num_bytes: usize) -> u32 {
        (num_bytes as f64 / self.bytes_per_token).ceil() as u32
    }

    /// Returns the tokens that are left for a prompt.
    fn room(&self, max_tokens: u32) -> Result<usize, ProviderError> {
        let room = self.context_tokens_max.saturating_sub(max_tokens as usize);
        if room >= PROMPT_TOKENS_MIN as usize {
            return Ok(room);
        }
        let message = format!(
            "`max_tokens` must leave {PROMPT_TOKENS_MIN} tokens of the context to the prompt, which has {}, got {max_tokens}",
            self.context_tokens_max
        );
        Err(ProviderError::invalid("max_tokens", message))
    }

    /// Only what surely fits nowhere is refused here; what may fit, the service tells.
    fn check_length(
        field: &'static str,
        num_bytes: usize,
        room: usize,
    ) -> Result<(), ProviderError> {
        if num_bytes / BYTES_PER_TOKEN_MAX <= room {
            return Ok(());
        }
        let message =
            format!("the prompt must have at most {room} tokens, got one of {num_bytes} bytes");
        let error = ProviderError::new(ProviderErrorKind::PromptTooLong, message);
        Err(ProviderError { field: Some(field), ..error })
    }

    fn gap(
        &self,
        field: &'static str,
        texts: Texts,
        request: &CompletionRequest,
        room: usize,
    ) -> Result<Built, ProviderError> {
        match (self.form, self.fim) {
            (FimForm::Template, Some(fim)) => {
                let sides = self.cut(texts, request, room.saturating_sub(FRAME_TOKENS));
                let (prefix, suffix) = (sides.joined(), &sides.suffix);
                let prompt = written_gap(fim, &self.safe(&prefix), &self.safe(suffix));
                let num_bytes = prompt.len();
                Ok(sides.built(HostedPrompt::Text(prompt), num_bytes))
            }
            (FimForm::Suffix, _) => {
                let sides = self.cut(texts, request, room.saturating_sub(FRAME_TOKENS));
                // Where the service puts the texts together, it reads control tokens in them as well.
                let prefix = self.safe(&sides.joined()).into_owned();
                let suffix = self.safe(&sides.suffix).into_owned();
                let num_bytes = prefix.len() + suffix.len();
                Ok(sides.built(HostedPrompt::Gap { prefix, suffix }, num_bytes))
            }
            (FimForm::Instruction, _) => {
                let sides = self.cut(texts, request, room.saturating_sub(WORDS_TOKENS));
                self.in_words(&sides, request)
            }
            (FimForm::None | FimForm::Template, _) => {
                let message = format!("the provider `{}` fills no gaps", self.provider);
                Err(ProviderError::invalid(field, message))
            }
        }
    }

    /// Returns a text without what a service would read as a control token. Without a family it may be any known one's.
    fn safe<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if let Some(fim) = self.fim {
            return broken_up(text, &control_texts(fim));
        }
        let mut text = Cow::Borrowed(text);
        for fim in FAMILIES.iter().filter_map(|family| family.fim()) {
            if let Cow::Owned(broken) = broken_up(&text, &control_texts(fim)) {
                text = Cow::Owned(broken);
            }
        }
        text
    }

    /// A service that knows conversations keeps texts and tokens apart by itself, as a rule; of a model whose family is
    /// said it is not believed.
    fn safe_in_words(&self, text: &str) -> String {
        if self.fim.is_some() { self.safe(text).into_owned() } else { text.to_owned() }
    }

    /// Cuts the texts to so many tokens.
    fn cut(&self, texts: Texts, request: &CompletionRequest, num_tokens: usize) -> Sides {
        let bytes = |num_tokens: usize| (num_tokens as f64 * self.bytes_per_token) as usize;
        let num_context_bytes_sent = texts.items.iter().map(|item| item.content.len()).sum();
        let (file_name, language) = (request.file_name.as_deref(), request.language);
        let texts = context::arrange(texts, file_name, language, self.context);
        let form = FilesTemplate::in_comments(context::comments_of(language));
        let show = |name: &str, content: &str| {
            let header = form.header_text(&one_line(name));
            [&header, &*form.content_text(content), form.footer_text()].concat()
        };
        let files: Vec<String> =
            texts.items.iter().map(|item| show(&item.name, &item.content)).collect();
        let block = bytes(budget::block_tokens(self.context_tokens_max));
        let suffix_max = self.fim.and_then(|fim| fim.suffix_tokens_max).map_or(usize::MAX, bytes);
        let demand = Demand {
            prefix: texts.prefix.len(),
            suffix: texts.suffix.len().min(suffix_max),
            context: files.iter().map(String::len).sum(),
        };
        let budget = budget::divide(bytes(num_tokens), demand, self.shares, block);
        let mut left = budget.context;
        let mut fitting = Vec::new();
        for file in files {
            // A file of less than some lines says nothing.
            let cut = budget::head_of(&file, left);
            if cut.len() < file.len() && !cut.contains('\n') {
                break;
            }
            left -= cut.len();
            fitting.push(cut.to_owned());
        }
        fitting.reverse();
        let name = file_name.filter(|_| !fitting.is_empty());
        Sides {
            header: name.map(|name| form.header_text(&one_line(name))).unwrap_or_default(),
            prefix: budget::tail_of(&texts.prefix, budget.prefix, block).to_owned(),
            suffix: budget::head_of(&texts.suffix, budget.suffix).to_owned(),
            files: fitting,
            num_context_bytes_sent,
        }
    }

    /// Asks in words, by a prompt that is a file.
    fn in_words(&self, sides: &Sides, request: &CompletionRequest) -> Result<Built, ProviderError> {
        let failed = |why: String| ProviderError::new(ProviderErrorKind::Internal, why);
        let range = VersionRange::parse(VERSION_DEFAULT);
        let range = range.ok_or_else(|| failed("the usual versions are no range".to_owned()))?;
        let families: Vec<&str> = family_of(&self.model).into_iter().chain([FAMILY_BASE]).collect();
        let registry = (self.source)();
        let prompt = registry
            .find(TASK, &families, &range)
            .ok_or_else(|| failed(format!("there is no prompt for `{TASK}`")))?;
        let mut inputs = Map::new();
        let mut put = |name: &str, value: Value| inputs.insert(name.to_owned(), value);
        put("prefix", self.safe_in_words(&sides.prefix).into());
        put("suffix", self.safe_in_words(&sides.suffix).into());
        put("file_name", request.file_name.as_deref().into());
        put("language", request.language.map(Language::name).into());
        let files = sides.files.iter().map(|file| Value::from(self.safe_in_words(file)));
        put("related_files", files.collect());
        let rendered =
            prompt.render(Inputs(inputs), &[]).map_err(|error| failed(error.to_string()))?;
        let Input::Chat(messages) = rendered.input else {
            return Err(failed(format!("the prompt {} must have `messages`", rendered.place)));
        };
        let num_bytes = messages.iter().map(|message| message.content.len()).sum();
        let built = sides.built(HostedPrompt::Chat(messages), num_bytes);
        Ok(Built { stops: rendered.stops, ..built })
    }
}

impl Built {
    fn of(prompt: HostedPrompt, num_bytes: usize) -> Self {
        Self {
            prompt,
            num_bytes,
            num_context_bytes_sent: 0,
            num_context_bytes_used: 0,
            stops: Vec::new(),
        }
    }
}

impl Sides {
    /// Returns the text before the gap behind the other files.
    fn joined(&self) -> String {
        [&self.files.concat(), self.header.as_str(), self.prefix.as_str()].concat()
    }

    fn built(&self, prompt: HostedPrompt, num_bytes: usize) -> Built {
        Built {
            num_context_bytes_sent: self.num_context_bytes_sent,
            num_context_bytes_used: self.files.iter().map(String::len).sum(),
            ..Built::of(prompt, num_bytes)
        }
    }
}

/// Longest name that is shown.
const NAME_CHARS_MAX: usize = 255;

/// Returns a name as one line: what comes behind it would be code.
fn one_line(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect::<String>().replace(['\n', '\r'], " ")
}
