//! A request and its answer under way: what is learnt of them in many places, told once when all of them are done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    telemetry::{AccessRecord, AuthFacts, GitlabFacts, HttpFacts, RequestRecord, record_access},
    trace::{Parent, Span},
};

/// A request under way. When the last clone is dropped its line is written and its span ends, whichever way it ended:
/// who holds one until the end of the answer need do nothing else.
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Guarded>);

#[derive(Debug)]
struct Guarded {
    began: Instant,
    /// The span that all of it is part of.
    parent: Parent,
    has_line: bool,
    entries: Mutex<Entries>,
}

#[derive(Debug)]
struct Entries {
    record: AccessRecord,
    span: Span,
    route: Option<String>,
}

/// What is known of a request when it comes.
#[derive(Debug)]
pub struct Arrival {
    /// Its id.
    pub correlation_id: Arc<str>,
    /// Its head.
    pub http: HttpFacts,
    /// Who asks, by GitLab's headers.
    pub gitlab: GitlabFacts,
    /// Its span.
    pub span: Span,
    /// Whether it leaves a line.
    pub has_line: bool,
}

impl Exchange {
    /// Begins now.
    pub fn open(arrival: Arrival) -> Self {
        let Arrival { correlation_id, http, gitlab, span, has_line } = arrival;
        let parent = span.parent();
        let trace_id = parent.context().filter(|it| it.is_sampled).map(|it| it.trace_id);
        let record = AccessRecord {
            correlation_id,
            http,
            gitlab,
            auth: AuthFacts::default(),
            completion: None,
            status: None,
            arrived_at: SystemTime::now(),
            response_start: None,
            first_chunk: None,
            took: Duration::ZERO,
            trace_id,
            is_panic: false,
        };
        let entries = Mutex::new(Entries { record, span, route: None });
        Self(Arc::new(Guarded { began: Instant::now(), parent, has_line, entries }))
    }

    /// Returns what its parts are begun under.
    pub fn parent(&self) -> &Parent {
        &self.0.parent
    }

    /// Notes the endpoint that it was routed to, as it is described.
    pub fn route(&self, route: &str) {
        if self.0.parent.is_recorded() {
            self.0.entries().route = Some(route.to_owned());
        }
    }

    /// Notes how it was found out who asks.
    pub fn auth(&self, auth: AuthFacts) {
        self.0.entries().record.auth = auth;
    }

    /// Notes the head of the answer.
    pub fn answer(&self, status: u16) {
        let mut entries = self.0.entries();
        entries.record.status = Some(status);
        entries.record.response_start = Some(self.0.began.elapsed());
    }

    /// Notes a piece of the answer's body.
    pub fn chunk(&self) {
        let first = self.0.began.elapsed();
        self.0.entries().record.first_chunk.get_or_insert(first);
    }

    /// Notes what became of the completion that it asked for.
    pub(crate) fn complete(&self, completion: RequestRecord) {
        self.0.entries().record.completion = Some(completion);
    }
}

impl Guarded {
    /// A panic while the lock was held left words and numbers, which are as good as before.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let entries = self.entries.get_mut().unwrap_or_else(PoisonError::into_inner);
        entries.record.took = took;
        entries.record.is_panic = thread::panicking();
        if self.has_line {
            record_access(&entries.record);
        }
        entries.tell_span();
    }
}

impl Entries {
    /// Says in the span what OpenTelemetry has a name for, and what the request was about.
    fn tell_span(&mut self) {
        let Self { record, span, route } = self;
        if !span.is_recorded() {
            return;
        }
        let method = record.http.method;
        if let Some(route) = route.take() {
            span.rename(format!("{method} {route}"));
            span.set("http.route", route);
        }
        span.set("http.request.method", if method == "other" { "_OTHER" } else { method });
        span.set("url.scheme", "http");
        span.set("url.path", record.http.path.clone());
        span.set("network.protocol.version", record.http.version);
        span.set_known("http.response.status_code", record.status);
        span.set_known("user_agent.original", record.http.user_agent.clone());
        span.set("lacuna.correlation_id", record.correlation_id.to_string());
        if let Some(completion) = &record.completion {
            span.set("lacuna.endpoint", completion.endpoint);
            span.set("lacuna.outcome", completion.outcome);
            span.set_known("lacuna.language", completion.language);
            span.set_known("lacuna.prompt", completion.prompt.clone());
            span.set_known("lacuna.is_streaming", completion.is_streaming);
            span.set_known("lacuna.time_to_first_token", completion.time_to_first_token);
        }
        let failure = record.completion.as_ref().map_or("server_error", |it| it.outcome);
        match record.status {
            _ if record.is_panic => span.fail("panic"),
            // A client's mistake is no failure of the server that says so.
            Some(500..) => span.fail(failure),
            Some(200) if !["ok", "cancelled", "server_error"].contains(&failure) => {
                span.fail(failure);
            }
            _ => {}
        }
    }
}
