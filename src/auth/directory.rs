//! The keys that are believed now, and who keeps them fresh: one task, which requests may only ask to hurry.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::future::join_all;
use reqwest::Client;
use tokio::sync::{Notify, watch};

use crate::{
    auth::{
        error::KeyError,
        guard::Clock,
        issuer,
        key_set::{Key, KeySet},
    },
    config::Proxies,
};

/// Keys are good for a day...
const LIFETIME: Duration = Duration::from_hours(24);
/// ... and an hour before its end they are asked for again.
const REFRESH: Duration = Duration::from_hours(23);
/// How soon an issuer is asked again that failed, and how often at most for a key that is not known.
const RETRY: Duration = Duration::from_mins(1);
/// How long a request waits for a key that is not known: an issuer has two documents of at most ten seconds each.
const PATIENCE: Duration = Duration::from_secs(25);

/// The keys of all issuers and our own.
#[derive(Debug)]
pub(super) struct Directory {
    own: Vec<Key>,
    /// Our own name, which no issuer may take.
    service_name: String,
    issuers: Vec<String>,
    http: Option<Client>,
    current: RwLock<Arc<KeySet>>,
    hurry: Notify,
    /// Counts the times that issuers were asked, or might have been: a request that waits learns that it need not longer.
    rounds: watch::Sender<u64>,
}

impl Directory {
    /// Believes our own keys, and those of `issuers` once [`Directory::keep`] has asked for them.
    ///
    /// # Errors
    /// Issuers cannot be asked from here.
    pub(super) fn new(
        own: Vec<Key>,
        service_name: String,
        issuers: Vec<String>,
        proxies: &Proxies,
    ) -> Result<Self, KeyError> {
        let is_encrypted = issuers.iter().any(|issuer| issuer.starts_with("https:"));
        let http =
            (!issuers.is_empty()).then(|| issuer::client(proxies, is_encrypted)).transpose()?;
        let current = RwLock::new(Arc::new(KeySet(own.clone())));
        let (rounds, _) = watch::channel(0);
        Ok(Self { own, service_name, issuers, http, current, hurry: Notify::new(), rounds })
    }

    /// Returns the keys that are believed now.
    pub(super) fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether the keys of an issuer are known now; `None` where there are no issuers.
    pub(super) fn has_issuer_keys(&self) -> Option<bool> {
        (!self.issuers.is_empty()).then(|| self.keys().0.len() > self.own.len())
    }

    /// Returns, once issuers were asked again, or need not be, the keys that are believed then. Issuers are asked by the
    /// task that keeps the keys: a client that goes away must not call that off.
    pub(super) async fn hurried(&self) -> Arc<KeySet> {
        if self.http.is_some() {
            let mut rounds = self.rounds.subscribe();
            self.hurry.notify_one();
            // Out of time the keys are what they were, which is the answer too.
            let _ = tokio::time::timeout(PATIENCE, rounds.changed()).await;
        }
        self.keys()
    }

    /// Asks issuers for their keys, now and whenever it is time, for ever.
    pub(super) async fn keep(&self, clock: &Clock) -> Infallible {
        let Some(http) = &self.http else { return std::future::pending().await };
        let mut known: Vec<(u64, Vec<Key>)> = vec![(0, Vec::new()); self.issuers.len()];
        let reserved = |own: &str| {
            let others = self.issuers.iter().filter(|issuer| *issuer != own).cloned();
            others.chain([self.service_name.clone()]).collect::<Vec<_>>()
        };
        loop {
            let began = clock.unix_seconds();
            let asking =
                self.issuers.iter().map(|issuer| issuer::keys(http, issuer, reserved(issuer)));
            let mut pause = REFRESH;
            for ((issuer, (read_at, known)), answer) in
                self.issuers.iter().zip(&mut known).zip(join_all(asking).await)
            {
                match answer {
                    Ok(keys) => {
                        tracing::info!(issuer, num_keys = keys.len(), "read an issuer's keys");
                        (*read_at, *known) = (began, keys);
                    }
                    Err(error) => {
                        // Else who keeps an issuer from being asked keeps a key that it withdrew.
                        if began > *read_at + LIFETIME.as_secs() {
                            known.clear();
                        }
                        let num_kept = known.len();
                        tracing::warn!(issuer, %error, num_kept, "an issuer's keys are not to be had");
                        pause = RETRY;
                    }
                }
            }
            let keys =
                self.own.iter().chain(known.iter().flat_map(|(_, keys)| keys)).cloned().collect();
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(KeySet(keys));
            self.rounds.send_modify(|round| *round += 1);
            self.rest(pause, began, clock).await;
        }
    }

    /// Waits for the time to ask again: after `pause`, or when a key is not known and issuers were not asked just now.
    async fn rest(&self, pause: Duration, began: u64, clock: &Clock) {
        let mut due = pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = &mut due => return,
                () = self.hurry.notified() => {
                    if clock.unix_seconds() >= began + RETRY.as_secs() {
                        return;
                    }
                    self.rounds.send_modify(|round| *round += 1);
                }
            }
        }
    }
}
