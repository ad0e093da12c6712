//! What a store tells of a period: how many asked, what they were shown and took, and how long they waited.
//!
//! Each choice of a completion counts once as shown, accepted and rejected, however often and by whom it was told.

use std::collections::BTreeMap;

use crate::telemetry::store::{
    Address, Day,
    database::{self, Database, Fault, Purpose, Row, Value},
    schema,
};

/// What a report is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The model that answered.
    Model,
    /// The language of the file.
    Language,
    /// The editor or program.
    Client,
    /// The prompt that asked the model.
    Prompt,
    /// The day, in UTC.
    Day,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Model, Self::Language, Self::Client, Self::Prompt, Self::Day];

    /// Returns the word for it.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Language => "language",
            Self::Client => "client",
            Self::Prompt => "prompt",
            Self::Day => "day",
        }
    }

    /// Returns whether clients' own counts can be divided so.
    pub fn is_told(self) -> bool {
        self.of_told().is_some()
    }

    /// Returns what completions are grouped by; columns are those of this file's statements.
    fn of_completion(self) -> &'static str {
        match self {
            Self::Model => "c.model",
            Self::Language => "c.language",
            Self::Client => "c.client",
            Self::Prompt => "c.prompt",
            Self::Day => "CAST(c.at_ms / 86400000 AS TEXT)",
        }
    }

    /// Returns what events are grouped by; empty where their completion is not known.
    fn of_event(self) -> &'static str {
        match self {
            Self::Model => "COALESCE(c.model, '')",
            Self::Language => "COALESCE(c.language, '')",
            Self::Client => "COALESCE(c.client, '')",
            Self::Prompt => "COALESCE(c.prompt, '')",
            Self::Day => "CAST(e.at_ms / 86400000 AS TEXT)",
        }
    }

    /// Returns what clients' own counts are grouped by, as far as they tell it.
    fn of_told(self) -> Option<&'static str> {
        match self {
            Self::Model => Some("t.model"),
            Self::Language => Some("t.language"),
            Self::Day => Some("CAST(t.day AS TEXT)"),
            Self::Client | Self::Prompt => None,
        }
    }
}

/// Days, the first and the last among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The first.
    pub first: Day,
    /// The last.
    pub last: Day,
}

/// What is known of a group of completions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Completions that were asked for.
    pub requests: u64,
    /// Users who did, as far as they are told apart.
    pub users: u64,
    /// Choices that somebody saw.
    pub shown: u64,
    /// Choices that somebody took.
    pub accepted: u64,
    /// Choices that somebody sent away.
    pub rejected: u64,
    /// Time to the end of completions that went well, in milliseconds: of half of them, and of nineteen in twenty.
    pub latency_ms: [Option<f64>; 2],
    /// Time to their first text, likewise.
    pub ttft_ms: [Option<f64>; 2],
    /// What clients counted by themselves: suggestions asked for, taken, failed.
    pub told: [u64; 3],
}

impl Figures {
    /// Returns the share of what was shown that was taken; `None` where nothing was. What was taken was shown, whether an
    /// editor told of it or not.
    pub fn acceptance_rate(&self) -> Option<f64> {
        let shown = self.shown.max(self.accepted);
        (shown > 0).then(|| self.accepted as f64 / shown as f64)
    }
}

/// A part of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What its completions have in common; empty where that is not known.
    pub name: String,
    /// What is known of them.
    pub figures: Figures,
}

/// What a store tells of a period.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// All of it.
    pub total: Figures,
    /// Its parts, in the order of their names.
    pub groups: Vec<Group>,
}

/// The one group that is all.
const ALL: &str = "CAST('' AS TEXT)";
/// Shares of completions that were as fast.
const PERCENTS: [i64; 2] = [50, 95];

impl Report {
    /// Reads a store, beside whoever writes to it.
    ///
    /// # Errors
    /// It cannot be read, or was never written to.
    pub fn read(address: &Address, period: Period, by: Option<By>) -> Result<Self, Fault> {
        let mut database = database::open(address, Purpose::Read)?;
        schema::check(database.as_mut())?;
        Self::of(database.as_mut(), period, by)
    }

    /// Asks a database.
    pub(super) fn of(
        database: &mut dyn Database,
        period: Period,
        by: Option<By>,
    ) -> Result<Self, Fault> {
        let mut reader = Reader { database, period };
        let total = reader.figures([ALL, ALL], Some(ALL))?.remove("").unwrap_or_default();
        let Some(by) = by else { return Ok(Self { total, groups: Vec::new() }) };
        let figures = reader.figures([by.of_completion(), by.of_event()], by.of_told())?;
        let name = |name: String| match by {
            // Days are numbers as far as here, so that they are sorted as such.
            By::Day => name.parse().map_or(name, |day| Day(day).to_string()),
            _ => name,
        };
        let groups = figures.into_iter();
        let mut groups: Vec<Group> =
            groups.map(|(key, figures)| Group { name: name(key), figures }).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { total, groups })
    }
}

