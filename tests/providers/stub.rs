//! A server on a free port that answers as it is told, byte for byte, and tells what it was asked.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

use crate::support::within;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Asked {
    pub(crate) fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// How an answer goes on behind its head.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// It ends as HTTP has it.
    End,
    /// The connection is closed in its midst.
    Cut,
    /// Nothing more comes; the end of the connection is waited for.
    Hang,
    /// This comes again and again, until nobody listens.
    Forever(Vec<u8>),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Nothing, until the client leaves.
    Silence,
    /// The connection is closed without a word.
    Leave,
    /// A head, parts, and how it goes on.
    Answer { status: u16, headers: Vec<(String, String)>, parts: Vec<Vec<u8>>, then: Then },
}

impl Act {
    pub(crate) fn whole(status: u16, content_type: &str, body: impl Into<String>) -> Self {
        let body: String = body.into();
        Self::stream(content_type, vec![body.into_bytes()], Then::End).status(status)
    }

    pub(crate) fn json(body: &Value) -> Self {
        Self::whole(200, "application/json", body.to_string())
    }

    pub(crate) fn stream(content_type: &str, parts: Vec<Vec<u8>>, then: Then) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self::Answer { status: 200, headers, parts, then }
    }

    pub(crate) fn status(mut self, new: u16) -> Self {
        if let Self::Answer { status, .. } = &mut self {
            *status = new;
        }
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

#[derive(Default)]
struct Seen {
    asked: Vec<Asked>,
    num_connections: usize,
    num_left: usize,
    num_bytes_sent: usize,
}

/// A running server.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    changed: Arc<Notify>,
}

type Answers = Arc<dyn Fn(&Asked) -> Act + Send + Sync>;

impl Stub {
    /// Starts one that answers each request by `answer`.
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start_over(answer, None).await
    }

    /// Returns the place of a server that has ended.
    pub(crate) fn gone() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        Self { address, seen: Arc::default(), changed: Arc::default() }
    }

    /// Starts one that speaks TLS.
    pub(crate) async fn start_over(
        answer: impl Fn(&Asked) -> Act + Send + Sync + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, changed) = (Arc::<Mutex<Seen>>::default(), Arc::<Notify>::default());
        let stub = Self { address, seen: Arc::clone(&seen), changed: Arc::clone(&changed) };
        let answer: Answers = Arc::new(answer);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen.lock().unwrap().num_connections += 1;
                let (answer, seen, changed) =
                    (Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&changed));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, &seen, &changed).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer, &seen, &changed).await;
                            }
                        }
                    }
                    seen.lock().unwrap().num_left += 1;
                    changed.notify_waiters();
                });
            }
        });
        stub
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().asked.clone()
    }

    pub(crate) fn num_connections(&self) -> usize {
        self.seen.lock().unwrap().num_connections
    }

    pub(crate) fn num_bytes_sent(&self) -> usize {
        self.seen.lock().unwrap().num_bytes_sent
    }

    /// Waits until so many connections were left by their clients, or ended.
    pub(crate) async fn left(&self, num: usize) {
        let left = async {
            loop {
                let changed = self.changed.notified();
                if self.seen.lock().unwrap().num_left >= num {
                    return;
                }
                changed.await;
            }
        };
        within("the end of a connection", left).await;
    }

    /// Waits until so many requests have come.
    pub(crate) async fn was_asked(&self, num: usize) {
        let asked = async {
            loop {
                let changed = self.changed.notified();
                if self.seen.lock().unwrap().asked.len() >= num {
                    return;
                }
                changed.await;
            }
        };
        within("a request", asked).await;
    }
}

/// Answers requests until the client leaves, or an answer ends the connection.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Answers,
    seen: &Mutex<Seen>,
    changed: &Notify,
) {
    while let Some(asked) = read_request(&mut stream).await {
        let act = answer(&asked);
        seen.lock().unwrap().asked.push(asked);
        changed.notify_waiters();
        let (status, headers, parts, then) = match act {
            Act::Leave => return,
            Act::Silence => return wait_for_end(&mut stream).await,
            Act::Answer { status, headers, parts, then } => (status, headers, parts, then),
        };
        let mut head = format!("HTTP/1.1 {status} Something\r\ntransfer-encoding: chunked\r\n");
        for (name, value) in headers {
            head.extend([&name, ": ", &value, "\r\n"]);
        }
        head.push_str("\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        for part in parts {
            if send(&mut stream, &part, seen).await.is_err() {
                return;
            }
        }
        match then {
            Then::Cut => return,
            Then::Hang => return wait_for_end(&mut stream).await,
            Then::End => {
                if stream.write_all(b"0\r\n\r\n").await.is_err() {
                    return;
                }
            }
            Then::Forever(part) => loop {
                if send(&mut stream, &part, seen).await.is_err() {
                    return;
                }
            },
        }
    }
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    part: &[u8],
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
    stream.write_all(&chunk).await?;
    seen.lock().unwrap().num_bytes_sent += part.len();
    stream.flush().await
}

async fn wait_for_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut byte = [0];
    while stream.read(&mut byte).await.is_ok_and(|num| num > 0) {}
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, path) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_owned()))
    };
    let headers: BTreeMap<_, _> = lines.filter_map(header).collect();
    let num_bytes = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; num_bytes];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { method, path, headers, text: String::from_utf8(body).unwrap() })
}
