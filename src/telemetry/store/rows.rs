//! What is stored: a row for each completion and for each thing that became of one. Labels, numbers, ids and hashes; no
//! source text, no name of a file, no id of a person.

use crate::telemetry::store::database::{Row, Value};

/// A completion that was served.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRow {
    /// Id of the request, which clients know as the completion's.
    pub id: String,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: i64,
    /// Dialect and endpoint; a closed set.
    pub endpoint: &'static str,
    /// `completion` or `generation`.
    pub task: &'static str,
    /// Name of the model that answered.
    pub model: String,
    /// What ran it.
    pub provider: String,
    /// Language of the file, where it could be told; a closed set.
    pub language: Option<&'static str>,
    /// Kind of the client; a closed set.
    pub client_type: &'static str,
    /// The editor or program that asked; a closed set, see [`client`](crate::telemetry::client).
    pub client: &'static str,
    /// Task, family and version of the prompt that asked the model, where one did.
    pub prompt: Option<String>,
    /// Pseudonym of the user, where one was told.
    pub user: Option<String>,
    /// Realm of GitLab; a closed set.
    pub realm: &'static str,
    /// From the request's head to its end, in milliseconds.
    pub latency_ms: f64,
    /// From the request's head to its first text, in milliseconds.
    pub ttft_ms: Option<f64>,
    /// Tokens read.
    pub prompt_tokens: u32,
    /// Tokens written.
    pub completion_tokens: u32,
    /// `ok`, `cancelled`, or the label of an error.
    pub outcome: &'static str,
}

/// What became of a completion in an editor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// The user saw it.
    Shown,
    /// The user took it, or a part of it.
    Accepted,
    /// The user sent it away.
    Rejected,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Shown, Self::Accepted, Self::Rejected];

    /// Returns the word for it, in requests, rows and labels.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }

    /// Returns the kind of a word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_label() == text)
    }
}

/// An event, as an editor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Id of the request that was completed.
    pub completion_id: String,
    /// Which of its choices.
    pub choice_index: u32,
    /// What became of it.
    pub kind: EventKind,
    /// Pseudonym of the user, where one was told.
    pub user: Option<String>,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// When it was told.
    pub received_ms: i64,
    /// Milliseconds since the completion was shown.
    pub elapsed_ms: Option<u32>,
    /// Characters that were taken.
    pub accepted_chars: Option<u32>,
    /// Lines that were taken.
    pub accepted_lines: Option<u32>,
}

impl Event {
    /// Returns by what an event is the same as another, in an order that all writers keep: two that insert the same rows in
    /// two orders would wait for each other.
    pub(super) fn key(&self) -> (&str, u32, EventKind, &str) {
        let user = self.user.as_deref().unwrap_or_default();
        (&self.completion_id, self.choice_index, self.kind, user)
    }
}

/// What a client counted of its earlier suggestions on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRow {
    /// Days since 1970.
    pub day: i64,
    /// Name of a model that is served here.
    pub model: String,
    /// What runs it.
    pub provider: String,
    /// Language; a closed set, empty where it is not known.
    pub language: &'static str,
    /// Suggestions asked for.
    pub requests: u64,
    /// Suggestions taken.
    pub accepts: u64,
    /// Suggestions that failed.
    pub errors: u64,
}

pub(super) const INSERT_COMPLETION: &str = "INSERT INTO lacuna_completions (id, at_ms, endpoint, task, model, provider, language, client_type, client, prompt, user_hash, realm, latency_ms, ttft_ms, prompt_tokens, completion_tokens, outcome) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING";

pub(super) const INSERT_EVENT: &str = "INSERT INTO lacuna_events (completion_id, choice_index, kind, user_hash, at_ms, received_ms, elapsed_ms, accepted_chars, accepted_lines) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

pub(super) const ADD_TOLD: &str = "INSERT INTO lacuna_told (day, model, provider, language, requests, accepts, errors) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (day, model, provider, language) DO UPDATE SET requests = lacuna_told.requests + excluded.requests, accepts = lacuna_told.accepts + excluded.accepts, errors = lacuna_told.errors + excluded.errors";

impl From<&CompletionRow> for Row {
    fn from(row: &CompletionRow) -> Self {
        vec![
            row.id.as_str().into(),
            Value::Integer(row.at_ms),
            row.endpoint.into(),
            row.task.into(),
            row.model.as_str().into(),
            row.provider.as_str().into(),
            row.language.unwrap_or_default().into(),
            row.client_type.into(),
            row.client.into(),
            row.prompt.as_deref().unwrap_or_default().into(),
            row.user.as_deref().unwrap_or_default().into(),
            row.realm.into(),
            Value::Real(row.latency_ms),
            row.ttft_ms.map_or(Value::Null, Value::Real),
            Value::Integer(row.prompt_tokens.into()),
            Value::Integer(row.completion_tokens.into()),
            row.outcome.into(),
        ]
    }
}

impl From<&Event> for Row {
    fn from(event: &Event) -> Self {
        let count = |number: Option<u32>| number.map_or(Value::Null, |n| Value::Integer(n.into()));
        vec![
            event.completion_id.as_str().into(),
            Value::Integer(event.choice_index.into()),
            event.kind.as_label().into(),
            event.user.as_deref().unwrap_or_default().into(),
            Value::Integer(event.at_ms),
            Value::Integer(event.received_ms),
            count(event.elapsed_ms),
            count(event.accepted_chars),
            count(event.accepted_lines),
        ]
    }
}

impl From<&ToldRow> for Row {
    fn from(told: &ToldRow) -> Self {
        let count = |number: u64| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
        vec![
            Value::Integer(told.day),
            told.model.as_str().into(),
            told.provider.as_str().into(),
            told.language.into(),
            count(told.requests),
            count(told.accepts),
            count(told.errors),
        ]
    }
}

/// What stands before the id of a request in that of its completion.
const ID_PREFIXES: [&str; 2] = ["chatcmpl-", "cmpl-"];

/// Returns what a completion is known by, whether somebody names it by its own id or by that of its request.
pub fn bare_id(id: &str) -> &str {
    let bare = ID_PREFIXES.iter().find_map(|prefix| id.strip_prefix(prefix));
    bare.filter(|id| !id.is_empty()).unwrap_or(id)
}
