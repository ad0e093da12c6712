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
