//! Reports of errors on their way to Sentry or its like: a bounded queue, so many a minute, one try each.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    config::{Proxies, ReportsConfig, Secret, Violation},
    export::{Count, Exporter, Fate, envelope, stopped, way::Way},
    telemetry::{ErrorReport, ReportLayer},
};

/// Reports that wait: what goes wrong twenty times at once is one fault.
const QUEUE_MAX: usize = 64;
const MINUTE: Duration = Duration::from_mins(1);
const CONTENT_TYPE: &str = "application/x-sentry-envelope";

/// Reports that wait for the runtime that sends them: errors may come before there is one.
#[derive(Debug)]
pub struct PendingReports(mpsc::Receiver<ErrorReport>);

/// Returns what makes reports of the log, and where they wait; `None` where nobody is named who wants them.
pub fn queue(config: &ReportsConfig) -> Option<(ReportLayer, PendingReports)> {
    config.dsn.as_ref()?;
    let (reports, queue) = mpsc::channel(QUEUE_MAX);
    // One that finds no room says what those before it say.
    let sink = move |report| {
        let _ = reports.try_send(report);
    };
    Some((ReportLayer::new(Arc::new(sink)), PendingReports(queue)))
}

/// Returns the task that sends reports.
///
/// # Errors
/// A setting that cannot be used.
pub fn start(
    config: &ReportsConfig,
    proxies: &Proxies,
    pending: PendingReports,
    count: Count,
) -> Result<Option<Exporter>, Violation> {
    let Some(dsn) = &config.dsn else { return Ok(None) };
    let client = concat!("lacuna/", env!("CARGO_PKG_VERSION"));
    let key = dsn.key.reveal();
    let auth = format!("Sentry sentry_version=7, sentry_client={client}, sentry_key={key}");
    let headers = [("x-sentry-auth".to_owned(), Secret::from(auth.as_str()))];
    let way = Way::new("reports.dsn_file", &dsn.url, &headers, proxies)?;
    let sender = Sender {
        way,
        environment: config.environment.clone(),
        num_per_minute: config.num_per_minute,
        count,
        window: (Instant::now(), 0),
        paused_until: None,
    };
    Ok(Some(Exporter::spawn(|is_stopped| sender.run(pending.0, is_stopped))))
}

struct Sender {
    way: Way,
    environment: String,
    num_per_minute: u32,
    count: Count,
    /// When the minute began, and how many were sent in it.
    window: (Instant, u32),
    paused_until: Option<Instant>,
}

impl Sender {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<ErrorReport>,
        mut is_stopped: watch::Receiver<bool>,
    ) {
        loop {
            let report = tokio::select! {
                report = queue.recv() => report,
                () = stopped(&mut is_stopped) => break,
            };
            let Some(report) = report else { return };
            self.send(&report).await;
        }
        while let Ok(report) = queue.try_recv() {
            self.send(&report).await;
        }
    }

    async fn send(&mut self, report: &ErrorReport) {
        let now = Instant::now();
        if !self.may_send(now) {
            return (self.count)(Fate::Dropped, 1);
        }
        let body = envelope::of(report, &self.environment);
        match self.way.post(CONTENT_TYPE, body).await {
            Ok(()) => (self.count)(Fate::Sent, 1),
            Err(refused) => {
                // Who is told to wait and does not is shut out for longer.
                let pause = refused.retry_after.or((refused.status == Some(429)).then_some(MINUTE));
                self.paused_until = pause.map(|pause| now + pause);
                tracing::warn!(status = refused.status, "a report of an error was not taken");
                (self.count)(Fate::Failed, 1);
            }
        }
    }

    fn may_send(&mut self, now: Instant) -> bool {
        if self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        if now.duration_since(self.window.0) >= MINUTE {
            self.window = (now, 0);
        }
        self.window.1 += 1;
        self.window.1 <= self.num_per_minute
    }
}
