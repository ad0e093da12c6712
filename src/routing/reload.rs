//! The routes' file, read again when it changes.
//!
//! It is the file of settings itself, so that there is one table; of what else changes in it nothing is taken before the
//! next start. A file that cannot be used is told of once and changes nothing.

use std::{
    convert::Infallible,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use crate::{
    config::{ConfigError, RouteConfig, load_routes},
    routing::router::Router,
};

/// How often the file is looked at: soon enough for who edits it, and one system call.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// A file whose routes are in force.
#[derive(Debug)]
pub struct RouteFile {
    path: PathBuf,
    /// Names that are served.
    targets: Vec<String>,
    router: Arc<Router>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// What changes when the file does.
    state: Option<(SystemTime, u64)>,
    routes: Vec<RouteConfig>,
}

impl RouteFile {
    /// Looks after a file whose `routes` are in force in `router`; `targets` are the names that are served.
    pub fn new(
        path: PathBuf,
        targets: Vec<String>,
        routes: Vec<RouteConfig>,
        router: Arc<Router>,
    ) -> Self {
        Self { path, targets, router, seen: Mutex::new(Seen { state: None, routes }) }
    }

    /// Puts the routes in force where the file has changed, and returns whether they are other ones. Weights that somebody
    /// has shifted since are as the file says again, where it says something new.
    ///
    /// # Errors
    /// The file cannot be read or used. The routes stay, and it is told of once.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let state = fs::metadata(&self.path).and_then(|about| Ok((about.modified()?, about.len())));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is gone for a moment is being replaced.
        let Ok(state) = state else { return Ok(false) };
        if seen.state.replace(state) == Some(state) {
            return Ok(false);
        }
        let routes = load_routes(&self.path, &self.targets)?;
        if routes == seen.routes {
            return Ok(false);
        }
        seen.routes.clone_from(&routes);
        self.router.replace(routes);
        Ok(true)
    }

    /// Reads what changes, for ever. Whoever starts it owns it: dropping it ends it.
    pub async fn watch(self: Arc<Self>) -> Infallible {
        let mut looks = tokio::time::interval(WATCH_INTERVAL);
        loop {
            looks.tick().await;
            let file = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || file.reload()).await {
                Ok(Ok(true)) => {
                    let num_routes = self.router.table().routes().count();
                    if num_routes == 0 {
                        tracing::warn!(
                            "the file has no routes any more: each model answers for itself"
                        );
                    } else {
                        tracing::info!(num_routes, "the routes were read again");
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the routes cannot be used; those before stay");
                }
                Ok(Ok(false)) | Err(_) => {}
            }
        }
    }
}
