//! The one log line of an HTTP request, whatever became of it.
//!
//! A completion's facts are part of its request's line rather than a line of their own: who reads about one wants the
//! other, and two lines that must be joined by an id are twice the log. Names are those of GitLab's AI Gateway where it
//! has the fact.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::info;

use crate::telemetry::{RequestRecord, day::second_of};

/// What is known of a request when it has ended. Lengths, times, ids and bounded words of headers; no query, no token,
/// no text of a user.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The client's id of the request or one we drew.
    pub correlation_id: Arc<str>,
    /// The request's own words.
    pub http: HttpFacts,
    /// Who asks, by GitLab's headers.
    pub gitlab: GitlabFacts,
    /// How it was found out who asks.
    pub auth: AuthFacts,
    /// What is known of the completion, where one was asked for.
    pub completion: Option<RequestRecord>,
    /// Status of the answer; `None` where the client left before.
    pub status: Option<u16>,
    /// When the request's head was there.
    pub arrived_at: SystemTime,
    /// From then to the answer's head.
    pub response_start: Option<Duration>,
    /// From then to the first piece of the answer's body.
    pub first_chunk: Option<Duration>,
    /// From then to the end.
    pub took: Duration,
    /// The trace that it is part of, where it is recorded.
    pub trace_id: Option<u128>,
    /// Whether a panic ended it.
    pub is_panic: bool,
}

/// What a request's head says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpFacts {
    /// `GET` and its like; of a closed set.
    pub method: &'static str,
    /// Path without the query, bounded.
    pub path: String,
    /// `1.0` or `1.1`.
    pub version: &'static str,
    /// Address of the client, where it may be told.
    pub client: Option<SocketAddr>,
    /// Kind of the body.
    pub content_type: Option<String>,
    /// Name of the client's program.
    pub user_agent: Option<String>,
    /// When GitLab sent it, in seconds since 1970.
    pub rails_send_start: Option<Duration>,
}

/// Who asks, as GitLab's headers tell; each a bounded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitlabFacts {
    /// `saas` or `self-managed`.
    pub realm: Option<String>,
    /// The instance.
    pub instance_id: Option<String>,
    /// A hash of the user's id.
    pub user: Option<String>,
    /// Host name of the instance.
    pub host_name: Option<String>,
    /// Version of the instance.
    pub version: Option<String>,
    /// Namespaces of the user's seats.
    pub saas_duo_pro_namespace_ids: Option<String>,
    /// Root of the namespace.
    pub root_namespace_id: Option<String>,
    /// Namespaces that have the feature.
    pub feature_enabled_by_namespace_ids: Option<String>,
    /// How the feature was had.
    pub feature_enablement_type: Option<String>,
    /// Organisation.
    pub organization_id: Option<String>,
    /// Version of the language server between the client and here.
    pub language_server_version: Option<String>,
    /// Whether the user works at GitLab.
    pub is_team_member: Option<String>,
    /// Kind of the client, such as `ide`.
    pub client_type: Option<String>,
    /// Name of the client.
    pub client_name: Option<String>,
    /// Version of the client.
    pub client_version: Option<String>,
}

/// How it was found out who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthFacts {
    /// How long it took.
    pub took: Option<Duration>,
    /// Who gave the token, by the settings' name.
    pub token_issuer: Option<String>,
    /// Why the request was not let in; of a closed set.
    pub error: Option<&'static str>,
    /// Name of the API key.
    pub key_name: Option<String>,
}

/// Writes the line: exactly one event at `info`, with the record's fields. What is `None` is left out.
pub fn record_access(record: &AccessRecord) {
    let AccessRecord { http, gitlab, auth, .. } = record;
    let completion = record.completion.as_ref();
    info!(
        target: "lacuna::access",
        correlation_id = &*record.correlation_id,
        method = http.method,
        path = http.path,
        status_code = record.status,
        duration_s = seconds(record.took),
        duration_request = http.rails_send_start.and_then(|sent| since(sent, record.arrived_at)),
        response_start_duration_s = record.response_start.map(seconds),
        first_chunk_duration_s = record.first_chunk.map(seconds),
        request_arrived_at = iso(record.arrived_at),
        http_version = http.version,
        client_ip = http.client.map(|client| client.ip().to_string()),
        client_port = http.client.map(|client| client.port()),
        content_type = http.content_type,
        user_agent = http.user_agent,
        gitlab_realm = gitlab.realm,
        gitlab_instance_id = gitlab.instance_id,
        gitlab_host_name = gitlab.host_name,
        gitlab_version = gitlab.version,
        gitlab_saas_duo_pro_namespace_ids = gitlab.saas_duo_pro_namespace_ids,
        gitlab_root_namespace_id = gitlab.root_namespace_id,
        gitlab_feature_enabled_by_namespace_ids = gitlab.feature_enabled_by_namespace_ids,
        gitlab_feature_enablement_type = gitlab.feature_enablement_type,
        gitlab_organization_id = gitlab.organization_id,
        gitlab_language_server_version = gitlab.language_server_version,
        is_gitlab_team_member = gitlab.is_team_member,
        user = gitlab.user,
        client_type = gitlab.client_type,
        client_name = gitlab.client_name,
        client_version = gitlab.client_version,
        auth_duration_s = auth.took.map(seconds),
        token_issuer = auth.token_issuer,
        auth_error_details = auth.error,
        key_name = auth.key_name,
        endpoint = completion.map(|it| it.endpoint),
        outcome = completion.map(|it| it.outcome),
        model_name = completion.and_then(|it| it.model_name.as_deref()),
        model_engine = completion.and_then(|it| it.model_engine.as_deref()),
        language = completion.and_then(|it| it.language),
        num_prompts = completion.map(|it| it.num_prompts),
        prefix_chars = completion.map(|it| it.prefix_chars),
        suffix_chars = completion.map(|it| it.suffix_chars),
        num_context_items = completion.map(|it| it.num_context_items),
        prompt_tokens = completion.map(|it| it.prompt_tokens),
        cached_tokens = completion.map(|it| it.cached_tokens),
        completion_tokens = completion.map(|it| it.completion_tokens),
        time_to_first_token_s = completion.and_then(|it| it.time_to_first_token).map(seconds),
        post_processing_duration_s = completion.and_then(|it| it.postprocessing).map(seconds),
        finish_reason = completion.and_then(|it| it.finish_reason),
        is_streaming = completion.and_then(|it| it.is_streaming),
        prompt = completion.and_then(|it| it.prompt.as_deref()),
        exception_class = record.is_panic.then_some("panic"),
        trace_id = record.trace_id.map(|id| format!("{id:032x}")),
        "request"
    );
}

/// Returns seconds to the microsecond, which is as fine as the clock means anything here.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

/// Returns the seconds from one moment to another; `None` where the clocks of two machines have them the other way.
fn since(sent: Duration, arrived_at: SystemTime) -> Option<f64> {
    let arrived = arrived_at.duration_since(UNIX_EPOCH).ok()?;
    arrived.checked_sub(sent).map(seconds)
}

/// Returns a moment as ISO 8601 has it, in UTC to the millisecond.
pub fn iso(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:03}Z", second_of(since), since.subsec_millis())
}

#[cfg(test)]
mod tests;
