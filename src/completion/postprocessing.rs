//! Which steps of post-processing there are, by name, and which a request wants.

/// A step that deletes from a completion what does not belong there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Sentinels and marks of the cursor that were written as text.
    SpecialTokens,
    /// Lines that fence code in Markdown.
    CodeFences,
    /// A completion that begins with a run of asterisks.
    Asterisks,
    /// A line break before generated code, where neither side has one.
    LeadingNewline,
    /// The same again and again.
    Repetition,
    /// What lies behind the end of the cursor's scope.
    Scope,
    /// What the text after the cursor says already.
    SuffixOverlap,
    /// Brackets at the end that close too much.
    Brackets,
    /// A completion that is comments and nothing else.
    CommentOnly,
    /// Lines that stand above already.
    RepeatedLines,
    /// The last piece, where the limit of tokens cut it.
    Unfinished,
    /// A completion of white space.
    Whitespace,
    /// A completion that the model thought unlikely.
    MinScore,
}

impl Step {
    /// All steps, in the order in which they run by default.
    pub const ALL: [Self; 13] = [
        Self::SpecialTokens,
        Self::CodeFences,
        Self::Asterisks,
        Self::LeadingNewline,
        Self::Repetition,
        Self::Scope,
        Self::SuffixOverlap,
        Self::Brackets,
        Self::CommentOnly,
        Self::RepeatedLines,
        Self::Unfinished,
        Self::Whitespace,
        Self::MinScore,
    ];

    /// Returns the name in settings and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpecialTokens => "special_tokens",
            Self::CodeFences => "code_fences",
            Self::Asterisks => "asterisks",
            Self::LeadingNewline => "leading_newline",
            Self::Repetition => "repetition",
            Self::Scope => "scope",
            Self::SuffixOverlap => "suffix_overlap",
            Self::Brackets => "brackets",
            Self::CommentOnly => "comment_only",
            Self::RepeatedLines => "repeated_lines",
            Self::Unfinished => "unfinished",
            Self::Whitespace => "whitespace",
            Self::MinScore => "min_score",
        }
    }

    /// Returns all steps but one.
    pub fn all_but(step: Self) -> Vec<Self> {
        Self::ALL.into_iter().filter(|other| *other != step).collect()
    }

    /// Returns the step of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// Reads a choice of steps: `none`, `all` (which stands for these steps), `all` and steps that it is to be without,
    /// each behind a `-`, or names in the order wanted. No word is `all`.
    ///
    /// # Errors
    /// [`StepsError`].
    pub fn chosen<'n>(
        names: impl IntoIterator<Item = &'n str>,
        all: &[Self],
    ) -> Result<Vec<Self>, StepsError<'n>> {
        let mut chosen = Vec::new();
        let mut names = names.into_iter();
        let Some(first) = names.next() else { return Ok(all.to_vec()) };
        match first {
            "none" => {}
            "all" => chosen.extend_from_slice(all),
            name => chosen.push(named(name)?),
        }
        for name in names {
            match (first, name.strip_prefix('-')) {
                ("all", Some(left_out)) => {
                    let step = named(left_out)?;
                    let place = chosen.iter().position(|other| *other == step);
                    chosen.remove(place.ok_or(StepsError::NotThere(name))?);
                }
                ("all" | "none", _) | (_, Some(_)) => return Err(StepsError::Mixed(name)),
                (_, None) => {
                    let step = named(name)?;
                    if chosen.contains(&step) {
                        return Err(StepsError::Twice(name));
                    }
                    chosen.push(step);
                }
            }
        }
        Ok(chosen)
    }
}

fn named(name: &str) -> Result<Step, StepsError<'_>> {
    Step::by_name(name).ok_or(StepsError::Unknown(name))
}

/// Words that choose no steps, with the one that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepsError<'n> {
    /// There is no such step.
    Unknown(&'n str),
    /// It is there already.
    Twice(&'n str),
    /// It stands beside `all` or `none`, or takes something from neither.
    Mixed(&'n str),
    /// It is to be left out of what does not have it.
    NotThere(&'n str),
}

impl StepsError<'_> {
    /// Returns the word that is wrong.
    pub fn word(&self) -> &str {
        match self {
            Self::Unknown(name) | Self::Twice(name) | Self::Mixed(name) | Self::NotThere(name) => {
                name
            }
        }
    }

    /// Returns what the words must be.
    pub fn rule(&self) -> String {
        match self {
            Self::Unknown(name) => {
                let likeness = |step: &Step| strsim::jaro_winkler(step.name(), name);
                let nearest =
                    Step::ALL.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
                let nearest = nearest.map_or("", Step::name);
                format!("a list of steps, of which the nearest is {nearest}")
            }
            Self::Twice(_) => "a list that has no step twice".to_owned(),
            Self::Mixed(_) => {
                "none, names of steps, or all and behind it -NAME for each step left out".to_owned()
            }
            Self::NotThere(_) => "all without steps that it has, each once".to_owned(),
        }
    }
}

impl PostProcessing {
    /// Leaves some steps out.
    pub fn leave_out(&mut self, steps: impl IntoIterator<Item = Step>) {
        match self {
            Self::None => {}
            Self::Completion { without } | Self::Generation { without, .. } => {
                without.extend(steps);
            }
        }
    }
}

/// What becomes of a completion's text before it is handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PostProcessing {
    /// Nothing.
    #[default]
    None,
    /// The steps for code at a cursor, without these.
    Completion {
        /// Steps left out.
        without: Vec<Step>,
    },
    /// The steps for code that was asked for in words, without these.
    Generation {
        /// Text before the cursor, which a conversation does not tell.
        before: String,
        /// Steps left out.
        without: Vec<Step>,
    },
}