struct Reader<'a> {
    database: &'a mut dyn Database,
    period: Period,
}

impl Reader<'_> {
    /// Returns the figures of each group. `keys` are what completions and events are grouped by, `told` what clients' own
    /// counts are.
    fn figures(
        &mut self,
        [of_completion, of_event]: [&str; 2],
        told: Option<&str>,
    ) -> Result<BTreeMap<String, Figures>, Fault> {
        let mut groups: BTreeMap<String, Figures> = BTreeMap::new();

        let asked = format!(
            "SELECT {of_completion}, COUNT(*), COUNT(DISTINCT NULLIF(c.user_hash, '')) FROM lacuna_completions c WHERE c.at_ms >= $1 AND c.at_ms < $2 GROUP BY 1"
        );
        for row in self.rows(&asked)? {
            let figures = of_row(&mut groups, &row);
            (figures.requests, figures.users) = (count(&row[1]), count(&row[2]));
        }
        for row in self.rows(&times("c.latency_ms", of_completion))? {
            of_row(&mut groups, &row).latency_ms = [row[1].real(), row[2].real()];
        }
        for row in self.rows(&times("c.ttft_ms", of_completion))? {
            of_row(&mut groups, &row).ttft_ms = [row[1].real(), row[2].real()];
        }
        // What somebody tells of another's completion is not that completion's.
        let events = format!(
            "SELECT name, kind, COUNT(*) FROM (SELECT DISTINCT {of_event} AS name, e.kind AS kind, e.completion_id, e.choice_index FROM lacuna_events e LEFT JOIN lacuna_completions c ON c.id = e.completion_id AND (e.user_hash = '' OR c.user_hash = '' OR c.user_hash = e.user_hash) WHERE e.at_ms >= $1 AND e.at_ms < $2) told GROUP BY name, kind"
        );
        for row in self.rows(&events)? {
            let figures = of_row(&mut groups, &row);
            match row[1].text() {
                "shown" => figures.shown = count(&row[2]),
                "accepted" => figures.accepted = count(&row[2]),
                _ => figures.rejected = count(&row[2]),
            }
        }
        if let Some(of_told) = told {
            let told = format!(
                "SELECT {of_told}, CAST(SUM(t.requests) AS BIGINT), CAST(SUM(t.accepts) AS BIGINT), CAST(SUM(t.errors) AS BIGINT) FROM lacuna_told t WHERE t.day >= $1 AND t.day <= $2 GROUP BY 1"
            );
            let Period { first, last } = self.period;
            let days = [Value::Integer(first.0), Value::Integer(last.0)];
            for row in self.database.query(&told, &days)? {
                of_row(&mut groups, &row).told = [count(&row[1]), count(&row[2]), count(&row[3])];
            }
        }
        Ok(groups)
    }

    /// Asks a question about the period.
    fn rows(&mut self, question: &str) -> Result<Vec<Row>, Fault> {
        let Period { first, last } = self.period;
        let bounds = [first.begin_ms(), Day(last.0 + 1).begin_ms()].map(Value::Integer);
        self.database.query(question, &bounds)
    }
}

fn of_row<'a>(groups: &'a mut BTreeMap<String, Figures>, row: &Row) -> &'a mut Figures {
    groups.entry(row[0].text().to_owned()).or_default()
}

fn count(value: &Value) -> u64 {
    u64::try_from(value.integer()).unwrap_or(0)
}

/// Returns the question how long completions of each group took, by the nearest rank: `SQLite` has no percentiles of its own.
fn times(column: &str, of_completion: &str) -> String {
    let [half, most] = PERCENTS
        .map(|percent| format!("MIN(CASE WHEN place * 100 >= total * {percent} THEN took END)"));
    format!(
        "SELECT name, {half}, {most} FROM (SELECT {of_completion} AS name, {column} AS took, ROW_NUMBER() OVER (PARTITION BY {of_completion} ORDER BY {column}) AS place, COUNT(*) OVER (PARTITION BY {of_completion}) AS total FROM lacuna_completions c WHERE c.at_ms >= $1 AND c.at_ms < $2 AND c.outcome = 'ok' AND {column} IS NOT NULL) timed GROUP BY name"
    )
}
