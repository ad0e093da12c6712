//! A client's socket, with the two things that hyper does not look after: a reader that stalls, and a client that left
//! while bytes of it lie unread.

use std::{
    future::pending,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// Between two looks at a socket with bytes that the server does not want yet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A socket whose writes fail when the other side takes nothing for too long.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    write_timeout: Duration,
    /// Runs while the other side takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Wraps a client's connection.
    pub(super) fn new(stream: Arc<TcpStream>, write_timeout: Duration) -> Self {
        Self { stream, write_timeout, stalled: None }
    }
}

/// Waits until the client has closed its side.
///
/// hyper sees that only while it reads, which it stops doing when bytes lie behind a request: a stray line feed or
/// the next request would let an abandoned completion run to its end. So the socket is looked at beside it.
pub(super) async fn closed(stream: &TcpStream) {
    loop {
        match stream.peek(&mut [0]).await {
            Ok(0) => return,
            Ok(_) => sleep(LOOK_AGAIN).await,
            // hyper meets the same error and ends the connection by itself.
            Err(_) => pending().await,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(num_bytes) => {
                    buffer.advance(num_bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        while self.stream.poll_write_ready(cx)?.is_ready() {
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.stalled = None;
                    return Poll::Ready(written);
                }
            }
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(pin!(stalled).poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The half that is written ends with the socket, which is dropped next.
        Poll::Ready(Ok(()))
    }
}
