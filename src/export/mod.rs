//! What is sent to services that watch this one: spans to a collector of OpenTelemetry, reports of errors to Sentry or
//! its like. Off until somebody says where to.
//!
//! Nothing here may hold up a request: what is told goes into a bounded queue or, where that is full, is counted as lost;
//! a task of its own sends it. OTLP as protobuf and Sentry's envelopes are written by hand over the HTTP client that is
//! there: the libraries for them would bring a second client, a cryptography or an RPC stack, for a few hundred bytes of
//! format each.

mod envelope;
mod otlp;
mod protobuf;
pub mod reports;
#[cfg(test)]
mod tests;
pub mod traces;
mod way;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

/// What the end of the process waits for the last of what was told.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What became of something that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was taken.
    Sent,
    /// It was refused, or nobody answered.
    Failed,
    /// There was no room for it, or as much had been sent as may be.
    Dropped,
}

impl Fate {
    /// Returns the label for metrics.
    pub fn as_label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Who counts what becomes of how many.
pub type Count = Arc<dyn Fn(Fate, u64) + Send + Sync>;

/// A task that sends what is told. Dropping it loses what is not sent yet.
#[derive(Debug)]
pub struct Exporter {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Self {
        let (stop, is_stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(run(is_stopped)) }
    }

    /// Sends what is left, as far as there is time.
    pub async fn finish(mut self) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, &mut self.task).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until the exporter is to end; its sender outlives it.
async fn stopped(is_stopped: &mut watch::Receiver<bool>) {
    let _ = is_stopped.wait_for(|is_stopped| *is_stopped).await;
}
