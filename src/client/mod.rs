//! A client of servers over plain HTTP: one JSON request, answered whole or by server-sent events.
//!
//! It drives hyper's connection itself, and each request has a connection of its own: dropping a request closes it, which
//! is how a client cancels.

use std::{future::poll_fn, io, pin::Pin, task::Context, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::Secret;

mod frames;

pub use frames::{FrameError, Frames, Framing};

/// Largest answer that is read whole: far above any completion, far below what would hurt.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// The type of an answer that comes in events.
const EVENT_STREAM: &str = "text/event-stream";

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used; another try with the same one fails again.
    #[error("--url must {rule}, got {url}")]
    Url {
        /// What an address must do.
        rule: &'static str,
        /// What was typed.
        url: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {authority}")]
    Unreachable {
        /// `host[:port]`.
        authority: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection ended too early, or what came is no HTTP.
    #[error("{what} was cut off")]
    CutOff {
        /// The request or the answer.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused.
    #[error("{authority} answered {status}: {reason}")]
    Status {
        /// `host[:port]`.
        authority: String,
        /// The status.
        status: StatusCode,
        /// The server's own words.
        reason: String,
    },
    /// The answer is of another kind than was asked for.
    #[error("{authority} answered with something that is no {expected}")]
    Kind {
        /// `host[:port]`.
        authority: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// The answer took too long.
    #[error("{authority} did not answer within {seconds} s")]
    Timeout {
        /// `host[:port]`.
        authority: String,
        /// The limit.
        seconds: f64,
    },
}

/// A server's address, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: u16,
    /// `host[:port]` as typed, for the `Host` header.
    authority: String,
    /// Path before the endpoint, without a slash at its end.
    base: String,
    /// What is shown to it.
    api_key: Option<Secret>,
}

type Connection = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

impl Server {
    /// Reads `http://host[:port][/base]`.
    ///
    /// # Errors
    /// [`ClientError::Url`] for anything else, `https` with its own sentence.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let broken = |rule| ClientError::Url { rule, url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| broken("be a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(broken("begin with http://, for this release speaks no TLS"));
            }
            _ => return Err(broken("begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| broken("name a host"))?;
        if authority.as_str().contains('@') {
            // Not repeated: a password may stand there.
            return Err(ClientError::Url { rule: "hold no user name", url: "one".to_owned() });
        }
        if uri.query().is_some() {
            return Err(broken("hold no query"));
        }
        let port = match authority.port_u16() {
            Some(port @ 1..) => port,
            // Something stands behind the host, and is no port: another port would be another server.
            port if port.is_some() || authority.as_str().len() > authority.host().len() => {
                return Err(broken("name a port from 1 to 65535"));
            }
            _ => 80,
        };
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_string(),
            base: uri.path().trim_end_matches('/').to_owned(),
            api_key: None,
        })
    }

    /// Shows a key with each request.
    #[must_use]
    pub fn with_api_key(self, api_key: Option<Secret>) -> Self {
        Self { api_key, ..self }
    }

    /// Returns `host[:port]` as it was typed.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Posts `body` to `endpoint`, which begins with a slash, and returns the answer.
    ///
    /// # Errors
    /// No answer within `timeout`, a status that is no success, an answer that is no JSON.
    pub async fn post(
        &self,
        endpoint: &str,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, ClientError> {
        let answer = async {
            let mut answer = self.send(endpoint, body).await?;
            let bytes = answer.rest().await?;
            serde_json::from_slice(&bytes).map_err(|_| self.kind("JSON"))
        };
        tokio::time::timeout(timeout, answer).await.map_err(|_| self.timeout(timeout))?
    }

    /// Posts `body` to `endpoint`, which begins with a slash, and returns the events of the answer. Dropping the future or
    /// the events closes the connection.
    ///
    /// # Errors
    /// As [`Server::post`], and [`ClientError::Kind`] where the answer comes in one piece.
    pub async fn stream(&self, endpoint: &str, body: &Value) -> Result<EventStream, ClientError> {
        let answer = self.send(endpoint, body).await?;
        let content_type = answer.content_type.as_deref().unwrap_or("");
        if !content_type.starts_with(EVENT_STREAM) {
            return Err(self.kind("stream of events"));
        }
        Ok(EventStream { answer, frames: Frames::new(Framing::Events) })
    }

    /// Returns the error of an answer that took longer than `limit`.
    pub fn timeout(&self, limit: Duration) -> ClientError {
        ClientError::Timeout { authority: self.authority.clone(), seconds: limit.as_secs_f64() }
    }

    fn kind(&self, expected: &'static str) -> ClientError {
        ClientError::Kind { authority: self.authority.clone(), expected }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable { authority: self.authority.clone(), source }
    }

    /// Sends the request and waits for the head of a success.
    async fn send(&self, endpoint: &str, body: &Value) -> Result<Answer, ClientError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|source| self.unreachable(source))?;
        // A request is written at once, and waiting for more to send with it would be measured as the server's time.
        stream.set_nodelay(true).map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.unreachable(io::Error::other(source)))?;
        let mut connection = Some(Box::pin(connection));
        let mut request = Request::post(format!("{}{endpoint}", self.base))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.api_key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", key.reveal()));
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(cut_off("the request"))?;
        let mut response = Box::pin(sender.send_request(request));
        let response = poll_fn(|cx| {
            drive(&mut connection, cx);
            response.as_mut().poll(cx)
        });
        let response = response.await.map_err(cut_off("the request"))?;
        self.answer(response, connection).await
    }

    async fn answer(
        &self,
        response: Response<Incoming>,
        connection: Option<Pin<Box<Connection>>>,
    ) -> Result<Answer, ClientError> {
        let status = response.status();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer { connection, content_type, body: response.into_body() };
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.rest().await?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        let reason = value.as_ref().and_then(|value| value["error"]["message"].as_str());
        let reason = reason.unwrap_or("no reason given").to_owned();
        Err(ClientError::Status { authority: self.authority.clone(), status, reason })
    }
}

