//! One JSON request to a server over plain HTTP: what `lacuna complete --url` needs and no more.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Largest answer that is read: far above any completion, far below what would hurt.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A server's address, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: String,
    port: u16,
    /// `host[:port]` as typed, for the `Host` header.
    authority: String,
    /// Path before the endpoint, without a slash at its end.
    base: String,
}

impl Server {
    /// Reads `http://host[:port][/base]`.
    ///
    /// # Errors
    /// Anything else, `https` with its own sentence.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("--url must be a URL, got {url}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                bail!("--url must begin with http://, for this release speaks no TLS, got {url}")
            }
            _ => bail!("--url must begin with http://, got {url}"),
        }
        let authority =
            uri.authority().with_context(|| format!("--url must name a host, got {url}"))?;
        ensure!(!authority.as_str().contains('@'), "--url must hold no user name");
        ensure!(uri.query().is_none(), "--url must hold no query, got {url}");
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: authority.to_string(),
            base: uri.path().trim_end_matches('/').to_owned(),
        })
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
    ) -> anyhow::Result<Value> {
        let answer = tokio::time::timeout(timeout, self.exchange(endpoint, body)).await;
        answer.with_context(|| {
            format!("{} did not answer within {} s", self.authority, timeout.as_secs_f64())
        })?
    }

    async fn exchange(&self, endpoint: &str, body: &Value) -> anyhow::Result<Value> {
        let unreachable = || format!("cannot reach {}", self.authority);
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.with_context(unreachable)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.with_context(unreachable)?;
        let request = Request::post(format!("{}{endpoint}", self.base))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        // The sender goes with this future, and without it the connection ends: nothing outlives the answer.
        let answer = async move {
            let response = sender.send_request(request).await.context("the request was cut off")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            // The limit's error and hyper's come boxed, which is no error of its own to `anyhow`.
            let body = body.map_err(|error| anyhow::anyhow!("the answer was cut off: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        // What fails on the connection fails the request too, and that error says more.
        let (answer, _) = tokio::join!(answer, connection);
        let (status, bytes) = answer?;
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        if !status.is_success() {
            let message = value.as_ref().and_then(|value| value["error"]["message"].as_str());
            bail!("{} answered {status}: {}", self.authority, message.unwrap_or("no reason given"));
        }
        value.with_context(|| format!("{} answered with something that is no JSON", self.authority))
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
        ];
        for (url, reason) in rows {
            let error = format!("{:#}", Server::parse(url).unwrap_err());
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    /// Answers one connection with `response` and returns what `post` made of it, and the request.
    async fn exchange(response: &'static str) -> (anyhow::Result<Value>, String) {
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
            let error = format!("{:#}", exchange(response).await.0.unwrap_err());
            assert!(error.contains(reason), "{response:?}: {error}");
        }
    }
}
