//! Log lines on standard error, for people or as one JSON object each.
//!
//! A line is formatted whole and written with one call, so lines of several threads never mix. Writing blocks when the
//! reader of standard error stalls: a buffer would lose the last lines of a crash, which are those that matter, and
//! nothing on the engine's thread logs in a step.

use std::{io, panic};

use tracing::{Subscriber, error};
use tracing_subscriber::{
    filter::{ParseError, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::{SubscriberInitExt as _, TryInitError},
};

use crate::{telemetry::ReportLayer, trace::current_request};

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no list of levels.
    #[error("cannot read the log filter")]
    Filter(#[from] ParseError),
    /// Something else logs for this process already.
    #[error("logging was set up twice")]
    Twice(#[from] TryInitError),
}

/// Starts logging for people. What the filter lets through at `error` goes to `reports` too.
///
/// # Errors
/// [`LogError`].
pub fn init_text(filter: &str, reports: Option<ReportLayer>) -> Result<(), LogError> {
    text(filter, io::stderr)?.with(reports).try_init()?;
    hide_panic_messages();
    Ok(())
}

/// Starts logging one JSON object a line: `timestamp`, `level`, `target`, `message` and the fields side by side. What the filter
/// lets through at `error` goes to `reports` too.
///
/// # Errors
/// [`LogError`].
pub fn init_json(filter: &str, reports: Option<ReportLayer>) -> Result<(), LogError> {
    json(filter, io::stderr)?.with(reports).try_init()?;
    hide_panic_messages();
    Ok(())
}

fn text<W>(
    filter: &str,
    writer: W,
) -> Result<impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    let lines = fmt::layer().with_ansi(is_terminal).with_writer(writer);
    Ok(tracing_subscriber::registry().with(filter.parse::<Targets>()?).with(lines))
}

/// Returns the subscriber of [`init_json`], writing to `writer`; tests read what it wrote.
///
/// # Errors
/// A filter that is no list of levels.
pub(crate) fn json<W>(
    filter: &str,
    writer: W,
) -> Result<impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer);
    Ok(tracing_subscriber::registry().with(filter.parse::<Targets>()?).with(lines))
}

/// Logs a panic's place and, where it is a literal, its message. A formatted message may quote what was worked on:
/// a slice off a character's border prints the string, which is a user's source text.
pub(super) fn hide_panic_messages() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let literal = info.payload().downcast_ref::<&'static str>();
        let place = info.location().map(ToString::to_string);
        error!(
            correlation_id = current_request().as_deref(),
            thread = thread.name().unwrap_or("unnamed"),
            place,
            what = literal.copied().unwrap_or("withheld, for it may quote source text"),
            "panic"
        );
    }));
}
