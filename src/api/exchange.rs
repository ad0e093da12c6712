//! What the line and the span of a request are made of: its head, who asks, where it came from, what was answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{HeaderMap, Method, Version, header},
    response::Response,
};
use futures_util::{StreamExt as _, stream};

use crate::{
    api::{ApiState, correlation::RequestId},
    config::AccessLogging,
    flags::pseudonym,
    telemetry::{Arrival, Exchange, GitlabFacts, HttpFacts},
    trace::{SpanContext, Tracer, with_request},
};

/// Longest path, header or list of ids that is kept; what is longer is cut.
const TEXT_BYTES_MAX: usize = 256;
/// Asked by machines every few seconds: of no use in a log, and no work that a trace would explain.
const PROBES: [&str; 3] = ["/health", "/monitoring/healthz", "/monitoring/ready"];

/// The address that a connection came from.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// What is told of requests, and to whom.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Which requests leave a line.
    pub access: AccessLogging,
    /// Whether their lines have the address of the client.
    pub has_client_addresses: bool,
    /// Who takes spans.
    pub tracer: Tracer,
}

impl Default for Observed {
    fn default() -> Self {
        let tracer = Tracer::default();
        Self { access: AccessLogging::Requests, has_client_addresses: false, tracer }
    }
}

/// Begins what is told of a request; `None` where nobody listens.
pub(super) fn open(state: &ApiState, id: &RequestId, request: &Request) -> Option<Exchange> {
    let observed = state.observed();
    let path = request.uri().path();
    let is_probe = PROBES.contains(&path.trim_end_matches('/'));
    let has_line = match observed.access {
        AccessLogging::All => true,
        AccessLogging::Requests => !is_probe,
        AccessLogging::Off => false,
    } && tracing::enabled!(target: "lacuna::access", tracing::Level::INFO);
    let is_traced = observed.tracer.is_on() && !is_probe;
    if !has_line && !is_traced {
        return None;
    }
    let method = method(request.method());
    let span = if is_traced {
        let incoming = request.headers().get("traceparent").and_then(|text| text.to_str().ok());
        observed.tracer.begin(method, incoming.and_then(SpanContext::parse))
    } else {
        Tracer::default().begin(method, None)
    };
    let peer = request.extensions().get::<PeerAddress>().filter(|_| observed.has_client_addresses);
    let gitlab = if has_line { gitlab(request.headers()) } else { GitlabFacts::default() };
    Some(Exchange::open(Arrival {
        correlation_id: Arc::clone(&id.0),
        http: http(request, method, peer.map(|peer| peer.0)),
        gitlab,
        span,
        has_line,
    }))
}

/// Keeps the exchange open until the end of the answer. A whole answer is done when it is here; a stream is at its end,
/// or when nobody reads it any more.
pub(super) fn held(response: Response, id: &RequestId, exchange: Option<Exchange>) -> Response {
    let Some(exchange) = exchange else { return response };
    exchange.answer(response.status().as_u16());
    if response.body().size_hint().exact().is_some() {
        exchange.chunk();
        return response;
    }
    let id = Arc::clone(&id.0);
    let mut has_begun = false;
    response.map(|body| {
        let mut pieces = body.into_data_stream();
        Body::from_stream(stream::poll_fn(move |cx| {
            let piece = with_request(&id, || pieces.poll_next_unpin(cx));
            if piece.is_ready() && !std::mem::replace(&mut has_begun, true) {
                exchange.chunk();
            }
            piece
        }))
    })
}

fn http(request: &Request, method: &'static str, client: Option<SocketAddr>) -> HttpFacts {
    let text = |name: &str| text(request.headers(), name);
    let path = request.uri().path();
    HttpFacts {
        method,
        path: path[..path.floor_char_boundary(TEXT_BYTES_MAX)].to_owned(),
        version: match request.version() {
            Version::HTTP_10 => "1.0",
            Version::HTTP_11 => "1.1",
            _ => "other",
        },
        client,
        content_type: text(header::CONTENT_TYPE.as_str()),
        user_agent: text(header::USER_AGENT.as_str()),
        rails_send_start: text("x-gitlab-rails-send-start")
            .and_then(|seconds| Duration::try_from_secs_f64(seconds.parse().ok()?).ok()),
    }
}

fn gitlab(headers: &HeaderMap) -> GitlabFacts {
    let text = |name: &str| text(headers, name);
    GitlabFacts {
        realm: text("x-gitlab-realm"),
        instance_id: text("x-gitlab-instance-id"),
        user: text("x-gitlab-global-user-id").map(|id| pseudonym(&id)),
        host_name: text("x-gitlab-host-name"),
        version: text("x-gitlab-version"),
        saas_duo_pro_namespace_ids: text("x-gitlab-saas-duo-pro-namespace-ids"),
        root_namespace_id: text("x-gitlab-root-namespace-id"),
        feature_enabled_by_namespace_ids: text("x-gitlab-feature-enabled-by-namespace-ids"),
        feature_enablement_type: text("x-gitlab-feature-enablement-type"),
        organization_id: text("x-gitlab-organization-id"),
        language_server_version: text("x-gitlab-language-server-version"),
        is_team_member: text("x-gitlab-is-team-member"),
        client_type: text("x-gitlab-client-type"),
        client_name: text("x-gitlab-client-name"),
        client_version: text("x-gitlab-client-version"),
    }
}

/// Returns a header's text, where it can be printed, cut to a bound.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    (!text.is_empty()).then(|| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned())
}

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}
