//! One streamed completion, timed as its client sees it.

use std::time::{Duration, Instant};

use crate::{
    bench::{
        dialect::{Counts, Dialect, EventError, Limits, Piece, Question},
        foreign,
    },
    client::{ClientError, EventStream, Server},
};

/// Whom to ask, and how long to wait.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: Server,
    /// The way of asking.
    pub dialect: Dialect,
    /// Longest time of a request.
    pub timeout: Duration,
    /// Name of the model; `None` leaves it to the server.
    pub model: Option<String>,
}

/// Why a completion failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request brought no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be read.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The stream ended before the answer did.
    #[error("the stream ended before the answer did")]
    Unfinished,
    /// The answer went on far beyond what was asked for.
    #[error("the answer did not stop after {num_pieces} texts, many times the tokens asked for")]
    Overlong {
        /// Events with text until the client gave up.
        num_pieces: u64,
    },
}

impl Failure {
    /// Returns the kind, by which failures are counted: `unreachable`, `status_429`, …
    pub fn kind(&self) -> String {
        let word = match self {
            Self::Client(ClientError::Status { status, .. }) => {
                return format!("status_{}", status.as_u16());
            }
            Self::Client(ClientError::Unreachable { .. }) => "unreachable",
            Self::Client(ClientError::CutOff { .. }) => "cut_off",
            Self::Client(ClientError::Timeout { .. }) => "timeout",
            Self::Client(ClientError::Kind { .. } | ClientError::Url { .. }) => "no_stream",
            Self::Event(EventError::Failed(_)) => "server_error",
            Self::Event(EventError::Shape | EventError::Count { .. } | EventError::NoTokens) => {
                "malformed"
            }
            Self::Unfinished => "unfinished",
            Self::Overlong { .. } => "overlong",
        };
        word.to_owned()
    }

    /// Returns whether further requests would fail the same way, so that a run need not go on.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Client(ClientError::Status { status, .. }) => {
                // Too many requests and a slow body pass; another refusal of a client does not, nor does 501.
                let code = status.as_u16();
                (400..500).contains(&code) && code != 429 && code != 408 || code == 501
            }
            Self::Client(error) => matches!(
                error,
                ClientError::Unreachable { .. }
                    | ClientError::Kind { .. }
                    | ClientError::Url { .. }
            ),
            Self::Event(EventError::Shape | EventError::Count { .. } | EventError::NoTokens) => {
                true
            }
            Self::Event(EventError::Failed(_)) | Self::Unfinished | Self::Overlong { .. } => false,
        }
    }
}

/// What was seen of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// From the request to the first text.
    pub first_text: Option<Duration>,
    /// From each text to the next.
    pub gaps: Vec<Duration>,
    /// From the request to the end.
    pub total: Duration,
    /// Events with text.
    pub num_pieces: u64,
    /// Tokens as the server counts them, by the last event that told.
    pub counts: Option<Counts>,
    /// Name of the model that answered.
    pub model: Option<String>,
}

/// An answer under way. Dropping it closes its connection.
#[derive(Debug)]
pub struct Exchange {
    began: Instant,
    last_text: Option<Instant>,
    events: EventStream,
    dialect: Dialect,
    limits: Limits,
    is_ended: bool,
    timing: Timing,
}

impl Exchange {
    /// Asks, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Failure::Client`].
    pub async fn begin(target: &Target, question: &Question<'_>) -> Result<Self, Failure> {
        let dialect = target.dialect;
        let body = dialect.body(question);
        let began = Instant::now();
        let events = target.server.stream(dialect.endpoint(), &body).await.map_err(shown)?;
        let (last_text, timing) = (None, Timing::default());
        let limits = question.limits();
        Ok(Self { began, last_text, events, dialect, limits, is_ended: false, timing })
    }

    /// Returns what was seen so far.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Waits for the next event; returns whether there was one.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn advance(&mut self) -> Result<bool, Failure> {
        let data = self.events.next().await?;
        let now = Instant::now();
        self.timing.total = now - self.began;
        let has_ended = match data {
            Some(data) => match self.dialect.read(&data)? {
                Some(piece) => return self.take(piece, now).map(|()| true),
                // Some servers mark the end of the stream alone, which ends an answer that there is.
                None => self.is_ended || self.timing.num_pieces > 0,
            },
            None => self.is_ended,
        };
        if !has_ended {
            return Err(Failure::Unfinished);
        }
        let has_no_tokens =
            self.timing.counts.is_some_and(|counts| counts.num_completion_tokens == 0);
        if has_no_tokens && self.timing.num_pieces > 0 {
            return Err(EventError::NoTokens.into());
        }
        Ok(false)
    }

    fn take(&mut self, piece: Piece, now: Instant) -> Result<(), Failure> {
        if let Some(counts) = &piece.counts {
            self.limits.check(counts)?;
        }
        let timing = &mut self.timing;
        timing.counts = piece.counts.or(timing.counts);
        timing.model = piece.model.or(timing.model.take());
        self.is_ended |= piece.is_end;
        if !piece.has_text {
            return Ok(());
        }
        timing.num_pieces += 1;
        // Each text leaves a gap in memory, and nobody but the client ends this.
        if timing.num_pieces > self.limits.num_pieces {
            return Err(Failure::Overlong { num_pieces: timing.num_pieces });
        }
        match self.last_text.replace(now) {
            None => timing.first_text = Some(now - self.began),
            Some(last) => timing.gaps.push(now - last),
        }
        Ok(())
    }

    /// Reads the answer to its end.
    async fn finish(mut self) -> Result<Timing, Failure> {
        while self.advance().await? {}
        Ok(self.timing)
    }
}

/// Makes a server's own words fit to be shown.
fn shown(error: ClientError) -> ClientError {
    match error {
        ClientError::Status { authority, status, reason } => {
            ClientError::Status { authority, status, reason: foreign::reason(&reason) }
        }
        other => other,
    }
}

/// Asks, and reads the whole answer.
///
/// # Errors
/// [`Failure`].
pub async fn complete(target: &Target, question: &Question<'_>) -> Result<Timing, Failure> {
    let whole = async { Exchange::begin(target, question).await?.finish().await };
    let whole = tokio::time::timeout(target.timeout, whole).await;
    whole.map_err(|_| Failure::Client(target.server.timeout(target.timeout)))?
}
