//! Listens, serves, and on the way out lets running requests end.
//!
//! hyper's HTTP/1 is driven here rather than through `axum::serve`, which has no limit on the time of a request's
//! head. A connection whose client is gone is noticed while its handler runs: the handler is dropped, which cancels.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    api::{DrainFlag, PeerAddress},
    server::socket::Socket,
};

mod socket;

/// Connections open at once; further ones wait in the system's backlog. Each editor holds one or two, so this is a
/// thousand people; more would meet common limits of open files.
const CONNECTIONS_MAX: usize = 4096;
/// Out of file handles, accepting fails at once and would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Longest time for a request's head, for taking more of an answer, and between two requests of a connection.
    pub read_timeout: Duration,
    /// Longest time from the signal to the end.
    pub drain_timeout: Duration,
    /// Raised when draining begins.
    pub drain: DrainFlag,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut at the deadline with a request under way.
    pub num_cut: usize,
}

/// SIGTERM and SIGINT. From its making on they no longer end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system refuses to watch signals.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of either; each watcher sees each signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Binds the listening socket.
///
/// # Errors
/// The address is taken, not of this machine, or not permitted.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `shutdown` ends, then stops accepting, waits for running requests and cuts what is left at the
/// deadline. Cutting drops the handlers, which cancels their completions.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Drained {
    let (draining, is_draining) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, address) = accept(&listener), if connections.len() < CONNECTIONS_MAX => {
                let router = router.clone().layer(Extension(PeerAddress(address)));
                let service = TowerToHyperService::new(router);
                connections.spawn(drive(stream, service, options.read_timeout, is_draining.clone()));
            }
            Some(ended) = connections.join_next() => log_panic(ended),
        }
    }
    drop(listener);
    options.drain.raise();
    draining.send_replace(true);
    tracing::info!(num_connections = connections.len(), "draining");
    let drained = timeout(options.drain_timeout, async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    });
    let _ = drained.await;
    let num_cut = connections.len();
    connections.shutdown().await;
    Drained { num_cut }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn drive(
    stream: TcpStream,
    service: TowerToHyperService<Router>,
    read_timeout: Duration,
    mut is_draining: watch::Receiver<bool>,
) {
    // A token is a small packet; Nagle's algorithm would hold it back for the client's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = Arc::new(stream);
    let socket = Socket::new(Arc::clone(&stream), read_timeout);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let draining = async move {
        // The sender outlives every connection, so there is no error to heed.
        let _ = is_draining.wait_for(|is_draining| *is_draining).await;
    };
    let serving = async {
        tokio::select! {
            result = connection.as_mut() => result,
            () = draining => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let result = tokio::select! {
        // First, so that an answer which is already written is not taken for one that nobody waits for.
        biased;
        result = serving => result,
        () = socket::closed(&stream) => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("a connection's task panicked");
    }
}
