//! HTTP by hand over a socket, so that tests see exactly what a client would.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::within;

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Without the framing of chunks.
    pub(crate) body: Vec<u8>,
    /// Whether the body came to its proper end.
    pub(crate) is_whole: bool,
}

impl Answer {
    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Returns the body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// Returns the data of each server-sent event.
    pub(crate) fn events(&self) -> Vec<&str> {
        let text = self.text();
        assert!(text.ends_with("\n\n"), "an event without its end: {text}");
        let data = |event: &'_ str| -> usize {
            assert!(event.starts_with("data: ") && !event.contains('\n'), "no event: {event}");
            "data: ".len()
        };
        text.split_terminator("\n\n").map(|event| &event[data(event)..]).collect()
    }
}

/// Writes a request; `headers` are whole lines.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n").into_bytes();
    for header in headers {
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a POST on a connection of its own.
pub(crate) async fn post(address: SocketAddr, path: &str, body: impl AsRef<[u8]>) -> Answer {
    send(address, &request("POST", path, &[], body.as_ref())).await
}

/// Sends a GET on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &request("GET", path, &[], b"")).await
}

/// Sends bytes on a connection of their own.
pub(crate) async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut connection = Connection::open(address).await;
    connection.send(bytes).await;
    connection.answer().await
}

/// A connection; dropping it closes the socket.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = within("connecting", TcpStream::connect(address)).await.unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Waits until the server has sent something, or closed.
    pub(crate) async fn readable(&self) {
        within("an answer", self.stream.readable()).await.unwrap();
    }

    /// Reads a whole answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        let length = answer.header("content-length").map(|value| value.parse().unwrap());
        if let Some(length) = length {
            answer.is_whole = self.fill(length).await;
            let length = length.min(self.unread.len());
            answer.body = self.unread.drain(..length).collect();
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                answer.is_whole = chunk.is_empty();
                if answer.is_whole {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else {
            panic!("an answer without a length: {answer:?}");
        }
        answer
    }

    /// Reads the answer's head.
    pub(crate) async fn head(&mut self) -> Answer {
        let head = self.line_block().await.expect("the connection was closed without an answer");
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: Vec::new(), is_whole: false }
    }

    /// Reads a chunk; empty at the proper end, `None` where the connection was closed.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size_end = self.find(b"\r\n").await?;
        let size = std::str::from_utf8(&self.unread[..size_end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let frame = size_end + 2 + size + 2;
        if !self.fill(frame).await {
            return None;
        }
        let frame: Vec<u8> = self.unread.drain(..frame).collect();
        Some(frame[size_end + 2..size_end + 2 + size].to_vec())
    }

    /// Waits for the server to close, and returns what it still sent.
    pub(crate) async fn closed(mut self) -> Vec<u8> {
        while self.more().await {}
        self.unread
    }

    async fn line_block(&mut self) -> Option<String> {
        let end = self.find(b"\r\n\r\n").await?;
        let head = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        self.unread.drain(..end + 4);
        Some(head)
    }

    async fn find(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            let found = self.unread.windows(mark.len()).position(|window| window == mark);
            if found.is_some() {
                return found;
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn fill(&mut self, length: usize) -> bool {
        while self.unread.len() < length {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    async fn more(&mut self) -> bool {
        let read = within("reading", self.stream.read_buf(&mut self.unread)).await;
        // A reset is a close as well.
        read.is_ok_and(|length| length > 0)
    }
}
