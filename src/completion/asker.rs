//! Who asks and what for, as far as it decides where a request goes. Holds pseudonyms and names, no token and no address.

/// What a completion is for: editors wait for one kind while they type, and for the other on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Task {
    /// A few words at the cursor.
    #[default]
    Completion,
    /// Whole code, or the next turn of a conversation.
    Generation,
}

impl Task {
    /// All tasks, for tables.
    pub const ALL: [Self; 2] = [Self::Completion, Self::Generation];

    /// Returns the word in settings and labels.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Generation => "generation",
        }
    }

    /// Returns the task of a word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.as_label() == text)
    }
}

/// Who asks and what for. Empty where nobody told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// What the completion is for.
    pub task: Task,
    /// Pseudonym of the user, the same for each request of theirs.
    pub user: Option<String>,
    /// Groups and namespaces that the user belongs to.
    pub groups: Vec<String>,
    /// `saas` or `self-managed`.
    pub realm: Option<String>,
    /// Feature flags in force for this request.
    pub flags: Vec<String>,
    /// Models that began to answer this request and failed before anything was handed on: others are asked.
    pub failed_at: Vec<String>,
}