fn cut_off<E>(what: &'static str) -> impl FnOnce(E) -> ClientError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| ClientError::CutOff { what, source: source.into() }
}

/// Lets the connection work; one that has ended is let go of. What fails on it fails the request or the body too, and
/// that error says more.
fn drive(connection: &mut Option<Pin<Box<Connection>>>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && running.as_mut().poll(cx).is_ready()
    {
        *connection = None;
    }
}

/// An answer whose body is still to come, with the connection that brings it.
struct Answer {
    connection: Option<Pin<Box<Connection>>>,
    content_type: Option<String>,
    body: Incoming,
}

impl Answer {
    /// Returns the next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = poll_fn(|cx| {
                drive(&mut self.connection, cx);
                Pin::new(&mut self.body).poll_frame(cx)
            });
            match frame.await.transpose().map_err(cut_off("the answer"))? {
                None => return Ok(None),
                // Trailers say nothing here.
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Reads the body to its end.
    async fn rest(&mut self) -> Result<Bytes, ClientError> {
        let mut bytes = Vec::new();
        while let Some(more) = self.next().await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > ANSWER_BYTES_MAX {
                let source = format!("it has more than {ANSWER_BYTES_MAX} bytes");
                return Err(ClientError::CutOff { what: "the answer", source: source.into() });
            }
        }
        Ok(bytes.into())
    }
}

/// The events of an answer. Dropping it closes the connection.
pub struct EventStream {
    answer: Answer,
    frames: Frames,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    /// Returns the data of the next event; `None` where the answer has ended.
    ///
    /// # Errors
    /// [`ClientError::CutOff`].
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(data) = self.frames.next_frame().map_err(cut_off("the answer"))? {
                return Ok(Some(data));
            }
            match self.answer.next().await? {
                Some(bytes) => self.frames.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    #[test]
    fn reads_addresses() {
        let rows = [
            ("http://127.0.0.1:5052", "127.0.0.1", 5052, ""),
            ("http://localhost/", "localhost", 80, ""),
            ("http://[::1]:7/lacuna/", "::1", 7, "/lacuna"),
        ];
        for (url, host, port, base) in rows {
            let server = Server::parse(url).unwrap();
            assert_eq!(
                (server.host.as_str(), server.port, server.base.as_str()),
                (host, port, base)
            );
        }
    }

    #[test]
    fn refuses_other_addresses() {
        let rows = [
            ("https://a.example", "no TLS"),
            ("127.0.0.1:5052", "--url must"),
            ("/v1", "http://"),
            ("http://u@a.example", "user name"),
            ("http://a.example/?q=1", "query"),
            ("", "--url must"),
            ("http://127.0.0.1:99999", "a port from 1 to 65535"),
            ("http://127.0.0.1:0", "a port from 1 to 65535"),
            ("http://[::1]:/v1", "a port from 1 to 65535"),
        ];
        for (url, reason) in rows {
            let error = Server::parse(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    /// Answers one connection with `response` and returns what `post` made of it, and the request.
    async fn exchange(response: &'static str) -> (Result<Value, ClientError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let mut len = 0;
            while !request[..len].ends_with(b"}") {
                len += stream.read(&mut request[len..]).unwrap();
            }
            stream.write_all(response.as_bytes()).unwrap();
            String::from_utf8(request[..len].to_vec()).unwrap()
        });
        let body = serde_json::json!({ "a": 1 });
        let server = Server::parse(&url).unwrap();
        let answer = server.post("/v1/completions", &body, Duration::from_secs(20)).await;
        (answer, peer.join().unwrap())
    }

    #[tokio::test]
    async fn posts_and_reads_json() {
        let (answer, request) =
            exchange("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"b\": 2}").await;
        assert_eq!(answer.unwrap()["b"], 2);
        assert!(request.starts_with("POST /base/v1/completions HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n{\"a\":1}"), "{request}");
    }

    #[tokio::test]
    async fn failures_say_why() {
        let rows = [
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 35\r\n\r\n{\"error\":{\"message\":\"no such one\"}}",
                "404 Not Found: no such one",
            ),
            (
                "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
                "502 Bad Gateway: no reason given",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "no JSON"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{", "cut off"),
            ("gibberish\r\n\r\n", "cut off"),
        ];
        for (response, reason) in rows {
            let error = exchange(response).await.0.unwrap_err().to_string();
            assert!(error.contains(reason), "{response:?}: {error}");
        }
    }
}
