//! Spans on their way to a collector: a bounded queue, batches, a few tries, and a count of what was lost.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    config::{Proxies, TracesConfig, Violation},
    export::{
        Count, Exporter, Fate, otlp, stopped,
        way::{Refused, Way},
    },
    trace::{FinishedSpan, SpanSink, Tracer},
};

/// Spans that wait to be sent: the default of OpenTelemetry's own libraries, some hundred requests.
const QUEUE_MAX: usize = 2048;
/// Spans of a batch, as there.
const BATCH_MAX: usize = 512;
/// Tries of a batch.
const TRIES_MAX: u32 = 3;
const CONTENT_TYPE: &str = "application/x-protobuf";

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// What a batch waits for more spans: short, so that who looks finds the request that was just made.
    pub(super) batch_delay: Duration,
    /// Pause before the second try; it doubles.
    pub(super) retry_delay: Duration,
}

const PACE: Pace =
    Pace { batch_delay: Duration::from_secs(1), retry_delay: Duration::from_secs(1) };

struct Queue {
    spans: mpsc::Sender<FinishedSpan>,
    count: Count,
}

impl SpanSink for Queue {
    fn take(&self, span: FinishedSpan) {
        if self.spans.try_send(span).is_err() {
            (self.count)(Fate::Dropped, 1);
        }
    }
}

/// Returns what records spans, and the task that sends them; `None` where no collector is named.
///
/// # Errors
/// A setting that cannot be used.
pub fn start(
    config: &TracesConfig,
    proxies: &Proxies,
    count: Count,
) -> Result<Option<(Tracer, Exporter)>, Violation> {
    start_at(PACE, config, proxies, count)
}

/// As [`start`], at another pace.
pub(super) fn start_at(
    pace: Pace,
    config: &TracesConfig,
    proxies: &Proxies,
    count: Count,
) -> Result<Option<(Tracer, Exporter)>, Violation> {
    let Some(url) = &config.url else { return Ok(None) };
    let way = Way::new("traces.otlp_endpoint", url, &config.headers, proxies)?;
    let (spans, queue) = mpsc::channel(QUEUE_MAX);
    let sink = Queue { spans, count: count.clone() };
    let sender = Sender {
        way,
        address: address(url),
        service_name: config.service_name.clone(),
        count,
        is_failing: false,
        pace,
    };
    let exporter = Exporter::spawn(|is_stopped| sender.run(queue, is_stopped));
    Ok(Some((Tracer::new(Box::new(sink), config.ratio), exporter)))
}

/// Returns host and port of an address, and nothing else of it: before and behind them may be secrets.
fn address(url: &str) -> String {
    let Ok(url) = reqwest::Url::parse(url) else { return String::new() };
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns why a collector took nothing, in words.
fn cause(refused: Refused) -> String {
    refused.status.map_or_else(
        || refused.cause.to_owned(),
        |status| format!("it answers with status {status}"),
    )
}

struct Sender {
    way: Way,
    /// Its host and port, for people.
    address: String,
    service_name: String,
    count: Count,
    is_failing: bool,
    pace: Pace,
}

impl Sender {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<FinishedSpan>,
        mut is_stopped: watch::Receiver<bool>,
    ) {
        // Outside of what is cut short by the end, so that nothing is lost with it.
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = fill(&mut batch, &mut queue, self.pace.batch_delay) => {}
                () = stopped(&mut is_stopped) => break,
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch), &mut is_stopped).await;
        }
        loop {
            while batch.len() < BATCH_MAX
                && let Ok(span) = queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch), &mut is_stopped).await;
        }
    }

    async fn send(&mut self, batch: Vec<FinishedSpan>, is_stopped: &mut watch::Receiver<bool>) {
        let num = batch.len() as u64;
        let body = otlp::request(&self.service_name, env!("CARGO_PKG_VERSION"), &batch);
        drop(batch);
        let mut delay = self.pace.retry_delay;
        for tries in 1..=TRIES_MAX {
            let refused = match self.way.post(CONTENT_TYPE, body.clone()).await {
                Ok(()) => {
                    self.tell(None);
                    return (self.count)(Fate::Sent, num);
                }
                Err(refused) => refused,
            };
            self.tell(Some(refused));
            if tries == TRIES_MAX || !refused.may_retry || *is_stopped.borrow() {
                break;
            }
            tokio::select! {
                () = sleep(refused.retry_after.unwrap_or(delay)) => {}
                () = stopped(is_stopped) => {}
            }
            delay *= 2;
        }
        (self.count)(Fate::Failed, num);
    }

    /// Says once that it begins or ends to fail: a collector that is down must not fill the log.
    fn tell(&mut self, refused: Option<Refused>) {
        let was_failing = std::mem::replace(&mut self.is_failing, refused.is_some());
        match refused {
            Some(refused) if !was_failing => {
                let (collector, cause) = (&self.address, cause(refused));
                tracing::warn!(collector, cause, "the collector takes no traces");
            }
            None if was_failing => {
                tracing::info!(collector = self.address, "the collector takes traces again");
            }
            _ => {}
        }
    }
}

/// Waits for spans to send, and a moment for more of them; leaves none where there will be no more.
async fn fill(
    batch: &mut Vec<FinishedSpan>,
    queue: &mut mpsc::Receiver<FinishedSpan>,
    delay: Duration,
) {
    let Some(first) = queue.recv().await else { return };
    batch.push(first);
    let until = Instant::now() + delay;
    while batch.len() < BATCH_MAX
        && let Ok(Some(span)) = timeout_at(until, queue.recv()).await
    {
        batch.push(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_host_and_port_alone() {
        let rows = [
            ("http://ada:s3cret@otel.example:4318/v1/traces?token=s3cret", "otel.example:4318"),
            ("https://otel.example/s3cret", "otel.example:443"),
            ("http://[::1]/v1/traces", "[::1]:80"),
        ];
        for (url, expected) in rows {
            assert_eq!(address(url), expected, "{url}");
        }
    }
}
